from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from edged.errors import Conflict, InsufficientMemory, InsufficientStorage, Internal, InvalidRequest
from training import apart, chain, opened
from training.run import Moment, Run, StageName, Tell, digest
from training.stage import StageKind

pytestmark = pytest.mark.unit

RECIPE = (
    'name = "home"\nbase = "./base"\nseed = {seed}\n[data]\ntrain = ["a.jsonl"]\n[finetune]\nlearning_rate = {rate}\n')


class Stages:
    """Stages that note that they ran. data depends on the seed, finetune on its table, and each on those before;
    deploy, which groups alone want, on the exports of the members."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.fails: dict[str, Exception] = {}

    def find(self, name: StageName) -> StageKind:
        wanted = name in ("data", "finetune", "export")

        def key(run: Run) -> str:
            before = {"finetune": ["data"], "export": ["finetune"]}.get(name, [])
            own = {"data": run.recipe.seed, "finetune": run.recipe.finetune,
                   "deploy": [each.key("export") for each in opened.members(run)]}.get(name)
            return digest(name, own, [run.key(each) for each in before])  # type: ignore[arg-type]

        def work(run: Run, tell: Tell) -> dict[str, int]:
            self.ran.append(name)
            if (error := self.fails.pop(name, None)) is not None:
                raise error
            (run.path(name) / "made").write_text("x")
            return {"count": len(self.ran)}

        return StageKind(name, lambda recipe: wanted or (name == "deploy" and bool(recipe.members)), key, work)


@pytest.fixture
def stages() -> Stages:
    return Stages()


@pytest.fixture
def opens(tmp_path: Path) -> Callable[..., Run]:
    def run(seed: int = 0, rate: float = 0.1) -> Run:
        (tmp_path / "home.toml").write_text(RECIPE.format(seed=seed, rate=rate))
        return opened.open_run(tmp_path / "home.toml")

    return run


def here(run: Run, kind: StageKind, tell: Tell) -> object:
    return kind.run(run, tell)


def quiet(moment: Moment) -> None:
    pass


def test_a_chain_runs_its_stages_in_order_and_passes_over_them_the_next_time(
    stages: Stages, opens: Callable[..., Run],
) -> None:
    chain.run_stages(opens(), quiet, find=stages.find, do=here)
    chain.run_stages(opens(), quiet, find=stages.find, do=here)
    assert stages.ran == ["data", "finetune", "export"]


def test_a_change_runs_what_depends_on_it_and_nothing_else(stages: Stages, opens: Callable[..., Run]) -> None:
    chain.run_stages(opens(), quiet, find=stages.find, do=here)
    stages.ran.clear()
    chain.run_stages(opens(rate=0.2), quiet, find=stages.find, do=here)
    assert stages.ran == ["finetune", "export"]
    stages.ran.clear()
    chain.run_stages(opens(seed=1, rate=0.2), quiet, find=stages.find, do=here)
    assert stages.ran == ["data", "finetune", "export"]


def test_a_stage_that_failed_runs_again_with_what_it_left_and_those_before_it_do_not(
    stages: Stages, opens: Callable[..., Run],
) -> None:
    stages.fails["finetune"] = Conflict("not now")
    with pytest.raises(Conflict, match="not now"):
        chain.run_stages(opens(), quiet, find=stages.find, do=here)
    (opens().path("finetune") / "checkpoint").write_text("half")
    chain.run_stages(opens(), quiet, find=stages.find, do=here)
    assert stages.ran == ["data", "finetune", "finetune", "export"]
    assert (opens().path("finetune") / "checkpoint").exists()


def test_again_begins_with_nothing_of_the_earlier_run(stages: Stages, opens: Callable[..., Run]) -> None:
    run = opens()
    chain.run_stages(run, quiet, find=stages.find, do=here)
    (run.path("finetune") / "checkpoint").write_text("old")
    chain.run_stage(run, "finetune", quiet, again=True, find=stages.find, do=here)
    assert stages.ran == ["data", "finetune", "export", "finetune"]
    assert not (run.path("finetune") / "checkpoint").exists()


def test_what_another_version_of_edged_left_is_told_with_what_to_do(opens: Callable[..., Run]) -> None:
    run = opens()
    run.begin("finetune")
    run.mark("finetune", "key", 1.0, {"kind": "adapter"})
    with pytest.raises(InvalidRequest, match=r"another version of edged.*python -m training finetune --again"):
        run.trained()


def test_what_is_served_again_leaves_nothing_of_it_beside_what_was_trained(
    stages: Stages, opens: Callable[..., Run],
) -> None:
    run = opens()
    for name in ("before", "trained", "exported", "served", "served-cpu-int4", "beside"):
        (run.path("evaluate") / name).mkdir(parents=True)
        (run.path("evaluate") / name / "said.jsonl").write_text("{}")
    for name in ("rounds.json", "report.html", "done.json"):
        (run.path("evaluate") / name).write_text("{}")
    find = stages.find
    chain.run_stages(run, quiet, find=find, do=here)
    chain.run_stage(run, "served", quiet, again=True, find=lambda name: wanting_served(find(name)), do=here)
    assert sorted(path.name for path in run.path("evaluate").iterdir()) == [
        "before", "done.json", "report.html", "trained"]


def wanting_served(kind: StageKind) -> StageKind:
    return dataclasses.replace(kind, wanted=lambda recipe: True) if kind.name == "served" else kind


def test_what_is_done_again_leaves_no_later_stage_that_has_ended(stages: Stages, opens: Callable[..., Run]) -> None:
    run = opens()
    chain.run_stages(run, quiet, find=stages.find, do=here)
    (run.path("export") / "kept").write_text("to go on with")
    stages.ran.clear()
    chain.run_stage(run, "finetune", quiet, again=True, find=stages.find, do=here)
    chain.run_stages(run, quiet, find=stages.find, do=here)
    assert stages.ran == ["finetune", "export"]
    assert (run.path("export") / "kept").exists()


def test_what_fails_while_it_is_done_again_leaves_no_later_stage_that_has_ended(
    stages: Stages, opens: Callable[..., Run],
) -> None:
    run = opens()
    chain.run_stages(run, quiet, find=stages.find, do=here)
    stages.fails["data"] = Conflict("not now")
    with pytest.raises(Conflict):
        chain.run_stage(run, "data", quiet, again=True, find=stages.find, do=here)
    assert not any(run.ended(name) for name in chain.PLACES)


def test_a_stage_alone_says_which_one_comes_before_it(stages: Stages, opens: Callable[..., Run]) -> None:
    with pytest.raises(InvalidRequest, match=r"stage data .*has not ended.*python -m training data --recipe"):
        chain.run_stage(opens(), "finetune", quiet, find=stages.find, do=here)
    chain.run_stage(opens(), "data", quiet, find=stages.find, do=here)
    with pytest.raises(InvalidRequest, match=r"stage data .*has changed"):
        chain.run_stage(opens(seed=5), "finetune", quiet, find=stages.find, do=here)
    chain.run_stage(opens(), "finetune", quiet, find=stages.find, do=here)
    assert stages.ran == ["data", "finetune"]


def test_several_stages_do_not_go_on_with_what_has_changed_before_or_between_them(
    stages: Stages, opens: Callable[..., Run],
) -> None:
    chain.run_stages(opens(), quiet, find=stages.find, do=here)
    stages.ran.clear()
    with pytest.raises(InvalidRequest, match=r"stage data .*comes before finetune and has changed"):
        chain.run_stages(opens(seed=5), quiet, names=("finetune", "export"), find=stages.find, do=here)
    with pytest.raises(InvalidRequest, match=r"stage finetune .*comes before export and has changed"):
        chain.run_stages(opens(rate=0.2), quiet, names=("data", "export"), find=stages.find, do=here)
    assert stages.ran == []
    chain.run_stages(opens(rate=0.2), quiet, names=("data", "finetune"), find=stages.find, do=here)
    assert stages.ran == ["finetune"]


def test_a_stage_that_the_recipe_does_without_names_the_table_it_lacks(
    stages: Stages, opens: Callable[..., Run],
) -> None:
    with pytest.raises(InvalidRequest, match=r"no \[search\]"):
        chain.run_stage(opens(), "search", quiet, find=stages.find, do=here)


def test_the_plan_tells_what_has_ended_what_changed_and_what_waits(
    stages: Stages, opens: Callable[..., Run],
) -> None:
    def told(run: Run) -> dict[str, str]:
        return {each.name: each.state for each in chain.standings(run, find=stages.find) if each.state != "unwanted"}

    assert told(opens()) == {"data": "new", "finetune": "unknown", "export": "unknown"}
    chain.run_stages(opens(), quiet, find=stages.find, do=here)
    assert told(opens()) == {"data": "done", "finetune": "done", "export": "done"}
    assert told(opens(rate=0.3)) == {"data": "done", "finetune": "changed", "export": "unknown"}


@pytest.fixture
def group(tmp_path: Path, opens: Callable[..., Run]) -> Run:
    """Of one member, which is home.toml."""
    opens()
    (tmp_path / "house.toml").write_text('name = "house"\nbase = "./base"\nmembers = ["home.toml"]\n[deploy]\n')
    return opened.open_run(tmp_path / "house.toml")


def test_a_groups_stages_wait_for_those_of_its_members(
    stages: Stages, opens: Callable[..., Run], group: Run,
) -> None:
    def told() -> dict[str, str]:
        return {each.name: each.state for each in chain.standings(group, find=stages.find) if each.state != "unwanted"}

    assert told() == {"deploy": "unknown"}
    chain.run_stages(opens(), quiet, find=stages.find, do=here)
    assert told() == {"deploy": "new"}
    chain.run_stages(group, quiet, find=stages.find, do=here)
    assert told() == {"deploy": "done"}
    opens(rate=0.2)
    assert told() == {"deploy": "unknown"}


def test_a_groups_stage_alone_says_which_one_of_a_member_comes_before_it(
    stages: Stages, opens: Callable[..., Run], group: Run,
) -> None:
    with pytest.raises(InvalidRequest, match=r"stage data of home .*has not ended.*run --recipe .*house\.toml"):
        chain.run_stage(group, "deploy", quiet, find=stages.find, do=here)
    chain.run_stages(opens(), quiet, find=stages.find, do=here)
    chain.run_stage(group, "deploy", quiet, find=stages.find, do=here)
    opens(rate=0.2)
    with pytest.raises(InvalidRequest, match=r"stage finetune of home .*has changed"):
        chain.run_stage(group, "deploy", quiet, find=stages.find, do=here)
    assert stages.ran == ["data", "finetune", "export", "deploy"]


@pytest.mark.parametrize(("error", "kind"), [
    (MemoryError(), InsufficientMemory),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), InsufficientMemory),
    (OSError(28, "No space left on device"), InsufficientStorage),
    (KeyError("x"), Internal),
])
def test_what_libraries_say_is_told_with_what_to_do(
    opens: Callable[..., Run], error: Exception, kind: type[Exception],
) -> None:
    run = opens()
    known = apart.explained(run, "finetune", error)
    assert isinstance(known, kind)
    assert "goes on where it was" in str(known)
    assert (run.folder / apart.FAILURE_FILE).exists() == (kind is Internal)


class Apart:
    """In a process of its own, a stage does as its `how` says."""

    def __init__(self, how: Callable[[Tell], object]) -> None:
        self.how = how

    def find(self, name: StageName) -> StageKind:
        return StageKind(name, lambda recipe: name == "data", lambda run: "key", lambda run, tell: self.how(tell))


def test_a_stage_is_a_process_of_its_own_that_tells_and_returns(opens: Callable[..., Run]) -> None:
    def how(tell: Tell) -> dict[str, int]:
        tell(Moment(stage="data", figures={"loss": 2.5}))
        os.write(1, b"a library says something\n")
        return {"pid": os.getpid()}

    told: list[Moment] = []
    (opens().folder / apart.FAILURE_FILE).write_text("of an earlier run")
    chain.run_stages(opens(), told.append, find=Apart(how).find)
    assert not (opens().folder / apart.FAILURE_FILE).exists()
    assert Moment(stage="data", figures={"loss": 2.5}) in told
    assert opens().value("data", dict[str, int])["pid"] != os.getpid()
    assert (opens().path("data") / apart.LOG_FILE).read_text() == "a library says something\n"


def refuse(tell: Tell) -> None:
    raise Conflict("in use")


def kill(tell: Tell) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash(tell: Tell) -> None:
    raise ZeroDivisionError("one by none")


@pytest.mark.parametrize(("how", "kind", "words"), [
    (refuse, Conflict, "in use"), (kill, InsufficientMemory, "batch_size"), (crash, Internal, "failure.txt tells more"),
])
def test_however_a_stage_ends_it_is_one_clear_error_and_not_marked_as_done(
    opens: Callable[..., Run], how: Callable[[Tell], object], kind: type[Exception], words: str,
) -> None:
    with pytest.raises(kind, match=words):
        chain.run_stages(opens(), quiet, find=Apart(how).find)
    assert not opens().ended("data")


def test_one_process_at_a_time_has_a_run_folder(opens: Callable[..., Run]) -> None:
    run = opens()
    with opened.held(run), pytest.raises(Conflict, match="another process"):
        opened.held(run)
    opened.held(run).release()
    assert (run.folder / "recipe.toml").read_text() == run.file.text


def test_every_stage_but_those_of_a_group_is_one_of_its_members() -> None:
    assert {*chain.OF_MEMBERS, *chain.OF_GROUPS} == set(chain.PLACES)
