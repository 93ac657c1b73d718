"""What pyllama raises. Every exception is a PyllamaError, also the nearest builtin, and carries `.code`, the ak42_status that
it stands for. This file knows nothing of C; _native.py turns statuses into these."""

from __future__ import annotations

import re

# The pinned values of ak42_status (runtime_c/include/ak42.h).
ARG, BUSY, FORMAT, UNSUPPORTED, IO, NOMEM, RANGE, CANCELLED, DEVICE = 10, 11, 20, 21, 30, 31, 40, 41, 50


class PyllamaError(Exception):
    """The base of all that pyllama raises on purpose. `code` is an ak42_status."""

    code: int = ARG


class ArgumentError(PyllamaError, ValueError):
    """An argument is wrong: a value out of range, a token id that the model does not have, nothing to evaluate."""


class ClosedError(ArgumentError):
    """The model, tokenizer or session was closed before."""


class SessionBusyError(PyllamaError, RuntimeError):
    """The session is in use by another thread."""

    code = BUSY


class FormatError(PyllamaError, ValueError):
    """The file is wrong or damaged."""

    code = FORMAT


class TemplateError(FormatError):
    """The chat template is missing or wrong, refused the messages, or took more than its budget."""


class UnsupportedError(PyllamaError, ValueError):
    """The file is well formed, but asks for something that this version does not do."""

    code = UNSUPPORTED


class ModelIOError(PyllamaError, OSError):
    """The operating system refused a file operation."""

    code = IO


class ModelNotFoundError(ModelIOError, FileNotFoundError):
    """There is no such file."""


class OutOfMemoryError(PyllamaError, MemoryError):
    """Memory could not be had."""

    code = NOMEM


class ContextError(PyllamaError, ValueError):
    """The tokens do not fit into the session's context."""

    code = RANGE


class NumericError(PyllamaError, ArithmeticError):
    """The model computed something that is not a number."""

    code = RANGE


class CancelledError(PyllamaError, RuntimeError):
    """The call was cancelled."""

    code = CANCELLED


class DeviceError(PyllamaError, RuntimeError):
    """The device is missing or failed."""

    code = DEVICE


# RANGE has two meanings in C; the session tells them apart before it gets here.
BY_CODE: dict[int, type[PyllamaError]] = {
    ARG: ArgumentError,
    BUSY: SessionBusyError,
    FORMAT: FormatError,
    UNSUPPORTED: UnsupportedError,
    IO: ModelIOError,
    NOMEM: OutOfMemoryError,
    RANGE: NumericError,
    CANCELLED: CancelledError,
    DEVICE: DeviceError,
}

# Control characters, the marks that turn the direction of text, line separators, surrogates and byte order marks.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def shown(value: object) -> str:
    """A caller's value for the end of an error's line: at most 80 characters; its type's name where it has no repr (numbers of
    thousands of digits, lists within lists without end)."""
    try:
        return repr(value)[:80]
    except Exception:
        return type(value).__name__


def printable(text: str, keep: str = "") -> str:
    """Text from a file or a model as it may be shown on a terminal: what would move the cursor, end the line or turn the
    direction of writing is written as an escape. Characters in `keep` stay."""

    def escape(match: re.Match[str]) -> str:
        character = match.group()
        if character in keep:
            return character
        number = ord(character)
        return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"

    return _UNPRINTABLE.sub(escape, text)
