"""What msgspec raises of bytes that are not what they should be.

Beside its own errors these are invalid UTF-8 inside a string, and more nesting than the stack holds: either of them
in a file that a power cut had damaged would end every start of the daemon.
"""

from __future__ import annotations

import msgspec

DAMAGED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
