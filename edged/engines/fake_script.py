"""How a test tells the fake model what to say: the last message of the chat, of any role, holds

    say: TEXT

and the answer is TEXT, all that follows `say: ` to the end of the message, word for word, whatever the temperature. A
message without it is answered with words by chance, as ever. In a loop of tool calls the tool's result can carry the
next `say: `. An answer that leaves the script (something masked what comes next) goes on with words by chance.

The model's format is Hermes':

    say: <think>Hm.</think>Let me see.<tool_call>{"name": "f", "arguments": {}}</tool_call>

makes it think, speak and call. Under a constraint JSON has one space after colons and commas, and nowhere else. Without
being asked it thinks where the script says so only. Asked to (by `enable_thinking`, which an effort sets), it is within
its thought from the prompt on, and a script without one closes it. Where a budget closes the thought, what comes after
it in the script is said.
"""

from __future__ import annotations

MARKER = b"say: "
_HEADER = b"assistant\n"
#: What the template writes after the header where the model is told to think, and where it is told not to.
_THOUGHT = b"<think>\n"
_NO_THOUGHT = b"<think>\n\n</think>\n\n"
_OPEN, _CLOSE = b"<think>", b"</think>"

CHAT_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n"
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}\n\n{% endif %}"
    "<tools>{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools>\n"
    "Call them as <tool_call>{\"name\": …, \"arguments\": …}</tool_call><|im_end|>\n{% endif %}"
    "{% for message in messages %}{% if not (tools and loop.first and message['role'] == 'system') %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    "<tool_call>{\"name\": {{ call.function.name | tojson }}, \"arguments\": "
    "{{ call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}}"
    "</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined %}{% if enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}{% endif %}"
)


def left_to_say(message: bytes, answer: bytes) -> bytes | None:
    """message: the one before the answer. answer: what was written since, its header first. b"" when all is said, None
    where there is no script or the answer has left it."""
    _, found, script = message.rpartition(MARKER)
    if not found or not answer.startswith(_HEADER):
        return None
    said = answer.removeprefix(_HEADER)
    if script.startswith(b" "):
        script = b" " + script  # the first one is taken for the tokenizer's own
    if said.startswith(_NO_THOUGHT):
        said = said.removeprefix(_NO_THOUGHT)
    elif said.startswith(_THOUGHT):
        said = said.removeprefix(_THOUGHT)
        script = script.removeprefix(_OPEN) if script.startswith(_OPEN) else _CLOSE + script
    if _CLOSE in said and _CLOSE in script:
        said, script = (text.partition(_CLOSE)[2] for text in (said, script))
    return script.removeprefix(said) if script.startswith(said) else None
