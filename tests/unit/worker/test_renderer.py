"""Rendering is that of transformers, whatever of Jinja a template uses; and the sandbox holds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from edged.worker.renderer import Answer, Render, attempt, compile_template, render

pytestmark = pytest.mark.unit

Messages = list[dict[str, Any]]

SYSTEM = {"role": "system", "content": 'Be brief. <b>&"\''}
USER = {"role": "user", "content": "  Grüß dich 🦆\n"}
ASSISTANT = {"role": "assistant", "content": "Hello"}
CALL = {
    "role": "assistant", "content": None,
    "tool_calls": [
        {"id": "a1", "function": {"name": "weather", "arguments": {"city": "Köln", "days": [1, 2]}}},
        {"id": "a2", "function": {"name": "clock", "arguments": '{"zone": "CET"}'}},
    ],
}
RESULT = {"role": "tool", "tool_call_id": "a1", "name": "weather", "content": '{"temp": 3.0}'}
REASONED = {"role": "assistant", "content": "3", "reasoning_content": "1 + 2"}
REASONED_OTHERWISE = {"role": "assistant", "content": "3", "reasoning": "1 + 2", "thinking": None}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather", "description": "It's <now> & \"here\" ü",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CONVERSATIONS: list[Messages] = [
    [USER], [SYSTEM, USER], [SYSTEM, USER, ASSISTANT, USER], [USER, CALL, RESULT], [USER, REASONED, USER],
    [USER, REASONED_OTHERWISE, USER],
]

TEMPLATES = {
    # SmolLM2-135M-Instruct's own (Apache-2.0).
    "smollm2": (
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
        "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "blocks are trimmed": (
        "  {% if true %}\n  a\n    {%- for m in messages %}\n\t{% if m %}\n b \n {% endif %}\n"
        "{% endfor %}\n  {% endif %}\n"
    ),
    "special tokens": "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token }}|{{ pad_token is defined }}",
    "tojson": (
        "{{ tools | tojson }}{{ messages | tojson(indent=2) }}{{ messages | tojson(ensure_ascii=true) }}"
        "{{ messages | tojson(separators=(',', ':'), sort_keys=true) }}{{ '<&>\\'' | tojson }}"
    ),
    "macros": (
        "{% macro show(m, sep=', ') %}[{{ caller() if caller else m.role ~ sep ~ varargs|length }}]{% endmacro %}"
        "{% for m in messages %}{{ show(m) }}{{ show(m, '; ', 1, 2) }}{% call show(m) %}!{% endcall %}{% endfor %}"
    ),
    "namespaces": (
        "{% set ns = namespace(count=0, last='') %}{% for m in messages %}{% set ns.count = ns.count + 1 %}"
        "{% set ns.last = m.role %}{% endfor %}{{ ns.count }}{{ ns.last }}{{ dict(a=1)['a'] }}{{ dict.fromkeys('ab') }}"
    ),
    "loop controls": (
        "{% for m in messages recursive %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% if loop.index > 2 %}{% break %}{% endif %}{{ loop.index }}/{{ loop.length }}{{ loop.cycle('x', 'y') }}"
        "{{ loop.changed(m.role) }}{{ loop.previtem.role if loop.previtem is defined }}{% else %}none{% endfor %}"
    ),
    "filters and slices": (
        "{% for m in messages[::-1][:3] %}{{ (m.content or '') | trim | upper | replace('Ü', '-') | length }}"
        "{{ m['content'][1:-1] if m.content }}{% endfor %}{{ messages | map(attribute='role') | unique | join(',') }}"
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages[0] | items | list | first }}"
        "{{ [3, 1, 2] | sort | reject('odd') | list }}{{ 'a,b'.split(',')[-1] }}{{ 'x'.startswith('x') }}"
        "{{ '%s-%03d' | format('n', 7) }}{{ 7 // 2 }}{{ 'y' ~ 1.50 }}{{ '<b>' | e }}{{ none }}{{ true }}"
    ),
    "tests": (
        "{% for m in messages %}{{ m.content is defined }}{{ m.content is none }}{{ m.content is string }}"
        "{{ m.tool_calls is defined }}{{ 'content' in m }}{{ m.missing }}{{ m.get('name', 'nobody') }}{% endfor %}"
        "{{ tools is none }}{{ documents is none }}{{ documents is defined }}{{ nothing is defined }}"
        "{{ tools is iterable }}"
    ),
    "tool calls": (
        "{% for m in messages %}{% if m.tool_calls %}{% for call in m.tool_calls %}{% set f = call.function %}"
        "<{{ f.name }}>{% if f.arguments is mapping %}{% for k, v in f.arguments.items() %}{{ k }}={{ v }};"
        "{% endfor %}{% else %}{{ f.arguments }}{% endif %}{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.reasoning }}{% endfor %}",
    "generation": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}\n  {% endgeneration %}\n"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "arguments of the call": "{{ enable_thinking }}{{ add_generation_prompt }}{{ documents }}{{ bos_token }}",
    "whitespace": "{% raw %}{{ x }}{% endraw %}{# note #}\n\n{{- 'a' -}}  \n{%+ if true %} b{% endif +%}\n c\r\n",
    "set blocks": "{% set x %}{% filter upper %}{{ messages[0].role }}{% endfilter %}{% endset %}{{ x }}{{ x|length }}",
    "its own refusal": "{{ raise_exception('Roles must alternate, got ' ~ messages[0].role ~ '.') }}",
    "what is not there": "{{ messages[0].content.missing.deeper }}",
    "what does not add": "{{ messages[0].content + 1 }}",
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_in_transformers(name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    for messages, tools, kwargs, prompted in product(
        CONVERSATIONS, (None, TOOLS), ({}, {"enable_thinking": False, "documents": [{"title": "t"}]}), (True, False)
    ):
        request = Render(messages, tools, kwargs, prompted)
        assert rendered(TEMPLATES[name], tokenizer, request) == in_transformers(TEMPLATES[name], tokenizer, request)


def test_the_date_is_todays(tokenizer: PreTrainedTokenizerFast) -> None:
    source, request = "{{ strftime_now('%d %b %Y %A') }}", Render([USER], None, {}, False)
    before = in_transformers(source, tokenizer, request)
    ours = rendered(source, tokenizer, request)
    assert ours in (before, in_transformers(source, tokenizer, request))


def rendered(source: str, tokenizer: PreTrainedTokenizerFast, request: Render) -> str:
    template = compile_template(source)
    return attempt(lambda: render(template, tokenizer.special_tokens_map, request), 60).text


def in_transformers(source: str, tokenizer: PreTrainedTokenizerFast, request: Render) -> str:
    """The text, or what the template's error says."""
    tools: list[dict[Any, Any] | Callable[..., Any]] | None = None if request.tools is None else [*request.tools]
    try:
        text = tokenizer.apply_chat_template(
            request.messages, tools=tools, chat_template=source, add_generation_prompt=request.add_generation_prompt,
            tokenize=False, **request.kwargs,
        )
    except Exception as error:
        return str(error)
    assert isinstance(text, str)
    return text


