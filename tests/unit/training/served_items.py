"""Three prompts with right answers, and a model behind an endpoint."""

from __future__ import annotations

from training.evaluate.subject import Subject
from training.examples import Example, Message, identity
from training.recipe import Evaluate
from training.run import Moment


def example(text: str, expected: str, stratum: str | None = None) -> Example:
    prompt = (Message("user", text),)
    return Example(id=identity(prompt), prompt=prompt, answer=Message("assistant", expected), stratum=stratum)


EXAMPLES = [example("one", "yes", "a"), example("two", "no", "b"), example("three", "no", "b")]
SETTINGS = Evaluate(metrics=("exact_match",), resamples=50, max_tokens=9, performance=False)


def served(url: str, identity: str | None = None, adapter: str | None = None) -> Subject:
    return Subject(name="served", kind="endpoint", base_url=url, model="m", identity=identity, served_adapter=adapter)


def quietly(moment: Moment) -> None: ...
