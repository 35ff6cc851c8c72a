"""Teachers in memory: local models whose distributions and layers a student learns from. Without gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edged.errors import ConversionFailed, InvalidRequest
from training.student.soft import Targets, targets


@dataclass(frozen=True, slots=True)
class Teachers:
    """weights: of each one's distribution. The first is the one whose layers are matched."""

    models: tuple[Any, ...]
    weights: tuple[float, ...]
    temperature: float

    @property
    def device(self) -> Any:
        """Of torch: where they all are, and where what they read has to be."""
        return self.models[0].device

    @property
    def position_bytes(self) -> int:
        """Of the logits of one position, of all of them."""
        return sum(4 * int(model.config.get_text_config().vocab_size) for model in self.models)

    def read(self, inputs: dict[str, Any], wanted: Any, **also: bool) -> list[Any]:
        """Outputs of transformers, with logits of 1 × wanted positions × vocabulary. inputs: a batch as `training.fit`
        makes them. also: `output_hidden_states`, `output_attentions`."""
        import torch

        from training.fit.trainer import outputs_at

        with torch.no_grad():
            return [outputs_at(model, model, inputs, wanted, **also) for model in self.models]

    def targets(self, outputs: Sequence[Any]) -> Targets:
        """Of what `read` returned."""
        return targets([output.logits[0] for output in outputs], self.weights, self.temperature)


def load(folders: Sequence[tuple[Path, float]], temperature: float, *, attention: bool = False) -> Teachers:
    """On the device that the student is trained on. folders: Hugging Face folders, each with its weight. attention:
    their maps will be asked for. Raises ConversionFailed where transformers cannot load one."""
    import torch
    from transformers import AutoModelForCausalLM

    from converters.quiet import quietly
    from training.fit.precision import device

    models = []
    for folder, _ in folders:
        try:
            with quietly():
                model: Any = AutoModelForCausalLM.from_pretrained(
                    folder, dtype=torch.float32, local_files_only=True, use_safetensors=True,
                    attn_implementation="eager" if attention else None)
        except (ValueError, KeyError, NotImplementedError) as error:
            raise ConversionFailed(f"transformers cannot load the teacher: {str(error)[:300]}") from error
        models.append(model.eval().requires_grad_(False).to(device()))
    return Teachers(tuple(models), tuple(weight for _, weight in folders), temperature)


def require_same_words(student: Any, rows: int, folders: Sequence[Path], tokenizer_of: Callable[[Path], Any]) -> None:
    """Distributions can only be compared where the same number is the same token. student: its tokenizer; rows: of its
    table of embeddings. Raises InvalidRequest."""
    from converters.gguf_file import read_config

    known = student.get_vocab()
    for folder in folders:
        name = read_config(folder)._name_or_path or folder.name
        theirs = tokenizer_of(folder).get_vocab()
        if theirs != known:
            same = sum(theirs.get(text) == token for text, token in known.items())
            raise InvalidRequest(
                f"the teacher {name} has another vocabulary than the student ({same} of {len(known)} tokens are the "
                "same), so its distributions say nothing to it: take tokenizer = \"teacher\" with init = \"scratch\", "
                "a student of the teacher's family, or leave [distil.student.soft] and [distil.student.match] out and "
                "learn from its answers")
        if (config := read_config(folder)).vocab_size != rows:
            raise InvalidRequest(
                f"the teacher {name} has {config.vocab_size} rows of embeddings and the student {rows}, though their "
                "tokens are the same: take the student of that family with as many, or init = \"scratch\"")
