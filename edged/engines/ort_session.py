"""A session of ONNX Runtime on the processor, and what it says where it cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from edged.errors import LoadFailed

#: Microseconds that a waiting thread looks for work before it sleeps. ONNX Runtime's own, a thousand, is faster by a
#: twentieth on a quiet machine, and slower by a sixth beside a busy process (bench/LOG.md).
SPIN_US = 20


def open_session(graph: Path, threads: int, *, spin_us: int = SPIN_US) -> Any:
    """Raises LoadFailed naming the file."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.spin_duration_us", str(spin_us))
    try:
        return onnxruntime.InferenceSession(str(graph), settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise LoadFailed(f"onnxruntime cannot load {graph.name}: {_reason(error, graph)}; if a file is damaged, `edged "
                         "verify` tells, and pulling the model again mends it") from error


def engine_version() -> str:
    return f"onnxruntime {onnxruntime.__version__}"


def device_of(session: Any) -> str:
    """As the session attests it."""
    name: str = session.get_providers()[0].removesuffix("ExecutionProvider").lower()
    return name


def _reason(error: Exception, graph: Path) -> str:
    """The innermost of its messages, without paths and the C++ that it went through."""
    said = str(error).replace(f"{graph.parent}/", "").strip()
    return said.rpartition("[ONNXRuntimeError] : ")[2][:400]
