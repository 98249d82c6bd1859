"""What is asked of a training from outside: to stop, but not in the middle of a step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a terminal that closes


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[threading.Event]:
    """An event that the first of :data:`SIGNALS` sets, instead of an end in the middle of a step.

    Those that the process was started to ignore, as by nohup, stay ignored.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event  # signals reach the main thread only
        return

    def remember(signum, frame):
        if event.is_set() and signum == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C does not wait
        event.set()

    before = {number: signal.signal(number, remember) for number in SIGNALS
              if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
