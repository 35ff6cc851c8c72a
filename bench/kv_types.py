"""`python -m bench.kv_types FILE.gguf`: what KV of smaller types loses, by the gate that judges conversions: the same
weights with keys and values in f16 are the reference. See bench/README.md."""

from __future__ import annotations

import sys
from pathlib import Path

from cyclopts import App
from rich.console import Console
from rich.table import Table

from converters import gate
from edged.errors import EdgedError
from edged.store.lineage import Quality, QualityLimits
from edged.types import LoadSpec

#: keys, values. Other pairs have no kernels in llama.cpp's attention.
PAIRS = (("f16", "f16"), ("q8_0", "f16"), ("q8_0", "q8_0"))
#: Of no consequence: the figures are shown, nobody is refused.
ANY = QualityLimits(perplexity_ratio=1e9, top1_agreement=0.0, kl_divergence=1e9)
#: Rows of the gate's windows fit into it.
CONTEXT = 1024

app = App(name="bench.kv_types", help=__doc__)


@app.default
def main(file: Path, *, positions: int = 1536, text: Path | None = None) -> None:
    """Compare each with f16 for both.

    Parameters
    ----------
    file
        A GGUF.
    positions
        Tokens compared, 256 at least.
    text
        What is read; by default the text that ships for conversions.
    """
    shown = Table("keys / values", "tokens", "KL", "top-1", "perplexity ratio")
    for keys, values in PAIRS[1:]:
        try:
            found = compare(file.resolve(), keys, values, positions=positions, text=text)
        except EdgedError as error:
            sys.exit(f"bench.kv_types: {error.message}")
        shown.add_row(f"{keys} / {values}", f"{found.tokens:,}", f"{found.kl_divergence:.4f}",
                      f"{found.top1_agreement:.1%}", f"{found.perplexity_ratio:.4f}")
    Console().print(shown)


def compare(file: Path, keys: str, values: str, *, positions: int, text: Path | None = None) -> Quality:
    """Raises as `converters.gate.measure` does."""
    return gate.measure(
        _spec(file, *PAIRS[0]), _spec(file, keys, values), ANY, reference_words="KV in f16", text=text, tasks=None,
        progress=lambda fraction, note: None, positions=positions)


def _spec(file: Path, keys: str, values: str) -> LoadSpec:
    return LoadSpec(
        name=file.stem, version="", digest="", engine="llama", path=str(file.parent), file=file.name, context=CONTEXT,
        options={"key_type": keys, "value_type": values, "flash_attention": True})


if __name__ == "__main__":
    app()
