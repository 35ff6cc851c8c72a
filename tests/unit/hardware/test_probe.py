from __future__ import annotations

import sys
import time
from pathlib import Path

import msgspec
import pytest

from edged.hardware.facts import Accelerator, Facts
from edged.hardware.installed import llama_backends, ort_providers
from edged.hardware.probe import probe
from tests.unit.hardware import boxes

pytestmark = pytest.mark.unit


def probed(root: Path, files: dict[str, str]) -> Facts:
    return probe(boxes.lay_out(root, files))


def test_raspberry_pi_is_told_by_board_memory_and_features(tmp_path: Path) -> None:
    facts = probed(tmp_path, boxes.RASPBERRY_PI_5)
    assert facts.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert facts.cpu.model == "Raspberry Pi 5 Model B Rev 1.0"
    assert (facts.cpu.physical, facts.cpu.logical, facts.cpu.threads) == (4, 4, 4)
    assert facts.cpu.features >= {"asimd", "asimddp", "asimdhp"}
    assert "i8mm" not in facts.cpu.features
    assert facts.memory.total == 8255680 * 1024
    assert facts.memory.available == 7340032 * 1024
    assert facts.memory.limit is None


def test_threads_of_a_hybrid_processor_are_its_fast_cores(tmp_path: Path) -> None:
    facts = probed(tmp_path, boxes.NUC_WITH_NPU)
    assert (facts.cpu.logical, facts.cpu.physical, facts.cpu.fast, facts.cpu.threads) == (12, 10, 2, 2)
    assert facts.cpu.features >= {"avx2", "avx_vnni"}
    assert [(gpu.vendor, gpu.node) for gpu in facts.gpus] == [("intel", "renderD128")]
    assert facts.accelerators == (Accelerator(vendor="intel", node="accel/accel0"),)


def test_arm_with_two_kinds_of_cores_counts_the_fast_ones(tmp_path: Path) -> None:
    files = dict(boxes.RASPBERRY_PI_5)
    files["sys/devices/system/cpu/cpu0/cpu_capacity"] = "400\n"
    assert probed(tmp_path, files).cpu.threads == 3


def test_jetson_has_its_graphics_told_without_a_driver_in_proc(tmp_path: Path) -> None:
    facts = probed(tmp_path, boxes.JETSON_ORIN)
    assert [(gpu.vendor, gpu.name) for gpu in facts.gpus] == [("nvidia", "NVIDIA Jetson Orin Nano Developer Kit")]


def test_laptop_has_each_card_told_once(tmp_path: Path) -> None:
    facts = probed(tmp_path, boxes.RTX_LAPTOP)
    nvidia, amd = facts.gpus
    assert (nvidia.vendor, nvidia.name, nvidia.driver) == (
        "nvidia", "NVIDIA GeForce RTX 4060 Laptop GPU", "560.35.03")
    assert (amd.vendor, amd.memory_bytes) == ("amd", 512 * boxes.MIB)
    assert (facts.cpu.physical, facts.cpu.logical) == (8, 16)


@pytest.mark.parametrize("files", [boxes.SMALL_CONTAINER, boxes.OLD_CONTAINER], ids=["cgroup v2", "cgroup v1"])
def test_container_limits_bind(tmp_path: Path, files: dict[str, str]) -> None:
    facts = probed(tmp_path, files)
    assert facts.memory.limit == 2 * boxes.GIB
    assert facts.memory.available == 2_000_000_000


def test_cpu_quota_of_a_container_bounds_the_threads(tmp_path: Path) -> None:
    cpu = probed(tmp_path, boxes.SMALL_CONTAINER).cpu
    assert (cpu.logical, cpu.usable, cpu.threads) == (8, 1, 1)


def test_a_machine_that_tells_nothing_still_has_facts(tmp_path: Path) -> None:
    facts = probed(tmp_path, {})
    assert facts.cpu.threads >= 1
    assert facts.memory.total > 0


def test_this_machine_is_probed_quickly_without_inference_libraries() -> None:
    before = set(sys.modules)
    started = time.perf_counter()
    facts = probe()
    assert time.perf_counter() - started < 0.5
    assert not {"llama_cpp", "onnxruntime", "onnxruntime_genai", "numpy"} & (set(sys.modules) - before)
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts


def test_llama_backends_are_told_by_files(tmp_path: Path) -> None:
    files = ["libggml-base.so", "libggml-cpu-haswell.so", "libggml-cpu-x64.so.0", "libggml-cuda.so", "libllama.so"]
    boxes.lay_out(tmp_path, {f"lib/{name}": "" for name in files})
    assert llama_backends(tmp_path) == ("cuda", "cpu")
    assert llama_backends(tmp_path / "nothing") == ()
    assert llama_backends(None) == ()


def test_ort_providers_are_told_by_files_and_distribution(tmp_path: Path) -> None:
    files = ["libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so",
             "onnxruntime_providers_openvino.dll"]
    boxes.lay_out(tmp_path, {f"capi/{name}": "" for name in files})
    assert ort_providers(tmp_path, {}) == ("CUDA", "OpenVINO", "CPU")
    assert ort_providers(tmp_path, {"onnxruntime-qnn": "1.0"}) == ("CUDA", "OpenVINO", "QNN", "CPU")
    assert ort_providers(None, {}) == ()
