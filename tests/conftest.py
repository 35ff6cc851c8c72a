"""Settings of all tests."""

from __future__ import annotations

import signal

from hypothesis import settings

# A busy machine is no failure: pytest-timeout ends what hangs.
settings.register_profile("edged", deadline=None)
settings.load_profile("edged")

# A shell without job control starts what it puts in the background with SIGINT ignored, which children inherit; the
# tests of ctrl-C need what a terminal gives.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
