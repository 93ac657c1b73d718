"""One tensor on its way from the source to the target: read, put in rope order, decoded, checked, encoded, its loss measured.

Works on a few megabytes at a time whatever is asked for, and copies bytes unchanged where the type stays. Called by plan.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from .arch import Tensor, reordered_rows, reordered_vector
from .blocks import nest_absmax
from .errors import ConvertError, RefusedError, escape
from .quant import NF4_BLOCK, NF4_DQ, TYPES, NestedRows, WeightType, nest_rows

if TYPE_CHECKING:
    from .sources import Source

# (type name, f32 (n, columns), group_size) -> uint8 (n, row_bytes), or None where it has no such type
Encoder = Callable[[str, np.ndarray, int], "np.ndarray | None"]

CHUNK_WEIGHTS = 1 << 20            # weights that are f32 at a time


class TensorStream:
    """The rows of one tensor in the type, group and rope order that a target wants."""

    def __init__(self, source: Source, tensor: Tensor, kind: WeightType, group: int, head_dim: int, rope: str,
                 errors: dict[str, dict[str, float]], encoder: Encoder | None, offset: float = 0.0) -> None:
        """`offset` is added to every weight: what a family's norms have in one world and not in the other."""
        self._source = source
        self._tensor = tensor
        self._kind, self._group = kind, group
        self._own, _shape, self._own_group = source.tensor(tensor.name)
        self._encoder = encoder
        self._tables: dict[int, tuple[np.ndarray, np.ndarray, np.float32]] = {}    # nf4-dq: matrix -> codes, nested absmax, offset
        self._columns = tensor.shape[-1]
        self._read = partial(source.read, tensor.name)
        if tensor.role.rope_heads:
            reordered = _reordered if len(tensor.shape) > 1 else partial(_reordered_vector, self._columns)
            self._read = partial(reordered, self._read, head_dim, source.rope_layout, rope)
        self._offset = offset
        same = (self._own, self._own_group) == (kind, group)
        self._raw = same and not offset
        self._flattened = (self._own.name, kind.name) == (NF4_DQ, "nf4")           # the same weights, block by block
        self._loss = None if same or self._flattened or _is_exact(self._own, kind) else Loss(errors, tensor.name)

    def rows(self, begin: int, end: int) -> np.ndarray:
        """uint8 (end - begin, row_bytes). RefusedError for weights that are not finite or do not fit the type."""
        out = np.empty((end - begin, self._kind.row_bytes(self._columns, self._group)), dtype=np.uint8)
        step = max(CHUNK_WEIGHTS // self._columns, 1)
        for first in range(begin, end, step):
            last = min(first + step, end)
            out[first - begin : last - begin] = self._chunk(first, last)
        return out

    def _chunk(self, begin: int, end: int) -> np.ndarray:
        raw = self._read(begin, end)
        if not self._own.all_finite(raw, self._columns, self._own_group):
            raise self._not_finite()
        if self._raw:
            return raw
        if self._flattened:
            rows = NestedRows.of(raw, self._columns).to_nf4()
            if not self._kind.all_finite(rows, self._columns):
                raise self._not_finite()
            return rows
        values = self._own.decode(raw, self._columns, self._own_group)
        if self._own.quantised and not np.isfinite(values).all():
            raise self._not_finite()           # finite scales can still give an infinite weight
        if self._offset:
            values = values + np.float32(self._offset)
        encoded = self._encode_nested(values, begin) if self._kind.name == NF4_DQ else self._encode(self._kind, values)
        if self._loss is not None:
            decoded = self._kind.decode(encoded, self._columns, self._group)
            self._check_fit(values, decoded, begin)
            self._loss.add(begin, values, decoded)
        return encoded

    def _encode(self, kind: WeightType, values: np.ndarray) -> np.ndarray:
        if self._encoder is not None and kind.quantised:
            encoded = self._encoder(kind.name, values, self._group)
            if encoded is not None:
                return np.asarray(encoded, dtype=np.uint8).reshape(len(values), -1)
        return kind.encode(values, self._group)

    def _encode_nested(self, values: np.ndarray, begin: int) -> np.ndarray:
        """nf4-dq: the absmax are nested for a whole matrix, which is therefore read once before it is encoded."""
        rows, per_row = self._tensor.shape[-2], self._columns // NF4_BLOCK
        parts = []
        at = begin
        while at < begin + len(values):
            matrix = at // rows
            end = min((matrix + 1) * rows, begin + len(values))
            if matrix not in self._tables:
                self._tables[matrix] = nest_absmax(self._absmax(matrix * rows, (matrix + 1) * rows))
            codes, nested, offset = self._tables[matrix]
            first = (at - matrix * rows) * per_row
            encoded = self._encode(TYPES["nf4"], values[at - begin:end - begin])
            parts.append(nest_rows(encoded, codes[first:first + (end - at) * per_row], nested, offset, first))
            at = end
        return np.concatenate(parts)

    def _absmax(self, begin: int, end: int) -> np.ndarray:
        """The absmax of every block of these rows."""
        step = max(CHUNK_WEIGHTS // self._columns, 1)
        found = []
        for first in range(begin, end, step):
            raw = self._read(first, min(first + step, end))
            if not self._own.all_finite(raw, self._columns, self._own_group):
                raise self._not_finite()
            values = self._own.decode(raw, self._columns, self._own_group)
            found.append(np.abs(values.reshape(-1, NF4_BLOCK)).max(axis=1))
        return np.concatenate(found)

    def _check_fit(self, values: np.ndarray, decoded: np.ndarray, begin: int) -> None:
        fits = np.isfinite(decoded)
        if fits.all():
            return
        sizes = np.abs(values)
        place = int(np.argmax(np.where(fits, -1, sizes)))                # of a block that overflows, the weight that made it
        value = float(values.reshape(-1)[place])
        row, column = divmod(place, self._columns)
        bf16 = TYPES["bf16"]
        held = np.isfinite(bf16.decode(bf16.encode(sizes.max().reshape(1, 1)), 1)).all()
        remedy = "use --type bf16 or f32" if held else "use --type f32"
        raise RefusedError(f"{self._shown()}: expected weights that fit {self._kind.name}, found {value:g} at row {begin + row}, "
                           f"column {column}; {remedy}")

    def _not_finite(self) -> ConvertError:
        """The error, after a look at the whole tensor in the source's own order."""
        n_rows = self._tensor.n_rows
        step = max(CHUNK_WEIGHTS // self._columns, 1)
        n_nan = n_inf = 0
        first = -1
        for begin in range(0, n_rows, step):
            end = min(begin + step, n_rows)
            values = self._own.decode(self._source.read(self._tensor.name, begin, end), self._columns, self._own_group)
            bad = ~np.isfinite(values)
            if first < 0 and bad.any():
                first = begin * self._columns + int(np.argmax(bad.reshape(-1)))
            nan = int(np.isnan(values).sum())
            n_nan += nan
            n_inf += int(bad.sum()) - nan
        return RefusedError(f"{self._shown()}: expected finite weights, found {n_nan} NaN and {n_inf} infinite, "
                            f"the first at index {first}")

    def _shown(self) -> str:
        label = getattr(self._source, "label", None)
        return f"{self._source.name}: {escape(self._tensor.name if label is None else label(self._tensor.name))}"


class Loss:
    """What encoding a tensor costs: its line in the plan's tensor_errors, kept up to date chunk by chunk.

    max_abs is the largest error of a weight; max_rel the largest of a row's max_abs over its largest weight; rms over all weights,
    and rms_rel that over the weights' own.
    """

    def __init__(self, errors: dict[str, dict[str, float]], name: str) -> None:
        self._line = errors
        self._name = name
        self._squares: dict[int, tuple[float, float, int]] = {}     # a chunk's first row -> squares of errors, of weights; count

    def add(self, begin: int, values: np.ndarray, decoded: np.ndarray) -> None:
        difference = np.abs(decoded - values)
        worst = difference.max(axis=1)
        largest = np.abs(values).max(axis=1)
        relative = np.divide(worst, largest, out=np.zeros_like(worst), where=largest > 0)
        squares = (float(np.square(one, dtype=np.float64).sum()) for one in (difference, values))
        self._squares[begin] = *squares, difference.size
        before = self._line.get(self._name, {"max_abs": 0.0, "max_rel": 0.0})
        errors, weights, count = (sum(column) for column in zip(*self._squares.values(), strict=True))
        self._line[self._name] = {"max_abs": max(before["max_abs"], float(worst.max())),
                                  "max_rel": max(before["max_rel"], float(relative.max())),
                                  "rms": math.sqrt(errors / count), "rms_rel": math.sqrt(errors / weights) if weights else 0.0}


def constant_rows(rows: np.ndarray, begin: int, end: int) -> np.ndarray:
    """The reader of a tensor that is computed and not read."""
    return rows[begin:end]


def _reordered(read: Callable[[int, int], np.ndarray], head_dim: int, source: str, target: str, begin: int, end: int) -> np.ndarray:
    return reordered_rows(read, begin, end, head_dim, source, target)


def _reordered_vector(columns: int, read: Callable[[int, int], np.ndarray], head_dim: int, source: str, target: str, begin: int,
                      end: int) -> np.ndarray:
    return reordered_vector(read(begin, end), columns, head_dim, source, target) if begin < end else read(begin, end)


def _is_exact(own: WeightType, wanted: WeightType) -> bool:
    """Whether every value of one type is one of the other, so that there is nothing to measure."""
    return wanted.name == "f32" or own.name == wanted.name and not wanted.quantised
