"""OpenAI's Responses, Anthropic's Messages and Ollama's API."""

from __future__ import annotations

import json
from typing import Any

from bench.conformance.outcome import Silent, check, expect
from bench.conformance.server import COUNTING, Server
from bench.conformance.structured import SCHEMA, WEATHER, holds

RESPONSES = "/v1/responses"
MESSAGES = "/v1/messages"


def respond(server: Server, *names: str, **fields: Any) -> Any:
    body = {"model": server.model, "input": COUNTING, "max_output_tokens": 16, "temperature": 0} | fields
    return server.ask(RESPONSES, body, *names)


def said(response: Any) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message"
                   for part in item["content"] if part["type"] == "output_text")


@check(RESPONSES, "input: a string")
def response_plain(server: Server) -> None:
    answer = respond(server, "input")
    expect(answer["object"] == "response" and said(answer), "no text")


@check(RESPONSES, "max_output_tokens")
def response_length(server: Server) -> None:
    answer = respond(server, "max_output_tokens", max_output_tokens=16)
    expect(answer["usage"]["output_tokens"] == 16, f"{answer['usage']['output_tokens']} tokens instead of 16")
    expect(answer["status"] == "incomplete", f"status {answer['status']} of an answer that was cut")


@check(RESPONSES, "instructions")
def response_instructions(server: Server) -> None:
    grown = (respond(server, "instructions", instructions="word " * 120)["usage"]["input_tokens"]
             - respond(server)["usage"]["input_tokens"])
    # A template may have had words of its own in their place.
    expect(grown >= 60, f"the prompt grows by {grown} tokens where 120 words were added")


@check(RESPONSES, "stream: typed events")
def response_stream(server: Server) -> None:
    events = server.events(RESPONSES, {"model": server.model, "input": COUNTING, "max_output_tokens": 16,
                                       "temperature": 0, "stream": True}, "stream")
    kinds = [data["type"] for _, data in events if data != "[DONE]"]
    expect(kinds[0] == "response.created", f"begins with {kinds[0]}")
    expect(kinds[-1] in ("response.completed", "response.incomplete"), f"ends with {kinds[-1]}")
    text = "".join(data["delta"] for _, data in events
                   if isinstance(data, dict) and data["type"] == "response.output_text.delta")
    expect(text == said(respond(server)), "another text than unstreamed")


@check(RESPONSES, "previous_response_id")
def response_previous(server: Server) -> None:
    first = respond(server, store=True)
    second = respond(server, "previous_response_id", input="And then?", previous_response_id=first["id"])
    expect(second["usage"]["input_tokens"] > first["usage"]["input_tokens"], "what was said before is not there")


@check(RESPONSES, "previous_response_id that is not there")
def response_previous_unknown(server: Server) -> None:
    reply = server.send("POST", RESPONSES, {"model": server.model, "input": "x", "max_output_tokens": 16,
                                            "previous_response_id": "resp_doesnotexist"})
    expect(reply.status >= 300, "answered as if nothing had been said before")
    if reply.status != 404 or "resp" not in reply.message:
        server.took(reply, RESPONSES, "previous_response")


@check(RESPONSES, "GET, input_items and DELETE of a stored one")
def response_stored(server: Server) -> None:
    made = respond(server, store=True)
    path = f"{RESPONSES}/{made['id']}"
    found = server.ask(path, None, method="GET")
    expect(found["id"] == made["id"] and said(found) == said(made), "another one comes back")
    items = server.ask(f"{path}/input_items", None, method="GET")
    expect(COUNTING in json.dumps(items), "its input is not there")
    server.ask(path, None, method="DELETE")
    expect(server.send("GET", path).status == 404, "it is still there after DELETE")


@check(RESPONSES, "text.format: json_schema")
def response_format(server: Server) -> None:
    answer = respond(server, "text", max_output_tokens=200, text={
        "format": {"type": "json_schema", "name": "city", "strict": True, "schema": SCHEMA}})
    holds(json.loads(said(answer)), SCHEMA)


@check(RESPONSES, "tools, required")
def response_tools(server: Server) -> None:
    tool = {"type": "function", **WEATHER["function"]}
    answer = respond(server, "tool", max_output_tokens=250, tools=[tool], tool_choice="required",
                     parallel_tool_calls=False)
    called = [item for item in answer["output"] if item["type"] == "function_call"]
    expect(called, "no call")
    holds(json.loads(called[0]["arguments"]), tool["parameters"])