FORBIDDEN = {
    "globals of a class": "{{ cycler.__init__.__globals__ }}",
    "globals of a function": "{{ raise_exception.__globals__.json }}",
    "classes of a string": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attributes by filter": "{{ (''|attr('__class__')).x }}",
    "format strings": "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
    "changing a list": "{{ messages.append(1) }}",
    "changing a message": "{{ messages[0].update(role='system') }}",
    "private names": "{{ namespace(__class__=1) }}",
    "a private name later": "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "the environment": "{{ self._TemplateReference__context.environment.x }}",
    "a macro's code": "{% macro m() %}{% endmacro %}{{ m._func.__code__ }}",
    "strftime's module": "{{ strftime_now.__globals__.datetime }}",
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_template_cannot_leave_the_sandbox(name: str) -> None:
    assert outcome(FORBIDDEN[name], [USER]).problem == "forbidden"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ range(10**9) | list }}", "Range too big"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nests too deeply"),
        ("{% include 'a file' %}", "no loader"),
        ("{% import '/etc/passwd' as x %}", "no loader"),
        ("{{ open('/etc/passwd') }}", "undefined"),
        ("{{ lipsum.__globals__['os'] }}", "unsafe"),
    ],
)
def test_what_a_template_may_not_do_ends_in_an_error(source: str, said: str) -> None:
    answer = outcome(source, [USER])
    assert answer.problem in ("failed", "forbidden")
    assert said in answer.text


def test_a_template_refuses_in_its_own_words() -> None:
    answer = outcome("{{ raise_exception('Only users may speak.') }}", [USER])
    assert answer == Answer("Only users may speak.", "refused")


def test_broken_syntax_is_told_with_its_line() -> None:
    answer = attempt(lambda: compile_template("a\n{% for %}"), 60)
    assert isinstance(answer, Answer)
    assert answer.problem == "syntax"
    assert answer.text.startswith("line 2: ")


def test_an_error_is_not_as_long_as_the_conversation() -> None:
    answer = outcome("{{ raise_exception(messages[0].content) }}", [{"role": "user", "content": "x" * 1_000_000}])
    assert len(answer.text) < 10_000


def test_the_callers_messages_stay_as_they_are() -> None:
    message = {"role": "assistant", "content": None, "reasoning": "r"}
    outcome("{{ messages }}", [message])
    assert message == {"role": "assistant", "content": None, "reasoning": "r"}


def outcome(source: str, messages: Messages) -> Answer:
    template = compile_template(source)
    return attempt(lambda: render(template, {}, Render(messages, None, {}, True)), 60)
