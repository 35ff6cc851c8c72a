"""Which device a folder of ONNX was built for, as its genai_config.json says. Pure."""

from __future__ import annotations

import msgspec

from edged.store.lineage import Target

#: What onnxruntime-genai calls its providers, in lower case. Any other name is of none that edged knows.
_TARGETS: dict[str, Target] = {
    "cuda": "cuda", "dml": "directml", "webgpu": "webgpu", "qnn": "qnn", "openvino": "openvino",
    "nvtensorrtrtx": "tensorrt-rtx",
}


class _Session(msgspec.Struct, frozen=True):
    provider_options: list[dict[str, object]] = []


class _Decoder(msgspec.Struct, frozen=True):
    session_options: _Session = _Session()


class _Model(msgspec.Struct, frozen=True):
    decoder: _Decoder = _Decoder()


class _Config(msgspec.Struct, frozen=True):
    model: _Model = _Model()


def target_of(config: bytes) -> Target:
    """config: the file. Without a provider it is for the processor; so is one that cannot be read, which an engine
    refuses in its turn."""
    try:
        options = msgspec.json.decode(config, type=_Config).model.decoder.session_options.provider_options
    except msgspec.MsgspecError:
        return "cpu"
    named = [_TARGETS[name.lower()] for each in options for name in each if name.lower() in _TARGETS]
    return named[0] if named else "cpu"
