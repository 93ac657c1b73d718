"""Checkpoints with Meta's own names: a folder of consolidated.*.pth and params.json, and a llama2.c training checkpoint (ckpt.pt).

A folder's files are the shards of model parallelism: each has a slice of every matrix, of rows or of columns, and rows are put
together from all of them as they are asked for. Rotary pairs are neighbours. The files are torch_file.py's, the config is
config_meta.py's. Called by open_source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import strict_json
from ..arch import INTERLEAVED
from ..config_meta import config_from_params
from ..errors import FormatError, UnsupportedError, escape
from ..quant import WeightType
from . import vocabulary
from .checkpoint import check_shapes, expected_shapes, same_rows
from .hf import DTYPES, strip_prefixes
from .input_file import InputFile
from .safetensors_file import DTYPE_BITS, SafetensorsEntry, shape_text
from .torch_file import read_torch, state_dict, tensors_of
from .torch_pickle import Unread

if TYPE_CHECKING:
    from ..tokenizer import Vocab

PARAMS, TOKENIZER_JSON = "params.json", "tokenizer.json"
SHARD = re.compile(r"consolidated\.(\d\d)\.pth")
MAX_PARAMS = 1 << 20
MAX_SHARDS = 64

# Meta's name -> GGUF's; of a layer behind "layers.N.".
WHOLE = {"tok_embeddings.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "output.weight": "output.weight"}
LAYER = {
    "attention_norm.weight": "attn_norm.weight", "attention.wq.weight": "attn_q.weight", "attention.wk.weight": "attn_k.weight",
    "attention.wv.weight": "attn_v.weight", "attention.wo.weight": "attn_output.weight", "ffn_norm.weight": "ffn_norm.weight",
    "feed_forward.w1.weight": "ffn_gate.weight", "feed_forward.w2.weight": "ffn_down.weight",
    "feed_forward.w3.weight": "ffn_up.weight",
}
# Buffers that the code saved along and computes anew.
BUFFERS = re.compile(r"rope\.freqs|freqs_cos|freqs_sin|layers\.\d+\.attention\.(mask|inner_attention\.rope\.freqs)")
_LAYER_KEY = re.compile(r"layers\.(0|[1-9]\d{0,3})\.(.+)")
# What the keys of llama2.c's checkpoint are; "model" and "model_args" have to be there.
CHECKPOINT_KEYS = ("model", "optimizer", "model_args", "iter_num", "best_val_loss", "config")


@dataclass(frozen=True)
class _Sharded:
    """One tensor and its slice in each file: side by side (axis 1), one above the other (axis 0), or alike (None)."""

    label: str
    dtype: str
    shape: tuple[int, ...]
    axis: int | None
    slices: tuple[tuple[InputFile, SafetensorsEntry], ...]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * DTYPE_BITS[self.dtype] // 8

    def rows(self, begin: int, end: int) -> np.ndarray:
        if self.axis is None:
            file, entry = self.slices[0]
            return entry.rows(file, begin, end)
        if self.axis == 1:
            return np.concatenate([entry.rows(file, begin, end) for file, entry in self.slices], axis=1)
        parts, first = [], 0
        for file, entry in self.slices:
            last = first + entry.shape[0]
            if begin < last and end > first:
                parts.append(entry.rows(file, max(begin, first) - first, min(end, last) - first))
            first = last
        if not parts:
            return self.slices[0][1].rows(self.slices[0][0], 0, 0)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


_Shard = tuple[InputFile, dict[str, tuple[str, SafetensorsEntry]]]        # a file, and GGUF name -> its own name and entry


class MetaSource:
    """An open folder of Meta's, or an open ckpt.pt. `close` releases its files."""

    rope_layout = INTERLEAVED
    folded_norms = False
    foreign_rope_freqs = False
    hf_config: dict[str, Any] | None = None
    generation_config: dict[str, Any] | None = None

    def __init__(self, path: Path, tokenizer: Path | None = None) -> None:
        self.path = path
        self._given_tokenizer = tokenizer
        self.name = escape(path.resolve().name, 0)
        self.warnings: list[str] = []
        self.about: dict[str, Any] = {}
        self._opened: list[InputFile] = []
        try:
            if path.is_dir():
                self._open_folder()
            else:
                self._open_checkpoint()
        except BaseException:
            self.close()
            raise

    # -- opening --

    def _open_file(self, name: str) -> InputFile:
        file = InputFile(self.path / name if self.path.is_dir() else self.path, name)
        self._opened.append(file)
        return file

    def _open_folder(self) -> None:
        self.format = "meta"
        numbers = sorted(int(match.group(1)) for path in self.path.iterdir() if (match := SHARD.fullmatch(path.name)))
        if numbers != list(range(len(numbers))):
            missing = next(number for number in range(len(numbers)) if number not in numbers)
            raise FormatError(f"{self.name}: expected {len(numbers)} files from consolidated.00.pth on, found none of the name "
                              f"consolidated.{missing:02d}.pth")
        if len(numbers) > MAX_SHARDS:
            raise UnsupportedError(f"{self.name}: expected up to {MAX_SHARDS} shards, found {len(numbers)}")
        params = strict_json.load_object(self._open_file(PARAMS).read_all(MAX_PARAMS), PARAMS)
        files = [self._open_file(f"consolidated.{number:02d}.pth") for number in numbers]
        self._settle([(file, _named(file.name, state_dict(file))) for file in files], params, PARAMS)

    def _open_checkpoint(self) -> None:
        self.format = "llama2.c"
        file = self._open_file(self.path.name)
        saved = read_torch(file)
        wanted = [key for key in ("model", "model_args") if not isinstance(saved, dict) or key not in saved]
        if wanted:
            found = ", ".join(escape(key) for key in list(saved)[:3]) if isinstance(saved, dict) else type(saved).__name__
            raise FormatError(f"{file.name}: expected llama2.c's checkpoint with the keys model and model_args, found "
                              f"{found or 'none'}; a state dict is read as pytorch_model.bin, in a folder with its config.json")
        unknown = [key for key in saved if key not in CHECKPOINT_KEYS]
        if unknown:
            self.warnings.append(f"{file.name}: the key {escape(unknown[0])} is not read")
        if not isinstance(saved["model_args"], dict):
            raise FormatError(f"{file.name}: model_args: expected a dict, found something else")
        for key, value in saved["model_args"].items():
            if isinstance(key, Unread) or isinstance(value, Unread):
                raise FormatError(f"{file.name}: model_args: {escape(key)}: expected a text or a number, found {escape(value)}")
        self._settle([(file, _named(file.name, tensors_of(file.name, saved["model"])))], saved["model_args"],
                     f"{file.name}: model_args", llama2c=True)

    def _settle(self, shards: list[_Shard], params: Mapping[str, Any], name: str, llama2c: bool = False) -> None:
        """Tensors from slices, then the config, then the one against the other."""
        self.params = params
        found = _joined(shards, params)
        embedding = found.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise FormatError(f"{self.name}: expected the matrix tok_embeddings.weight, found none")
        head = found.get("output.weight")
        tied = head is None or ((head.dtype, head.shape) == (embedding.dtype, embedding.shape) and
                                same_rows(head.rows, embedding.rows, head.shape, head.nbytes))
        if tied:
            found.pop("output.weight", None)
        self.config, warnings = config_from_params(params, name, embedding_rows=embedding.shape[0], shared_classifier=tied,
                                                   llama2c=llama2c)
        self.warnings.extend(warnings)
        self._expected = expected_shapes(self.config)
        spelled = {key: tensor.label for key, tensor in found.items()}
        check_shapes(self.name, self._expected, {key: tensor.shape for key, tensor in found.items()}, spelled)
        for tensor in found.values():
            if tensor.dtype not in DTYPES:
                raise UnsupportedError(f"{self.name}: {escape(tensor.label)}: dtype {tensor.dtype} is not supported; "
                                       "F32, F16 and BF16 are")
        self._tensors = found

    # -- the Source interface --

    @property
    def files(self) -> list[Path]:
        return [file.path for file in self._opened] + self._vocabulary_files()

    def label(self, name: str) -> str:
        """Meta's name of a tensor."""
        return self._tensors[name].label

    def names(self) -> list[str]:
        return list(self._expected)

    def tensor(self, name: str) -> tuple[WeightType, tuple[int, ...], int]:
        tensor = self._tensors[name]
        return DTYPES[tensor.dtype], tensor.shape, 0

    def read(self, name: str, begin: int, end: int) -> np.ndarray:
        return self._tensors[name].rows(begin, end)

    def slices(self) -> list[tuple[InputFile, str, SafetensorsEntry]]:
        """Every tensor of every file as it stands there: for inspect."""
        return [(file, tensor.label, entry) for tensor in self._tensors.values() for file, entry in tensor.slices]

    def verify(self, _name: str) -> bool:
        """Checksums of the archive's members are not compared: a tensor is part of many."""
        return False

    @cached_property
    def vocab(self) -> Vocab | None:
        params = {**self.params, "vocab_size": self.config.vocab_size} if self.path.is_dir() else None
        if self._given_tokenizer is not None:
            return vocabulary.from_file(self._given_tokenizer, self.config.vocab_size, params)
        for folder in self._folders():
            found = vocabulary.from_folder(folder, self.config.vocab_size, params)
            if found is not None:
                return found
        return None

    @property
    def chat_template(self) -> str | None:
        """Meta's files have none; the folder of a tokenizer.json may."""
        return next((vocabulary.chat_template(folder) for folder in self._folders() if (folder / TOKENIZER_JSON).exists()), None)

    def close(self) -> None:
        for file in self._opened:
            file.close()

    def _folders(self) -> list[Path]:
        """Where a tokenizer may lie: beside the weights, and for a folder of weights also above it, where downloads of Llama 1 and
        2 have it; a folder with a tokenizer.json first, which says more than Llama 3's tokenizer.model beside the weights."""
        own = self.path if self.path.is_dir() else self.path.parent
        folders = [own, own.resolve().parent] if self.path.is_dir() else [own]
        return sorted(folders, key=lambda folder: not (folder / TOKENIZER_JSON).exists())

    def _vocabulary_files(self) -> list[Path]:
        if self._given_tokenizer is not None:
            return [self._given_tokenizer] if self._given_tokenizer.is_file() else []
        folders = (folder for folder in self._folders() if any((folder / name).exists() for name in vocabulary.TOKENIZERS))
        return next((vocabulary.paths(folder, None) for folder in folders), [])


