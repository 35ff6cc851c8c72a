from __future__ import annotations

import pytest

from edged.engines.llama_devices import LlamaDevice, device_of, devices, only
from edged.errors import DeviceUnavailable

pytestmark = pytest.mark.unit

PROCESSOR = LlamaDevice(1, "CPU", 0, "AMD Ryzen 7", 32 << 30)
BLAS = LlamaDevice(2, "BLAS", 3, "OpenBLAS", 0)
CARD = LlamaDevice(3, "CUDA", 1, "NVIDIA GeForce RTX 4060", 8 << 30)
SMALL_CARD = LlamaDevice(4, "CUDA", 1, "NVIDIA T400", 2 << 30)
SAME_CARD = LlamaDevice(5, "Vulkan", 1, "NVIDIA GeForce RTX 4060", 8 << 30)
INTEGRATED = LlamaDevice(6, "Vulkan", 2, "AMD Radeon 780M", 24 << 30)
ALL = [PROCESSOR, BLAS, SMALL_CARD, CARD, INTEGRATED, SAME_CARD]


def test_the_processor_takes_no_device_however_many_there_are() -> None:
    assert device_of("cpu", ALL) is None
    assert list(only(None)) == [None]


@pytest.mark.parametrize(("provider", "device"), [("cuda", CARD), ("vulkan", SAME_CARD)])
def test_a_provider_means_the_best_device_of_its_back_end(provider: str, device: LlamaDevice) -> None:
    assert device_of(provider, ALL) is device
    assert list(only(device)) == [device.pointer, None]


def test_integrated_graphics_serve_where_there_is_no_card() -> None:
    assert device_of("vulkan", [PROCESSOR, INTEGRATED]) is INTEGRATED


@pytest.mark.parametrize("provider", ["cuda", "metal", "qnn", "blas"])
def test_a_provider_without_a_device_is_refused(provider: str) -> None:
    with pytest.raises(DeviceUnavailable, match=f"no device for {provider}; nothing is served on another one"):
        device_of(provider, [PROCESSOR, BLAS, INTEGRATED])


def test_the_installed_library_tells_of_the_processor_of_this_machine() -> None:
    own = next(device for device in devices() if device.registry == "CPU")
    assert own.kind == 0
    assert own.description
    assert own.free_bytes > 0
