"""onnxruntime-genai's own generator: all prompts of a burst as one static batch, which is the most it does on a CPU.

    python -m bench.peers.genai '{"path": "…"}'

The protocol is in bench/pipes.py. The prompts of one burst have one length, so that nothing is padded.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai

from edged.engines.genai_config import read_config
from edged.engines.hf_vocab import HfVocab


def main() -> None:
    folder = Path(json.loads(sys.argv[1])["path"])
    config = read_config(folder).model
    vocab = HfVocab(folder, config.vocab_size, config.end)
    model = onnxruntime_genai.Model(str(folder))
    print(json.dumps({"facts": {"version": f"onnxruntime-genai {onnxruntime_genai.__version__}"}}), flush=True)
    for line in sys.stdin:
        burst = json.loads(line)
        prompts = [vocab.tokenize(prompt, special=False, bos=True) for prompt in burst["prompts"]]
        print(json.dumps({"answers": generate(model, prompts, burst["answer_tokens"])}), flush=True)


def generate(model: Any, prompts: list[list[int]], count: int) -> list[dict[str, Any]]:
    began_s = time.perf_counter()
    length = len(prompts[0]) + count
    parameters = onnxruntime_genai.GeneratorParams(model)
    parameters.set_search_options(max_length=length, min_length=length, batch_size=len(prompts), do_sample=False)
    generator = onnxruntime_genai.Generator(model, parameters)
    generator.append_tokens(np.array(prompts, np.int32))
    generator.generate_next_token()
    first_s = time.perf_counter() - began_s
    while not generator.is_done():
        generator.generate_next_token()
    last_s = time.perf_counter() - began_s
    return [{"first_s": first_s, "last_s": last_s, "prompt_tokens": len(prompt),
             "completion_tokens": len(generator.get_sequence(row)) - len(prompt)} for row, prompt in enumerate(prompts)]


if __name__ == "__main__":
    main()
