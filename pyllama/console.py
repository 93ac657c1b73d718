"""What every command shares: one-line errors with their exit codes, signals, output that is safe on a terminal, progress bars.
cli.py holds the commands themselves; nothing else imports this."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import click

from .errors import DEVICE, IO, PyllamaError, printable

BAD_INPUT, USAGE, REFUSED, SYSTEM, INTERRUPTED, TERMINATED = 1, 2, 3, 74, 130, 143


def run(command: click.Command, arguments: list[str] | None) -> int:
    """Runs a command line; returns its exit code. A mistake is one line on stderr, never a traceback."""
    with contextlib.suppress(ValueError):  # not in the main thread: whoever called us handles signals
        signal.signal(signal.SIGTERM, _terminated)
    logging.basicConfig(format="pyllama: %(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    if sys.stdout is None:
        click.echo("pyllama: standard output is closed; open it, or send it to /dev/null", err=True)
        return SYSTEM
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115  what is closed has nothing to read
    # Text is UTF-8 whatever the locale says; bytes that came in undecodable go out as they were.
    for stream in (sys.stdin, sys.stdout):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")
    if hasattr(sys.stderr, "reconfigure"):
        sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    odd = next((argument for argument in given if "\0" in argument), None)
    if odd is not None:
        click.echo(f"pyllama: expected arguments without a NUL, found {printable(odd)}", err=True)
        return USAGE
    try:
        # Not command.main(): it has exit codes of its own for a reader that went away and for Ctrl-C.
        with command.make_context("pyllama", given) as context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        return SYSTEM  # whoever read us went away
    except Exception as error:
        code, line = explained(error)
        if line:
            click.echo(f"pyllama: {printable(line)}", err=True)
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        _settle_stdout()


def _settle_stdout() -> None:
    """Drops what stdout does not take: Python would try again at exit, complain, and end with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explained(error: Exception) -> tuple[int, str]:
    """An exception's exit code and its one line."""
    converter_error = getattr(sys.modules.get("converter.errors"), "ConvertError", ())
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code, ""
    if isinstance(error, click.UsageError):
        return USAGE, _hint(error.format_message(), error.ctx)
    if isinstance(error, click.ClickException):
        return BAD_INPUT, error.format_message()
    if isinstance(error, click.Abort):
        return INTERRUPTED, ""
    if isinstance(error, PyllamaError):
        return {IO: SYSTEM, DEVICE: REFUSED}.get(error.code, BAD_INPUT), str(error)
    if isinstance(error, converter_error):
        return error.code, str(error)
    if isinstance(error, ImportError):
        return BAD_INPUT, f"{error}; install what is missing: pip install {error.name or 'it'}"
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return SYSTEM, f"{where}{error.strerror or error}"
    if isinstance(error, MemoryError):
        return BAD_INPUT, "out of memory"
    raise error


def _hint(message: str, context: click.Context | None) -> str:
    path = context.command_path if context else "pyllama"
    line = " ".join(message.split()).rstrip(".")
    return f"{line[:1].lower()}{line[1:]}; see '{path} --help'"


def _terminated(number: int, frame: Any) -> NoReturn:
    raise SystemExit(TERMINATED)


def say(text: str) -> None:
    """A line on stderr."""
    click.echo(text, err=True)


def write(text: str, raw: bool = False) -> None:
    """A piece of a model's text on stdout, at once. On a terminal control characters are shown as escapes unless raw."""
    if not raw and sys.stdout.isatty():
        text = printable(text, keep="\n\t")
    sys.stdout.write(text)
    sys.stdout.flush()


def read_input() -> str:
    """All of stdin as text, line ends as they are."""
    return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def progress_bar(title: str, unit: str) -> Iterator[Callable[..., None] | None]:
    """A callback (done, total, ...) that draws a bar; None where stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(desc=title, unit=unit, unit_scale=True, unit_divisor=1000, leave=False, dynamic_ncols=True) as bar:

        def update(done: int, total: int, what: str = "") -> None:
            bar.total = total
            if what:
                bar.set_postfix_str(printable(what)[:32], refresh=False)
            bar.update(done - bar.n)
            if done == total:
                bar.refresh()

        yield update
