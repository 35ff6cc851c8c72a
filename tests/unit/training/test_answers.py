"""Stage answers as a whole, with teachers that are small endpoints on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edged.errors import ConfigError, InvalidApiKey, InvalidRequest, SourceUnavailable
from tests.answer_runs import do, learned, run_of, teacher
from tests.chat_server import Answer, Body, ChatServer, answer, refusal
from tests.unit.training.characters import CHATML, Characters
from training.answers.stage import ANSWERS
from training.examples import read_examples
from training.pupil import pupil
from training.run import Moment

pytestmark = pytest.mark.unit


def echo(body: Body) -> Answer:
    return answer("to " + body["messages"][-1]["content"])


def test_a_teacher_answers_the_training_prompts(tmp_path: Path) -> None:
    told: list[Moment] = []
    with ChatServer(echo) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server, name='big', price_in=1.0, price_out=2.0)}]")
        value = do(run, told)
    assert learned(run) == [(f"prompt {number}", f"to prompt {number}") for number in range(4)]
    assert (value.answers, value.kept, value.covered, value.prompts, value.rejected) == (4, 4, 4, 4, {})
    assert value.cost == pytest.approx(4 * (10 * 1 + 5 * 2) / 1e6)
    assert (value.teachers[0].name, value.teachers[0].served) == ("big", ("m",))
    assert all(body["temperature"] == 0.7 for body in server.bodies)
    assert any(moment.fraction == 1.0 and moment.figures["cost"] > 0 for moment in told)
    assert {path.name for path in run.path("answers").iterdir()} == {
        "raw.jsonl", "examples.jsonl", "rejected.jsonl", "report.json"}


def test_wrong_prompts_that_are_left_out_are_told(tmp_path: Path) -> None:
    told: list[Moment] = []
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"prompt": ""}\n')
    with ChatServer(echo) as server:
        run = run_of(tmp_path, f'prompts = ["p.jsonl"]\nteachers = [{teacher(server)}]',
                     data=", max_invalid_share = 0.5")
        do(run, told)
    assert learned(run) == [("one", "to one")]
    assert [moment.note for moment in told if "left out" in (moment.note or "")][:2] == [
        "1 of 2 rows of distil.answers.prompts are no examples and left out",
        "left out: p.jsonl:2: `prompt` is empty"]


def test_prompts_that_the_template_of_the_model_refuses_are_told_with_their_place_before_anybody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    drops_system = CHATML.replace("messages %}", "messages if message.role != 'system' %}")
    monkeypatch.setattr("training.answers.stage.pupils_tokenizer", lambda run, tell: Characters(drops_system))
    (tmp_path / "p.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two", "system": "Be brief."}\n')
    with ChatServer(echo) as server:
        run = run_of(tmp_path, f'prompts = ["p.jsonl"]\nteachers = [{teacher(server)}]')
        with pytest.raises(ConfigError, match=r"p\.jsonl:2: the chat template .*system"):
            do(run)
    assert not server.bodies


@pytest.mark.parametrize("template", [None, "{{ raise_exception() }}"])
def test_a_student_that_cannot_be_asked_the_prompts_is_told_before_any_teacher_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str | None,
) -> None:
    monkeypatch.setattr("training.answers.stage.pupils_tokenizer", lambda run, tell: Characters(template))
    monkeypatch.setattr("training.answers.stage.pupil_key", lambda run: None)
    with ChatServer(echo) as server:
        run = run_of(tmp_path, f'teachers = [{teacher(server)}]\n[distil.student]\ninit = "./small"')
        with pytest.raises(InvalidRequest, match=r"\./small, which is to learn the answers, .*chat template"):
            do(run)
    assert not server.bodies


def test_answers_that_the_template_of_the_model_cannot_say_are_rejected_and_the_others_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuts = CHATML.replace("{{ message.content }}", "{{ message.content[:12] }}")
    monkeypatch.setattr("training.answers.stage.pupils_tokenizer", lambda run, tell: Characters(cuts))
    with ChatServer(lambda body: answer("yes" if body["messages"][-1]["content"] == "prompt 1" else "no, " * 9)
                    ) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server)}]")
        assert do(run).rejected == {"template": 3}
    assert learned(run) == [("prompt 1", "yes")]
    [rejected, *_] = (run.path("answers") / "rejected.jsonl").read_text().splitlines()
    assert "the chat template" in json.loads(rejected)["detail"]


@pytest.mark.parametrize(("tables", "model"), [
    ("", None), ("[finetune]", "./base"), ("[distil.student]", "./base"),
    ('[distil.student]\ntokenizer = "own"', None), ('[distil.student]\ninit = "./small"', "./small"),
])
def test_the_template_is_that_of_what_is_trained(tmp_path: Path, tables: str, model: str | None) -> None:
    run = run_of(tmp_path, f'teachers = [{{model = "m", endpoint = "http://127.0.0.1:1/v1"}}]\n{tables}')
    assert pupil(run.recipe) == model


def test_what_was_answered_before_a_failure_is_not_asked_again(tmp_path: Path) -> None:
    answered: list[Body] = []

    def say(body: Body) -> Answer:
        if len(answered) == 2:
            return refusal(507, "no memory", x_should_retry="false")
        answered.append(body)
        return echo(body)

    with ChatServer(say) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server, concurrency=1)}]")
        with pytest.raises(SourceUnavailable, match=r"2 of 4 answers of m are kept; the same command"):
            do(run)
        with (run.path("answers") / "raw.jsonl").open("ab") as raw:
            raw.write(b'{"ask": "torn')
        answered.clear()
        assert do(run).answers == 4
    assert len(server.bodies) == 5
    assert len(learned(run)) == 4


def test_other_filters_and_more_samples_go_on_with_what_is_there(tmp_path: Path) -> None:
    with ChatServer(echo) as server:
        said = f"teachers = [{teacher(server)}]"
        first = run_of(tmp_path, said)
        do(first)
        stricter = run_of(tmp_path, said + "\nfilters = {pattern = '[01]'}")
        assert ANSWERS.key(first) != ANSWERS.key(stricter)
        assert do(stricter).rejected == {"pattern": 2}
        assert len(server.bodies) == 4
        more = run_of(tmp_path, said + "\nsamples = 2")
        value = do(more)
    assert len(server.bodies) == 8
    assert (value.answers, value.kept, value.same) == (8, 4, 4)
    assert len({body["seed"] for body in server.bodies}) == 2
    rejected = [json.loads(line) for line in (tmp_path / "run/answers/rejected.jsonl").read_text().splitlines()]
    assert rejected == []


def test_rejected_answers_are_kept_with_their_reason(tmp_path: Path) -> None:
    def say(body: Body) -> Answer:
        return answer("cut", finish_reason="length") if "0" in body["messages"][0]["content"] else echo(body)

    with ChatServer(say) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server)}]")
        assert do(run).rejected == {"unfinished": 1}
    [rejected] = [json.loads(line) for line in (run.path("answers") / "rejected.jsonl").read_text().splitlines()]
    assert (rejected["reason"], rejected["answer"]["content"]) == ("unfinished", "cut")


def test_it_stops_when_the_money_is_spent_and_goes_on_when_there_is_more(tmp_path: Path) -> None:
    told: list[Moment] = []
    with ChatServer(echo) as server:
        said = f"teachers = [{teacher(server, concurrency=1, price_out=1.0)}]\nmax_cost = "
        value = do(run_of(tmp_path, said + "1e-5", count=9), told)
        assert (value.answers, value.wanted, value.stopped, value.kept) == (2, 9, True, 2)
        assert any(moment.note is not None and "max_cost 1e-05 is reached" in moment.note for moment in told)
        value = do(run_of(tmp_path, said + "2e-5", count=9))
    assert value.answers == 4
    assert value.cost == pytest.approx(2e-5)
    assert len(server.bodies) == 4


def test_what_all_teachers_answered_before_counts_before_any_is_asked(tmp_path: Path) -> None:
    with ChatServer(echo) as server:
        one, other = (teacher(server, name=name, concurrency=1, price_out=1.0, temperature=temperature)
                      for name, temperature in (("one", 0.5), ("other", 0.7)))
        do(run_of(tmp_path, f"teachers = [{other}]\nmax_cost = 1e-5"))
        value = do(run_of(tmp_path, f"teachers = [{one}, {other}]\nmax_cost = 1e-5"))
    assert (value.answers, value.stopped, len(server.bodies)) == (2, True, 2)
    assert value.cost == pytest.approx(1e-5)


def test_a_teacher_that_costs_nothing_goes_on_when_the_money_is_spent(tmp_path: Path) -> None:
    with ChatServer(echo) as paid, ChatServer(echo) as free:
        both = f"[{teacher(paid, concurrency=1, price_out=1.0)}, {teacher(free, name='free')}]"
        do(run_of(tmp_path, f"teachers = {both}\nmax_cost = 1e-5"))
    assert (len(paid.bodies), len(free.bodies)) == (2, 4)


def test_log_probabilities_that_do_not_come_are_told(tmp_path: Path) -> None:
    told: list[Moment] = []
    with ChatServer(echo) as server:
        do(run_of(tmp_path, f"teachers = [{teacher(server)}]\nlogprobs = 2"), told)
    assert any("4 answers came without the log probabilities" in (moment.note or "") for moment in told)


def test_a_limit_of_cost_needs_counts_of_tokens(tmp_path: Path) -> None:
    def say(body: Body) -> Answer:
        said = echo(body)
        del said.body["usage"]
        return said

    with ChatServer(say) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server, price_out=1.0)}]\nmax_cost = 1.0")
        with pytest.raises(SourceUnavailable, match="max_cost cannot be kept"):
            do(run)
        told: list[Moment] = []
        do(run_of(tmp_path, f"teachers = [{teacher(server, price_out=1.0)}]"), told)
    assert any(moment.note is not None and "without counts of tokens" in moment.note for moment in told)


def test_several_teachers_vote_and_count_by_their_weight(tmp_path: Path) -> None:
    def odd(body: Body) -> Answer:
        return answer("odd") if "3" in body["messages"][0]["content"] else echo(body)

    with ChatServer(echo) as one, ChatServer(odd) as other:
        run = run_of(tmp_path, f"teachers = [{teacher(one, name='one')}, {teacher(other, name='other', weight=0.5)}]\n"
                               "filters = {agreement = 0.9}")
        value = do(run)
    assert value.rejected == {"disagrees": 2}
    assert [(example.teacher, example.weight) for example in read_examples(run.path("answers") / "examples.jsonl")] \
        == [("one+other", 1.5)] * 3
    assert [(each.name, each.answers, each.kept) for each in value.teachers] == [("one", 4, 3), ("other", 4, 3)]


def test_one_answer_of_two_is_no_agreement(tmp_path: Path) -> None:
    def say(body: Body) -> Answer:
        return refusal(400, "too long") if "3" in body["messages"][0]["content"] else echo(body)

    told: list[Moment] = []
    with ChatServer(echo) as one, ChatServer(say) as other:
        run = run_of(tmp_path, f"teachers = [{teacher(one, name='one')}, {teacher(other, name='other')}]\n"
                               "filters = {agreement = 1.0}")
        value = do(run, told)
    assert value.rejected == {"disagrees": 1, "refused": 1}
    assert len(learned(run)) == 3
    assert any("1 of 8 answers did not come; agreement counts" in (moment.note or "") for moment in told)


def test_thoughts_that_come_as_text_are_not_learned(tmp_path: Path) -> None:
    def say(body: Body) -> Answer:
        return {"0": answer("<think>hm</think>\n\nyes"), "1": answer("\n<think>\nhm, so", finish_reason="stop"),
                "2": answer("hm\n</think>\nyes"), "3": answer("A <think> is closed by </think>.")}[
                    body["messages"][0]["content"][-1]]

    told: list[Moment] = []
    with ChatServer(say) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server)}]")
        value = do(run, told)
    assert learned(run) == [("prompt 0", "yes"), ("prompt 2", "yes"), ("prompt 3", "A <think> is closed by </think>.")]
    assert value.rejected == {"unfinished": 1}
    assert any("3 answers began with a thought" in (moment.note or "") for moment in told)
    assert "<think>hm</think>" in (run.path("answers") / "raw.jsonl").read_text()


def test_thoughts_that_come_as_text_make_no_difference_to_votes(tmp_path: Path) -> None:
    thoughts = iter(range(99))
    with ChatServer(lambda body: answer(f"<think>{next(thoughts)}</think>12")) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server)}]\nsamples = 2\n"
                               "filters = {agreement = 1.0, max_characters = 2}")
        assert (do(run).kept, do(run).rejected) == (4, {})


def test_a_prompt_that_the_teacher_refuses_is_counted(tmp_path: Path) -> None:
    def say(body: Body) -> Answer:
        return refusal(400, "too long") if "0" in body["messages"][0]["content"] else echo(body)

    with ChatServer(say) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server)}]")
        assert do(run).rejected == {"refused": 1}


def test_a_prompt_that_never_gets_an_answer_does_not_stop_the_others(tmp_path: Path) -> None:
    def say(body: Body) -> Answer:
        number = body["messages"][0]["content"][-1]
        return Answer({"choices": []}) if number == "3" else echo(body)

    with ChatServer(say) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server, concurrency=1)}]")
        # The second time nothing else is left to ask.
        assert do(run).rejected == do(run).rejected == {"refused": 1}
    assert len(learned(run)) == 3


def test_a_teacher_that_refuses_everything_ends_it_with_its_reason(tmp_path: Path) -> None:
    with ChatServer(lambda body: refusal(400, "logprobs are not supported")) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server)}]\nlogprobs = 5", count=50)
        with pytest.raises(InvalidRequest, match="logprobs are not supported"):
            do(run)
    assert len(server.bodies) < 15
    assert server.bodies[0]["top_logprobs"] == 5


def test_nothing_that_passes_is_told_with_the_reasons(tmp_path: Path) -> None:
    with ChatServer(echo) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server)}]\nfilters = {{json = true}}")
        with pytest.raises(InvalidRequest, match=r"no answer passed the filters .*4 not json"):
            do(run)


@pytest.mark.parametrize(("said", "message"), [
    ("teachers = [{A}, {A}]", "is one of 2 called m"),
    ("teachers = [{Z}]\nsamples = 3", "3 times the same"),
    ("teachers = [{A}]\nfilters = {agreement = 0.5}", "more than one answer a prompt"),
    ("teachers = [{A}]\nfilters = {pattern = '('}", "no regular expression"),
    ("teachers = [{A}, {model = 'n', endpoint = 'localhost:1/v1'}]", "no address of an endpoint"),
    ("teachers = [{A}, {model = 'n', endpoint = 'http://h/v1', api_key_env = 'NO_KEY'}]", "NO_KEY is not set"),
])
def test_a_recipe_that_cannot_be_meant_is_told_before_anything_is_asked(
    tmp_path: Path, said: str, message: str,
) -> None:
    with ChatServer(echo) as server:
        text = said.replace("{A}", teacher(server)).replace("{Z}", teacher(server, temperature=0.0))
        with pytest.raises(ConfigError, match=message) as caught:
            do(run_of(tmp_path, text))
    assert caught.value.line is not None
    assert server.bodies == []


def test_a_tool_whose_schema_is_none_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    function = {"name": "light", "parameters": {"type": "dict", "properties": {"on": {"type": "float"}}}}
    with ChatServer(echo) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server)}]", tools=({"type": "function", "function": function},))
        with pytest.raises(InvalidRequest, match=r"the tool light of prompt .* mend it in the data"):
            do(run)
    assert server.bodies == []


def test_a_wrong_key_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEACHER_KEY", "wrong")
    with ChatServer(lambda body: refusal(401, "no")) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server, api_key_env='TEACHER_KEY')}]")
        with pytest.raises(InvalidApiKey, match="TEACHER_KEY"):
            do(run)


def test_the_key_depends_on_what_answers_depend_on(tmp_path: Path) -> None:
    with ChatServer(echo) as server:
        def key(said: str) -> str:
            return ANSWERS.key(run_of(tmp_path, said))

        first = key(f"teachers = [{teacher(server)}]")
        assert key(f"teachers = [{teacher(server, concurrency=9)}]") == first
        assert key(f"teachers = [{teacher(server, temperature=0.1)}]") != first
        (tmp_path / "s.json").write_text("{}")
        with_schema = key(f"teachers = [{teacher(server)}]\nfilters = {{schema = 's.json'}}")
        (tmp_path / "s.json").write_text('{"type": "object"}')
        assert key(f"teachers = [{teacher(server)}]\nfilters = {{schema = 's.json'}}") != with_schema


@pytest.mark.parametrize("near", ["", ", near_duplicates = 0.9"])
def test_prompts_of_their_own_leave_out_what_is_held_out(tmp_path: Path, near: str) -> None:
    """What is nearly held out is not asked, and paid for, only to be left out later."""
    rows = [{"prompt": text} for text in ("new 0", "new 1", "held out 0", "Held  Out 0", "new 0")]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ChatServer(echo) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server)}]\nprompts = ['more.jsonl']", data=near)
        value = do(run)
    asked = [] if near else [("Held  Out 0", "to Held  Out 0")]
    assert sorted(learned(run)) == [*asked, ("new 0", "to new 0"), ("new 1", "to new 1")]
    assert value.left_out == (2 if near else 1)


def test_prompts_of_their_own_need_no_answer_whatever_the_data_make_theirs_of(tmp_path: Path) -> None:
    rows = [{"said": "new 0"}, {"said": "new 1", "meant": "not this"}]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ChatServer(echo) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server)}]\nprompts = ['more.jsonl']",
                     data=', prompt = "{{ said }}", answer = "{{ meant }}"')
        do(run)
    assert sorted(learned(run)) == [("new 0", "to new 0"), ("new 1", "to new 1")]


def test_prompts_of_their_own_need_none_of_the_columns_that_the_data_has(tmp_path: Path) -> None:
    rows = [{"prompt": "new 0"}, {"said": "new 1"}, {"messages": [{"role": "user", "content": "new 2"}]}]
    (tmp_path / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with ChatServer(echo) as server:
        run = run_of(tmp_path, f"teachers = [{teacher(server)}]\nprompts = ['more.jsonl']",
                     data=', prompt = "{{ said }}", answer = "{{ meant }}", stratum = "kind"')
        do(run)
    assert sorted(learned(run)) == [(f"new {number}", f"to new {number}") for number in range(3)]
