"""A model of this machine as the teacher."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.answer_runs import do, learned, run_of

pytestmark = pytest.mark.real


def test_a_local_model_answers_each_sample_with_its_own_draws_whatever_the_batch(tiny_hf: Path, tmp_path: Path) -> None:
    said = {}
    for concurrency in (1, 4):
        folder = tmp_path / str(concurrency)
        folder.mkdir()
        (folder / "base").symlink_to(tiny_hf)
        run = run_of(folder, f'teachers = [{{model = "./base", name = "house", max_tokens = 6, temperature = 1.0, '
                             f'concurrency = {concurrency}}}]\nsamples = 3\nfilters = {{finished_only = false}}')
        value = do(run)
        assert (value.answers, value.cost) == (12, 0)
        assert value.teachers[0].digest
        said[concurrency] = sorted(learned(run))
    assert said[1] == said[4]
    assert len({answer for _, answer in said[1]}) > 4


def test_a_prompt_that_its_context_does_not_hold_is_refused_alone(tiny_hf: Path, tmp_path: Path) -> None:
    (tmp_path / "base").symlink_to(tiny_hf)
    rows = ['{"prompt": "short"}', '{"prompt": "' + "long " * 4000 + '"}']
    (tmp_path / "more.jsonl").write_text("\n".join(rows))
    run = run_of(tmp_path, 'teachers = [{model = "./base", max_tokens = 4}]\nprompts = ["more.jsonl"]\n'
                           "filters = {finished_only = false}")
    value = do(run)
    assert value.rejected == {"refused": 1}
    assert value.kept == 1
