"""Foundry Local through its own SDK, in an environment of its own: a session and a thread for each prompt of a burst.

    python foundry.py '{"path": "…"}'

The protocol is in bench/pipes.py. Prompts go through the model's chat template, a few tokens more than the others get.
"""

import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import foundry_local_sdk as foundry  # type: ignore[import-not-found]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = register(json.loads(sys.argv[1])["path"], folder)
        model.load()
        packages = ("foundry-local-sdk", "onnxruntime-genai-core", "onnxruntime")
        print(json.dumps({"facts": {"version": ", ".join(f"{name} {version(name)}" for name in packages)}}), flush=True)
        for line in sys.stdin:
            burst = json.loads(line)
            print(json.dumps({"answers": together(model, burst["prompts"], burst["answer_tokens"])}), flush=True)
        foundry.FoundryLocalManager.instance.close()


def register(path: str, folder: str) -> Any:
    foundry.FoundryLocalManager.initialize(foundry.Configuration(
        app_name="bench", app_data_dir=folder, model_cache_dir=f"{folder}/models", logs_dir=f"{folder}/logs",
        disable_nonessential_telemetry=True))
    catalog = foundry.FoundryLocalManager.instance.get_catalog(foundry.CatalogType.LOCAL)
    with foundry.ModelInfoBuilder() as metadata:
        metadata.set_string_property("task", "chat-completion")
        return catalog.register_model(model_path=path, model_id="bench-generic-cpu:1", metadata=metadata)


def together(model: Any, prompts: list[str], count: int) -> list[dict[str, Any]]:
    began_s = time.perf_counter()
    with ThreadPoolExecutor(len(prompts)) as threads:
        return list(threads.map(lambda prompt: one(model, prompt, count, began_s), prompts))


def one(model: Any, prompt: str, count: int, began_s: float) -> dict[str, Any]:
    first_s = None
    with foundry.ChatSession(model) as session, foundry.Request() as request:
        session.set_streaming(True)
        request.add_item(foundry.MessageItem.user(prompt))
        search = foundry.SearchOptions(temperature=0.0, do_sample=False, max_output_tokens=count)
        request.set_options(foundry.RequestOptions(search=search))
        with session.process_streaming_request(request) as stream:
            for _ in stream:
                first_s = first_s or time.perf_counter() - began_s
            with stream.final_response as response:
                usage = response.get_usage()
    last_s = time.perf_counter() - began_s
    return {"first_s": first_s or last_s, "last_s": last_s, "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens}


if __name__ == "__main__":
    main()
