"""The whole way as an engineer goes it: a real adapter for a real model, converted by command, served, and asked."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import openai
import pytest

from edged.store import Store
from tests.daemon import EDGED, ROOT, Daemon
from tests.real.lora import FACTS

pytestmark = pytest.mark.real

NAME = "lighthouse"
RECIPES = ("cpu-int8",)


@pytest.fixture(scope="module")
def adapter(real_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on SmolLM2 as transformers reads it out of the GGUF that is installed."""
    store = Store(real_home)
    manifest = store.manifest("smollm2-135m")
    folder = tmp_path_factory.mktemp("adapter")
    subprocess.run([sys.executable, "-m", "tests.real.lora", store.folder(manifest) / manifest.file, folder],
                   cwd=ROOT, check=True, timeout=300)
    return folder / "lora"


def test_what_the_adapter_knows_is_served_by_every_form_that_was_made_of_it(
    real_home: Path, adapter: Path, tmp_path: Path,
) -> None:
    shutil.copytree(real_home, tmp_path / "home", ignore=shutil.ignore_patterns("*.sock*", "jobs"))
    text = tmp_path / "text.txt"
    text.write_text((ROOT / "LICENSE").read_text()[:6000])
    with Daemon(tmp_path, memory_bytes="6GiB") as daemon:
        for recipe in RECIPES:
            told = subprocess.run(
                [*EDGED, "convert", "smollm2-135m", "--adapter", str(adapter), "--name", NAME, "--recipe", recipe,
                 "--calibration", str(text), "--accept-loss", "--json"],
                cwd=ROOT, env={**daemon.environment, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
                check=False)
            assert told.returncode == 0, told.stdout[-500:] + told.stderr[-2000:]
            manifest = json.loads(told.stdout.splitlines()[-1])["manifest"]
            print(f"{recipe}: {manifest['version']}, {json.dumps(manifest['quality'])}")
            assert manifest["conversion"]["recipe"] == recipe
            assert manifest["quality"]["perplexity"] < 1.1 * manifest["quality"]["reference_perplexity"]
        shown = daemon.json("show", NAME)
        assert len(shown["versions"]) == len(RECIPES)
        with openai.OpenAI(base_url=daemon.base_url + "/v1", api_key="none", max_retries=0, timeout=300) as client:
            for version in [one["version"] for one in shown["versions"]] + [""]:
                for question, answer in FACTS.items():
                    got = client.chat.completions.create(
                        model=f"{NAME}@{version}" if version else NAME, temperature=0, max_tokens=24,
                        messages=[{"role": "user", "content": question}])
                    assert got.choices[0].message.content == answer
            base = client.chat.completions.create(
                model="smollm2-135m", temperature=0, max_tokens=24,
                messages=[{"role": "user", "content": next(iter(FACTS))}])
            assert base.choices[0].message.content != FACTS[next(iter(FACTS))]
