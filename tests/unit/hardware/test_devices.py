"""Graphics and NPUs of other machines, by the files that their kernels show."""

from __future__ import annotations

from pathlib import Path

import pytest

from edged.hardware.devices import Card, accelerators, gpus
from edged.hardware.facts import Accelerator
from tests.unit.hardware.boxes import GIB, JETSON_ORIN, MIB, RTX_LAPTOP, lay_out

pytestmark = pytest.mark.unit

_NODE = "sys/class/drm/renderD128/device"


def test_memory_of_a_card_is_asked_of_its_library_by_its_place_on_the_bus(tmp_path: Path) -> None:
    cards = [Card("00000000:05:00.0", "other", 4 * GIB, "560"), Card("00000000:01:00.0", "RTX 4060", 8 * GIB, "560")]
    nvidia, amd = gpus(lay_out(tmp_path, RTX_LAPTOP), lambda: cards)
    assert (nvidia.vendor, nvidia.memory_bytes, nvidia.integrated) == ("nvidia", 8 * GIB, False)
    assert amd.vendor == "amd"


def test_without_the_library_the_card_is_told_without_its_memory(tmp_path: Path) -> None:
    nvidia, _ = gpus(lay_out(tmp_path, RTX_LAPTOP))
    assert (nvidia.memory_bytes, nvidia.integrated) == (None, False)


def test_a_jetson_computes_in_the_machines_memory(tmp_path: Path) -> None:
    assert [gpu.integrated for gpu in gpus(lay_out(tmp_path, JETSON_ORIN))] == [True]
    told = gpus(tmp_path, lambda: [Card("", "Orin (nvgpu)", None, "540.4.0")])
    assert [(gpu.name, gpu.integrated, gpu.driver) for gpu in told] == [("Orin (nvgpu)", True, "540.4.0")]


def test_under_wsl_the_library_alone_tells(tmp_path: Path) -> None:
    told = gpus(lay_out(tmp_path, {"dev/dxg": ""}), lambda: [Card("0:1:0.0", "RTX 3060", 12 * GIB, "560")])
    assert [(gpu.name, gpu.memory_bytes, gpu.integrated) for gpu in told] == [("RTX 3060", 12 * GIB, False)]


def test_without_nvidias_driver_its_library_is_not_asked(tmp_path: Path) -> None:
    def asked() -> list[Card]:
        raise AssertionError

    assert gpus(tmp_path, asked) == []


@pytest.mark.parametrize(("revision", "integrated"), [(1, False), (2, True), (3, True)])
def test_amd_graphics_in_a_processor_are_told_from_cards_by_their_metrics(
    tmp_path: Path, revision: int, integrated: bool
) -> None:
    lay_out(tmp_path, {f"{_NODE}/vendor": "0x1002\n", f"{_NODE}/mem_info_vram_total": str(512 * MIB)})
    (tmp_path / _NODE / "gpu_metrics").write_bytes(bytes([120, 0, revision, 3, 0, 0]))
    (gpu,) = gpus(tmp_path)
    assert (gpu.memory_bytes, gpu.integrated) == (512 * MIB, integrated)


@pytest.mark.parametrize(("place", "integrated"), [("0000:00:02.0", True), ("0000:03:00.0", False)])
def test_intel_graphics_in_a_processor_are_told_from_cards_by_their_place(
    tmp_path: Path, place: str, integrated: bool
) -> None:
    lay_out(tmp_path, {f"{_NODE}/uevent": f"DRIVER=xe\nPCI_ID=8086:7D55\nPCI_SLOT_NAME={place}\n"})
    (gpu,) = gpus(tmp_path)
    assert (gpu.vendor, gpu.name, gpu.driver) == ("intel", "intel graphics (8086:7D55)", "xe")
    assert gpu.integrated is integrated


@pytest.mark.parametrize(("driver", "vendor"), [("v3d", "broadcom"), ("msm", "qualcomm"), ("panthor", "arm")])
def test_graphics_of_a_chip_are_named_by_their_driver(tmp_path: Path, driver: str, vendor: str) -> None:
    lay_out(tmp_path, {f"{_NODE}/uevent": f"DRIVER={driver}\nOF_NAME=gpu\n"})
    (gpu,) = gpus(tmp_path)
    assert (gpu.vendor, gpu.integrated) == (vendor, True)


@pytest.mark.parametrize("driver", ["virtio_gpu", "vmwgfx", "ast", "radeon"])
def test_what_only_shows_a_screen_is_no_device(tmp_path: Path, driver: str) -> None:
    assert gpus(lay_out(tmp_path, {f"{_NODE}/uevent": f"DRIVER={driver}\n"})) == []


def test_npus_are_told_by_the_accel_class_and_by_nodes_of_their_own(tmp_path: Path) -> None:
    lay_out(tmp_path, {
        "sys/class/accel/accel0/device/uevent": "DRIVER=amdxdna\nPCI_ID=1022:17F0\n",
        "sys/class/accel/accel1/device/vendor": "0x8086\n",
        "dev/fastrpc-cdsp": "", "dev/hailo0": "", "dev/null": "",
    })
    assert list(accelerators(tmp_path)) == [
        Accelerator(vendor="amd", node="accel/accel0", driver="amdxdna"),
        Accelerator(vendor="intel", node="accel/accel1"),
        Accelerator(vendor="qualcomm", node="fastrpc-cdsp"), Accelerator(vendor="hailo", node="hailo0"),
    ]