def is_meta_folder(path: Path) -> bool:
    """Whether a folder is one of Meta's and no Hugging Face folder."""
    return not (path / "config.json").exists() and (path / PARAMS).exists() and \
        any(SHARD.fullmatch(child.name) for child in path.iterdir())


def _named(name: str, tensors: Mapping[str, SafetensorsEntry]) -> dict[str, tuple[str, SafetensorsEntry]]:
    """GGUF name (or, left over, the file's) -> the file's name and entry; buffers left out."""
    named: dict[str, tuple[str, SafetensorsEntry]] = {}
    for key, entry in tensors.items():
        plain = strip_prefixes(key)
        if BUFFERS.fullmatch(plain):
            continue
        layer = _LAYER_KEY.fullmatch(plain)
        own = WHOLE.get(plain)
        if layer and layer.group(2) in LAYER:
            own = f"blk.{layer.group(1)}.{LAYER[layer.group(2)]}"
        own = own or plain
        if own in named:
            raise FormatError(f"{name}: {escape(plain)} twice: as {escape(named[own][0])} and as {escape(key)}")
        named[own] = key, entry
    return named


def _joined(shards: list[_Shard], params: Mapping[str, Any]) -> dict[str, _Sharded]:
    """Every tensor with its slices in all files; FormatError where a file lacks one or the slices do not fit together."""
    first_file, first = shards[0]
    for file, named in shards[1:]:
        odd = next(iter(set(first) ^ set(named)), None)
        if odd is not None:
            has, lacks = (first_file, file) if odd in first else (file, first_file)
            label = escape((first.get(odd) or named[odd])[0])
            raise FormatError(f"{lacks.name}: expected the tensor {label}, which {has.name} has, found none")
    joined = {}
    for key, (label, entry) in first.items():
        slices = tuple((file, named[key][1]) for file, named in shards)
        joined[key] = _join(key, label, entry, slices, params.get("dim"))
    return joined


