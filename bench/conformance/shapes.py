"""Messages in all their forms, limits, and what must be refused."""

from __future__ import annotations

from typing import Any

from bench.conformance.outcome import Absent, Silent, check, expect
from bench.conformance.server import COUNTING, Server, content

AREA = "/v1/chat/completions"
PATH = "/v1/chat/completions"
PIXEL = ("data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ"
         "RU5ErkJggg==")
LONG = " ".join(f"word{index}" for index in range(40))
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}


def prompt_tokens(server: Server, messages: list[Any], *names: str, **fields: Any) -> int:
    told = server.chat(*names, messages=messages, max_tokens=1, **fields)["usage"]["prompt_tokens"]
    return int(told)


def reaches_the_model(server: Server, before: list[Any], after: list[Any], *names: str) -> None:
    grown = prompt_tokens(server, after, *names) - prompt_tokens(server, before)
    expect(grown >= 40, f"the prompt grows by {grown} tokens where 40 words were added")


def user(said: Any = COUNTING) -> dict[str, Any]:
    return {"role": "user", "content": said}


@check(AREA, "messages: system")
def system(server: Server) -> None:
    reaches_the_model(server, [user()], [{"role": "system", "content": LONG}, user()], "system", "role")


@check(AREA, "messages: developer")
def developer(server: Server) -> None:
    reaches_the_model(server, [user()], [{"role": "developer", "content": LONG}, user()], "developer", "role")


@check(AREA, "messages: content as parts")
def parts(server: Server) -> None:
    both = user([{"type": "text", "text": COUNTING}, {"type": "text", "text": LONG}])
    reaches_the_model(server, [user()], [both], "content")


@check(AREA, "messages: calls and results of tools")
def tool_messages(server: Server) -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": LONG}
    reaches_the_model(server, [user()], [user(), called, result], "tool", "role")


@check(AREA, "messages: calls with broken arguments")
def broken_call(server: Server) -> None:
    broken = {**CALL, "function": {"name": "weather", "arguments": '{"city": "Par'}}
    messages = [user(), {"role": "assistant", "content": None, "tool_calls": [broken]},
                {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]
    server.chat("tool_calls", "arguments", messages=messages)


@check(AREA, "messages: an image")
def image(server: Server) -> None:
    looked = user([{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PIXEL}}])
    answer = server.chat("image", messages=[looked])
    raise Silent(f"a model without eyes answers {content(answer)[:60]!r}")


@check(AREA, "messages: audio")
def audio(server: Server) -> None:
    heard = user([{"type": "text", "text": "What is it?"},
                  {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}])
    answer = server.chat("audio", messages=[heard])
    raise Silent(f"a model without ears answers {content(answer)[:60]!r}")


@check(AREA, "a prompt over the context")
def over_context(server: Server) -> str:
    reply = server.refusal(PATH, server.chat_body("one two three " * server.context), "context")
    expect(str(server.context) in reply.text, "the refusal does not say the context's size")
    return f"{reply.status}"


@check(AREA, "prompt and answer over the context")
def over_context_together(server: Server) -> None:
    """OpenAI refuses it; an answer that is cut without a word is worse."""
    said = "one two three four " * (server.context // 4 - 60)
    used = server.chat(said=said, max_tokens=1)["usage"]["prompt_tokens"]
    expect(used > server.context // 2, f"the prompt is told as {used} tokens")
    wanted = server.context - used + 50
    answer = server.chat("context", "max_tokens", said=said, max_tokens=wanted)
    got = answer["usage"]["completion_tokens"]
    reason = answer["choices"][0]["finish_reason"]
    expect(got == wanted or reason == "stop", f"{got} of {wanted} tokens, finish_reason {reason}")


@check(AREA, "an unknown field")
def unknown_field(server: Server) -> None:
    reply = server.send("POST", PATH, server.chat_body(temprature=0.5))
    if reply.status < 300:
        expect("temprature" in str(reply.headers).lower(), "taken and dropped")
    else:
        server.took(reply, PATH, "temprature")


@check(AREA, "inert fields are told", own=True)
def inert(server: Server) -> None:
    reply = server.took(server.send("POST", PATH, server.chat_body(user="me", metadata={"a": "b"})), PATH, "user")
    expect("metadata" in str(reply.headers).lower(), "nothing tells that `metadata` was dropped")


def refused(name: str, field: str, value: Any) -> None:
    @check(AREA, name)
    def out_of_range(server: Server) -> None:
        server.refusal(PATH, server.chat_body(**{field: value}), field)


refused("temperature = 9 is refused", "temperature", 9)
refused("n = 0 is refused", "n", 0)
refused("max_tokens = -5 is refused", "max_tokens", -5)
refused("top_p = \"high\" is refused", "top_p", "high")
refused("stop = 5 is refused", "stop", 5)
refused("messages = [] is refused", "messages", [])
refused("reasoning_effort = \"huge\" is refused", "reasoning_effort", "huge")


@check(AREA, "chat_template_kwargs", own=True)
def template_kwargs(server: Server) -> None:
    server.refusal(PATH, server.chat_body(chat_template_kwargs="yes"), "chat_template_kwargs")
    server.chat("chat_template_kwargs", chat_template_kwargs={"enable_thinking": False})


@check(AREA, "adapter: one that is not there", own=True)
def adapter(server: Server) -> None:
    server.refusal(PATH, server.chat_body(adapter="no-such-adapter"), "adapter")


@check(AREA, "system_fingerprint")
def fingerprint(server: Server) -> None:
    expect(server.chat().get("system_fingerprint"), "none")


@check(AREA, "headers that tell what answered", own=True)
def headers(server: Server) -> None:
    reply = server.took(server.send("POST", PATH, server.chat_body()), PATH)
    for name in ("x-request-id", "edged-model", "edged-engine", "edged-device"):
        if name not in reply.headers:
            raise Absent(f"no {name}")
