"""A GGUF file, or all parts of a split one, as a model: the architectures of families.py with weights in the types of quant.py.

The container is gguf_file.py's, the keys are config.py's. `ak42.config` and `ak42.generation_config`, which our own writer leaves,
bring back the texts of the Hugging Face folder that a file came from; a foreign file does without. Called by open_source.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import strict_json
from ..about import keys_of
from ..arch import ARCHITECTURES, gguf_pieces
from ..config import ModelConfig, config_from_hf, differences
from ..config_family import text_alone
from ..config_files import config_from_gguf
from ..errors import FormatError, UnsupportedError, escape
from ..quant import BY_ID, WeightType
from ..tokenizer_gguf import lacks_an_order
from . import rope_factors, vocabulary
from .checkpoint import check_shapes, expected_shapes
from .gguf_file import GgufTensor
from .gguf_parts import open_gguf

if TYPE_CHECKING:
    from ..tokenizer import Vocab

CONFIG_KEY, GENERATION_KEY = "ak42.config", "ak42.generation_config"
TEMPLATE_KEY = "tokenizer.chat_template"
_EXPERT = re.compile(r"blk\.(0|[1-9]\d{0,3})\.ffn_(gate|up|down)\.(0|[1-9]\d{0,3})\.weight")
READ_TYPES = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL, IQ4_XS and MXFP4 are"


class GgufSource:
    """An open GGUF model. `close` releases its files."""

    format = "gguf"
    folded_norms = True

    def __init__(self, path: Path, tokenizer: Path | None = None) -> None:
        self.path = path
        self._given_tokenizer = tokenizer
        self._gguf = open_gguf(path)
        self.name = self._gguf.files[0].name
        self.warnings: list[str] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._tensors, self._experts = _joined_experts({tensor.name: tensor for tensor in self._gguf.tensors}, self.name)
        if not self._tensors:
            raise FormatError(f"{self.name}: expected a model, found a GGUF file without tensors (a vocabulary)")
        self._check_vocab_sizes()
        shapes = {key: tensor.shape for key, tensor in self._tensors.items()}
        stated, warnings = config_from_gguf(self._gguf.metadata, self.name, embedding_rows=self._embedding_rows(),
                                            shared_classifier="output.weight" not in self._tensors, shapes=shapes)
        self.warnings.extend(warnings)
        has_factors = "rope_freqs.weight" in self._tensors
        self._expected = expected_shapes(stated, has_factors)
        self._pieces = gguf_pieces(stated, has_factors, self._tensors)
        check_shapes(self.name, {piece.name: piece.shape for piece in self._pieces.values()}, shapes)
        self._check_types()
        self.rope_layout = ARCHITECTURES[stated.architecture].rope_gguf
        self.hf_config = self._carried(CONFIG_KEY)
        self.generation_config = self._carried(GENERATION_KEY)
        self.about, warnings = keys_of(self._gguf.metadata, self.name)
        self.warnings.extend(warnings)
        if self._given_tokenizer is None and lacks_an_order(self._gguf.metadata):
            self.warnings.append(f"{self.name}: all tokens have one score, as a converter writes them that found no tokenizer.model: "
                                 "texts are cut otherwise than the model's own tokenizer cuts them; give that with --tokenizer")
        carried = self._carried_config()
        stated = rope_factors.with_long_factors(stated, self._vector)
        factors = self._vector("rope_freqs.weight") if has_factors else None
        self.config, self.foreign_rope_freqs = rope_factors.explain(stated, carried, factors)
        self._settle(carried)

    def _settle(self, carried: ModelConfig | None) -> None:
        """What the file says and what it carries along are one model, or the file is wrong."""
        if carried is None:
            return
        if self.foreign_rope_freqs:
            self.warnings.append(f"{self.name}: {CONFIG_KEY} does not explain rope_freqs.weight; the tensor is taken, "
                                 "the key left out")
            self.hf_config = None
            return
        found = differences(self.config, carried)
        if found:
            raise FormatError(f"{self.name}: {CONFIG_KEY} and the file's own keys disagree: {'; '.join(found)}")
        self.config = carried

    # -- the Source interface --

    @property
    def files(self) -> list[Path]:
        return [file.path for file in self._gguf.files] + ([] if self._given_tokenizer is None else [self._given_tokenizer])

    def names(self) -> list[str]:
        return list(self._expected)

    def tensor(self, name: str) -> tuple[WeightType, tuple[int, ...], int]:
        return BY_ID[self._tensors[self._pieces[name].name].type_id], self._expected[name], 0

    def read(self, name: str, begin: int, end: int) -> np.ndarray:
        piece = self._pieces[name]
        tensor = self._tensors[piece.name]
        kind = BY_ID[tensor.type_id]
        if len(tensor.shape) == 1:                 # one row, of as many of its weights as are this vector's
            first, size = kind.row_bytes(piece.begin), kind.row_bytes(self._expected[name][0])
            return self._gguf.where[piece.name].read_array(tensor.offset + first, size).reshape(1, size)[begin:end]
        row_bytes = kind.row_bytes(tensor.shape[-1])
        begin, end = begin + piece.begin, end + piece.begin
        if piece.name in self._experts:
            return self._read_experts(self._experts[piece.name], begin, end, row_bytes)
        data = self._gguf.where[piece.name].read_array(tensor.offset + begin * row_bytes, (end - begin) * row_bytes)
        return data.reshape(end - begin, row_bytes)

    def _read_experts(self, experts: list[GgufTensor], begin: int, end: int, row_bytes: int) -> np.ndarray:
        """Rows of matrices that are tensors of their own, counted through."""
        rows = experts[0].shape[0]
        parts = [np.empty((0, row_bytes), np.uint8)]
        for e in range(begin // rows, -(-end // rows)):
            first, last = max(begin - e * rows, 0), min(end - e * rows, rows)
            data = self._gguf.where[experts[e].name].read_array(experts[e].offset + first * row_bytes, (last - first) * row_bytes)
            parts.append(data.reshape(last - first, row_bytes))
        return np.concatenate(parts)

    def verify(self, _name: str) -> bool:
        """GGUF carries no checksum."""
        return False

    @cached_property
    def vocab(self) -> Vocab | None:
        if self._given_tokenizer is not None:
            return vocabulary.from_file(self._given_tokenizer, self.config.vocab_size)
        return vocabulary.from_gguf(self._gguf.metadata, self.name)

    @property
    def chat_template(self) -> str | None:
        template = self._gguf.metadata.get(TEMPLATE_KEY)
        return template if isinstance(template, str) and template else None

    def close(self) -> None:
        self._gguf.close()

    # -- opening --

    def _embedding_rows(self) -> int | None:
        tensor = self._tensors.get("token_embd.weight")
        return tensor.shape[0] if tensor is not None and len(tensor.shape) == 2 else None

    def _check_vocab_sizes(self) -> None:
        """llama.vocab_size, the embedding's rows and the tokenizer's length; the tokenizer may be shorter."""
        key = f"{self._gguf.metadata.get('general.architecture')}.vocab_size"
        stated = self._gguf.metadata.get(key)
        rows = self._embedding_rows()
        tokens = self._gguf.metadata.get("tokenizer.ggml.tokens")
        n_tokens = len(tokens) if isinstance(tokens, list) else 0
        if rows is not None and isinstance(stated, int) and (stated != rows or n_tokens > rows):
            raise FormatError(f"{self.name}: expected one size of the vocabulary, found {escape(key)} {stated}, "
                              f"{rows} rows of token_embd.weight and {n_tokens} tokens")

    def _check_types(self) -> None:
        foreign = [tensor for tensor in self._tensors.values() if tensor.type_id not in BY_ID]
        if foreign:
            more = f" (and {len(foreign) - 1} tensors more)" if len(foreign) > 1 else ""
            raise UnsupportedError(f"{self.name}: {escape(foreign[0].name)}: type {foreign[0].type_name} is not supported{more}; "
                                   f"{READ_TYPES}")
        for tensor in self._tensors.values():
            if len(tensor.shape) == 1 and BY_ID[tensor.type_id].quantised:
                raise UnsupportedError(f"{self.name}: {escape(tensor.name)}: a vector of type {tensor.type_name} is not supported; "
                                       "F32, F16 and BF16 are")

    def _carried(self, key: str) -> dict[str, Any] | None:
        text = self._gguf.metadata.get(key)
        if text is None:
            return None
        if not isinstance(text, str):
            raise FormatError(f"{self.name}: {key}: expected a JSON text, found {strict_json.type_name(text)}")
        return strict_json.load_object(text.encode("utf-8", "surrogateescape"), f"{self.name}: {key}")

    def _carried_config(self) -> ModelConfig | None:
        if self.hf_config is None:
            return None
        self.hf_config, _wrapper = text_alone(self.hf_config, f"{self.name}: {CONFIG_KEY}")
        config, warnings = config_from_hf(self.hf_config, f"{self.name}: {CONFIG_KEY}", self.generation_config)
        self.warnings.extend(warnings)
        return config

    def _vector(self, name: str) -> np.ndarray:
        kind, shape, _group = self.tensor(name)
        return kind.decode(self.read(name, 0, 1), shape[-1])[0]


def _joined_experts(tensors: dict[str, GgufTensor], name: str) -> tuple[dict[str, GgufTensor], dict[str, list[GgufTensor]]]:
    """Tensors by name, and the experts of those that stand for several: in old files of Mixtral each expert's matrix is a tensor of
    its own, here as in new ones a layer has one of each kind."""
    found: dict[str, dict[int, GgufTensor]] = {}
    for key, tensor in tensors.items():
        match = _EXPERT.fullmatch(key)
        if match:
            found.setdefault(f"blk.{match[1]}.ffn_{match[2]}_exps.weight", {})[int(match[3])] = tensor
    single = {tensor.name for numbered in found.values() for tensor in numbered.values()}
    joined = {key: tensor for key, tensor in tensors.items() if key not in single}
    experts: dict[str, list[GgufTensor]] = {}
    for key, numbered in found.items():
        missing = next((e for e in range(len(numbered)) if e not in numbered), None)
        if missing is not None or key in joined:
            raise FormatError(f"{name}: {escape(key)}: expected its experts once, each by itself, found "
                              f"{'them together too' if key in joined else f'none of the number {missing}'}")
        experts[key] = [numbered[e] for e in range(len(numbered))]
        first = experts[key][0]
        for other in experts[key]:
            if len(other.shape) != 2 or (other.shape, other.type_id) != (first.shape, first.type_id):
                raise FormatError(f"{name}: {escape(other.name)}: expected a matrix of the first expert's shape and type, "
                                  "found another")
        joined[key] = GgufTensor(key, first.type_id, (len(numbered), *first.shape), first.offset,
                                 sum(tensor.nbytes for tensor in experts[key]))
    return joined, experts