def _join(key: str, label: str, first: SafetensorsEntry, slices: tuple[tuple[InputFile, SafetensorsEntry], ...],
          dim: Any) -> _Sharded:
    for file, entry in slices[1:]:
        if (entry.dtype, entry.shape) != (first.dtype, first.shape):
            raise FormatError(f"{file.name}: {escape(label)}: expected {shape_text(first.shape)} of {first.dtype}, as in "
                              f"{slices[0][0].name}, found {shape_text(entry.shape)} of {entry.dtype}")
    if len(slices) == 1:
        return _Sharded(label, first.dtype, first.shape, None, slices)
    if len(first.shape) != 2:
        _check_replicas(label, slices)
        return _Sharded(label, first.dtype, first.shape, None, slices)
    axis = 1 if key.endswith((".attn_output.weight", ".ffn_down.weight")) else 0
    if key == "token_embd.weight" and first.shape[1] != dim:
        axis = 1                       # Llama 1 and 2 cut the embedding's columns, Llama 3 its rows
    shape = [first.shape[0], first.shape[1]]
    shape[axis] *= len(slices)
    return _Sharded(label, first.dtype, (shape[0], shape[1]), axis, slices)


def _check_replicas(label: str, slices: tuple[tuple[InputFile, SafetensorsEntry], ...]) -> None:
    """A vector stands in every shard, and everywhere the same."""
    (file, entry), *others = slices
    values = entry.rows(file, 0, 1)
    for other_file, other in others:
        if not np.array_equal(values, other.rows(other_file, 0, 1)):
            raise FormatError(f"{other_file.name}: {escape(label)}: expected the same values as in {file.name}, found others")
