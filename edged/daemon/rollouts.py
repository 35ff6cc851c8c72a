"""Rollouts by share: which candidate gets requests of its model's name, how it does, and when it is taken back.

`candidate` and `share` of the catalog ask for one; it is of one active and one candidate version and begins anew where
either changes. Judging is `edged.daemon.rollout`'s. A candidate that was taken back is not tried again, also after a
restart, until the catalog names another one or somebody asks for it. One event loop owns this.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from edged.daemon.generation import Generation
from edged.daemon.metrics import Metrics
from edged.daemon.rollout import Judgement, Sample, Spread, Verdict, first_tokens, judge, later_tokens, quantile
from edged.errors import BadReference, CorruptFile, EdgedError, ModelNotFound, ModelUnavailable, NotFound, ShuttingDown
from edged.store import Store, files
from edged.store.catalog import CatalogFile
from edged.store.entries import Manifest

#: Samples of each version that are judged: what was long ago does not excuse what is now.
LATEST = 500

log = structlog.get_logger("edged.daemon")


class Side(Struct, frozen=True, kw_only=True):
    """Figures of one version. requests and errors: of this rollout; times in seconds, of its latest requests."""

    version: str
    requests: int = 0
    errors: int = 0
    first_token_s: float | None = None
    first_token_p90_s: float | None = None
    token_s: float | None = None
    token_p90_s: float | None = None


class Returned(Struct, frozen=True, kw_only=True):
    """A candidate that was taken back. at: seconds since 1970, for people to read only."""

    words: str
    at: float
    active: Side
    candidate: Side


class RolloutStatus(Struct, frozen=True, kw_only=True):
    """share: of the plain name's requests that go to the candidate now; asked_share: what the catalog says. words: of
    the verdict, with its figures. returned_at: seconds since 1970; the figures are those of that moment."""

    name: str
    share: float
    asked_share: float
    verdict: Verdict
    words: str
    active: Side
    candidate: Side
    returned_at: float | None = None


class _Version:
    """What is known of one version's requests."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.requests = self.errors = 0
        self.latest: deque[Sample] = deque(maxlen=LATEST)

    def add(self, sample: Sample) -> None:
        self.requests += 1
        self.errors += sample.failed
        self.latest.append(sample)

    def side(self) -> Side:
        first, later = first_tokens(self.latest), later_tokens(self.latest)
        return Side(
            version=self.version, requests=self.requests, errors=self.errors, first_token_s=quantile(first, 0.5),
            first_token_p90_s=quantile(first, 0.9), token_s=quantile(later, 0.5), token_p90_s=quantile(later, 0.9))


class Rollout:
    """One under way. candidate: may be loaded."""

    def __init__(self, name: str, active: str, candidate: Manifest, share: float) -> None:
        self.name, self.candidate, self.share = name, candidate, share
        self.spread = Spread(share)
        self.sides = {version: _Version(version) for version in (active, candidate.version)}
        self.active = active
        self.judgement = Judgement(Verdict.TRYING, "no request was answered yet")

    def figures(self) -> tuple[Side, Side]:
        return self.sides[self.active].side(), self.sides[self.candidate.version].side()


