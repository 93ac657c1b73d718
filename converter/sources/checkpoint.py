"""What every source shares: the check of its tensors against its config, and the reading of rows.

Knows no format: a source hands over what it found under GGUF's names. Called by the sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..arch import ARCHITECTURES
from ..config import ModelConfig
from ..errors import FormatError, escape
from .input_file import InputFile
from .safetensors_file import SafetensorsEntry, shape_text

COMPARED = 1 << 22                 # bytes of two tensors compared at a time
SHOWN = 3                          # names that a message lists of each kind


def expected_shapes(config: ModelConfig, rope_freqs: bool = False) -> dict[str, tuple[int, ...]]:
    """GGUF name -> shape, in file order, of every tensor that a model of this config has."""
    return {tensor.name: tensor.shape for tensor in ARCHITECTURES[config.architecture].tensors(config, rope_freqs)}


def check_shapes(name: str, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]],
                 spelled: Mapping[str, str] | None = None) -> None:
    """One FormatError that lists tensors which are missing, left over or of another shape: the first three of each kind.

    `spelled` maps GGUF's names to the source's own, for messages.
    """
    spelled = spelled or {}
    missing = [spelled.get(key, key) for key in expected if key not in found]
    left_over = [spelled.get(key, key) for key in found if key not in expected]
    wrong = [f"{escape(spelled.get(key, key))} expected {shape_text(shape)}, found {shape_text(found[key])}"
             for key, shape in expected.items() if key in found and tuple(found[key]) != tuple(shape)]
    parts = []
    if missing:
        parts.append(f"{_count(missing, 'tensor')} missing: {_listed(missing)}")
    if left_over:
        parts.append(f"{_count(left_over, 'tensor')} left over: {_listed(left_over)}")
    if wrong:
        more = ", ..." if len(wrong) > SHOWN else ""
        parts.append(f"{_count(wrong, 'shape')} not as the config says: {', '.join(wrong[:SHOWN])}{more}")
    if parts:
        raise FormatError(f"{name}: {'; '.join(parts)}")


def same_rows(one: Callable[[int, int], np.ndarray], other: Callable[[int, int], np.ndarray], shape: tuple[int, ...],
              nbytes: int) -> bool:
    """Whether two tensors of one shape and type have the same bytes; reads both piece by piece."""
    if nbytes == 0:
        return True                    # of however many rows
    n_rows = shape[0] if len(shape) == 2 else 1
    step = max(COMPARED // max(nbytes // max(n_rows, 1), 1), 1)
    return all(np.array_equal(one(begin, min(begin + step, n_rows)), other(begin, min(begin + step, n_rows)))
               for begin in range(0, n_rows, step))


def same_tensors(file: InputFile, entry: SafetensorsEntry, other_file: InputFile, other: SafetensorsEntry) -> bool:
    """Whether two tensors of files are of one type and shape and have the same bytes."""
    return (entry.dtype, entry.shape) == (other.dtype, other.shape) and \
        same_rows(lambda begin, end: entry.rows(file, begin, end), lambda begin, end: other.rows(other_file, begin, end),
                  entry.shape, entry.nbytes)


def _count(items: list[str], noun: str) -> str:
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'}"


def _listed(names: list[str]) -> str:
    return ", ".join(escape(name) for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
