"""The commands against a daemon that runs, and without one: what they print, how they end, which store they change."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon import EDGED, ROOT, Daemon, environment
from tests.models import fake_folder

pytestmark = pytest.mark.http


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("cli")) as made:
        made.pull_fake("tiny")
        yield made


def edged(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Without a daemon, unless `more` leads to one."""
    folder.mkdir(exist_ok=True)
    return subprocess.run([*EDGED, *arguments], cwd=ROOT, env=environment(folder, **more), text=True,
                          capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL)


def test_a_pull_goes_through_the_daemon_and_tells_json_lines(daemon: Daemon, tmp_path: Path) -> None:
    source = fake_folder(tmp_path / "fresh", step_ms=1)
    told = daemon.edged("pull", str(source), "--json")
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert told.returncode == 0
    assert lines[-1]["manifest"]["name"] == "fresh"
    assert all("progress" in line for line in lines[:-1])
    assert f"daemon at {daemon.socket}" in told.stderr
    assert [job["state"] for job in daemon.json("jobs") if job["reference"] == str(source)] == ["done"]


def test_a_relative_reference_means_the_folder_of_the_command_not_of_the_daemon(daemon: Daemon, tmp_path: Path) -> None:
    fake_folder(tmp_path / "here", token_ms=1)
    told = subprocess.run([*EDGED, "pull", "./here"], cwd=tmp_path, text=True, capture_output=True, timeout=60,
                          check=False, env={**daemon.environment, "PYTHONPATH": str(ROOT)})
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("pulled here@")


def test_a_failed_pull_says_why_as_text_and_as_json(daemon: Daemon) -> None:
    told = daemon.edged("pull", "nowhere-to-be-found")
    assert told.returncode == 3
    assert "no model of the catalog" in told.stderr
    told = daemon.edged("pull", "nowhere-to-be-found", "--json")
    assert told.returncode == 3
    assert json.loads(told.stdout.splitlines()[-1])["error"]["code"] == "model_not_found"


def test_the_life_of_a_model(daemon: Daemon) -> None:
    daemon.pull_fake("mayfly", context=512)
    [row] = [row for row in daemon.json("list") if row["name"] == "mayfly"]
    assert (row["state"], row["engine"]) == ("absent", "fake")
    shown = daemon.json("show", "mayfly")
    assert shown["versions"][0]["files"][0]["path"] == "fake.json"
    assert shown["active"] == shown["status"]["version"]
    loaded = daemon.json("load", "mayfly", "--keep-alive", "-1")
    assert (loaded["state"], loaded["keep_alive_s"], loaded["context"]) == ("ready", -1, 512)
    assert [each["name"] for each in daemon.json("ps") if each["name"] == "mayfly"] == ["mayfly"]
    assert "never" in daemon.edged("ps").stdout
    refused = daemon.edged("rm", "mayfly")
    assert refused.returncode == 5
    assert "unload" in refused.stderr
    assert daemon.json("unload", "mayfly")["state"] == "absent"
    removed = daemon.json("rm", "mayfly")
    assert removed["removed"] == ["mayfly"]
    assert removed["freed_bytes"] > 0
    assert daemon.edged("show", "mayfly").returncode == 3


def test_damage_is_found_told_and_mended_by_a_pull(daemon: Daemon) -> None:
    daemon.pull_fake("brittle", rows=3)
    [blob] = [path for path in (daemon.home / "blobs").iterdir() if b'"rows": 3' in path.read_bytes()]
    blob.write_bytes(b"\0" * blob.stat().st_size)
    assert daemon.edged("verify", "tiny").returncode == 0
    found = daemon.edged("verify", "--json")
    assert found.returncode == 1
    assert [each["name"] for each in json.loads(found.stdout)["damage"]] == ["brittle"]
    assert "brittle is not whole" in re.sub("@[0-9a-f]+", "", daemon.edged("doctor").stdout)
    daemon.pull_fake("brittle", rows=3)
    assert daemon.edged("verify").stdout == "every file is what its manifest says\n"
    assert daemon.json("gc").keys() == {"blobs", "models", "parts", "bytes"}


def test_one_answer_for_a_script_from_words_and_from_what_is_piped_in(daemon: Daemon) -> None:
    worded = daemon.edged("run", "tiny", "say", "hello", "--seed", "1", input="")
    assert worded.returncode == 0, worded.stderr
    assert worded.stdout.strip()
    piped = daemon.edged("run", "tiny", "--seed", "1", input="say hello\n")
    assert piped.stdout == worded.stdout
    answer = json.loads(daemon.edged("run", "tiny", "say hello", "--seed", "1", "--json", input="").stdout)
    assert answer["choices"][0]["message"]["content"] == worded.stdout.removesuffix("\n")
    assert daemon.edged("run", "tiny", input="").returncode == 2
    assert daemon.edged("run", "tinny", "x", input="").returncode == 3


def test_without_a_daemon_run_starts_one_for_itself_pulls_and_leaves_nothing(tmp_path: Path) -> None:
    source = fake_folder(tmp_path / "sources" / "lone", end_chance=0)
    told = edged(tmp_path, "run", str(source), "hello", "--max-tokens", "4", "--stats")
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip()
    assert "starting a daemon for this command" in told.stderr
    assert "4 tokens written" in told.stderr
    after = edged(tmp_path, "ps")
    assert after.returncode == 4
    assert "edged serve" in after.stderr
    assert [row["name"] for row in json.loads(edged(tmp_path, "list", "--json").stdout)] == ["lone"]


