"""JSON as the standard says it, for files of strangers: what Python's parser adds or forgives is refused here.

No duplicate keys, no NaN or Infinity, no number that overflows to one, no lone surrogate, no nesting without end, no file without
end. Knows no key by name. Called by the sources.
"""

from __future__ import annotations

import json
import math
from typing import Any

from .errors import FormatError, escape

MAX_DEPTH = 128               # serde_json's limit, the reference reader of safetensors and tokenizer.json
MAX_INTEGER_DIGITS = 4000     # below Python's own limit


def loads(data: bytes, name: str) -> Any:
    """The value of a whole JSON text in UTF-8; FormatError where it is none. `name` stands first in messages."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{name}: expected JSON in UTF-8, found byte 0x{data[error.start]:02x} at {error.start}") from None
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise FormatError(f"{name}: expected JSON, found {error.msg.lower()} at character {error.pos}") from None
    except _Refused as error:
        raise FormatError(f"{name}: expected strict JSON, found {error}") from None
    except RecursionError:
        raise FormatError(f"{name}: expected at most {MAX_DEPTH} levels of JSON, found more") from None
    _check(value, name, check_text="\\ud" in text.lower())
    return value


def load_object(data: bytes, name: str) -> dict[str, Any]:
    """`loads` for a text that has to be an object."""
    value = loads(data, name)
    if not isinstance(value, dict):
        raise FormatError(f"{name}: expected a JSON object, found {type_name(value)}")
    return value


def type_name(value: object) -> str:
    """What JSON calls a value: for messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names = {int: "an integer", float: "a number", str: "a string", list: "an array", dict: "an object"}
    return names.get(type(value), type(value).__name__)


class _Refused(Exception):
    """Raised inside the parser's hooks only."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _value in pairs:
            if key in seen:
                raise _Refused(f"the key '{escape(key)}' twice")
            seen.add(key)
    return result


def _constant(text: str) -> float:
    raise _Refused(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"the number {escape(text, 40)}, which is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > MAX_INTEGER_DIGITS:
        raise _Refused(f"an integer of {len(text)} digits")
    return int(text)


def _check(value: Any, name: str, check_text: bool) -> None:
    """Depth, and (where the text has such escapes at all) lone surrogates; without recursion."""
    level = [value]
    depth = 0
    while level:
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise FormatError(f"{name}: expected at most {MAX_DEPTH} levels of JSON, found more")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
                if check_text:
                    below.extend(item.keys())
            elif isinstance(item, list):
                below.extend(item)
            elif check_text and isinstance(item, str) and not _encodes(item):
                raise FormatError(f"{name}: expected Unicode text, found the lone surrogate in '{escape(item)}'")
        level = below


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