@check(RESPONSES, "background, and cancel")
def response_background(server: Server) -> None:
    made = respond(server, "background", background=True, store=True, max_output_tokens=900)
    expect(made["status"] in ("queued", "in_progress"), f"status {made['status']}")
    ended = server.ask(f"{RESPONSES}/{made['id']}/cancel", {})
    expect(ended["status"] in ("cancelled", "incomplete", "completed"), f"status {ended['status']} after cancel")


@check(RESPONSES, "an unknown field")
def response_unknown(server: Server) -> None:
    reply = server.send("POST", RESPONSES, {"model": server.model, "input": "x", "max_output_tokens": 16,
                                            "temprature": 1})
    expect(reply.status >= 300 or "temprature" in str(reply.headers), "taken and dropped")
    if reply.status >= 300:
        server.took(reply, RESPONSES, "temprature")


def message(server: Server, *names: str, **fields: Any) -> Any:
    body = {"model": server.model, "max_tokens": 12, "temperature": 0,
            "messages": [{"role": "user", "content": COUNTING}]} | fields
    return server.ask(MESSAGES, {name: value for name, value in body.items() if value is not None}, *names)


def read(answer: Any) -> int:
    """All tokens of the prompt: Anthropic counts those that came from a cache apart."""
    usage = answer["usage"]
    return sum(usage.get(name) or 0 for name in (
        "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"))


def words(answer: Any) -> str:
    return "".join(block["text"] for block in answer["content"] if block["type"] == "text")


@check(MESSAGES, "messages")
def message_plain(server: Server) -> None:
    answer = message(server)
    expect(words(answer) and answer["type"] == "message", "no text")
    expect(answer["stop_reason"] == "max_tokens", f"stop_reason {answer['stop_reason']} of an answer that was cut")
    expect(answer["usage"]["output_tokens"] == 12, f"{answer['usage']['output_tokens']} tokens instead of 12")


