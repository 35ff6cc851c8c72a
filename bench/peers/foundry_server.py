"""Foundry Local's own web service over one folder, in the environment of its SDK.

    python foundry_server.py '{"path": "…", "port": 5273}'

Its service answers for models of the cloud's catalog only, so a catalog of one model stands on loopback, in the form
that version 2.2 of the SDK asks for, and the folder lies in its cache as if it had come from there. Prints one line of
JSON when it serves, `{"url", "model", "facts"}`, and ends when its standard input ends.
"""

import json
import shutil
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import foundry_local_sdk as foundry  # type: ignore[import-not-found]

MODEL = "bench-generic-cpu"
_VARIANT = {"modelType": "ONNX", "device": "cpu", "executionProvider": "CPUExecutionProvider", "fileSizeBytes": 1 << 27}
CATALOG = {"totalCount": 1, "summaries": [{
    "assetId": f"azureml://registries/azureml/models/{MODEL}/versions/1", "name": MODEL, "version": "1",
    "type": "models", "kind": "Versioned", "alias": "bench", "displayName": "bench", "publisher": "bench",
    "license": "apache-2.0",
    "createdTime": "2025-01-01T00:00:00", "inferenceTasks": ["chat-completion"],
    "deploymentOptions": ["Foundry Local on Devices"], "tags": {"alias": "bench", "foundryLocal": ""},
    "variantInformation": {"parents": [], "variantMetadata": _VARIANT},
    "modelLimits": {"textLimits": {"inputContextWindow": 8192, "maxOutputTokens": 2048},
                    "supportedInputModalities": ["text"], "supportedOutputModalities": ["text"]},
}]}


class Catalog(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        body = json.dumps(CATALOG).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    config = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        manager = start(Path(folder), config)
        packages = ("foundry-local-sdk", "onnxruntime-genai-core", "onnxruntime")
        facts = {"version": ", ".join(f"{name} {version(name)}" for name in packages)}
        print(json.dumps({"url": manager.urls[0].rstrip("/"), "model": f"{MODEL}:1", "facts": facts}), flush=True)
        sys.stdin.read()
        manager.stop_web_service()
        manager.close()


def start(folder: Path, config: dict[str, Any]) -> Any:
    catalog = ThreadingHTTPServer(("127.0.0.1", 0), Catalog)
    threading.Thread(target=catalog.serve_forever, daemon=True).start()
    cached = folder / "models" / "bench" / f"{MODEL}-1" / "v1"
    shutil.copytree(config["path"], cached)
    (cached / "inference_model.json").write_text(json.dumps({"Name": f"{MODEL}:1", "PromptTemplate": None}))
    foundry.FoundryLocalManager.initialize(foundry.Configuration(
        app_name="bench", app_data_dir=str(folder), model_cache_dir=str(folder / "models"),
        logs_dir=str(folder / "logs"), disable_nonessential_telemetry=True,
        web=foundry.Configuration.WebService(urls=f"http://127.0.0.1:{config['port']}"),
        catalog_urls=[(f"http://127.0.0.1:{catalog.server_port}/asset-gallery/v1.0/models", None)]))
    manager = foundry.FoundryLocalManager.instance
    [model] = manager.get_catalog().get_cached_models()
    model.load()
    manager.start_web_service()
    return manager


if __name__ == "__main__":
    main()
