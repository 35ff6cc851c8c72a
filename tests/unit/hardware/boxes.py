"""Machines as their /proc and /sys show them, cut to what the probe reads; and their facts, for the chooser."""

from __future__ import annotations

from pathlib import Path

from edged.hardware.facts import Cpu, Facts, Gpu, Memory, Software

MIB, GIB = 1024**2, 1024**3

_PI_FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
_INTEL_FLAGS = "fpu vme sse sse2 sse4_1 sse4_2 avx f16c fma avx2 avx_vnni rdtscp lm"
_ORIN_FEATURES = "fp asimd aes crc32 atomics fphp asimdhp cpuid asimdrdm asimddp uscat ilrcpc flagm"

#: Four equal cores, no SMT, unified memory, a render node of the video core.
RASPBERRY_PI_5 = {
    "proc/cpuinfo": "".join(
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {_PI_FEATURES}\nCPU implementer\t: 0x41\n\n"
        for number in range(4)
    ) + "Revision\t: d04170\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n",
    "proc/meminfo": "MemTotal:        8255680 kB\nMemFree:         6012345 kB\nMemAvailable:    7340032 kB\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    **{f"sys/devices/system/cpu/cpu{number}/topology/core_cpus_list": f"{number}\n" for number in range(4)},
    **{f"sys/devices/system/cpu/cpu{number}/cpu_capacity": "1024\n" for number in range(4)},
    "sys/class/drm/renderD128/device/uevent": "DRIVER=v3d\n",
}

#: Two performance cores with two threads each, eight efficient ones; an NPU; Intel graphics.
NUC_WITH_NPU = {
    "proc/cpuinfo": "".join(
        f"processor\t: {number}\nmodel name\t: Intel(R) Core(TM) Ultra 5\nflags\t\t: {_INTEL_FLAGS}\n\n"
        for number in range(12)
    ),
    "proc/meminfo": "MemTotal:       16040000 kB\nMemAvailable:   13000000 kB\n",
    "sys/devices/virtual/dmi/id/product_name": "NUC14\n",
    "sys/devices/cpu_core/cpus": "0-3\n",
    "sys/devices/cpu_atom/cpus": "4-11\n",
    **{f"sys/devices/system/cpu/cpu{number}/topology/core_cpus_list": pair + "\n"
       for number, pair in enumerate(["0-1", "0-1", "2-3", "2-3"])},
    **{f"sys/devices/system/cpu/cpu{number}/topology/core_cpus_list": f"{number}\n" for number in range(4, 12)},
    "sys/class/drm/renderD128/device/vendor": "0x8086\n",
    "sys/class/accel/accel0/device/vendor": "0x8086\n",
}

JETSON_ORIN = {
    "proc/cpuinfo": "".join(f"processor\t: {number}\nFeatures\t: {_ORIN_FEATURES}\n\n" for number in range(6)),
    "proc/meminfo": "MemTotal:        7802880 kB\nMemAvailable:    5600000 kB\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "dev/nvhost-gpu": "",
}

RTX_LAPTOP = {
    "proc/cpuinfo": "".join(
        f"processor\t: {number}\nmodel name\t: AMD Ryzen 7 7840HS\nflags\t\t: sse4_2 avx2 fma avx512f avx512_vnni\n\n"
        for number in range(16)
    ),
    "proc/meminfo": "MemTotal:       32000000 kB\nMemAvailable:   25000000 kB\n",
    "proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  560.35.03  Fri Aug 16\n",
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA GeForce RTX 4060 Laptop GPU\nIRQ: 110\n",
    "sys/class/drm/renderD128/device/vendor": "0x10de\n",
    "sys/class/drm/renderD129/device/vendor": "0x1002\n",
    "sys/class/drm/renderD129/device/mem_info_vram_total": "536870912\n",
    **{f"sys/devices/system/cpu/cpu{number}/topology/core_cpus_list": f"{number % 8},{number % 8 + 8}\n"
       for number in range(16)},
}

#: A container of 2 GiB and one and a half processors on a larger host, cgroup v2.
SMALL_CONTAINER = {
    "proc/cpuinfo": "".join(f"processor\t: {number}\nmodel name\t: Host\nflags\t: avx2\n\n" for number in range(8)),
    "proc/meminfo": "MemTotal:       65000000 kB\nMemAvailable:   50000000 kB\n",
    "proc/self/cgroup": "0::/kubepods/pod1\n",
    "sys/fs/cgroup/cpu.max": "max 100000\n",
    "sys/fs/cgroup/kubepods/memory.max": "8589934592\n",
    "sys/fs/cgroup/kubepods/memory.current": "1000\n",
    "sys/fs/cgroup/kubepods/pod1/memory.max": "2147483648\n",
    "sys/fs/cgroup/kubepods/pod1/memory.current": "147483648\n",
    "sys/fs/cgroup/kubepods/pod1/cpu.max": "150000 100000\n",
}

#: The same with cgroup v1, and the host's path that is not there inside.
OLD_CONTAINER = {
    **{path: text for path, text in SMALL_CONTAINER.items() if path.startswith("proc/") and "cgroup" not in path},
    "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n",
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "147483648\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
    "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
}


def lay_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def facts(
    memory_gib: float, cores: int, *, gpus: tuple[Gpu, ...] = (), llama: bool = True, ort: bool = True,
    architecture: str = "x86_64",
) -> Facts:
    total = int(memory_gib * GIB)
    return Facts(
        system="Linux", architecture=architecture,
        cpu=Cpu(model="test", physical=cores, logical=cores, usable=cores, fast=cores),
        memory=Memory(total=total, available=total * 3 // 4), gpus=gpus,
        software=Software(llama_backends=("cpu",) if llama else (), ort_providers=("CPU",) if ort else ()),
    )


PI_5_8_GB = facts(7.87, 4, architecture="aarch64")
TWO_CORES_4_GB = facts(3.8, 2)
JETSON_8_GB = facts(7.44, 6, architecture="aarch64", gpus=(Gpu(vendor="nvidia", name="Orin", driver="nvgpu"),))
NUC_16_GB = facts(15.3, 6)
LAPTOP_32_GB = facts(30.5, 8, gpus=(Gpu(vendor="nvidia", name="RTX 4060", memory_bytes=8 * GIB),))
