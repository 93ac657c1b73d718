"""What a chat template may spend: steps, bytes and seconds, and the checks that charge an operation before it builds something
large. template.py calls them; nothing here knows of Jinja's insides."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

MAX_BYTES = 48 * 1024 * 1024  # bytes of strings and lists made while rendering, whether kept or not
MAX_STEPS = 1_000_000  # loop rounds and macro calls
MAX_SECONDS = 1.5  # of this thread's processor time
MAX_WIDTH = 10_000  # of a padded or formatted field
MAX_BITS = 100_000  # of a whole number
NODE_BYTES = 64  # what a list element or a small object takes, roughly

_LARGE_NUMBER = re.compile(r"\d{5,}")
# What str.split() splits at.
_SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


class BudgetError(Exception):
    """The template asked for more than it is given."""


class Budget:
    """What one rendering may still spend."""

    def __init__(self) -> None:
        self.steps = MAX_STEPS
        self.bytes = MAX_BYTES
        self.deadline = time.thread_time() + MAX_SECONDS

    def tick(self) -> None:
        if time.thread_time() > self.deadline:
            raise BudgetError(f"the chat template took more than {MAX_SECONDS} seconds")

    def step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise BudgetError(f"the chat template took more than {MAX_STEPS} steps")
        self.tick()

    def spend(self, size: int) -> None:
        self.bytes -= max(size, 0)
        if self.bytes < 0:
            raise BudgetError(f"the chat template made more than {MAX_BYTES} bytes of text")
        self.tick()

    def weigh(self, value: Any) -> int:
        """Characters and nodes of a value as they would be written out; never walks further than the budget goes."""
        total, stack = 0, [value]
        while stack:
            item = stack.pop()
            if isinstance(item, (str, bytes)):
                total += len(item)
            else:
                total += NODE_BYTES
                if isinstance(item, Mapping):
                    stack.extend(item.keys())
                    stack.extend(item.values())
                elif isinstance(item, (list, tuple, set, frozenset)):
                    stack.extend(item)
            if total > self.bytes:
                raise BudgetError(f"the chat template made more than {MAX_BYTES} bytes of text")
        return total


def byte_size(value: Any) -> int:
    """Bytes of a string, or of a list without what it holds."""
    if isinstance(value, str):
        return len(value) if value.isascii() else 4 * len(value)
    if isinstance(value, bytes):
        return len(value)
    return 8 * len(value) if isinstance(value, (list, tuple, set, dict)) else 0


def check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise BudgetError(f"the chat template computes a number of more than {MAX_BITS} bits")


def check_width(*widths: Any) -> None:
    for width in widths:
        if isinstance(width, (int, float)) and not -MAX_WIDTH <= width <= MAX_WIDTH:
            raise BudgetError(f"the chat template asks for a width of {width}, more than {MAX_WIDTH}")


def check_spec(spec: str) -> None:
    """A format specification, or a text that holds some."""
    if _LARGE_NUMBER.search(spec):
        raise BudgetError(f"the chat template formats a field wider than {MAX_WIDTH}")


def check_format(budget: Budget, text: Any, values: Any) -> None:
    """text % values"""
    marks = text.count("%" if isinstance(text, str) else b"%")
    shown = text if isinstance(text, str) else text.decode("latin-1")
    check_spec(shown)
    if "*" in shown:
        raise BudgetError("the chat template formats a field of a width that it computes")
    budget.spend(len(text) + marks * budget.weigh(values))


def _joined(budget: Budget, separator: Any, items: Iterable) -> list:
    items = list(items)
    budget.spend(budget.weigh(items) + len(separator) * len(items))
    return items


def check_method(budget: Budget, owner: Any, name: str, args: tuple, named: dict) -> tuple:
    """Before a method of a built-in type: charges what it would make; returns its arguments (an iterator is used up by that)."""
    if isinstance(owner, (str, bytes)):
        if name in ("center", "ljust", "rjust", "zfill"):
            check_width(*args, *named.values())
        elif name == "expandtabs":
            check_width(*args, *named.values())
            tab = "\t" if isinstance(owner, str) else b"\t"
            budget.spend(len(owner) + owner.count(tab) * max([8, *(a for a in (*args, *named.values()) if isinstance(a, int))]))
        elif name == "join" and len(args) == 1:
            return (_joined(budget, owner, args[0]),)
        elif name == "replace" and len(args) >= 2 and isinstance(args[1], (str, bytes)):
            budget.spend(4 * (len(owner) + (owner.count(args[0]) if args[0] else len(owner) + 1) * len(args[1])))
        elif name in ("split", "rsplit", "splitlines"):
            separator = args[0] if args else named.get("sep")
            budget.spend(NODE_BYTES * _parts(owner, separator))
        elif name == "translate" and args and isinstance(args[0], Mapping):
            longest = max((len(value) for value in args[0].values() if isinstance(value, str)), default=1)
            budget.spend(4 * len(owner) * max(longest, 1))
        else:
            budget.spend(4 * len(owner))
    elif isinstance(owner, int):
        check_width(*args, *named.values())
    elif isinstance(owner, (list, tuple, dict)):
        budget.spend(8 * len(owner))
    return args


def _parts(text: Any, separator: Any) -> int:
    if isinstance(separator, (str, bytes)) and separator:
        return text.count(separator) + 1
    if isinstance(text, bytes):
        return len(text) // 2 + 1
    return sum(text.count(space) for space in _SPACES) + 1


# ---- checks of filters: (budget, value, the filter's arguments) -> the value and arguments, charged ----


def _check_widths(budget: Budget, value: Any, *args: Any, **named: Any) -> tuple:
    check_width(*args, *named.values())
    return (value, *args)


def _check_indent(budget: Budget, value: Any, width: Any = 4, *args: Any, **named: Any) -> tuple:
    check_width(width)
    text = str(value)
    lines = text.count("\n") + 2
    budget.spend(len(text) + lines * (len(width) if isinstance(width, str) else max(int(width), 0)))
    return (value, width, *args)


def _check_join(budget: Budget, value: Any, separator: Any = "", *args: Any, **named: Any) -> tuple:
    return (_joined(budget, str(named.get("d", separator)), value), *(() if "d" in named else (separator,)), *args)


def _check_replace(budget: Budget, value: Any, old: Any, new: Any, *args: Any, **named: Any) -> tuple:
    text, old_text = str(value), str(old)
    times = text.count(old_text) if old_text else len(text) + 1
    budget.spend(4 * (len(text) + times * len(str(new))))
    return (value, old, new, *args)


def _check_percent(budget: Budget, value: Any, *args: Any, **named: Any) -> tuple:
    check_format(budget, str(value), [*args, *named.values()])
    return (value, *args)


def _check_wordwrap(budget: Budget, value: Any, width: Any = 79, *args: Any, **named: Any) -> tuple:
    check_width(width)
    wrap = max((len(text) for text in (*args, *named.values()) if isinstance(text, str)), default=1)
    text = str(value)
    budget.spend(len(text) + (NODE_BYTES + wrap) * (len(text) // max(int(width), 1) + text.count("\n") + 1))
    return (value, width, *args)


def _check_text(budget: Budget, value: Any, *args: Any, **named: Any) -> tuple:
    """Filters that write values out, or look for words in them."""
    budget.spend(2 * budget.weigh([value, *args, *named.values()]))
    return (value, *args)


def _check_words(budget: Budget, value: Any, *args: Any, **named: Any) -> tuple:
    budget.spend((NODE_BYTES + budget.weigh([*args, *named.values()])) * _parts(str(value), None))
    return (value, *args)


def _check_elements(budget: Budget, value: Any, *args: Any, **named: Any) -> tuple:
    if hasattr(value, "__len__"):
        budget.spend(8 * len(value))
    return (value, *args)


def _check_sum(budget: Budget, value: Any, *args: Any, **named: Any) -> tuple:
    items = list(value)
    if not all(isinstance(item, (int, float)) for item in items):
        budget.spend(len(items) * budget.weigh(items))
    return (items, *args)


def _check_number(budget: Budget, value: Any, *args: Any, **named: Any) -> tuple:
    if isinstance(value, str) and len(value) > MAX_WIDTH:
        raise BudgetError(f"the chat template reads a number of more than {MAX_WIDTH} digits")
    for precision in (*args, *named.values()):
        if isinstance(precision, int) and abs(precision) > 100:
            raise BudgetError(f"the chat template rounds to {precision} digits")
    return (value, *args)


def _checked_round(budget: Budget, value: Any, precision: Any = 0, *args: Any, **named: Any) -> tuple:
    return _check_number(budget, value, precision, *args, **named)


FILTER_CHECKS: dict[str, Callable[..., tuple]] = {
    "center": _check_widths,
    "batch": _check_widths,
    "slice": _check_widths,
    "truncate": _check_text,
    "indent": _check_indent,
    "join": _check_join,
    "replace": _check_replace,
    "format": _check_percent,
    "wordwrap": _check_wordwrap,
    "wordcount": _check_words,
    "urlize": _check_words,
    "title": _check_words,
    "striptags": _check_words,
    "pprint": _check_text,
    "string": _check_text,
    "xmlattr": _check_text,
    "urlencode": _check_text,
    "escape": _check_text,
    "e": _check_text,
    "forceescape": _check_text,
    "list": _check_elements,
    "sort": _check_elements,
    "unique": _check_elements,
    "reverse": _check_elements,
    "groupby": _check_elements,
    "dictsort": _check_elements,
    "sum": _check_sum,
    "round": _checked_round,
    "int": _check_number,
}
