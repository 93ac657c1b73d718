"""The converter's exceptions: one line of text each, and the exit code that a program ends with.

Raised by every module of this package and by nothing else; printing and exiting are the caller's business. A message names the
file, what is wrong with it, what was expected and what was found; strings that come from a file go through `escape` first.
"""

from __future__ import annotations


class ConvertError(Exception):
    """The base of everything that a conversion raises on purpose: bad input unless a subclass says otherwise."""

    code = 1


class FormatError(ConvertError, ValueError):
    """A file is wrong: damaged, truncated, contradictory."""


class UnsupportedError(ConvertError, ValueError):
    """A file is well formed and says something that this project does not compute or read."""


class UsageError(ConvertError, ValueError):
    """The caller asked for something that does not exist: a file, a type, a format, a combination of options."""

    code = 2


class RefusedError(ConvertError):
    """Nothing is damaged, but doing it would do harm: OUT exists, weights are not finite, a value does not fit its type."""

    code = 3


class OutputError(ConvertError, OSError):
    """The operating system said no, while writing or while reading."""

    code = 74


MAX_SHOWN = 80        # characters of a file's own string that a message repeats


def escape(text: object, limit: int = MAX_SHOWN) -> str:
    """A string from a file as printable ASCII: controls, bidi marks and everything else foreign become \\x1b, \\u202e, ...

    Cut to `limit` characters (0: not cut). A backslash is doubled, so that the result is unambiguous.
    """
    if isinstance(text, (bytes, bytearray)):
        text = bytes(text).decode("utf-8", "surrogateescape")
    shown = str(text)
    if limit and len(shown) > limit:
        shown = shown[: limit - 3] + "..."
    if shown.isascii() and shown.isprintable() and "\\" not in shown:
        return shown
    return "".join(_escape_character(character) for character in shown)


def _escape_character(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if " " <= character <= "~":
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:            # a byte that was no UTF-8, carried by surrogateescape
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
