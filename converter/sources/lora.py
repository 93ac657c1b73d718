"""A source with a LoRA adapter merged into it: the same checkpoint, some of whose rows are computed when they are read.

W + scale * (B @ A) in f32, rounded once to the weight's own type (an embedding's product first, as PEFT does), before any row is
permuted: the adapter's rows stand as Hugging Face has them, and are put in the order of the source that they are added to. A
source with quantised weights gives the merged ones in f32. Called by converter.convert.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arch import ARCHITECTURES, HALF_SPLIT, Piece, Tensor, hf_pieces, reorder
from ..errors import FormatError, UnsupportedError, UsageError, escape
from ..quant import TYPES, WeightType
from .peft_adapter import LowRank, PeftAdapter, Replacement
from .safetensors_file import shape_text

if TYPE_CHECKING:
    from ..tokenizer import Vocab
    from . import Source


@dataclass
class _Loaded:
    """The low-rank factors of the tensor that is being read, f32: rows of `left` times `right`."""

    name: str
    left: np.ndarray               # (rows, r)
    right: np.ndarray              # (r, columns)


@dataclass(frozen=True)
class _Change:
    """What becomes of a tensor: its rows are rows `first` on of the weight that the adapter changes."""

    tensor: Tensor
    change: LowRank | Replacement
    first: int


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
            self._changes = self._matched()
        except BaseException:
            self.close()
            raise
        self.warnings = [*base.warnings, *self._adapter.warnings]
        self.name, self.path, self.format, self.config = base.name, base.path, base.format, base.config
        self.rope_layout, self.foreign_rope_freqs = base.rope_layout, base.foreign_rope_freqs
        self.folded_norms = base.folded_norms
        self.hf_config, self.generation_config = base.hf_config, base.generation_config

    def _matched(self) -> dict[str, _Change]:
        """GGUF name -> tensor and change; everything in the adapter has to find its weight, which may be several of ours."""
        base, adapter = self._base, self._adapter
        listed = {tensor.name: tensor for tensor in ARCHITECTURES[base.config.architecture].tensors(base.config)}
        tensors: dict[str, list[tuple[Tensor, Piece]]] = {}
        for name, pieces in hf_pieces(base.config).items():
            for piece in pieces:
                tensors.setdefault(piece.name, []).append((listed[name], piece))
        matched = {}
        for name, change in adapter.changes.items():
            shown = f"{adapter.name}: {escape(name)}"
            parts = tensors.get(name)
            if base.config.shared_classifier and (name == "lm_head.weight" or
                                                  name == "model.embed_tokens.weight" and isinstance(change, Replacement)):
                raise UnsupportedError(f"{shown}: the base model's head is its embedding; an adapter that changes one of them "
                                       "alone is not supported")
            if parts is None:
                raise FormatError(f"{shown}: expected a weight of {base.name}, found that it has none of this name")
            if any(len(tensor.shape) == 3 for tensor, _piece in parts):
                raise UnsupportedError(f"{shown}: an adapter that changes single experts is not supported")
            shape = parts[0][1].shape
            if tuple(change.shape) != tuple(shape):
                raise FormatError(f"{shown}: expected {shape_text(shape)}, as {base.name} has it, found {shape_text(change.shape)}")
            matched |= {tensor.name: _Change(tensor, change, piece.begin) for tensor, piece in parts}
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
        matched = self._changes[name]
        tensor, change = matched.tensor, matched.change
        kind = self.tensor(name)[0]
        rows = np.arange(begin, end)
        if tensor.role.rope_heads:
            rows = reorder(begin, end, self.config.head_dim, HALF_SPLIT, self.rope_layout)
        rows, first, last = rows + matched.first, begin + matched.first, end + matched.first
        if isinstance(change, Replacement):
            offset = self.config.facts.norm_offset if tensor.role.norm and self.folded_norms else 0.0
            return kind.encode(change.part.rows(first, last, rows) + np.float32(offset))
        own, shape, group = self._base.tensor(name)
        weights = change.base.rows(first, last, rows) if change.base is not None else \
            own.decode(self._base.read(name, begin, end), shape[-1], group)
        left, right = self._factors(name, change)
        product = left[rows] @ right * np.float32(change.scale)
        if change.embedding:
            product = kind.decode(kind.encode(product), shape[-1])
        return kind.encode(weights + product)

    def verify(self, name: str) -> bool:
        return self._base.verify(name)

    def close(self) -> None:
        self._base.close()
        if hasattr(self, "_adapter"):
            self._adapter.close()

    def _factors(self, name: str, change: LowRank) -> tuple[np.ndarray, np.ndarray]:
        """The factors; those of one tensor at a time are kept."""
        if self._loaded is None or self._loaded.name != name:
            a, b = change.a.values(), change.b.values()
            left, right = (a.T, b.T) if change.embedding else (b, a)
            self._loaded = _Loaded(name, np.ascontiguousarray(left), np.ascontiguousarray(right))
        return self._loaded.left, self._loaded.right
