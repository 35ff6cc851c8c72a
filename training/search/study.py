"""The study: which settings are tried next, which trials are not worth their end, and what came of all. optuna's, in an
SQLite file, so that a search goes on after a kill. One owner, one thread.

Each trial draws from a seed of its own, by how many there were before, so one trial at a time draws after a kill as it
would have without.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from training.run import digest
from training.search.found import Searched, Setting
from training.search.space import Parameter

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

STUDY_FILE = "study.db"
#: Trials that are drawn at random before the sampler learns from them, and before anything is pruned.
_AT_RANDOM, _WHOLE = 4, 3
#: Trials with a value that tell which key matters.
_TELLING = 4
_DEFAULT, _INTERRUPTED, _REASON, _FIGURES = "default", "interrupted", "reason", "figures"


class Study:
    """Context manager. least: the objective is to be small."""

    def __init__(
        self, folder: Path, name: str, parameters: Sequence[Parameter], *, seed: int, least: bool, prune: bool,
    ) -> None:
        """name: of what is searched; studies of other names lie in the same file and are left alone. What was running
        when an earlier process died is told failed, and made again."""
        import optuna

        self._seed, self._prune = seed, prune
        self._parameters = parameters
        self._distributions = {parameter.key: _distribution(parameter) for parameter in parameters}
        self._running: dict[int, Trial] = {}
        logging.getLogger("optuna").setLevel(logging.WARNING)
        self._storage = optuna.storages.RDBStorage(
            f"sqlite:///{folder / STUDY_FILE}", engine_kwargs={"connect_args": {"timeout": 60}})
        self._study = optuna.create_study(
            storage=self._storage, study_name=name, load_if_exists=True, direction="minimize" if least else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_WHOLE, n_warmup_steps=2) if prune
            else optuna.pruners.NopPruner())
        self._recover()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._storage.remove_session()
        self._storage.engine.dispose()

    def next(self) -> tuple[int, dict[str, Setting]]:
        """Number and settings of a trial that runs from now on."""
        import optuna

        seed = int(digest("trial", self._seed, len(self._own()))[:8], 16)
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_AT_RANDOM)
        trial = self._study.ask(self._distributions)
        self._running[trial.number] = trial
        return trial.number, dict(trial.params)

    def report(self, number: int, evaluation: int, value: float) -> bool:
        """The k-th intermediate value. True: it is worth its end. The recipe's own values always are."""
        trial = self._running[number]
        trial.report(value, evaluation)
        return bool(trial.user_attrs.get(_DEFAULT)) or not trial.should_prune()

    def ended(self, number: int, value: float, figures: dict[str, Any]) -> None:
        trial = self._running.pop(number)
        trial.set_user_attr(_FIGURES, figures)
        self._study.tell(trial, value)

    def pruned(self, number: int) -> None:
        from optuna.trial import TrialState

        self._study.tell(self._running.pop(number), state=TrialState.PRUNED)

    def failed(self, number: int, reason: str) -> None:
        from optuna.trial import TrialState

        trial = self._running.pop(number)
        trial.set_user_attr(_REASON, reason)
        self._study.tell(trial, state=TrialState.FAIL)

    @property
    def ended_trials(self) -> int:
        """Those that a kill broke off do not count."""
        return sum(trial.state.is_finished() for trial in self._own())

    @property
    def best_value(self) -> float | None:
        found = self._complete()
        return found[0].value if found else None

    def failures(self) -> list[str]:
        return [str(trial.user_attrs[_REASON]) for trial in self._own() if _REASON in trial.user_attrs]

    def found(self, objective: str) -> Searched | None:
        """None where no trial has a value."""
        from optuna.trial import TrialState

        trials, complete = self._own(), self._complete()
        if not complete:
            return None
        best = complete[0]
        default = next((trial.value for trial in complete if trial.user_attrs.get(_DEFAULT)), None)
        better = default is None or _worth(best, self._study.direction.name) < _sign(
            default, self._study.direction.name)
        return Searched(
            objective=objective, best=dict(best.params), best_value=_value(best), default_value=default,
            trials=len(trials), pruned=sum(trial.state == TrialState.PRUNED for trial in trials),
            failed=sum(trial.state == TrialState.FAIL for trial in trials), better=better,
            importance=self._importance(complete),
            seconds=round(sum(trial.duration.total_seconds() for trial in trials if trial.duration is not None), 3))

    def rows(self) -> list[dict[str, Any]]:
        """Every trial that counts, for a table and a plot."""
        return [
            {"number": trial.number, "state": trial.state.name.lower(), "value": trial.value,
             "settings": dict(trial.params), "default": bool(trial.user_attrs.get(_DEFAULT)),
             "evaluations": {str(step): value for step, value in sorted(trial.intermediate_values.items())},
             "reason": trial.user_attrs.get(_REASON), **trial.user_attrs.get(_FIGURES, {})}
            for trial in self._own()]

    def _recover(self) -> None:
        from optuna.trial import TrialState

        trials = self._study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                # Queued before it is told failed: killed between the two, it is made twice, never not at all. What a
                # kill kept from being drawn is drawn when its turn comes.
                is_default = bool(trial.user_attrs.get(_DEFAULT))
                self._study.enqueue_trial(self._default() if is_default else dict(trial.params),
                                          user_attrs={_DEFAULT: True} if is_default else None)
                self._study.set_user_attr(_INTERRUPTED, sorted({*self._interrupted(), trial.number}))
                self._study.tell(trial.number, state=TrialState.FAIL)
        if not any(trial.user_attrs.get(_DEFAULT) for trial in trials):
            self._study.enqueue_trial(self._default(), user_attrs={_DEFAULT: True})

    def _default(self) -> dict[str, Setting]:
        return {parameter.key: parameter.default for parameter in self._parameters}

    def _own(self) -> list[FrozenTrial]:
        """Begun, and not broken off by a kill."""
        from optuna.trial import TrialState

        interrupted = self._interrupted()
        return [trial for trial in self._study.get_trials(deepcopy=False)
                if trial.state != TrialState.WAITING and trial.number not in interrupted]

    def _interrupted(self) -> list[int]:
        return list(self._study.user_attrs.get(_INTERRUPTED, ()))

    def _complete(self) -> list[FrozenTrial]:
        """With a value, the best first; of equal ones the first."""
        from optuna.trial import TrialState

        direction = self._study.direction.name
        return sorted((trial for trial in self._own() if trial.state == TrialState.COMPLETE),
                      key=lambda trial: (_worth(trial, direction), trial.number))

    def _importance(self, complete: Sequence[FrozenTrial]) -> dict[str, float]:
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances

        varied = [key for key in self._distributions if len({str(trial.params[key]) for trial in complete}) > 1]
        if len(complete) < _TELLING or not varied or len({trial.value for trial in complete}) < 2:
            return {}
        evaluator = FanovaImportanceEvaluator(seed=self._seed)
        told = get_param_importances(self._study, evaluator=evaluator, params=varied)
        return {key: round(float(share), 4) for key, share in told.items() if math.isfinite(share)}


def _distribution(parameter: Parameter) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.kind == "choice":
        return CategoricalDistribution(parameter.choices)
    if parameter.kind == "whole":
        return IntDistribution(
            int(parameter.low), int(parameter.high), log=parameter.log, step=int(parameter.step or 1))
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return float(trial.value)


def _worth(trial: FrozenTrial, direction: str) -> float:
    return _sign(_value(trial), direction)


def _sign(value: float, direction: str) -> float:
    """Small is good."""
    return value if direction == "MINIMIZE" else -value
