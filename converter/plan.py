"""What is to be written: every tensor of the output, its type, its shape, and how its rows come out of the source.

A Plan is the only thing that a target sees. It decides nothing about files: the targets lay tensors out, the sources know where
their bytes are. Rows are read, permuted, decoded and encoded in bounded chunks when a target asks for them, so that no tensor is
ever whole in memory unless the target wants it so. Built by `build_plan`, called from converter.convert.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .about import NAME, default_name
from .arch import ARCHITECTURES, ROLES, Tensor
from .config import ModelConfig
from .errors import FormatError, OutputError, UnsupportedError, UsageError, escape
from .families import EXPERTS
from .mixes import MIXES, TYPE_NAMES, Fallback, Override, fallback_for, head_override, remedy
from .quant import NF4_DQ, TYPES, WeightType, group_size_for
from .streams import Encoder, TensorStream, constant_rows

if TYPE_CHECKING:
    from .sources import Source
    from .tokenizer import Vocab

KEEP = "keep"
EXACT_ROLES = frozenset(role.role for role in ROLES if role.exact)
ROPE_FREQS = "rope_freqs.weight"
MAX_EOS = 4                        # that a vocabulary holds
TORCH_DTYPES = {"f16": "float16", "bf16": "bfloat16"}


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the output: its name, what it is made of, and its rows on demand."""

    name: str                      # GGUF's: "blk.0.attn_q.weight"
    role: str                      # arch.py's: "wq"
    type: WeightType
    shape: tuple[int, ...]         # (experts, rows, columns), (rows, columns), or (columns,)
    group_size: int                # of int8; else 0
    reader: Callable[[int, int], np.ndarray] = field(repr=False, compare=False)

    @property
    def n_rows(self) -> int:
        """Of all experts; a vector is one row."""
        return math.prod(self.shape[:-1])

    @property
    def columns(self) -> int:
        return self.shape[-1]

    @property
    def row_bytes(self) -> int:
        return self.type.row_bytes(self.columns, self.group_size)

    @property
    def nbytes(self) -> int:
        return self.n_rows * self.row_bytes

    def rows(self, begin: int, end: int) -> np.ndarray:
        """uint8 (end - begin, row_bytes): rows [begin, end) in the output's type and rope order. A vector is one row.

        Raises RefusedError (code 3) where the source's weights are not finite or do not fit the type.
        """
        if not 0 <= begin <= end <= self.n_rows:
            raise IndexError(f"{self.name}: rows {begin} to {end} of {self.n_rows}")
        return self.reader(begin, end)


@dataclass(frozen=True)
class SourceInfo:
    """Where a plan's weights come from, as a manifest may say it: no folder, no clock."""

    name: str                      # the path's last part
    format: str                    # "hf", "gguf", "ak42 v2", ...
    paths: tuple[Path, ...] = field(repr=False)

    @cached_property
    def sha256s(self) -> dict[str, str]:
        """File name -> sha256 of its bytes; reads every file when first asked."""
        return {path.name: _sha256(path) for path in self.paths}


@dataclass(frozen=True)
class Plan:
    """The whole output, in file order of ak42 v3 and GGUF: embedding, layers, final norm, head."""

    config: ModelConfig
    tensors: tuple[TensorPlan, ...]
    vocab: Vocab | None
    chat_template: str | None
    generation_config: dict[str, Any] | None
    hf_config: dict[str, Any]                       # the source's config.json, or an equivalent one
    tensor_errors: dict[str, dict[str, float]]      # filled while rows are encoded: name -> {"max_abs", "max_rel", "rms"}
    source: SourceInfo
    options: Mapping[str, Any]
    asked: str = KEEP                               # the type or mix that was asked for
    fallbacks: Mapping[str, Fallback] = field(default_factory=dict)             # by the tensor's name
    about: Mapping[str, Any] = field(default_factory=dict)      # what is said of the model: GGUF's general.* keys
    foreign_rope_freqs: bool = False                # rope_freqs.weight is the source's own, and no config explains it

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def weight_type(self) -> str:
        """The type that every matrix has, or "mixed"."""
        names = {tensor.type.name for tensor in self.tensors if len(tensor.shape) > 1 and tensor.role not in EXACT_ROLES}
        return names.pop() if len(names) == 1 else "mixed"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise OutputError(f"{escape(path.name, 0)}: cannot be read for its sha256: {error.strerror}") from None
    return digest.hexdigest()


