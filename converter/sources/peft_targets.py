"""Which modules an adapter_config.json says were trained: target_modules less exclude_modules, of some layers, and modules_to_save.

PEFT wraps what these keys name and takes no other tensors; a module that they name and the file has no tensors of stays as it was
before the training, with a warning. Here both are refused, by names alone. A pattern that could take long on some name is not
tried: then nothing is known. Reads no tensor. Called by peft_adapter.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..fields import Fields

# A part of a module's name, as a modest regular expression.
_PLAIN = re.compile(r"\^?(?:[\w-]|\\\.|\\d|\[[\w-]+\]|\.|[*+](?![*+?])|\||\((?!\?)|\))+\$?")
_NAME = re.compile(r"[\w-]+(?:\.[\w-]+)*")
MAX_PATTERN, MAX_REPEATS = 200, 3
_LAYER = re.compile(r".*?\.[^.]*\.(\d+)\.")        # the first number in a module's name


def is_plain(pattern: str) -> bool:
    """Whether a pattern is quick on any name: three repeats at most, and no group repeated."""
    if len(pattern) > MAX_PATTERN or pattern.count("*") + pattern.count("+") > MAX_REPEATS:
        return False
    if _PLAIN.fullmatch(pattern) is None or re.search(r"\)[*+]", pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


@dataclass(frozen=True)
class Modules:
    """A key's modules: the ends of their names, or a pattern of whole ones; both None where nothing is known of them."""

    ends: tuple[str, ...] | None
    pattern: str | None = None

    @property
    def known(self) -> bool:
        return self.ends is not None or self.pattern is not None

    def have(self, module: str) -> bool:
        if self.pattern is not None:
            return re.fullmatch(self.pattern, module) is not None
        return any(ends_in(module, end) for end in self.ends or ())


@dataclass(frozen=True)
class Targets:
    """The keys together."""

    trained: Modules
    excluded: Modules
    saved: tuple[str, ...]                         # the ends of the names of modules that are saved whole
    layers: frozenset[int] | None                  # of those that `trained` has by the ends of their names; None: of any layer
    layer_lists: tuple[str, ...]                   # what the lists of layers are called; (): whatever they are

    @property
    def known(self) -> bool:
        return self.trained.known and self.excluded.known

    def low_rank(self, module: str) -> bool | None:
        """Whether a module has low-rank matrices; None where that is not known."""
        if not self.known:
            return None
        if self.excluded.have(module) or any(re.match(rf"(^|.*\.){re.escape(name)}($|\..*)", module) for name in self.saved):
            return False
        if not self.trained.have(module):
            return False
        if self.layers is None or self.trained.ends is None or module in self.trained.ends:
            return True
        layer = self._layer(module)
        return layer is not None and layer in self.layers

    def whole(self, module: str) -> bool:
        """Whether a module is saved whole, by itself or in one that it is part of."""
        parts = module.split(".")
        return any(".".join(parts[:n]).endswith(name) for n in range(1, len(parts) + 1) for name in self.saved)

    def _layer(self, module: str) -> int | None:
        patterns = [re.compile(rf"(?:^|.*?\.){re.escape(name)}\.(\d+)\.") for name in self.layer_lists] or [_LAYER]
        found = next((match for pattern in patterns if (match := pattern.match(module)) is not None), None)
        return None if found is None else int(found.group(1))


def read_targets(fields: Fields) -> Targets:
    saved = _names(fields, "modules_to_save")
    lists = fields.values.get("layers_pattern")
    lists = [lists] if isinstance(lists, str) and lists else lists
    if lists and (not isinstance(lists, list) or any(not isinstance(name, str) or not _NAME.fullmatch(name) for name in lists)):
        fields.unsupported("layers_pattern", "a name or an array of names is")
        lists = []
    numbers = fields.values.get("layers_to_transform")
    numbers = [numbers] if isinstance(numbers, int) and not isinstance(numbers, bool) else numbers
    if numbers and (not isinstance(numbers, list) or any(isinstance(n, bool) or not isinstance(n, int) for n in numbers)):
        fields.wrong("layers_to_transform", "a layer's number or an array of them")
        numbers = []
    trained = _modules(fields, "target_modules")
    return Targets(trained, _modules(fields, "exclude_modules"), saved, frozenset(numbers) if numbers else None,
                   tuple(lists or ()))


def _modules(fields: Fields, key: str) -> Modules:
    given: Any = fields.values.get(key)
    if isinstance(given, str) and given:
        return Modules(None, given if is_plain(given) and given.lower() != "all-linear" else None)
    if given is None or given == "":
        return Modules(() if key != "target_modules" else None)
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        fields.wrong(key, "a name or an array of names")
        return Modules(None)
    return Modules(tuple(given))


def _names(fields: Fields, key: str) -> tuple[str, ...]:
    given = fields.values.get(key)
    if not given:
        return ()
    if not isinstance(given, list) or not all(isinstance(name, str) and _NAME.fullmatch(name) for name in given):
        fields.wrong(key, "an array of names")
        return ()
    return tuple(given)


def ends_in(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")
