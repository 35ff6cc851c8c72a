"""What can compute a model: the execution providers of ONNX Runtime and the back ends of llama.cpp under one name each,
and which device of a machine each of them is for. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edged.hardware.facts import Accelerator, Facts, Gpu

CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Device:
    """What a provider would run on. name: for people. memory_bytes: of its own, None where it computes in the
    machine's. bytes_per_s: a guess at how fast it reads weights, which is what bounds decoding."""

    name: str
    memory_bytes: int | None
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class Provider:
    """name: as in settings, manifests and attested devices. title: as its makers call it. needs: the device, for
    people. llama, ort: what llama.cpp and ONNX Runtime call it, None where they have no such thing."""

    name: str
    title: str
    needs: str
    llama: str | None
    ort: str | None
    _devices: Callable[[Facts], Iterator[Device]]

    def device(self, facts: Facts) -> Device | None:
        """The best of this machine's that it can use."""
        return max(self._devices(facts), key=lambda device: device.bytes_per_s, default=None)


#: Guesses, to be overruled by measurement: memory of an edge box, of an SoC with wide memory, of a graphics card.
CPU_BYTES_PER_S = 20e9
_INTEGRATED_BYTES_PER_S = {"nvidia": 90e9, "apple": 100e9, "amd": 60e9, "intel": 45e9, "qualcomm": 45e9}
#: Graphics of boards made for a screen are slower at this than the processor beside them.
_SLOW_BYTES_PER_S = 5e9
_CARD_BYTES_PER_S = 300e9
_NPU_BYTES_PER_S = 30e9


def _graphics(gpu: Gpu) -> Device:
    if gpu.integrated:
        return Device(gpu.name, None, _INTEGRATED_BYTES_PER_S.get(gpu.vendor, _SLOW_BYTES_PER_S))
    return Device(gpu.name, gpu.memory_bytes, _CARD_BYTES_PER_S)


def _npu(accelerator: Accelerator) -> Device:
    return Device(f"{accelerator.vendor} NPU ({accelerator.node})", None, _NPU_BYTES_PER_S)


def _cpu(facts: Facts) -> Iterator[Device]:
    yield Device(facts.cpu.model, None, CPU_BYTES_PER_S)


def _gpus(*vendors: str) -> Callable[[Facts], Iterator[Device]]:
    """Of any vendor where none is named."""
    return lambda facts: (_graphics(gpu) for gpu in facts.gpus if not vendors or gpu.vendor in vendors)


def _windows_gpus(facts: Facts) -> Iterator[Device]:
    return _gpus()(facts) if facts.system == "Windows" else iter(())


def _npus(*vendors: str) -> Callable[[Facts], Iterator[Device]]:
    return lambda facts: (_npu(one) for one in facts.accelerators if one.vendor in vendors)


def _openvino(facts: Facts) -> Iterator[Device]:
    yield from _gpus("intel")(facts)
    yield from _npus("intel")(facts)
    if "intel" in facts.cpu.model.lower():
        yield from _cpu(facts)


PROVIDERS: dict[str, Provider] = {
    provider.name: provider for provider in (
        Provider(CPU, "CPU", "a processor", "cpu", "CPU", _cpu),
        Provider("cuda", "CUDA", "an NVIDIA device", "cuda", "CUDA", _gpus("nvidia")),
        Provider("tensorrt-rtx", "TensorRT RTX", "an NVIDIA device", None, "NvTensorRTRTX", _gpus("nvidia")),
        Provider("metal", "Metal", "an Apple device", "metal", None, _gpus("apple")),
        Provider("rocm", "ROCm", "an AMD device", "hip", None, _gpus("amd")),
        Provider("sycl", "SYCL", "an Intel device", "sycl", None, _gpus("intel")),
        Provider("opencl", "OpenCL", "a Qualcomm device", "opencl", None, _gpus("qualcomm")),
        Provider("vulkan", "Vulkan", "a graphics device", "vulkan", None, _gpus()),
        Provider("webgpu", "WebGPU", "a graphics device", None, "WebGPU", _gpus()),
        Provider("directml", "DirectML", "a graphics device under Windows", None, "DirectML", _windows_gpus),
        Provider("openvino", "OpenVINO", "an Intel processor, graphics or NPU", None, "OpenVINO", _openvino),
        Provider("qnn", "QNN", "a Qualcomm NPU", None, "QNN", _npus("qualcomm")),
    )
}


def provider_of(device: str) -> str:
    """The provider that an engine attests: the first word of what it says, as in `cuda NVIDIA RTX A2000` or `CPU`."""
    found = re.match(r"[a-z][a-z-]*", device.lower())
    return found[0] if found else device
