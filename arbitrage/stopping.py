"""How a command that works for long is told to stop: by signals, and by the time."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Any

from arbitrage.errors import Stopped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arbitrage.progress import Progress

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
END_S = 10.0
"""What the end of a run takes besides the answers in flight."""


@contextlib.contextmanager
def stop_on_signals(
    progress: Progress, last: str = "the answers in flight"
) -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGUSR1 set; the second raises Stopped in the driver.
    `last`: what is still done after the first."""
    stop = threading.Event()

    def handle(number: int, frame: Any) -> None:
        del frame
        if stop.is_set():
            raise Stopped("stopped at once; the next run goes on from what was finished")
        stop.set()
        name = "Ctrl-C" if number == signal.SIGINT else "the signal"
        progress.say(f"stopping after {last}; repeat {name} to stop at once")

    earlier = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def stop_in(left_s: float, grace_s: float, stop: threading.Event, progress: Progress) -> None:
    """Sets the event early enough that everything is written when the time is up; `grace_s` is for
    the answers in flight."""
    needed_s = min(grace_s + END_S, left_s / 2)

    def end() -> None:
        progress.say("stopping after the answers in flight, as the time is nearly up")
        stop.set()

    timer = threading.Timer(left_s - needed_s, end)
    timer.daemon = True
    timer.start()
