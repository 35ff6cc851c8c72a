"""A chunk of text is put together from bytes; it must be what msgspec writes of the whole chunk."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.api import sse
from edged.api.chat_body import ChatStream, Chunk, ChunkChoice, DeltaBody, Wanted
from edged.api.usage import fingerprint
from edged.api.wire import OPENAI
from edged.daemon.status import Served
from edged.types import Delta

pytestmark = pytest.mark.unit

SERVED = Served(name="m", version="v", engine="fake", device="cpu", digest="d" * 64)
HEAD = ("chatcmpl-r", 1_700_000_000)


@given(texts=st.lists(st.text(min_size=1)), index=st.integers(0, 127), usage=st.booleans())
def test_text_is_framed_as_msgspec_writes_the_whole_chunk(texts: list[str], index: int, usage: bool) -> None:
    stream = ChatStream(HEAD, Wanted(n=128, logprobs=False, may_call=False, usage=usage), SERVED)
    for text in texts:
        whole = Chunk(*HEAD, SERVED.name, fingerprint(SERVED), [ChunkChoice(index, DeltaBody(content=text))])
        if usage:
            whole = Chunk(*HEAD, SERVED.name, fingerprint(SERVED), whole.choices, usage=None)
        assert sse.framed(OPENAI, stream.chunks(0, Delta("r", index, text))) == OPENAI.frame(whole)
