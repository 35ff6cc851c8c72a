"""Graphics devices and NPUs, told by the kernel: DRM render nodes, the accel class, NVIDIA's own files. The library of
NVIDIA is asked only where its driver is there, for what the kernel does not tell."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from edged.hardware.facts import Accelerator, Gpu
from edged.hardware.sysfs import pairs, text, whole

_PCI_VENDORS = {"10de": "nvidia", "1002": "amd", "8086": "intel", "5143": "qualcomm", "17cb": "qualcomm"}
#: Graphics that are no PCI device are part of a chip, named by their driver.
_CHIP_VENDORS = {"v3d": "broadcom", "vc4": "broadcom", "msm": "qualcomm", "panfrost": "arm", "panthor": "arm",
                 "mali": "arm", "asahi": "apple", "etnaviv": "vivante"}
#: Drivers of screens, old cards and virtual machines, with nothing behind them that computes models; and NVIDIA's, told
#: by other files.
_NO_DEVICE = {"vgem", "vkms", "virtio_gpu", "virtio-pci", "vmwgfx", "ast", "mgag200", "bochs-drm", "simpledrm",
              "radeon", "nouveau", "tegra", "tegra-host1x", "nvidia", "nvgpu"}
#: Intel's own graphics are at this place of the first bus, in every machine since 2004.
_INTEL_INTEGRATED = "0000:00:02."
#: `gpu_metrics` of amdgpu begins with a size and the revision of its format: 1 is of cards, 2 and 3 are of processors
#: with graphics (the kernel's kgd_pp_interface.h).
_AMD_INTEGRATED = (2, 3)
_NPU_VENDORS = {"intel_vpu": "intel", "amdxdna": "amd", "qaic": "qualcomm", "rocket": "rockchip", "ethosu": "arm",
                "habanalabs": "intel"}
#: NPUs that have nodes of their own below /dev.
_NPU_NODES = {"fastrpc-cdsp": "qualcomm", "hailo[0-9]*": "hailo", "apex_[0-9]*": "google", "rknpu": "rockchip",
              "memx[0-9]*": "memryx"}

T = TypeVar("T")


class Card(NamedTuple):
    """What NVIDIA's library tells. place: on the PCI bus, empty where it is on none. memory_bytes: None where it has
    none of its own."""

    place: str
    name: str
    memory_bytes: int | None
    driver: str


def gpus(root: Path, nvml: Callable[[], list[Card]] = list) -> list[Gpu]:
    """nvml: asked where NVIDIA's driver is there."""
    return [*_nvidia(root, nvml), *_render_nodes(root)]


def _nvidia(root: Path, nvml: Callable[[], list[Card]]) -> Iterator[Gpu]:
    told = sorted(root.glob("proc/driver/nvidia/gpus/*/information"))
    version = text(root / "proc/driver/nvidia/version").partition("Kernel Module")[2].split()
    driver = next((word for word in version if word[0].isdigit()), None)
    tegra = any((root / "dev" / node).exists() for node in ("nvhost-gpu", "nvgpu"))
    cards = nvml() if told or tegra or (root / "dev/dxg").exists() else []
    for card in told:
        place = card.parent.name.lower()
        own = next((each for each in cards if each.place and place.endswith(each.place.lower()[-10:])), None)
        name = next((line.partition(":")[2].strip() for line in text(card).splitlines()
                     if line.startswith("Model:")), "NVIDIA")
        yield Gpu(vendor="nvidia", name=name, node=card.parent.name, driver=driver,
                  memory_bytes=own.memory_bytes if own is not None else None,
                  integrated=own is not None and own.memory_bytes is None)
    if not told:
        # Under WSL the library alone tells; on a Jetson of before JetPack 6 nothing but the device tree does.
        for one in cards:
            yield Gpu(vendor="nvidia", name=one.name, node=one.place or None, memory_bytes=one.memory_bytes,
                      driver=one.driver, integrated=tegra or one.memory_bytes is None)
        if tegra and not cards:
            yield Gpu(vendor="nvidia", name=board(root) or "Tegra", driver="nvgpu", integrated=True)


def read_nvml() -> list[Card]:
    """Empty without the package or the library."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return []
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return []
    found = []
    try:
        driver = nvml.nvmlSystemGetDriverVersion()
        for number in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(number)
            found.append(Card(_or_none(nvml, lambda h: nvml.nvmlDeviceGetPciInfo(h).busId, handle) or "",
                              nvml.nvmlDeviceGetName(handle),
                              _or_none(nvml, lambda h: int(nvml.nvmlDeviceGetMemoryInfo(h).total), handle), driver))
    except nvml.NVMLError:
        pass
    finally:
        nvml.nvmlShutdown()
    return found


def _or_none(nvml: Any, ask: Callable[[Any], T], handle: Any) -> T | None:
    try:
        return ask(handle)
    except nvml.NVMLError:
        return None


def _render_nodes(root: Path) -> Iterator[Gpu]:
    for node in sorted(root.glob("sys/class/drm/renderD*")):
        device = node / "device"
        said = pairs(device / "uevent")
        driver = said.get("DRIVER")
        code = text(device / "vendor").removeprefix("0x") or said.get("PCI_ID", "").partition(":")[0].lower()
        vendor = _PCI_VENDORS.get(code) or _CHIP_VENDORS.get(driver or "") or code or driver or "unknown"
        if vendor == "nvidia" or driver in _NO_DEVICE:
            continue
        model = said.get("PCI_ID") or driver or code
        yield Gpu(
            vendor=vendor, name=text(device / "product_name") or f"{vendor} graphics ({model})", node=node.name,
            memory_bytes=whole(device / "mem_info_vram_total"), driver=driver,
            integrated=_integrated(vendor, device, said),
        )


def _integrated(vendor: str, device: Path, said: dict[str, str]) -> bool:
    if vendor == "amd":
        try:
            return (device / "gpu_metrics").read_bytes()[2] in _AMD_INTEGRATED
        except (OSError, IndexError):
            return False
    if vendor == "intel":
        return said.get("PCI_SLOT_NAME", _INTEL_INTEGRATED).startswith(_INTEL_INTEGRATED)
    return "PCI_SLOT_NAME" not in said


def accelerators(root: Path) -> Iterator[Accelerator]:
    for node in sorted(root.glob("sys/class/accel/accel*")):
        driver = pairs(node / "device/uevent").get("DRIVER")
        code = text(node / "device/vendor").removeprefix("0x")
        vendor = _NPU_VENDORS.get(driver or "") or _PCI_VENDORS.get(code) or driver or "unknown"
        yield Accelerator(vendor=vendor, node=f"accel/{node.name}", driver=driver)
    for pattern, vendor in _NPU_NODES.items():
        for path in sorted((root / "dev").glob(pattern)):
            yield Accelerator(vendor=vendor, node=path.name)


def apple(chip: str) -> Gpu | None:
    """Of a Mac with a processor of Apple's; its graphics share all memory."""
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return None
    return Gpu(vendor="apple", name=chip, driver="metal", integrated=True)


def board(root: Path) -> str | None:
    for path in ("proc/device-tree/model", "sys/devices/virtual/dmi/id/product_name"):
        if name := text(root / path):
            return name
    return None
