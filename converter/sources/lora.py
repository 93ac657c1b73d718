"""A source with a LoRA adapter merged into it: the same checkpoint, some of whose rows are computed when they are read.

W + scale * (B @ A) in f32, rounded once to the weight's own type (an embedding's product first, as PEFT does), before any row is
permuted: the adapter's rows stand as Hugging Face has them, and are put in the order of the source that they are added to. DoRA
makes that sum's rows as long as its magnitudes say, of an embedding its columns, whose lengths take a pass of their own over it. A
source with quantised weights gives the merged ones in f32. Called by converter.convert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arch import ARCHITECTURES, HALF_SPLIT, Tensor, hf_pieces, reorder, reordered_vector
from ..errors import FormatError, UnsupportedError, UsageError, escape
from ..quant import TYPES, WeightType
from .peft_adapter import LowRank, PeftAdapter, Replacement
from .safetensors_file import shape_text

if TYPE_CHECKING:
    from ..tokenizer import Vocab
    from . import Source

PASS_BYTES = 1 << 22               # of an embedding's rows in f32, while the lengths of its columns are added up


@dataclass(frozen=True)
class _Change:
    """What becomes of some rows of a tensor: rows [first, first + count) are rows `begin` and on of the changed weight."""

    first: int
    count: int
    begin: int
    change: LowRank | Replacement


@dataclass
class _Loaded:
    """The low-rank factors that are being read from, f32: rows of `left` times `right`."""

    change: LowRank
    left: np.ndarray               # (rows, r)
    right: np.ndarray              # (r, columns)
    factor: np.ndarray | None      # (columns,): of an embedding's DoRA, what its columns are multiplied by
    magnitude: np.ndarray | None   # (rows,): of another DoRA, how long its rows get


class LoraSource:
    """`base` with `folder`'s adapter in it. It owns both: `close` releases them."""

    def __init__(self, base: Source, folder: Path) -> None:
        self._base = base
        self._loaded: _Loaded | None = None
        try:
            self._adapter = PeftAdapter(folder)
        except BaseException:
            base.close()
            raise
        try:
            self._tensors = {tensor.name: tensor for tensor in ARCHITECTURES[base.config.architecture].tensors(base.config)}
            self._changes = self._matched()
        except BaseException:
            self.close()
            raise
        self.warnings = [*base.warnings, *self._adapter.warnings]
        self.name, self.path, self.format, self.config = base.name, base.path, base.format, base.config
        self.rope_layout, self.folded_norms, self.foreign_rope_freqs = base.rope_layout, base.folded_norms, base.foreign_rope_freqs
        self.hf_config, self.generation_config, self.about = base.hf_config, base.generation_config, base.about

    def _matched(self) -> dict[str, list[_Change]]:
        """GGUF name -> the changes of its rows, of which a weight may have a part (fused ones), or one of several (experts);
        everything in the adapter has to find its weight."""
        base, adapter = self._base, self._adapter
        matched: dict[str, list[_Change]] = {}
        found = set()
        for name, pieces in hf_pieces(base.config).items():
            first = 0
            for piece in pieces:
                change = adapter.changes.get(piece.name)
                if change is not None:
                    if tuple(change.shape) != tuple(piece.shape):
                        raise FormatError(f"{adapter.name}: {escape(piece.name)}: expected {shape_text(piece.shape)}, as "
                                          f"{base.name} has it, found {shape_text(change.shape)}")
                    matched.setdefault(name, []).append(_Change(first, piece.count, piece.begin, change))
                    found.add(piece.name)
                first += piece.count
        for name, change in adapter.changes.items():
            shown = f"{adapter.name}: {escape(name)}"
            if base.config.shared_classifier and (name == "lm_head.weight" or
                                                  name == "model.embed_tokens.weight" and isinstance(change, Replacement)):
                raise UnsupportedError(f"{shown}: the base model's head is its embedding; an adapter that changes one of them "
                                       "alone is not supported")
            if name not in found:
                raise FormatError(f"{shown}: expected a weight of {base.name}, found that it has none of this name")
        return matched

    def require_type(self, keep: bool) -> None:
        """UsageError where weights would have to keep a quantised type that merging has taken them out of."""
        packed = next((name for name in self._changes if self._base.tensor(name)[0].quantised), None)
        if keep and packed is not None:
            kind = self._base.tensor(packed)[0].name
            raise UsageError(f"{self.name}: --lora merges into weights of {kind}, which --type keep cannot keep; say --type q8_0, "
                             "or another")

    # -- the Source interface --

    @property
    def files(self) -> list[Path]:
        return [*self._base.files, *(file.path for file in self._adapter.opened)]

    @property
    def vocab(self) -> Vocab | None:
        return self._base.vocab

    @property
    def chat_template(self) -> str | None:
        return self._base.chat_template

    def label(self, name: str) -> str:
        """The name that the base model's file has for a tensor."""
        label: Any = getattr(self._base, "label", None)
        return name if label is None else label(name)

    def names(self) -> list[str]:
        return self._base.names()

    def tensor(self, name: str) -> tuple[WeightType, tuple[int, ...], int]:
        kind, shape, group = self._base.tensor(name)
        if name in self._changes and kind.quantised:
            return TYPES["f32"], shape, 0
        return kind, shape, group

    def read(self, name: str, begin: int, end: int) -> np.ndarray:
        if name not in self._changes or begin == end:
            return self._base.read(name, begin, end)
        kind = self.tensor(name)[0]
        values = self._before(name, begin, end)
        tensor = self._tensors[name]
        rows = np.arange(begin, end)               # as Hugging Face has them
        vector = len(tensor.shape) == 1
        if tensor.role.rope_heads and not vector:
            rows = reorder(begin, end, self.config.head_dim, HALF_SPLIT, self.rope_layout)
        for one in self._changes[name]:
            chosen = (rows >= one.first) & (rows < one.first + one.count)
            if chosen.any():
                theirs = rows[chosen] - one.first + one.begin
                values[chosen] = self._changed(kind, values[chosen], one.change, theirs, tensor)
        encoded = kind.encode(values)
        if tensor.role.rope_heads and vector:
            return reordered_vector(encoded, tensor.shape[0], self.config.head_dim, HALF_SPLIT, self.rope_layout)
        return encoded

    def _changed(self, kind: WeightType, values: np.ndarray, change: LowRank | Replacement, rows: np.ndarray,
                 tensor: Tensor) -> np.ndarray:
        """Rows of a weight after a change; `rows` are theirs in Hugging Face's format."""
        if isinstance(change, Replacement):
            folded = self.config.facts.norm_offset if tensor.role.norm and self.folded_norms else 0.0
            return change.part.rows(rows) + np.float32(folded)
        if change.base is not None:
            values = change.base.rows(rows)
        loaded = self._load(change, tensor)
        product = loaded.left[rows] @ loaded.right * np.float32(change.scale)
        if change.magnitude is None:
            return values + (kind.decode(kind.encode(product), product.shape[1]) if change.embedding else product)
        merged = values + product
        factor = loaded.factor
        if factor is None:
            factor = _quotient(loaded.magnitude[rows], _squares(merged, axis=1))[:, None]
        with np.errstate(invalid="ignore"):
            return merged * factor

    def verify(self, name: str) -> bool:
        return self._base.verify(name)

    def close(self) -> None:
        self._base.close()
        if hasattr(self, "_adapter"):
            self._adapter.close()

    def _before(self, name: str, begin: int, end: int) -> np.ndarray:
        """f32: rows of the base model's tensor, in its order."""
        kind, shape, group = self._base.tensor(name)
        return kind.decode(self._base.read(name, begin, end), shape[-1], group)

    def _load(self, change: LowRank, tensor: Tensor) -> _Loaded:
        """The factors; those of one weight at a time are kept."""
        if self._loaded is None or self._loaded.change is not change:
            a, b = change.a.values(), change.b.values()
            left, right = (np.ascontiguousarray(part) for part in ((a.T, b.T) if change.embedding else (b, a)))
            magnitude = None if change.magnitude is None else change.magnitude.values()[0]
            factor = None
            if magnitude is not None and change.embedding:
                squares = sum(_squares(values + left[first:first + len(values)] @ right * np.float32(change.scale), axis=0)
                              for first, values in self._passed(change, tensor))
                magnitude, factor = None, _quotient(magnitude, squares)
            self._loaded = _Loaded(change, left, right, factor, magnitude)
        return self._loaded

    def _passed(self, change: LowRank, tensor: Tensor) -> Iterator[tuple[int, np.ndarray]]:
        """All rows of an embedding before a change, some at a time: the first one's number, f32."""
        n_rows, columns = tensor.shape
        step = max(PASS_BYTES // (4 * columns), 1)
        for begin in range(0, n_rows, step):
            end = min(begin + step, n_rows)
            yield begin, self._before(tensor.name, begin, end) if change.base is None else change.base.rows(np.arange(begin, end))


def _squares(values: np.ndarray, axis: int) -> np.ndarray:
    """The sums of the squares along an axis, f64."""
    return np.einsum("ij,ij->i" if axis == 1 else "ij,ij->j", values, values, dtype=np.float64)


def _quotient(magnitude: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """magnitude / length, f32; not finite where the length is 0, as in PEFT. Such weights are refused where they are written."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return magnitude / np.sqrt(squares).astype(np.float32)
