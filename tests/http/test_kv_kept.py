"""KV that outlives its worker, as clients and operators see it: real processes, the fake engine."""

from __future__ import annotations

import stat
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.daemon import until
from tests.http.conftest import Daemon

pytestmark = pytest.mark.http

SYSTEM = "You are the control room of a plant. " * 8


def ask(daemon: Daemon, question: str, *, key: str = "none", system: str = SYSTEM, model: str = "sluggish") -> Any:
    return daemon.openai(key).chat.completions.create(
        model=model, max_tokens=4, temperature=0,
        messages=[{"role": "system", "content": system}, {"role": "user", "content": question}])


def cached(answer: Any) -> int:
    return int(answer.usage.prompt_tokens_details.cached_tokens)


def files(daemon: Daemon, count: int) -> list[Any]:
    """Once so many are written."""
    found: list[Any] = []
    for _ in until(20):
        found = list((daemon.home / "kv").rglob("*.kv"))
        if len(found) == count:
            return found
    raise AssertionError(f"{found}\n{daemon.log_file.read_text()[-2000:]}")


def metric(daemon: Daemon, name: str) -> float:
    text = httpx.get(f"{daemon.base_url}/metrics").text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines()
               if line.startswith((f"{name} ", f"{name}{{")))


def test_a_prompt_used_twice_is_cached_after_a_restart(start: Callable[..., Daemon]) -> None:
    daemon = start()
    first, second = ask(daemon, "Is it warm?"), ask(daemon, "How many?")
    assert cached(first) == 0
    assert cached(second) > len(SYSTEM)
    (file,) = files(daemon, 1)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (daemon.home / "kv", file.parent, file)] == [
        0o700, 0o700, 0o600]
    daemon.stop()
    daemon.start()
    third = ask(daemon, "Is it warm?")
    assert cached(third) > len(SYSTEM)
    assert third.choices[0].message.content == first.choices[0].message.content
    for _ in until(10):
        if metric(daemon, "edged_prefix_cache_disk_tokens_total"):
            break
    assert metric(daemon, "edged_prefix_cache_disk_tokens_total") == cached(third)
    assert metric(daemon, "edged_kv_disk_bytes") == file.stat().st_size
    (told,) = daemon.json("ps")
    assert told["kv_disk_bytes"] == file.stat().st_size
    assert told["prefix_disk_tokens"] == cached(third)


def test_a_purge_forgets_it_on_disk_and_in_the_worker(start: Callable[..., Daemon]) -> None:
    daemon = start()
    for question in ("Is it warm?", "How many?"):
        ask(daemon, question)
    files(daemon, 1)
    told = daemon.edged("purge")
    assert (told.returncode, told.stdout) == (0, "0 stored responses, 1 files of KV and 0 captured answers removed\n")
    assert cached(ask(daemon, "And now?")) == 0
    assert not list((daemon.home / "kv").rglob("*.kv"))
    ask(daemon, "Once more?")
    files(daemon, 1)
    daemon.stop()
    assert daemon.json("purge") == {"responses": 0, "kv_files": 1, "captured": 0}


def test_a_model_that_is_removed_takes_its_kv_with_it(start: Callable[..., Daemon]) -> None:
    daemon = start()
    for question in ("Is it warm?", "How many?"):
        ask(daemon, question)
    files(daemon, 1)
    assert daemon.edged("unload", "sluggish").returncode == 0
    assert daemon.edged("rm", "sluggish").returncode == 0
    files(daemon, 0)


def test_one_key_neither_times_nor_counts_anothers_prompts(start: Callable[..., Daemon]) -> None:
    daemon = start(api_keys="key-one,key-two", prefix_sharing="key")
    for question in ("Is it warm?", "How many?"):
        ask(daemon, question, key="key-one")
    assert cached(ask(daemon, "How many?", key="key-two")) == 0
    assert cached(ask(daemon, "How many?", key="key-one")) > len(SYSTEM)
    ask(daemon, "Where?", key="key-two")
    for file in files(daemon, 2):
        assert b"key-one" not in file.read_bytes()
    daemon.stop()
    daemon.start()
    assert cached(ask(daemon, "When?", key="key-one", system=SYSTEM)) > len(SYSTEM)


def test_nothing_is_kept_where_it_is_off(start: Callable[..., Daemon]) -> None:
    daemon = start(kv_disk_bytes=0)
    for question in ("Is it warm?", "How many?", "Why?"):
        ask(daemon, question)
    daemon.stop()
    assert not list((daemon.home / "kv").rglob("*.kv"))


def test_what_the_operator_warms_is_there_for_the_first_client_of_each_key(start: Callable[..., Daemon]) -> None:
    daemon = start(api_keys="key-one,key-two", prefix_sharing="key")
    daemon.stop()
    (daemon.folder / "agent.txt").write_text(SYSTEM)
    daemon.models_file.write_text(
        '[models.sluggish]\npin = true\nwarm_prompts = [{ file = "agent.txt" }, "' + "too long " * 9000 + '"]\n')
    daemon.start()
    (file,) = files(daemon, 1)
    for key in ("key-one", "key-two"):
        assert cached(ask(daemon, "Is it warm?", key=key)) > len(SYSTEM)
    (told,) = daemon.json("ps")
    (note,) = told["notes"]
    assert note.startswith("warm prompt 2 (too long too long too long too long too…) is not warm: ")
    assert note in daemon.edged("ps").stdout
    assert note in daemon.edged("show", "sluggish").stdout
    assert "warm_prompt_refused" in daemon.log_file.read_text()
    written_at = file.stat().st_mtime
    daemon.stop()
    daemon.start()
    for _ in until(20):
        if daemon.json("ps") and file.stat().st_mtime > written_at:
            break
    assert file.stat().st_mtime > written_at, "it was read back, not computed"
    assert cached(ask(daemon, "Is it warm?", key="key-one")) > len(SYSTEM)
