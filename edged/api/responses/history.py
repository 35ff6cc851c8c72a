"""What a response continues and refers to, from the store: only ever its own client's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from edged.api.responses.events import Failure, ResponseBody
from edged.api.responses.items import Item, Reference, response_of
from edged.errors import CorruptFile, InvalidRequest, NotFound
from edged.store.responses import Record

if TYPE_CHECKING:
    from edged.daemon.responses import Responses

_encoder = msgspec.json.Encoder()
_BROKEN_OFF = Failure(
    "server_error", "edged stopped while this response was made in the background; create it again.", "worker_died")


class Kept(NamedTuple):
    response: ResponseBody
    inputs: list[Item]


def record_of(response: ResponseBody, inputs: Sequence[Item], client: str, *, running: bool = False) -> Record:
    return Record(
        id=response.id, client=client, previous=response.previous_response_id, running=running,
        response=msgspec.Raw(_encoder.encode(response)), inputs=msgspec.Raw(_encoder.encode(inputs)),
    )


def kept_of(record: Record) -> Kept:
    """Raises CorruptFile. One that was begun in the background by a daemon that is gone has failed."""
    try:
        response = msgspec.json.decode(record.response, type=ResponseBody)
        inputs = msgspec.json.decode(record.inputs, type=list[Item])
    except msgspec.MsgspecError as error:
        raise CorruptFile(f"The stored response {record.id} cannot be read; delete it with DELETE /v1/responses/"
                          f"{record.id}, and send the conversation as input.") from error
    if record.running:
        response = replace(response, status="failed", error=_BROKEN_OFF)
    return Kept(response, inputs)


class History:
    """Of one client."""

    def __init__(self, responses: Responses, client: str) -> None:
        self._responses, self._client = responses, client

    async def one(self, identity: str) -> Kept:
        """As it stands, also while it is made in the background. Raises NotFound and CorruptFile."""
        run = self._responses.background.running(identity, self._client)
        record = await self._responses.get(identity, self._client)
        if run is not None:
            return Kept(run.look(), kept_of(replace(record, running=False)).inputs)
        return kept_of(record)

    async def before(self, previous: str | None, *, param: str | None = "previous_response_id") -> list[Item]:
        """All items of the chain that ends with `previous`, oldest first: of each its input, then its output. Raises
        NotFound where one of them is gone, and InvalidRequest where the last one is still being made."""
        turns: list[Kept] = []
        asked = previous
        while previous is not None:
            try:
                kept = await self.one(previous)
            except NotFound as error:
                what = "" if previous == asked else f"{asked} continues a response that is gone. "
                raise NotFound(what + error.message + " Send the whole conversation as input instead.",
                               param=param, code="previous_response_not_found") from None
            if kept.response.status in ("queued", "in_progress"):
                raise InvalidRequest(f"{previous} is still being made; wait until it is completed.", param=param)
            turns.append(kept)
            previous = kept.response.previous_response_id
        return [item for kept in reversed(turns) for item in (*kept.inputs, *kept.response.output)]

    async def resolved(self, items: Sequence[Item | Reference]) -> list[Item]:
        """References replaced by what they refer to. Raises NotFound."""
        return [await self._referred(item) if isinstance(item, Reference) else item for item in items]

    async def _referred(self, reference: Reference) -> Item:
        identity = response_of(reference.id)
        if identity is not None:
            try:
                kept = await self.one(identity)
            except NotFound as error:
                raise NotFound(error.message + " Send the item itself.", param=reference.path,
                               code="item_not_found") from None
            for item in (*kept.inputs, *kept.response.output):
                if item.id == reference.id:
                    return item
        raise NotFound(f"There is no item {reference.id[:64]} in your stored responses; send the item itself.",
                       param=reference.path, code="item_not_found")