def test_without_a_daemon_the_store_is_worked_on_and_that_is_said(tmp_path: Path) -> None:
    source = fake_folder(tmp_path / "mine")
    told = edged(tmp_path, "pull", str(source))
    assert told.returncode == 0
    assert f"no daemon runs; working on the store {tmp_path / 'home'}" in told.stderr
    for command in (["show", "mine"], ["verify", "mine"], ["gc"], ["purge"], ["rm", "mine"]):
        assert edged(tmp_path, *command).returncode == 0, command
    assert json.loads(edged(tmp_path, "list", "--json").stdout) == []


def test_a_store_that_the_running_daemon_does_not_read_is_filled_only_by_name(tmp_path: Path) -> None:
    """The daemon runs on the user's default home; EDGED_HOME points elsewhere."""
    source = fake_folder(tmp_path / "model")
    with Daemon(tmp_path, home=tmp_path / ".local/share/edged") as daemon:
        refused = daemon.edged("pull", str(source))
        assert refused.returncode == 5
        assert f"reads {tmp_path / '.local/share/edged'}, not {tmp_path / 'home'}, which EDGED_HOME names" \
            in refused.stderr
        assert not (tmp_path / "home").exists()
        assert daemon.edged("ps").returncode == 0
        named = daemon.edged("pull", str(source), "--home", str(tmp_path / "home"))
        assert named.returncode == 0
        assert "no daemon runs" in named.stderr
        assert daemon.edged("list", EDGED_HOME="").stdout.startswith("nothing is installed")


def test_what_fits_is_told_with_the_reason(daemon: Daemon) -> None:
    offers: list[dict[str, Any]] = daemon.json("models", "--all")
    default = next(offer for offer in offers if offer["name"] == "smollm2-135m")
    assert default["fits"]
    assert not default["unverified"]
    assert "trying out" in default["note"]
    assert all(form["reason"] for offer in offers for form in offer["variants"])
    table = daemon.edged("models").stdout
    assert "smollm2-135m " in table
    assert "for trying out" in table
    small = edged(daemon.folder / "small", "models", EDGED_MEMORY_BYTES="600MiB")
    assert "more do not fit" in small.stderr
    assert "qwen3-8b" not in small.stdout
    assert daemon.edged("models", "no-such").returncode == 3


def test_doctor_tells_the_machine_and_the_daemon(daemon: Daemon) -> None:
    report = json.loads(daemon.edged("doctor", "--json").stdout)
    assert report["facts"]["memory"]["total"] > 0
    assert any(f"a daemon runs at {daemon.socket}" in each["what"] for each in report["findings"])


def test_doctor_names_each_problem_and_how_to_mend_it(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    (tmp_path / "edged.toml").write_text('api_keys = ["k"]\n')
    (tmp_path / "edged.toml").chmod(0o644)
    (tmp_path / "models.toml").write_text("[aliases]\nx = 1\n")
    told = edged(tmp_path, "doctor", "--json", EDGED_CONFIG=str(tmp_path / "edged.toml"),
                 EDGED_MODELS=str(tmp_path / "models.toml"))
    problems = {each["what"]: each["mend"] for each in json.loads(told.stdout)["findings"]
                if each["level"] == "problem"}
    assert told.returncode == 1
    assert any("models.toml:2:5" in what for what in problems)
    assert f"chmod 700 {tmp_path / 'home'}" in problems.values()
    assert f"chmod o-rwx {tmp_path / 'edged.toml'}" in problems.values()


def test_doctor_finds_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = edged(tmp_path, "doctor", EDGED_PORT=str(port))
    assert told.returncode == 1
    assert f"127.0.0.1:{port} is in use" in told.stdout


def test_who_reads_only_the_beginning_gets_no_traceback(daemon: Daemon) -> None:
    read, write = os.pipe()
    os.close(read)
    told = subprocess.run([*EDGED, "config", "--describe"], cwd=ROOT, env=daemon.environment, text=True, stdout=write,
                          stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert told.stderr == ""


def test_doctor_ends_well_where_all_is_well(tmp_path: Path) -> None:
    told = edged(tmp_path, "doctor", EDGED_PORT="0")
    assert told.returncode == 0, told.stdout
    assert "there is no store" in told.stdout
    assert "PROBLEM" not in told.stdout


def test_config_tells_values_and_origins_and_no_secret(tmp_path: Path) -> None:
    told = edged(tmp_path, "config", "--json", EDGED_API_KEYS="sesame", EDGED_PORT="1234")
    values = json.loads(told.stdout)
    assert (values["port"]["value"], values["port"]["origin"]) == (1234, "EDGED_PORT")
    assert (values["grace_s"]["value"], values["grace_s"]["origin"]) == (30.0, "default")
    assert values["api_keys"]["value"] is True
    for command in (["config"], ["config", "--describe"], ["config", "--models", "smollm2-135m"]):
        told = edged(tmp_path, *command, EDGED_API_KEYS="sesame")
        assert told.returncode == 0
        assert "sesame" not in told.stdout


def test_a_mistake_in_the_settings_is_one_line_and_2(tmp_path: Path) -> None:
    told = edged(tmp_path, "list", EDGED_PROT="1")
    assert told.returncode == 2
    assert told.stderr == "edged: EDGED_PROT: there is no such setting; did you mean EDGED_PORT? " \
                          "(`edged config` lists all)\n"


def test_what_is_piped_has_no_control_codes(daemon: Daemon) -> None:
    for command in (["list"], ["models"], ["doctor"], ["ps"], ["config"], ["show", "tiny"], ["--help"], ["lisst"],
                    ["pull", "--help"]):
        told = daemon.edged(*command, NO_COLOR="", TERM="xterm-256color")
        assert "\x1b" not in told.stdout + told.stderr, command
