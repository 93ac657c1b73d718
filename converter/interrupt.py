"""Signals that end the program, as exceptions, with stretches in which they wait.

SIGINT stays KeyboardInterrupt; SIGTERM and SIGHUP, where nobody handles them, become SystemExit(128 + signal), so that whoever
holds a half-written file can remove it. Used by output.py for as long as an output is open. Only the main thread may set
handlers: elsewhere this does nothing.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, an ending signal raises in the main thread, at once or when the last `hold` is left."""

    def __init__(self) -> None:
        self._previous: dict[int, object] = {}
        self._held = 0
        self._waiting: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                previous = signal.getsignal(number)
                if callable(previous) or previous == signal.SIG_DFL:      # ignored ones stay ignored
                    self._previous[number] = previous
                    signal.signal(number, self._arrived)
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}

    @contextmanager
    def hold(self) -> Iterator[None]:
        """A signal that arrives inside is raised at the end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self._waiting is not None and not self._held:
                number, self._waiting = self._waiting, None
                self._raise(number, None)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            self._waiting = number
        else:
            self._raise(number, frame)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous.get(number)
        if callable(previous):
            previous(number, frame)
        else:
            raise SystemExit(128 + number)