# -- building ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """What is asked of a plan: the type of every matrix ("keep": the source's) or a mix, what kind of file it is for, and the
    matrices that get another type."""

    type: str = KEEP
    container: str = "ak42"        # "ak42", "gguf" or "hf"
    options: Mapping[str, Any] = field(default_factory=dict)
    encoder: Encoder | None = None
    overrides: tuple[Override, ...] = ()           # of several that match, the last
    keep_head: str | None = None                   # the type of the head
    unkept: Mapping[str, Fallback] = field(default_factory=dict)       # what "keep" could not keep, as the source found out


def build_plan(source: Source, request: Request) -> Plan:
    """The plan of a whole output. Raises ConvertError where the source's tensors do not fit the types asked for.

    Vectors are f32 in ak42 and GGUF files; in a Hugging Face folder they have the matrices' type where that loses nothing.
    """
    config, vocab = _with_tokens(source)
    architecture = ARCHITECTURES[config.architecture]
    rope = architecture.rope_hf if request.container == "hf" else architecture.rope_gguf
    has_factors = ROPE_FREQS in source.names()
    wants_factors = request.container != "hf" and (has_factors or config.rope_freqs() is not None)
    tensors = [tensor for tensor in architecture.tensors(config, rope_freqs=wants_factors)
               if request.container != "hf" or tensor.hf]
    types = _Types(source, request, config, rope)
    errors: dict[str, dict[str, float]] = {}
    plans = []
    for tensor in tensors:
        kind, group = types.of(tensor)
        values = None if tensor.name == ROPE_FREQS and has_factors else _factors(config, tensor.role.role)
        if values is not None:
            reader = partial(constant_rows, kind.encode(values[None, :]))
        else:
            reader = TensorStream(source, tensor, kind, group, config.head_dim, rope, errors, request.encoder,
                                  norm_offset(source, request, tensor)).rows
        plans.append(TensorPlan(tensor.name, tensor.role.role, kind, tensor.shape, group, reader))
    paths = tuple(source.files)
    types.check_overrides()
    dtype = TORCH_DTYPES.get(types.main, "float32")
    return Plan(config, tuple(plans), vocab, source.chat_template, source.generation_config,
                source.hf_config or config.to_hf(dtype), errors, SourceInfo(source.name, source.format, paths), request.options,
                request.type, types.fallbacks, _about(source, config), source.foreign_rope_freqs)


def _about(source: Source, config: ModelConfig) -> dict[str, Any]:
    """What the source says of its model, but for a name that every nameless model of this config gets."""
    plain = default_name(config, source.hf_config)
    return {key: value for key, value in source.about.items() if (key, value) != (NAME, plain)}


def _factors(config: ModelConfig, role: str) -> np.ndarray | None:
    """A tensor of rope factors, which follow from the config; None for every other."""
    if role == "rope_freqs":
        return config.rope_freqs()
    longrope = {"rope_long": config.rope_long, "rope_short": config.rope_short}
    return np.array(longrope[role], dtype=np.float32) if role in longrope else None


def norm_offset(source: Source, request: Request, tensor: Tensor) -> float:
    """What a norm's weights get on their way between Hugging Face's format and the others: +1, -1 or nothing."""
    offset = source.config.facts.norm_offset if tensor.role.norm else 0.0
    if not offset or source.folded_norms == (request.container != "hf"):
        return 0.0
    return -offset if source.folded_norms else offset


def matrix_types(source: Source) -> set[str]:
    """The names of the types that a source's matrices have."""
    exact = {tensor.name for tensor in ARCHITECTURES[source.config.architecture].tensors(source.config) if tensor.role.exact}
    return {source.tensor(name)[0].name for name in source.names() if len(source.tensor(name)[1]) > 1 and name not in exact}


def model_group_size(config: ModelConfig) -> int:
    """The int8 group of a model of this config; 0 where there is none."""
    widths = [config.expert_dim] if config.n_experts else []
    if any(not flag & EXPERTS for flag in config.flags):
        widths.append(config.hidden_dim)
    return group_size_for((config.dim, config.n_heads * config.head_dim, *widths))


def _with_tokens(source: Source) -> tuple[ModelConfig, Vocab | None]:
    """The config, and the vocabulary as long as the embedding, which ends a text where the model does.

    Where no config.json says which ids are BOS and EOS, the vocabulary's are taken. A context that a llama2.c header had lowered is
    the trained one again: the targets lower what they must.
    """
    config, vocab = source.config, source.vocab
    changes: dict[str, Any] = {"seq_len": config.trained_ctx}
    if vocab is None:
        return replace(config, **changes), None
    if len(vocab.tokens) > config.vocab_size:
        raise FormatError(f"{source.name}: expected a tokenizer of at most {config.vocab_size} tokens, the rows of the embedding, "
                          f"found one of {len(vocab.tokens)}")
    vocab = vocab.padded_to(config.vocab_size)
    if config.eos_ids:
        vocab = replace(vocab, eos_ids=_eos_of_both(config.eos_ids, vocab.eos_ids))
    if source.hf_config is None:
        if config.bos_id < 0 <= vocab.bos_id:
            changes["bos_id"] = vocab.bos_id
        if not config.eos_ids:
            changes["eos_ids"] = tuple(vocab.eos_ids)
    return replace(config, **changes), vocab


