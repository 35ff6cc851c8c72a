"""llama.cpp's own server, as the package xllamacpp carries it. Runs in the peer's environment, where edged is not.

    python llama_server.py '{"model": "….gguf", "rows": 16, "context": 2048, "threads": 2, "options": "default",
                             "template": null}'

Prints one line of JSON when it serves, `{"url", "facts"}`, and ends when its standard input ends: it never outlives the
bench that started it.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xllamacpp  # type: ignore[import-not-found]


def parameters(config: dict[str, Any]) -> Any:
    """llama-server's defaults, and only what makes the comparison one of equals: threads, slots, context of a slot.
    `template`, a file beside this one, goes before the model's own. `options` names what is added to them, what is
    known to help a use; README.md gives the reason for each."""
    params = xllamacpp.CommonParams()
    params.model.path = config["model"]
    params.port = 0
    params.n_parallel = config["rows"]
    params.n_ctx = config["rows"] * config["context"]
    params.cpuparams.n_threads = config["threads"]
    params.cpuparams_batch.n_threads = config["threads"]
    if config["template"]:
        params.chat_template = (Path(__file__).parent / config["template"]).read_text(encoding="utf-8")
    OPTIONS[config["options"]](params)
    return params


def quiet(params: Any) -> None:
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.endpoint_slots = False
    params.ui = False
    params.verbosity = 1


def tuned(params: Any) -> None:
    """For prompts that never come twice."""
    quiet(params)
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.n_ctx_checkpoints = 0
    params.slot_prompt_similarity = 0.0


def reuse(params: Any) -> None:
    """For prompts that begin alike: one pool of KV, old prompts kept in RAM, pieces of them moved where they fit."""
    quiet(params)
    params.kv_unified = True
    params.n_cache_reuse = 32
    params.cache_ram_mib = 8192


def ngram(params: Any) -> None:
    """For answers that repeat what was said: drafts of 16 tokens after 4 that were seen before."""
    tuned(params)
    params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
    params.speculative.ngram_simple.size_n = 4
    params.speculative.ngram_simple.size_m = 16


OPTIONS: dict[str, Callable[[Any], None]] = {
    "default": lambda params: None, "tuned": tuned, "reuse": reuse, "ngram": ngram,
}


def shown(params: Any) -> str:
    """The options that decide speed and memory, as they are in force."""
    names = (
        "n_parallel", "n_ctx", "n_batch", "n_ubatch", "kv_unified", "cont_batching", "cache_prompt", "cache_ram_mib",
        "cache_idle_slots", "n_ctx_checkpoints", "slot_prompt_similarity", "n_threads_http", "warmup",
        "no_extra_bufts", "n_cache_reuse", "verbosity",
    )
    enums = ("flash_attn_type", "cache_type_k", "cache_type_v", "load_mode")
    said = {name: getattr(params, name) for name in names} | {name: getattr(params, name).name for name in enums}
    said["threads"] = params.cpuparams.n_threads
    said["threads_batch"] = params.cpuparams_batch.n_threads
    said["speculative"] = "+".join(one.name.rpartition("TYPE_")[2].lower() for one in params.speculative.types)
    said["poll"] = params.cpuparams.poll
    return ", ".join(f"{name}={value}" for name, value in sorted(said.items()))


def main() -> None:
    params = parameters(json.loads(sys.argv[1]))
    server = xllamacpp.Server(params)
    build = xllamacpp.BUILD_INFO
    facts = {
        "version": f"xllamacpp {xllamacpp.__version__}, llama.cpp build {build['build_number']} {build['commit']}",
        "build": f"{build['compiler']}, {build['build_target']}",
        "cpu flags": " ".join(xllamacpp.get_system_info().split()),
        "options": shown(params),
    }
    print(json.dumps({"url": server.listening_address, "facts": facts}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