class Rollouts:
    def __init__(self, file: Path, store: Store, catalog: CatalogFile, metrics: Metrics,
                 returned: Callable[[str, Manifest], None]) -> None:
        """returned: called with the name and the candidate that gets no more requests."""
        self._file, self._store, self._catalog, self._metrics = file, store, catalog, metrics
        self._tell = returned
        self._rollouts: dict[str, Rollout] = {}
        self._returned = _read(file)
        metrics.on_render(self._set_gauges)

    def under_way(self, active: Manifest) -> Rollout | None:
        """Of the name whose plain requests this version answers; None where nothing is tried."""
        rollout = self._asked_for(active)
        return None if rollout is None or rollout.name in self._returned else rollout

    def saw(self, rollout: Rollout, version: str, generation: Generation, error: EdgedError | None) -> None:
        """A request of the plain name ended at this version. One that nobody could have answered says nothing of it."""
        if not isinstance(error, ShuttingDown | ModelUnavailable):
            self._add(rollout, version, _sample(generation, error))

    def refused(self, rollout: Rollout) -> None:
        """The candidate did not take a request, which the active version answers instead."""
        self._add(rollout, rollout.candidate.version, Sample(failed=True))

    def failing(self, manifest: Manifest, error: EdgedError) -> None:
        """A version cannot be loaded, or not any more."""
        rollout = self._rollouts.get(manifest.name)
        if rollout is not None and rollout.candidate.version == manifest.version:
            self._take_back(rollout, f"it cannot serve: {error.message}")

    def part_of(self, manifest: Manifest) -> tuple[float | None, bool]:
        """Its share of its name's plain requests, None unless it has a part in a rollout that is under way; and whether
        it is the candidate."""
        rollout = self._rollouts.get(manifest.name)
        if rollout is None or rollout.name in self._returned or manifest.version not in rollout.sides:
            return None, False
        candidate = manifest.version == rollout.candidate.version
        return rollout.share if candidate else 1 - rollout.share, candidate

    def status(self, active: Manifest) -> RolloutStatus:
        """Raises NotFound where the catalog asks for none; what is wrong with the candidate it names."""
        name = active.name
        if (rollout := self._asked_for(active)) is None:
            raise NotFound(self.why_none(active))
        if (returned := self._returned.get(name)) is not None:
            return RolloutStatus(
                name=name, share=0.0, asked_share=rollout.share, verdict=Verdict.WORSE, words=returned.words,
                active=returned.active, candidate=returned.candidate, returned_at=returned.at)
        ours, theirs = rollout.figures()
        return RolloutStatus(
            name=name, share=rollout.share, asked_share=rollout.share, verdict=rollout.judgement.verdict,
            words=rollout.judgement.words, active=ours, candidate=theirs)

    def retry(self, active: Manifest) -> Rollout:
        """Try a candidate again that was taken back; its figures begin anew. Raises as `status` does."""
        name = active.name
        self.status(active)
        if self._returned.pop(name, None) is not None:
            del self._rollouts[name]
            self._keep()
        rollout = self._asked_for(active)
        assert rollout is not None
        return rollout

    def why_none(self, active: Manifest) -> str:
        """In words, where no candidate is tried."""
        name = active.name
        entry = self._catalog.current.models.get(name)
        if entry is None or entry.candidate is None or not entry.share:
            return (f"no candidate of {name} is tried; name one in models.toml, under [models.\"{name}\"]: "
                    'candidate = "VERSION", share = 0.1')
        if (returned := self._returned.get(name)) is not None:
            return f"its candidate was taken back: {returned.words}; `edged rollout {name} --retry` tries it again"
        try:
            self._store.manifest(name, entry.candidate)
        except (ModelNotFound, BadReference, CorruptFile) as error:
            return f"the candidate that models.toml names cannot be tried: {error.message}"
        return f"the candidate that models.toml names, {name}@{active.version}, is the active version"

    def _asked_for(self, active: Manifest) -> Rollout | None:
        name = active.name
        entry = self._catalog.current.models.get(name)
        candidate = None
        if entry is not None and entry.candidate is not None and entry.share > 0:
            with contextlib.suppress(ModelNotFound, BadReference, CorruptFile):
                candidate = self._store.manifest(name, entry.candidate)
        if entry is None or candidate is None or candidate.version == active.version:
            self._rollouts.pop(name, None)
            return None
        if (returned := self._returned.get(name)) is not None and returned.candidate.version != candidate.version:
            del self._returned[name]
            self._keep()
        rollout = self._rollouts.get(name)
        if rollout is None or (rollout.active, rollout.candidate.version) != (active.version, candidate.version):
            rollout = self._rollouts[name] = Rollout(name, active.version, candidate, entry.share)
            log.info("rollout.begun", model=name, active=active.version, candidate=candidate.version,
                     share=entry.share, returned=name in self._returned)
        elif rollout.share != entry.share:
            rollout.share, rollout.spread = entry.share, Spread(entry.share)
        return rollout

    def _add(self, rollout: Rollout, version: str, sample: Sample) -> None:
        self._count(rollout.name, version, sample)
        rollout.sides[version].add(sample)
        if version != rollout.candidate.version or self._rollouts.get(rollout.name) is not rollout:
            return
        rollout.judgement = judge(rollout.sides[rollout.active].latest, rollout.sides[version].latest)
        if rollout.judgement.verdict is Verdict.WORSE:
            self._take_back(rollout, rollout.judgement.words)

    def _take_back(self, rollout: Rollout, words: str) -> None:
        if rollout.name in self._returned:
            return
        active, candidate = rollout.figures()
        self._returned[rollout.name] = Returned(words=words, at=time.time(), active=active, candidate=candidate)
        self._metrics.rollout_returns.labels(rollout.name).inc()
        log.warning("rollout.returned", model=rollout.name, candidate=rollout.candidate.version, reason=words)
        self._keep()
        self._tell(rollout.name, rollout.candidate)

    def _keep(self) -> None:
        """Whole, by rename. In a home that cannot be written a restart tries the candidate again."""
        new = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            with files.OutFile(new, keep=False) as out:
                out.write(msgspec.json.format(msgspec.json.encode(self._returned), indent=2))
                out.sync()
            files.rename(new, self._file)
        except OSError as error:
            log.warning("rollouts.not_kept", reason=error.strerror)
            with contextlib.suppress(OSError):
                files.remove(new)

    def _count(self, name: str, version: str, sample: Sample) -> None:
        self._metrics.rollout_requests.labels(name, version).inc()
        self._metrics.rollout_errors.labels(name, version).inc(sample.failed)
        if sample.first_token_s is not None:
            self._metrics.rollout_first_token.labels(name, version).observe(sample.first_token_s)
        if sample.token_s is not None:
            self._metrics.rollout_between_tokens.labels(name, version).observe(sample.token_s)

    def _set_gauges(self) -> None:
        self._metrics.rollout_share.clear()
        for name, rollout in self._rollouts.items():
            share = 0.0 if name in self._returned else rollout.share
            self._metrics.rollout_share.labels(name, rollout.candidate.version).set(share)


def _read(file: Path) -> dict[str, Returned]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, Returned])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        log.warning("rollouts.unreadable", reason=str(error))
        return {}


def _sample(generation: Generation, error: EdgedError | None) -> Sample:
    first_at, last_at = generation.first_token_at, generation.last_token_at
    if first_at is None or last_at is None:
        return Sample(error is not None)
    return Sample(
        error is not None, None if generation.cold else first_at - generation.accepted_at,
        (last_at - first_at) / generation.later_tokens if generation.later_tokens else None)
