"""This side of `converters.llama_child`: runs one task of llama.cpp and turns whatever happens to it into an answer or
an error."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable

import msgspec

from converters.llama_child import Answer, Task
from edged.errors import ConversionFailed

_LAST_WORDS = 4


def run(task: Task, what: str, line: Callable[[str], None] = lambda text: None) -> Answer:
    """what: what is done, for the message of an error. line: gets each line of llama.cpp's log. Raises ConversionFailed
    where the process dies; the child never outlives this process."""
    words: deque[str] = deque(maxlen=_LAST_WORDS)
    with subprocess.Popen(
        [sys.executable, "-m", "converters.llama_child"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as child:
        stdin, stdout, stderr = child.stdin, child.stdout, child.stderr
        assert stdin is not None
        assert stdout is not None
        assert stderr is not None
        try:
            stdin.write(msgspec.json.encode(task) + b"\n")
            stdin.flush()
            # Both pipes at once: a full one would stop the child.
            answers = deque[bytes](maxlen=1)
            reader = threading.Thread(target=lambda: answers.append(stdout.read()))
            reader.start()
            for raw in stderr:
                if text := raw.decode(errors="replace").strip():
                    words.append(text)
                    line(text)
            reader.join()
            stdin.close()
            code = child.wait()
        except BaseException:
            child.kill()
            raise
    if code != 0 or not (answer := answers[0]):
        raise ConversionFailed(f"llama.cpp {_end(code)} while {what}: {'; '.join(words) or 'it said nothing'}")
    decoded: Answer = msgspec.json.decode(answer, type=Answer)
    return decoded


def _end(code: int) -> str:
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
