"""A source with a LoRA adapter merged into it: the same checkpoint, some of whose rows are computed when they are read.

W + scale * (B @ A) in f32, rounded once to the weight's own type (an embedding's product first, as PEFT does), before any row is
permuted: the adapter's rows stand as Hugging Face has them, and are put in the order of the source that they are added to. DoRA
makes that sum's rows as long as its magnitudes say, of an embedding its columns, whose lengths take a pass of their own over it. A
source with quantised weights gives the merged ones in f32. Called by converter.convert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arch import ARCHITECTURES, HALF_SPLIT, Tensor, hf_pieces, reorder, reordered_vector
from ..errors import FormatError, UsageError, escape
from ..quant import TYPES, WeightType
from . import vocabulary
from .lora_vocab import EMBEDDING, HEAD, is_tied, other_tokenizer, restated, rows_of, vocab_of, with_vocab
from .peft_adapter import Change, LowRank, PeftAdapter, Replacement, TokenRows
from .safetensors_file import shape_text
from .wrapped import wrapper_around

if TYPE_CHECKING:
    from ..tokenizer import Vocab
    from . import Source

TOKEN_EMBD, OUTPUT = "token_embd.weight", "output.weight"
SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
PASS_BYTES = 1 << 22               # of an embedding's rows in f32, while the lengths of its columns are added up


@dataclass(frozen=True)
class _Change:
    """What becomes of some rows of a tensor: rows [first, first + count) are rows `begin` and on of the changed weight."""

    first: int
    count: int
    begin: int
    change: Change


@dataclass
class _Loaded:
    """The low-rank factors that are being read from, f32: rows of `left` times `right`."""

    change: LowRank
    left: np.ndarray               # (rows, r)
    right: np.ndarray              # (r, columns)
    factor: np.ndarray | None      # (columns,): of an embedding's DoRA, what its columns are multiplied by
    magnitude: np.ndarray | None   # (rows,): of another DoRA, how long its rows get


class LoraSource:
    """`base` with `folder`'s adapter in it. It owns both: `close` releases them. `tokenizer`: the file to take the vocabulary from
    where the adapter has another one than the base model."""

    def __init__(self, base: Source, folder: Path, tokenizer: Path | None = None) -> None:
        self._base = base
        self._loaded: _Loaded | None = None
        self._given_tokenizer = tokenizer
        try:
            self._adapter = PeftAdapter(folder, wrapper_around(base.config.architecture))
        except BaseException:
            base.close()
            raise
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        base, adapter = self._base, self._adapter
        self.name, self.path, self.format, self.config = base.name, base.path, base.format, base.config
        self.rope_layout, self.folded_norms, self.foreign_rope_freqs = base.rope_layout, base.folded_norms, base.foreign_rope_freqs
        self.hf_config, self.generation_config, self.about = base.hf_config, base.generation_config, base.about
        self.warnings = [*base.warnings, *adapter.warnings]
        self._vocab: Vocab | None = None               # the adapter's, where the embedding gets other rows
        self._resize()
        self._tensors = {tensor.name: tensor for tensor in ARCHITECTURES[self.config.architecture].tensors(self.config)}
        self._changes = self._matched()
        if self._vocab is None and self._given_tokenizer is None:
            self.warnings.extend(other_tokenizer(adapter, base))

    def _resize(self) -> None:
        """The config, for an adapter that has other rows of the embedding and the head, or makes two of what was one."""
        base, adapter = self._base, self._adapter
        tied = is_tied(adapter, base.config.shared_classifier)
        rows = rows_of(adapter, base.config, tied)
        if tied != base.config.shared_classifier:
            self.warnings.append(f"{adapter.name}: {HEAD} differs from {EMBEDDING}, which are one in {base.name}: both are kept")
            self.config = replace(self.config, shared_classifier=tied)
            self.hf_config = restated(self.hf_config, self.config, ("tie_word_embeddings",))
        if rows != base.config.vocab_size:
            self._vocab = vocab_of(adapter, rows, self._given_tokenizer)
            self.config = with_vocab(self.config, rows, self._vocab)
            self.hf_config = restated(self.hf_config, self.config, ("vocab_size", *SPECIAL))
            self.generation_config = restated(self.generation_config, self.config, SPECIAL)

    def _matched(self) -> dict[str, list[_Change]]:
        """GGUF name -> the changes of its rows, of which a weight may have a part (fused ones), or one of several (experts);
        everything in the adapter has to find its weight."""
        base, adapter = self._base, self._adapter
        matched: dict[str, list[_Change]] = {}
        found = {HEAD} if self.config.shared_classifier else set()         # the same as the embedding, then
        for name, pieces in hf_pieces(self.config).items():
            first = 0
            for piece in pieces:
                change = adapter.changes.get(piece.name)
                if change is not None:
                    if not change.fits(tuple(piece.shape)):
                        raise FormatError(f"{adapter.name}: {escape(piece.name)}: expected {shape_text(piece.shape)}, as "
                                          f"{base.name} has it, found {shape_text(change.shape)}")
                    matched.setdefault(name, []).append(_Change(first, piece.count, piece.begin, change))
                    found.add(piece.name)
                first += piece.count
        for name in adapter.changes:
            if name not in found:
                raise FormatError(f"{adapter.name}: {escape(name)}: expected a weight of {base.name}, found that it has none of "
                                  "this name")
        self._check_complete()
        return matched

    def _check_complete(self) -> None:
        """Every module that the adapter's config names has its tensors. Experts are modules of their own in transformers 4 alone,
        and an adapter that has none was trained without. A head that is the embedding needs no tensors of its own."""
        adapter = self._adapter
        pieces = hf_pieces(self.config)
        of_experts = {piece.name for name, parts in pieces.items() if self._tensors[name].role.need == "experts" for piece in parts}
        passed = set() if of_experts & adapter.changes.keys() else of_experts
        if self.config.shared_classifier:
            passed |= {HEAD} | ({EMBEDDING} if HEAD in adapter.changes else set())
        for name in dict.fromkeys(piece.name for parts in pieces.values() for piece in parts):
            key = "" if name in passed else adapter.lacks(name)
            if key:
                wanted = "lora_A and lora_B" if key == "target_modules" else "the whole weight"
                remedy = "name it in exclude_modules" if key == "target_modules" else f"take it out of {key}"
                raise FormatError(f"{adapter.name}: {escape(name)}: expected {wanted}, as {key} in adapter_config.json says, found "
                                  f"nothing; {remedy} if it was not trained")

    def require_type(self, keep: bool) -> None:
        """UsageError where weights would have to keep a quantised type that merging has taken them out of."""
        kinds = (self._base_tensor(name)[0] for name in self._changes)
        packed = next((kind for kind in kinds if kind.quantised), None)
        if keep and packed is not None:
            raise UsageError(f"{self.name}: --lora merges into weights of {packed.name}, which --type keep cannot keep; say --type "
                             "q8_0, or another")

    # -- the Source interface --

    @property
    def files(self) -> list[Path]:
        own = [] if self._vocab is None else vocabulary.paths(self._adapter.path, self._given_tokenizer)
        return [*self._base.files, *(file.path for file in self._adapter.opened), *own]

    @property
    def vocab(self) -> Vocab | None:
        return self._base.vocab if self._vocab is None else self._vocab

    @property
    def chat_template(self) -> str | None:
        """The tokenizer's own; beside one that was given, which has none, the adapter's or the base model's."""
        if self._vocab is None:
            return self._base.chat_template
        with vocabulary.named(self._adapter.name):
            template = vocabulary.chat_template(self._adapter.path)
        return self._base.chat_template if template is None and self._given_tokenizer is not None else template

    def label(self, name: str) -> str:
        """The name that the base model's file has for a tensor."""
        label: Any = getattr(self._base, "label", None)
        return name if label is None or self._is_new(name) else label(name)

    def names(self) -> list[str]:
        names = self._base.names()
        return [*names, OUTPUT] if self._is_new(OUTPUT) else names

    def tensor(self, name: str) -> tuple[WeightType, tuple[int, ...], int]:
        kind, shape, group = self._base_tensor(name)
        if name not in self._changes:
            return kind, shape, group
        return (TYPES["f32"], self._tensors[name].shape, 0) if kind.quantised else (kind, self._tensors[name].shape, group)

    def read(self, name: str, begin: int, end: int) -> np.ndarray:
        if name not in self._changes:
            return self._base.read(name, begin, end)
        kind, shape, _group = self.tensor(name)
        tensor = self._tensors[name]
        rows = np.arange(begin, end)               # as Hugging Face has them
        vector = len(tensor.shape) == 1
        if tensor.role.rope_heads and not vector:
            rows = reorder(begin, end, self.config.head_dim, HALF_SPLIT, self.rope_layout)
        changes = self._changes[name]
        covered = _covered(changes, tensor)
        values = np.empty((end - begin, shape[-1]), np.float32) if covered else self._before(name, begin, end)
        for one in changes:
            chosen = (rows >= one.first) & (rows < one.first + one.count)
            if chosen.any():
                theirs = rows[chosen] - one.first + one.begin
                values[chosen] = self._changed(kind, values[chosen], one.change, theirs, tensor)
        encoded = kind.encode(values)
        if tensor.role.rope_heads and vector:
            return reordered_vector(encoded, tensor.shape[0], self.config.head_dim, HALF_SPLIT, self.rope_layout)
        return encoded

    def verify(self, name: str) -> bool:
        return not self._is_new(name) and self._base.verify(name)

    def close(self) -> None:
        self._base.close()
        if hasattr(self, "_adapter"):
            self._adapter.close()

    def _is_new(self, name: str) -> bool:
        """Whether it is the head of a model whose base has none of its own."""
        return name == OUTPUT and self._base.config.shared_classifier and not self.config.shared_classifier

    def _base_tensor(self, name: str) -> tuple[WeightType, tuple[int, ...], int]:
        return self._base.tensor(TOKEN_EMBD if self._is_new(name) else name)

    # -- the arithmetic --

    def _before(self, name: str, begin: int, end: int) -> np.ndarray:
        """f32: rows of the base model's tensor, in its order."""
        kind, shape, group = self._base.tensor(name)
        return kind.decode(self._base.read(name, begin, end), shape[-1], group)

    def _changed(self, kind: WeightType, values: np.ndarray, change: Change, rows: np.ndarray, tensor: Tensor) -> np.ndarray:
        """Rows of a weight after a change; `rows` are theirs in Hugging Face's format."""
        if change.whole is not None:
            values = change.whole.rows(rows)
        if isinstance(change, Replacement):
            folded = self.config.facts.norm_offset if tensor.role.norm and self.folded_norms else 0.0
            return values + np.float32(folded)
        if isinstance(change, TokenRows):
            return _with_tokens(values, change, rows)
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
            yield begin, self._before(tensor.name, begin, end) if change.whole is None else change.whole.rows(np.arange(begin, end))


def _covered(changes: list[_Change], tensor: Tensor) -> bool:
    """Whether no row of the base model's counts."""
    return all(one.change.whole is not None for one in changes) and sum(one.count for one in changes) == tensor.n_rows


def _with_tokens(values: np.ndarray, change: TokenRows, rows: np.ndarray) -> np.ndarray:
    """The rows with those in them that the adapter has."""
    _tokens, places, which = np.intersect1d(rows, np.array(change.tokens), assume_unique=True, return_indices=True)
    if len(which):
        values = values.copy()
        values[places] = change.part.rows(which)
    return values


def _squares(values: np.ndarray, axis: int) -> np.ndarray:
    """The sums of the squares along an axis, f64."""
    return np.einsum("ij,ij->i" if axis == 1 else "ij,ij->j", values, values, dtype=np.float64)


def _quotient(magnitude: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """magnitude / length, f32; not finite where the length is 0, as in PEFT. Such weights are refused where they are written."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return magnitude / np.sqrt(squares).astype(np.float32)
