"""LoRA adapters of an ONNX model: tensors that a run takes in place of the zeros which its graph has for them
(`converters.graph_lora`). They are bound with the rows, so one adapter a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from edged.errors import LoadFailed
from edged.types import AdapterSpec


class OrtAdapters:
    def __init__(self, session: Any, specs: Sequence[AdapterSpec]) -> None:
        """Raises LoadFailed naming the adapter."""
        self._tensors: dict[str | None, dict[str, Any]] = {None: {}}
        self.size_bytes = 0
        taken = {one.name: one.shape for one in session.get_overridable_initializers()}
        for spec in specs:
            try:
                tensors = onnxruntime.AdapterFormat.read_adapter(spec.path).get_parameters()
            except Exception as error:
                raise LoadFailed(f"onnxruntime cannot read the adapter {spec.name}; `edged pull` it again with "
                                 "--adapter-of, or remove it with `edged rm --adapter`") from error
            if unknown := [name for name in tensors if name not in taken]:
                raise LoadFailed(f"the graph has no place for {unknown[0]} of the adapter {spec.name}; `edged pull` it "
                                 "again with --adapter-of")
            self._tensors[spec.name] = tensors
            self.size_bytes += Path(spec.path).stat().st_size

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in self._tensors if name is not None)

    def bind(self, binding: Any, name: str | None) -> None:
        """For good: a binding is of one adapter, and one of none keeps the graph's zeros."""
        for tensor, value in self._tensors[name].items():
            binding.bind_ortvalue_input(tensor, value)
