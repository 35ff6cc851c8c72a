"""KV that outlives its worker, of real engines: what comes back from a file gives the text that computing it gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from edged.types import LoadSpec
from tests.daemon import Daemon, until

pytestmark = pytest.mark.real

SYSTEM = "You answer questions about a small town by the sea. Its baker opens at six, its harbour at five. " * 2
QUESTIONS = ("When does the baker open?", "And the harbour?")


def ask(client: openai.OpenAI, model: str, question: str) -> Any:
    return client.chat.completions.create(
        model=model, temperature=0, max_tokens=24, logprobs=True,
        messages=[{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}])


@pytest.mark.parametrize("engine", ["llama", "ort"])
def test_text_after_a_restart_is_the_text_before_it(
    engine: str, tmp_path: Path, smollm2: LoadSpec, request: pytest.FixtureRequest,
) -> None:
    with Daemon(tmp_path / "d") as daemon:
        source = Path(smollm2.path) / smollm2.file if engine == "llama" \
            else Path(request.getfixturevalue("tiny_positions").path)
        told = daemon.edged("pull", str(source))
        assert told.returncode == 0, told.stderr

        def asked() -> list[Any]:
            with openai.OpenAI(base_url=daemon.base_url + "/v1", api_key="none", timeout=120) as client:
                [model] = client.models.list().data
                return [ask(client, model.id, question) for question in QUESTIONS]

        before = asked()
        for _ in until(30):
            if list((daemon.home / "kv").rglob("*.kv")):
                break
        daemon.stop()
        daemon.start()
        after = asked()
        assert [answer.choices[0].message.content for answer in after] == [
            answer.choices[0].message.content for answer in before]
        shared = before[1].usage.prompt_tokens_details.cached_tokens
        assert shared > 40
        assert before[0].usage.prompt_tokens_details.cached_tokens == 0
        assert after[0].usage.prompt_tokens_details.cached_tokens >= shared
        for mine, its in zip(after[0].choices[0].logprobs.content, before[0].choices[0].logprobs.content, strict=True):
            assert mine.logprob == pytest.approx(its.logprob, abs=1e-3 if engine == "ort" else 0.05)
        (status,) = daemon.json("ps")
        assert status["engine"] == engine
