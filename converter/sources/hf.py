"""A Hugging Face folder: config.json, safetensors or torch's own files, whole or in shards, tokenizer and templates.

Nothing of the folder is ever executed, no file name from inside it leaves it. Tensors are presented under GGUF's names with rows
in Hugging Face's rope order. The tokenizer's files are vocabulary.py's business. Called by open_source.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arch import HALF_SPLIT, Piece, hf_pieces
from ..config import config_from_hf
from ..config_family import text_alone
from ..errors import FormatError, UnsupportedError, escape
from ..mixes import Fallback
from ..quant import NF4_DQ, TYPES, WeightType
from . import bitsandbytes, vocabulary
from .checkpoint import check_shapes, expected_shapes, same_tensors
from .hf_folder import HfFolder
from .safetensors_file import SafetensorsEntry
from .wrapped import left_out, part_left_out, unwrapped

if TYPE_CHECKING:
    from ..tokenizer import Vocab

DTYPES = {"F32": TYPES["f32"], "F16": TYPES["f16"], "BF16": TYPES["bf16"]}
PREFIXES = ("_orig_mod.", "module.", "_fsdp_wrapped_module.")      # what wrappers put in front of, or into, a key
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class HfSource:
    """An open folder. `close` releases its files."""

    format = "hf"
    rope_layout = HALF_SPLIT
    folded_norms = False
    foreign_rope_freqs = False

    def __init__(self, folder: Path, tokenizer: Path | None = None) -> None:
        self.path = folder
        self._given_tokenizer = tokenizer
        self._folder = HfFolder(folder)
        self.name = self._folder.name
        self.warnings = self._folder.warnings
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        stated, packed = bitsandbytes.plain_config(self._folder.required_json("config.json"), "config.json")
        self.hf_config, self._wrapper = text_alone(stated, "config.json")
        self.about: dict[str, Any] = {}
        self.generation_config: dict[str, Any] | None = self._folder.optional_json("generation_config.json")
        self.config, warnings = config_from_hf(stated, "config.json", self.generation_config)
        self.warnings.extend(warnings)
        found, self._where = self._folder.tensors()
        if packed:
            found = bitsandbytes.unpacked(found, self._where)
        self._packed: dict[str, str] = {}              # tensors whose blocks are kept -> nf4 or nf4-dq
        self._entries = self._named(found)
        if self._wrapper is not None:
            self.hf_config = text_alone(stated, "config.json", HEAD in self._entries)[0]
            self.config = config_from_hf(self.hf_config, "config.json", self.generation_config)[0]
        self._pieces = hf_pieces(self.config, self._entries)
        self._check_head()
        self._expected = {name: shape for name, shape in expected_shapes(self.config).items() if name in self._pieces}
        wanted = {piece.name: piece.shape for pieces in self._pieces.values() for piece in pieces}
        check_shapes(self.name, wanted, {key: entry.shape for key, (_key, entry) in self._entries.items()})
        for name in wanted:
            original, entry = self._entries[name]
            if entry.dtype not in DTYPES:
                raise UnsupportedError(f"{self._where[original].name}: {escape(original)}: dtype {entry.dtype} is not supported; "
                                       "F32, F16 and BF16 are")
        self._check_dtypes()

    def _check_dtypes(self) -> None:
        """The pieces of one tensor have one type."""
        for pieces in self._pieces.values():
            kinds = {self._entries[piece.name][1].dtype: piece.name for piece in pieces}
            if len(kinds) > 1:
                shown = ", ".join(f"{dtype} ({escape(name)})" for dtype, name in kinds.items())
                raise UnsupportedError(f"{self.name}: experts of one type are supported, found {shown}")

    # -- the Source interface --

    @property
    def files(self) -> list[Path]:
        return [file.path for file in self._folder.opened] + vocabulary.paths(self.path, self._given_tokenizer)

    def label(self, name: str) -> str:
        """The name that the file itself has for a tensor; of experts, for the first of them."""
        return self._entries[self._pieces[name][0].name][0]

    def names(self) -> list[str]:
        return list(self._expected)

    def tensor(self, name: str) -> tuple[WeightType, tuple[int, ...], int]:
        _key, entry = self._entries[self._pieces[name][0].name]
        return TYPES[self._packed[name]] if name in self._packed else DTYPES[entry.dtype], self._expected[name], 0

    def keep_packed(self) -> dict[str, Fallback]:
        """From now on matrices of bitsandbytes' NF4 are blocks of nf4 or nf4-dq, bit for bit, and no longer the values that it
        would compute with, rounded to its type. What could not be kept, by name."""
        unkept = {}
        for name, pieces in self._pieces.items():
            entry = self._entries[pieces[0].name][1]
            if isinstance(entry, bitsandbytes.EightBitEntry):
                unkept[name] = Fallback("int8", DTYPES[entry.dtype].name, "LLM.int8, whose one scale a row no type here has")
            if not isinstance(entry, bitsandbytes.FourBitEntry):
                continue
            entries = [(self._entries[piece.name][1], piece.begin) for piece in pieces]
            whys = [entry.unfit() for entry, _begin in entries]
            nested = [entry.unfit_nested(begin) for entry, begin in entries]
            if any(whys):
                unkept[name] = Fallback("nf4", DTYPES[entry.dtype].name, next(filter(None, whys)))
                continue
            self._packed[name] = "nf4" if any(nested) else NF4_DQ
            if any(nested) and any(entry.scales.code is not None for entry, _begin in entries):
                unkept[name] = Fallback(NF4_DQ, "nf4", next(filter(None, nested)))
        return unkept

    def read(self, name: str, begin: int, end: int) -> np.ndarray:
        """Rows [begin, end), which may lie in several pieces."""
        if begin == end:
            kind, shape, _group = self.tensor(name)
            return np.empty((0, kind.row_bytes(shape[-1])), dtype=np.uint8)
        parts = []
        for piece in self._pieces[name]:
            first, last = max(begin, 0), min(end, piece.count)
            if first < last:
                parts.append(self._read_piece(piece, first, last, self._packed.get(name)))
            begin, end = begin - piece.count, end - piece.count
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _read_piece(self, piece: Piece, begin: int, end: int, packed: str | None) -> np.ndarray:
        original, entry = self._entries[piece.name]
        if packed is not None:
            return entry.blocks(self._where[original], packed, piece.begin + begin, piece.begin + end)
        return entry.rows(self._where[original], piece.begin + begin, piece.begin + end)

    def verify(self, _name: str) -> bool:
        """Safetensors carry no checksum."""
        return False

    @cached_property
    def vocab(self) -> Vocab | None:
        if self._given_tokenizer is not None:
            return vocabulary.from_file(self._given_tokenizer, self.config.vocab_size)
        return vocabulary.from_folder(self.path, self.config.vocab_size)

    @cached_property
    def chat_template(self) -> str | None:
        return vocabulary.chat_template(self.path)

    def close(self) -> None:
        self._folder.close()

    # -- opening --

    def _named(self, found: Mapping[str, SafetensorsEntry]) -> dict[str, tuple[str, SafetensorsEntry]]:
        """Hugging Face's name, without what wrappers put around it -> the file's name and entry."""
        entries: dict[str, tuple[str, SafetensorsEntry]] = {}
        skipped: list[str] = []
        strange: dict[str, tuple[int, ...]] = {}
        for key, entry in found.items():
            plain: str | None = strip_prefixes(key)
            if plain.endswith("rotary_emb.inv_freq"):
                continue               # a buffer that old releases saved; the config says what it was
            if self._wrapper is not None:
                part = part_left_out(plain, self._wrapper)
                if part is not None:
                    skipped.append(part)
                    continue
                plain = unwrapped(plain, self._wrapper)
            if plain is None:
                strange[key] = entry.shape
                continue
            if plain in entries:
                raise FormatError(f"{self.name}: {escape(plain)} twice: as {escape(entries[plain][0])} and as {escape(key)}")
            entries[plain] = key, entry
        check_shapes(self.name, {}, strange)
        if self._wrapper is not None and skipped:
            self.warnings.append(f"{self.name}: the text model of a {self._wrapper.architecture} alone is converted, and "
                                 f"{left_out(skipped)}")
        return entries

    def _check_head(self) -> None:
        """The head is the embedding, or its own tensor: the config, the files and the bytes have to say the same."""
        tied, present = self.config.shared_classifier, HEAD in self._entries
        if not present:
            if not tied:
                said = "false" if "tie_word_embeddings" in self.hf_config else "absent"
                raise FormatError(f"{self.name}: tie_word_embeddings is {said} and lm_head.weight is missing: they disagree on "
                                  "whether the head is the embedding")
            return
        if EMBEDDING not in self._entries:
            return                     # listed as missing, a moment later
        same = self._same_bytes(HEAD, EMBEDDING)
        if tied and not same:
            raise FormatError(f"{self.name}: tie_word_embeddings is true and lm_head.weight differs from "
                              "model.embed_tokens.weight: they disagree on whether the head is the embedding")
        if tied:
            del self._entries[HEAD]
        elif same:
            self.warnings.append(f"{self.name}: lm_head.weight equals model.embed_tokens.weight though tie_word_embeddings is not "
                                 "true; both are kept")

    def _same_bytes(self, one: str, other: str) -> bool:
        (key, entry), (other_key, other_entry) = self._entries[one], self._entries[other]
        return same_tensors(self._where[key], entry, self._where[other_key], other_entry)


def strip_prefixes(key: str) -> str:
    """A state dict's key without what torch.compile, DataParallel and FSDP put in front of it, and between its parts."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in PREFIXES:
            if key.startswith(prefix):
                key, stripped = key[len(prefix):], True
    for prefix in ("_orig_mod.", "_fsdp_wrapped_module."):
        key = key.replace("." + prefix, ".")
    return key
