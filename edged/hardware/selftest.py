"""Does a device compute what the processor does? Both ran the same tokens; their logits are compared. Pure, and without
numpy, since the daemon decides by it: of each position only the likeliest tokens are looked at.

Two right devices differ: in the order of sums, in half precision against single, in activations that one kernel rounds
to 8 bits and the other does not. A wrong one (a broken driver, kernels for another chip, memory that fails) is off by
whole nats, or likes other tokens best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from edged.hardware.measured import Verdict

#: Of each position, the likeliest tokens that a trial tells.
LIKELIEST = 32
#: Of those, the ones whose log-probabilities are compared: further down they are noise even between right devices.
COMPARED = 8
#: Fewer positions prove nothing.
LEAST_POSITIONS = 16
#: A model that knows language gives a plain text so many nats a token more than chance would.
LEAST_OVER_CHANCE = 3.0


class Position(Struct, frozen=True, array_like=True):
    """The likeliest tokens after one position, best first, and their log-probabilities; empty where the logits were no
    numbers."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


class Limits(Struct, frozen=True, kw_only=True):
    """top1_agreement: share of positions at least, where both like the same token best; one that the processor likes
    less than best by no more than `tie` nats counts as the same. mean_difference, max_difference: of log-probabilities
    of the processor's likeliest tokens, in nats, at most."""

    top1_agreement: float
    mean_difference: float
    max_difference: float
    tie: float = 0.5


#: For the same files on processor and device. Two right ways to compute SmolLM2-135M (other kernels, other types of KV,
#: 8-bit activations against single precision) differ by 0.09 on average and 0.5 at most, with the same best token at
#: every position.
SAME_FORM = Limits(top1_agreement=0.9, mean_difference=0.3, max_difference=3.0)
#: For two forms of one model, of which each has lost something else to its quantization: plain 4 bits of that model are
#: off by 0.9 on average, 4 at most.
SISTER_FORM = Limits(top1_agreement=0.6, mean_difference=1.5, max_difference=8.0, tie=1.0)


def compare(device: Sequence[Position], processor: Sequence[Position], limits: Limits, *, name: str) -> Verdict:
    """name: of the device, for the reason. Where one of them gives logits of the last positions only, as some graphs
    do, those are compared."""
    if (count := min(len(device), len(processor))) < LEAST_POSITIONS:
        return _failed(name, f"there are logits of {count} positions to compare, {LEAST_POSITIONS} is the least")
    device, processor = device[-count:], processor[-count:]
    if not all(position.tokens for position in device):
        return _failed(name, "it gave logits that are no numbers")
    if not all(position.tokens for position in processor):
        return Verdict(passed=False, reason=f"{name} cannot be proved: the processor gave logits that are no numbers")
    agree = sum(_same_best(one, other, limits.tie) for one, other in zip(device, processor, strict=True))
    differences = [difference for one, other in zip(device, processor, strict=True)
                   for difference in _differences(one, other)]
    agreement, mean, most = agree / len(processor), math.fsum(differences) / len(differences), max(differences)
    lacking = [
        f"the same best token at {agreement:.0%} of positions, {limits.top1_agreement:.0%} is the least"
        if agreement < limits.top1_agreement else "",
        f"log-probabilities off by {mean:.2f} nats on average, {limits.mean_difference:g} is the most"
        if mean > limits.mean_difference else "",
        f"log-probabilities off by up to {most:.1f} nats, {limits.max_difference:g} is the most"
        if most > limits.max_difference else "",
    ]
    told = "; ".join(filter(None, lacking))
    reason = f"{name} answers wrongly: {told}" if told else f"{name} computes what the processor does"
    return Verdict(passed=not told, reason=reason, positions=len(processor), top1_agreement=agreement,
                   mean_difference=mean, max_difference=most)


def sensible(logprob: float | None, vocabulary: int, *, name: str) -> Verdict:
    """The weaker test, where no form of the model runs on the processor. logprob: of the tokens of a plain text, mean,
    as the device has it; None where its logits were no numbers."""
    if logprob is None:
        return _failed(name, "it gave logits that are no numbers")
    if (over_chance := logprob + math.log(vocabulary)) < LEAST_OVER_CHANCE:
        return _failed(name, f"it finds a plain text {over_chance:.1f} nats a token likelier than chance would, "
                       f"{LEAST_OVER_CHANCE:g} is the least")
    return Verdict(passed=True, reason=f"{name} answers sensibly; no version runs on the processor to compare with")


def _failed(name: str, what: str) -> Verdict:
    return Verdict(passed=False, reason=f"{name} answers wrongly: {what}")


def _same_best(device: Position, processor: Position, tie: float) -> bool:
    """The device's best token is the processor's best, or as good as."""
    known = dict(zip(processor.tokens, processor.logprobs, strict=True))
    return processor.logprobs[0] - known.get(device.tokens[0], -math.inf) <= tie


def _differences(device: Position, processor: Position) -> list[float]:
    """Of the processor's likeliest tokens. One that the device does not tell is less likely than all it tells."""
    known = dict(zip(device.tokens, device.logprobs, strict=True))
    floor = device.logprobs[-1]
    likeliest = zip(processor.tokens[:COMPARED], processor.logprobs[:COMPARED], strict=True)
    return [abs(known[token] - logprob) if token in known else max(0.0, logprob - floor)
            for token, logprob in likeliest]
