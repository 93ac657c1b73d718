"""The options of a generation, checked once. Names and meanings are those of transformers' GenerationConfig; the order of
sampling is penalties, temperature, top-k, top-p, min-p. Drawing itself is C's (runtime_c/core/sampler.c)."""

from __future__ import annotations

import functools
import inspect
import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from .errors import ArgumentError, shown

Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class GenerationOptions:
    """max_new_tokens: at most so many tokens, end-of-sequence included; 0 gives none.
    temperature: 0 is greedy; 1 is the model's own distribution.
    top_k: only the k most likely tokens; 0 is off.
    top_p: only the most likely tokens that together have this probability; 1 is off.
    min_p: only tokens at least this fraction as likely as the most likely one; 0 is off.
    repetition_penalty: tokens of the prompt and of the text so far become less likely by this factor; 1 is off.
    seed: 0 to 2^64 - 1, the same seed gives the same text; None draws one (Generation.seed tells it).
    stop: a string, or a list of them; generation ends before the first of them."""

    max_new_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | list[str] | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        _whole("max_new_tokens", self.max_new_tokens, 2**31 - 1)
        _real("temperature", self.temperature, 0.0, math.inf)
        _whole("top_k", self.top_k, 2**31 - 1)
        _real("top_p", self.top_p, 0.0, 1.0)
        _real("min_p", self.min_p, 0.0, 1.0)
        _real("repetition_penalty", self.repetition_penalty, 0.0, math.inf)
        if _f32(self.repetition_penalty) == 0:
            raise ArgumentError(f"repetition_penalty: expected more than 0, found {shown(self.repetition_penalty)}")
        if self.seed is not None:
            _whole("seed", self.seed, 2**64 - 1)
        # a generator would be used up by this look, and what is no sequence has no order or is not meant
        if not isinstance(self.stop, str | list | tuple | None) or not all(isinstance(text, str) and text for text in self.stops):
            raise ArgumentError(f"stop: expected a text or a list of texts that are not empty, found {shown(self.stop)}")

    @property
    def stops(self) -> tuple[str, ...]:
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    def drawn_seed(self) -> int:
        """The seed asked for, else a random one. 53 bits, so that it survives JSON readers that know only doubles."""
        return int.from_bytes(os.urandom(7), "little") >> 3 if self.seed is None else int(self.seed)


def _whole(name: str, value: object, high: int) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__") or not 0 <= value.__index__() <= high:
        raise ArgumentError(f"{name}: expected a whole number from 0 to {high}, found {shown(value)}")


def _real(name: str, value: object, low: float, high: float) -> None:
    try:
        number = _f32(value)
    except (TypeError, ValueError):
        raise ArgumentError(f"{name}: expected a number, found {shown(value)}") from None
    if isinstance(value, str | bool) or not low <= number <= high or math.isinf(number):
        raise ArgumentError(f"{name}: expected a number from {low:g} to {high:g}, found {shown(value)}")


def _f32(value: object) -> float:
    """What C will see; infinite where its float is too small for it."""
    try:
        (number,) = struct.unpack("f", struct.pack("f", float(value)))  # type: ignore[arg-type]
    except OverflowError:
        return math.inf
    return number  # type: ignore[no-any-return]


def takes_options(method: Method) -> Method:
    """Turns method(self, what, options) into method(self, what, max_new_tokens=128, temperature=0.8, ...): the names and defaults
    of GenerationOptions are written once and still seen by help() and by editors that read signatures."""
    first = list(inspect.signature(method).parameters.values())[:2]
    added = [
        inspect.Parameter(field.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=field.default, annotation=field.type)
        for field in fields(GenerationOptions)
    ]

    @functools.wraps(method)
    def call(self: Any, what: Any, *args: Any, **named: Any) -> Any:
        unknown = set(named) - {field.name for field in fields(GenerationOptions)}
        if unknown:
            raise TypeError(f"{method.__name__}() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        return method(self, what, GenerationOptions(*args, **named))

    returns = inspect.signature(method).return_annotation
    call.__signature__ = inspect.Signature([*first, *added], return_annotation=returns)  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]
