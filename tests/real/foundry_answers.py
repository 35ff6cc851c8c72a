"""Asks Foundry Local, in an environment that has its SDK: `python foundry_answers.py FOLDER ID STATE TOKENS QUESTION…`.

Prints as JSON its greedy answers by question, each of so many tokens. STATE: a folder for what it writes."""

from __future__ import annotations

import json
import sys

from foundry_local_sdk import (  # type: ignore[import-not-found]
    CatalogType,
    ChatSession,
    Configuration,
    FoundryLocalManager,
    MessageItem,
    ModelInfoBuilder,
    Request,
    RequestOptions,
    SearchOptions,
)


def main() -> None:
    folder, identity, state, tokens, *questions = sys.argv[1:]
    FoundryLocalManager.initialize(Configuration(
        app_name="edged-tests", app_data_dir=state, model_cache_dir=f"{state}/cache", logs_dir=f"{state}/logs",
        disable_nonessential_telemetry=True))
    with ModelInfoBuilder() as about:
        about.set_string_property("task", "chat-completion")
        model = FoundryLocalManager.instance.get_catalog(CatalogType.LOCAL).register_model(folder, identity, about)
    model.load()
    answers = {}
    for question in questions:
        with ChatSession(model) as session:
            session.set_options(RequestOptions(search=SearchOptions(temperature=0.0, max_output_tokens=int(tokens))))
            with Request().add_item(MessageItem.user(question)) as request, session.process_request(request) as said:
                answers[question] = "".join(part.text for item in said for part in item._parts)
    model.unload()
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