@check(MESSAGES, "x-api-key")
def message_key(server: Server) -> None:
    server.ask(MESSAGES, {"model": server.model, "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]},
               headers={"x-api-key": server.key, "authorization": "", "anthropic-version": "2023-06-01"})


@check(MESSAGES, "system")
def message_system(server: Server) -> None:
    grown = read(message(server, "system", system="word " * 120)) - read(message(server))
    # A template may have had words of its own in their place.
    expect(grown >= 60, f"the prompt grows by {grown} tokens where 120 words were added")


@check(MESSAGES, "max_tokens is required")
def message_length(server: Server) -> None:
    server.refusal(MESSAGES, {"model": server.model, "messages": [{"role": "user", "content": "x"}]}, "max_tokens")


@check(MESSAGES, "stop_sequences")
def message_stop(server: Server) -> None:
    whole = words(message(server, max_tokens=24))
    answer = message(server, "stop_sequences", max_tokens=24, stop_sequences=[whole[5:9]])
    expect(words(answer) == whole[:whole.index(whole[5:9])], f"{words(answer)!r} of {whole!r}")
    expect(answer["stop_reason"] == "stop_sequence" and answer["stop_sequence"] == whole[5:9],
           f"stop_reason {answer['stop_reason']}")


@check(MESSAGES, "stream")
def message_stream(server: Server) -> None:
    events = server.events(MESSAGES, {"model": server.model, "max_tokens": 12, "temperature": 0, "stream": True,
                                      "messages": [{"role": "user", "content": COUNTING}]}, "stream")
    kinds = [event for event, _ in events if event != "ping"]
    expect(kinds[0] == "message_start" and kinds[-1] == "message_stop", f"{kinds[0]} … {kinds[-1]}")
    text = "".join(data["delta"].get("text", "") for event, data in events if event == "content_block_delta")
    expect(text == words(message(server)), "another text than unstreamed")


@check(MESSAGES, "tools, tool_choice any")
def message_tools(server: Server) -> None:
    function: dict[str, Any] = WEATHER["function"]
    tool = {"name": function["name"], "description": function["description"], "input_schema": function["parameters"]}
    choice = {"type": "any", "disable_parallel_tool_use": True}
    answer = message(server, "tool", max_tokens=250, tools=[tool], tool_choice=choice)
    used = [block for block in answer["content"] if block["type"] == "tool_use"]
    expect(used and used[0]["name"] == "get_weather", f"no call: {words(answer)[:60]!r}")
    expect(answer["stop_reason"] == "tool_use", f"stop_reason {answer['stop_reason']}")


@check(MESSAGES, "an image")
def message_image(server: Server) -> None:
    block = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    answer = message(server, "image", messages=[{"role": "user", "content": [block]}])
    raise Silent(f"a model without eyes answers {words(answer)[:60]!r}")


@check(MESSAGES + "/count_tokens", "count_tokens")
def count_tokens(server: Server) -> None:
    told = server.ask(MESSAGES + "/count_tokens", {
        "model": server.model, "messages": [{"role": "user", "content": COUNTING}]})["input_tokens"]
    used = read(message(server))
    expect(told == used, f"{told} counted, {used} used")


OLLAMA = "Ollama"


def ollama(server: Server, path: str, *names: str, **fields: Any) -> Any:
    body = {"model": server.model, "stream": False} | fields
    return server.ask(path, body, *names)


def ollama_chat(server: Server, *names: str, options: dict[str, Any] | None = None, **fields: Any) -> Any:
    options = {"num_predict": 12, "temperature": 0} | (options or {})
    return ollama(server, "/api/chat", *names, options=options, **(
        {"messages": [{"role": "user", "content": COUNTING}]} | fields))


@check(OLLAMA, "/api/version")
def ollama_version(server: Server) -> None:
    expect(server.ask("/api/version", None, method="GET")["version"], "none")


@check(OLLAMA, "/api/tags")
def ollama_tags(server: Server) -> None:
    expect(server.ask("/api/tags", None, method="GET")["models"], "no models")


@check(OLLAMA, "/api/show")
def ollama_show(server: Server) -> None:
    expect("details" in server.ask("/api/show", {"model": server.model}), "no details")


@check(OLLAMA, "/api/ps")
def ollama_ps(server: Server) -> None:
    ollama_chat(server)
    expect(server.ask("/api/ps", None, method="GET")["models"], "no models though one has just answered")


@check(OLLAMA, "/api/chat")
def ollama_plain(server: Server) -> None:
    answer = ollama_chat(server)
    expect(answer["message"]["content"] and answer["done"], "no text")
    expect(answer["eval_count"] == 12 and answer["done_reason"] == "length",
           f"{answer['eval_count']} tokens, {answer['done_reason']}")


@check(OLLAMA, "/api/chat, streamed")
def ollama_stream(server: Server) -> None:
    reply = server.took(server.send("POST", "/api/chat", {
        "model": server.model, "messages": [{"role": "user", "content": COUNTING}],
        "options": {"num_predict": 12, "temperature": 0}}), "/api/chat")
    lines = [json.loads(line) for line in reply.text.splitlines()]
    expect(lines[-1]["done"] and len(lines) > 2, f"{len(lines)} lines")
    text = "".join(line["message"]["content"] for line in lines)
    expect(text == ollama_chat(server)["message"]["content"], "another text than unstreamed")


@check(OLLAMA, "options.stop")
def ollama_stop(server: Server) -> None:
    whole = ollama_chat(server, options={"num_predict": 24})["message"]["content"]
    found = ollama_chat(server, "stop", options={"num_predict": 24, "stop": [whole[5:9]]})["message"]["content"]
    expect(found == whole[:whole.index(whole[5:9])], f"{found!r} of {whole!r}")


@check(OLLAMA, "options: one that there is not")
def ollama_option(server: Server) -> None:
    body = {"model": server.model, "stream": False, "messages": [{"role": "user", "content": "x"}],
            "options": {"num_predict": 2, "temprature": 1}}
    reply = server.send("POST", "/api/chat", body)
    expect(reply.status >= 300 or "temprature" in str(reply.headers), "taken and dropped")
    if reply.status >= 300:
        server.took(reply, "/api/chat", "temprature")


@check(OLLAMA, "format: a schema")
def ollama_format(server: Server) -> None:
    answer = ollama_chat(server, "format", format=SCHEMA, options={"num_predict": 200})
    holds(json.loads(answer["message"]["content"]), SCHEMA)


@check(OLLAMA, "a prompt over the context is not cut")
def ollama_long(server: Server) -> None:
    body = {"model": server.model, "stream": False, "options": {"num_predict": 2}, "messages": [
        {"role": "user", "content": "one two three " * server.context}]}
    server.refusal("/api/chat", body, "context")


@check(OLLAMA, "/api/generate")
def ollama_generate(server: Server) -> None:
    answer = ollama(server, "/api/generate", prompt=COUNTING, options={"num_predict": 12, "temperature": 0})
    expect(answer["response"] and answer["eval_count"] == 12, "no text of 12 tokens")


@check(OLLAMA, "keep_alive")
def ollama_keep_alive(server: Server) -> None:
    ollama_chat(server, "keep_alive", keep_alive="5m")
    server.refusal("/api/chat", {"model": server.model, "messages": [{"role": "user", "content": "x"}],
                                 "stream": False, "keep_alive": "soon"}, "keep_alive")
