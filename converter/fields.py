"""A mapping from a file, read key by key, with every problem collected for one message.

Three kinds of problem have three wordings: a key that is absent, a value that is wrong, a value that is right and not supported.
A reader goes on with a stand-in after each and calls `finish` at its end. Knows no key by name. Called by config.py.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import FormatError, UnsupportedError, escape

LARGEST_F32 = 3.4028234e38
MAX_PROBLEMS = 20                  # that one message lists
SMALLEST_F32 = 1e-37               # of a positive number that a header holds as f32

_UNSAID = object()


@dataclass
class Log:
    """What went wrong so far, shared by the fields of one file."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    only_unsupported: bool = True

    def add(self, problem: str, wrong: bool = True) -> None:
        if problem not in self.problems:
            self.problems.append(problem)
        self.only_unsupported &= not wrong


class Fields:
    """The keys of one mapping, some of which may be a stranger's; `prefix` stands before their names in messages."""

    def __init__(self, values: Mapping[str, Any], name: str, prefix: str = "", log: Log | None = None) -> None:
        self.values = values
        self.name = name
        self.prefix = prefix
        self.log = Log() if log is None else log

    def within(self, key: str, values: Mapping[str, Any]) -> Fields:
        """The fields of a nested object."""
        return Fields(values, self.name, f"{self.prefix}{key}.", self.log)

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.values.get(key) is not None

    def absent(self, key: str, why: str = "") -> None:
        self.log.add(f"{self.prefix}{escape(key)} is absent{why}")

    def wrong(self, key: str, expected: str, found: object = _UNSAID) -> None:
        found = self.values.get(key) if found is _UNSAID else found
        self.log.add(f"{self.prefix}{escape(key)}: expected {expected}, found {show(found)}")

    def unsupported(self, key: str, supported: str, found: object = _UNSAID) -> None:
        found = self.values.get(key) if found is _UNSAID else found
        self.log.add(f"{self.prefix}{escape(key)}: {show(found)} is not supported, {supported}", wrong=False)

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """An integer of low to high; `default` where the key is absent or null (None: it is required)."""
        value = self.values.get(key)
        if value is None:
            if default is None:
                self.absent(key)
                return low
            return default
        return self.checked_integer(key, value, low, high)

    def checked_integer(self, key: str, value: object, low: int, high: int) -> int:
        """`value`, found under `key`, where it is an integer of low to high."""
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.wrong(key, f"an integer from {low} to {high}", value)
            return low
        return value

    def number(self, key: str, default: float | None = None, below: float = LARGEST_F32) -> float:
        """A positive finite number below `below` that f32 can hold; `default` as for integers."""
        value = self.values.get(key)
        if value is None:
            if default is None:
                self.absent(key)
                return 1.0
            return default
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not plain or not SMALLEST_F32 < value < below:
            self.wrong(key, "a finite number above 0" if below == LARGEST_F32 else f"a number between 0 and {below:g}")
            return 0.5
        if as_f32(value) >= below:
            self.wrong(key, f"a number between 0 and {below:g} as f32")
            return 0.5
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.wrong(key, "true or false")
            return default
        return value

    def token(self, key: str, vocab_size: int, strict: bool = True) -> int:
        """A token id; -1 for none. Where it is not strict, an id past the vocabulary is a warning and none."""
        return self._checked_token(key, self.values.get(key), vocab_size, strict)

    def tokens(self, key: str, vocab_size: int) -> tuple[int, ...]:
        """One token id or a list of them, without repeats."""
        value = self.values.get(key)
        listed = value if isinstance(value, (list, tuple)) else [value]
        ids = [self._checked_token(key, item, vocab_size, True) for item in listed]
        return tuple(dict.fromkeys(token for token in ids if token >= 0))

    def _checked_token(self, key: str, value: object, vocab_size: int, strict: bool) -> int:
        if value is None or value == -1:
            return -1
        if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (strict and value >= vocab_size):
            self.wrong(key, f"a token id below {vocab_size}", value)
            return -1
        if value >= vocab_size:
            self.warn(f"{self.prefix}{key}: {value} is past the vocabulary of {vocab_size}, left out")
            return -1
        return value

    def warn(self, text: str) -> None:
        self.log.warnings.append(f"{self.name}: {text}")

    def default_used(self, key: str, value: object, source: str) -> None:
        self.warn(f"{self.prefix}{key} is absent, {value} taken, the default of {source}")

    def finish(self) -> list[str]:
        """Raises one line that lists the problems; returns the warnings where there is none."""
        problems = self.log.problems
        if not problems:
            return self.log.warnings
        count = "" if len(problems) == 1 else f"{len(problems)} problems: "
        kind = UnsupportedError if self.log.only_unsupported else FormatError
        more = "" if len(problems) <= MAX_PROBLEMS else f"; and {len(problems) - MAX_PROBLEMS} more"
        raise kind(f"{self.name}: {count}{'; '.join(problems[:MAX_PROBLEMS])}{more}")


def as_f32(value: float) -> float:
    """The nearest f32, as a header has it."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def show(value: object) -> str:
    """A value from a file, for a message."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return escape(value, 40)
    if isinstance(value, str):
        return f"'{escape(value)}'"
    if isinstance(value, (list, tuple)):
        return f"an array of {len(value)}"
    return "an object" if isinstance(value, dict) else type(value).__name__
