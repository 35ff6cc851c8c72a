"""onnxruntime-genai's own guidance: one schema after another, each held by `GeneratorParams.set_guidance`.

    python -m bench.peers.genai_guidance FOLDER

First it writes `{"version"}`. Then, for each line `{"said", "schema", "max_tokens"}`, one `{"status", "text", "end"}`;
what it raises is told as a refusal. It ends when its standard input ends.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import onnxruntime_genai


def main() -> None:
    model = onnxruntime_genai.Model(sys.argv[1])
    tokenizer = onnxruntime_genai.Tokenizer(model)
    print(json.dumps({"version": f"onnxruntime-genai {onnxruntime_genai.__version__}"}), flush=True)
    for line in sys.stdin:
        try:
            said = answer(model, tokenizer, **json.loads(line))
        except Exception as error:  # its bindings raise no class of their own
            said = {"status": 400, "text": f"{type(error).__name__}: {error}", "end": ""}
        print(json.dumps(said), flush=True)


def answer(model: Any, tokenizer: Any, *, said: str, schema: dict[str, Any], max_tokens: int) -> dict[str, Any]:
    chat = tokenizer.apply_chat_template(
        messages=json.dumps([{"role": "user", "content": said}]), add_generation_prompt=True)
    prompt = tokenizer.encode(chat)
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=len(prompt) + max_tokens, do_sample=False)
    parameters.set_guidance("json_schema", json.dumps(schema))
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(np.array([prompt], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    written = list(generator.get_sequence(0))[len(prompt):]
    return {"status": 200, "text": tokenizer.decode(np.array(written, np.int32)),
            "end": "length" if len(written) == max_tokens else "stop"}


if __name__ == "__main__":
    main()
