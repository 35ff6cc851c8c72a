"""Parameters behind the `?` of a path, held to tables as the fields of a body are. `name[]` and `name` are the same, as
the official clients write lists."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

from litestar.types import Scope

from edged.api.fields import Check, Table, accept, takes, wrong
from edged.errors import InvalidRequest

MAX_PARAMETERS = 64


def query(scope: Scope, table: Table) -> dict[str, Any]:
    """Raises InvalidRequest and its kin, with the parameter in `param`. Every check is given the list of texts that the
    name came with."""
    try:
        pairs = parse_qsl(scope["query_string"].decode("ascii"), keep_blank_values=True, strict_parsing=False,
                          errors="strict", max_num_fields=MAX_PARAMETERS)
    except ValueError:
        raise InvalidRequest(f"The query is not valid: at most {MAX_PARAMETERS} names with values in UTF-8.") from None
    said: dict[str, list[str]] = {}
    for name, value in pairs:
        said.setdefault(name.removesuffix("[]"), []).append(value)
    return accept(table, said, unknown="refuse").values


@takes({"type": "string", "minLength": 1, "maxLength": 256})
def word(value: list[str], path: str) -> str:
    if len(value) != 1 or not 0 < len(value[0]) <= 256:
        raise wrong(path, "one text")
    return value[0]


@takes({"type": "boolean"})
def flag(value: list[str], path: str) -> bool:
    if value not in (["true"], ["false"]):
        raise wrong(path, "true or false")
    return value == ["true"]


def count(low: int, high: int) -> Check:
    @takes({"type": "integer", "minimum": low, "maximum": high})
    def check(value: list[str], path: str) -> int:
        if len(value) != 1 or not re.fullmatch(r"[0-9]{1,10}", value[0], re.ASCII) or not low <= int(value[0]) <= high:
            raise wrong(path, f"a whole number from {low} to {high}")
        return int(value[0])

    return check


def one_of(*values: str) -> Check:
    @takes({"enum": [*values]})
    def check(value: list[str], path: str) -> str:
        if len(value) != 1 or value[0] not in values:
            raise wrong(path, " or ".join(values))
        return value[0]

    return check
