"""The command `pyllama`, and `python -m pyllama`: loads cli.py and runs it. Ctrl-C while it loads ends it as quietly as later."""

from __future__ import annotations

INTERRUPTED = 130

try:
    import os
    import signal
    import sys
except KeyboardInterrupt:
    raise SystemExit(INTERRUPTED) from None


def main() -> int:
    """Runs the command line; returns the exit code."""
    previous = signal.getsignal(signal.SIGINT)
    if callable(previous):  # not where it is ignored, as in a shell's background
        # At once: an exception inside of an import may be taken for another, or end in a traceback.
        signal.signal(signal.SIGINT, _interrupted)
    from .cli import main as run

    try:
        signal.signal(signal.SIGINT, previous)
        return run()
    except KeyboardInterrupt:
        return INTERRUPTED


def _interrupted(number: int, frame: object) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