def _eos_of_both(model: tuple[int, ...], tokenizer: tuple[int, ...]) -> tuple[int, ...]:
    """The ids that end a text are the model's; the tokenizer's own one comes first where it is among them."""
    own = tuple(token for token in tokenizer if token in model)
    return tuple(dict.fromkeys(own + model))[:MAX_EOS]


class _Types:
    """Decides every tensor's type, and refuses what a row cannot be cut into."""

    def __init__(self, source: Source, request: Request, config: ModelConfig, rope: str) -> None:
        self._source = source
        self._request = request
        self._group = model_group_size(config)
        types = matrix_types(source)
        self.fallbacks: dict[str, Fallback] = {}
        self._config = config
        self._rope = rope
        self._overrides = request.overrides
        if request.keep_head is not None:
            self._overrides = (head_override(request.keep_head, config.shared_classifier), *self._overrides)
        self._unused = set(self._overrides)
        self._mix = MIXES.get(request.type)
        self.main = request.type if request.type != KEEP else types.pop() if len(types) == 1 else "mixed"
        if self._mix:
            self.main = self._mix.main

    def of(self, tensor: Tensor) -> tuple[WeightType, int]:
        """Type and int8 group."""
        if len(tensor.shape) == 1 or tensor.role.exact:
            return self._vector(tensor), 0
        kind, _shape, group = self._source.tensor(tensor.name)
        name = self._asked(tensor)
        if name is None and self._mix:
            wanted = self._mix.type_of(tensor, self._config)
            name = fallback_for(wanted, tensor.shape[-1])
            if name != wanted:
                self.fallbacks[tensor.name] = Fallback(wanted, name, f"rows that no block of {wanted} divides")
        if name is not None:
            kind, group = TYPES[name], self._group if name == "int8" else 0
        elif tensor.name in self._request.unkept:
            self.fallbacks[tensor.name] = self._request.unkept[tensor.name]
        elif kind.name == NF4_DQ and tensor.role.rope_heads and self._source.rope_layout != self._rope:
            kind = TYPES["nf4"]
            self.fallbacks[tensor.name] = Fallback(NF4_DQ, kind.name, "absmax nested in another order of rows than the file's")
        self._check(tensor, kind, group)
        return kind, group

    def _asked(self, tensor: Tensor) -> str | None:
        """The name of the type asked for: an override's or that of every matrix; None where a mix or the source is to say."""
        matching = [override for override in self._overrides if override.matches(tensor.name)]
        self._unused.difference_update(matching)
        if matching:
            return matching[-1].type
        return None if self._mix or self._request.type == KEEP else self._request.type

    def check_overrides(self) -> None:
        """Once every tensor was asked for: a pattern that fits none is a mistake."""
        for override in self._overrides:
            if override in self._unused:
                raise UsageError(f"--tensor-type: {escape(override.pattern)}: expected a matrix of that name, found none; "
                                 "names are GGUF's: blk.0.ffn_down.weight, blk.*.attn_v, token_embd, output")

    def _check(self, tensor: Tensor, kind: WeightType, group: int) -> None:
        columns = tensor.shape[-1]
        if kind.divides(columns, group):
            return
        shown = f"{self._source.name}: {tensor.name}"
        if kind.name == "int8":
            raise UnsupportedError(f"{shown}: int8 needs a group of 4, 8, 16, 32 or 64 that divides every row length, found "
                                   f"rows of {columns}; use --type f16 or bf16")
        nearest = remedy(kind.name, columns) or ("use --type int8, f16 or bf16" if self._group else "use --type f16 or bf16")
        raise UnsupportedError(f"{shown}: {kind.name} needs rows of a multiple of {kind.block_len} weights, found {columns}; "
                               f"{nearest}, or --tensor-type for some of the matrices")

    def _vector(self, tensor: Tensor) -> WeightType:
        if self._request.container != "hf":
            return TYPES["f32"]
        own, _shape, _group = self._source.tensor(tensor.name)
        if self._request.type == KEEP and not self._source.folded_norms:
            return own
        wanted = TYPES.get(self.main, TYPES["f32"])
        return wanted if not wanted.quantised and self._fits(tensor, own, wanted) else TYPES["f32"]

    def _fits(self, tensor: Tensor, own: WeightType, wanted: WeightType) -> bool:
        """Whether a vector has the very same values in the type wanted."""
        values = own.decode(self._source.read(tensor.name, 0, tensor.n_rows), tensor.shape[-1])
        values = values + np.float32(norm_offset(self._source, self._request, tensor))
        return bool(np.array_equal(wanted.decode(wanted.encode(values), tensor.shape[-1]), values, equal_nan=True))


def check_type_name(name: str) -> None:
    """UsageError for a type that there is none of."""
    if name != KEEP and name not in TYPE_NAMES:
        raise UsageError(f"--type: expected one of {', '.join((KEEP, *TYPE_NAMES))}, found {escape(name)}")
