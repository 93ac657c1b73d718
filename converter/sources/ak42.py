"""An ak42 file of any version as a model; llama2.c's headerless files are version 0.

ak42_header.py reads and checks the frame. Here the weights become rows again (panels are unpacked, int8's scales join their
codes) and every checksum over weights is compared before the first of them is handed out. Called by open_source.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import strict_json
from ..about import keys_of
from ..arch import HALF_SPLIT, INTERLEAVED
from ..config import ROPE_SCALING_FIELDS, ModelConfig, config_from_hf, differences
from ..crc32c import crc32c
from ..errors import FormatError
from ..panel import PANEL_ROWS, ROWS, panel_bytes, unpack
from ..quant import NF4_BLOCK, NF4_DQ, NF4_NESTED, WeightType
from . import rope_factors, vocabulary
from .ak42_header import Ak42File, Ak42Tensor, is_ak42, read_ak42, read_v0
from .checkpoint import check_shapes, expected_shapes
from .input_file import InputFile

if TYPE_CHECKING:
    from ..tokenizer import Vocab

CHECKED = 1 << 22                  # bytes that a checksum takes at a time


class Ak42Source:
    """An open ak42 file. `close` releases it."""

    folded_norms = True

    def __init__(self, path: Path, tokenizer: Path | None = None) -> None:
        self.path = path
        self._given_tokenizer = tokenizer
        self._file = InputFile(path)
        self.name = self._file.name
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        head = self._file.read(0, min(4, self._file.size))
        self._ak42: Ak42File = read_ak42(self._file) if is_ak42(head) else read_v0(self._file)
        stated = self._ak42.config
        self.format = f"ak42 v{self._ak42.version}"
        self.rope_layout = HALF_SPLIT if self._ak42.rope_half_split else INTERLEAVED
        self.warnings: list[str] = list(self._ak42.warnings)
        self._tensors = {tensor.name: tensor for tensor in self._ak42.tensors}
        self._verified: set[str] = set()
        has_factors = "rope_freqs.weight" in self._tensors
        self._expected = expected_shapes(stated, has_factors)
        check_shapes(self.name, self._expected, {key: tensor.shape for key, tensor in self._tensors.items()})
        self.hf_config = self._json("CONF")
        self.generation_config = self._json("GENC")
        self.about, warnings = keys_of(self._json("CARD") or {}, self.name)
        self.warnings.extend(warnings)
        if self._ak42.version == 3 and self.hf_config is None:
            raise FormatError(f"{self.name}: trailer: expected the section CONF, which names the architecture, found none")
        carried = self._carried_config()
        stated = rope_factors.with_long_factors(stated, self._factors)
        factors = self._factors("rope_freqs.weight") if has_factors else None
        if factors is None and stated.rope_scaling == "llama3":
            raise FormatError(f"{self.name}: rope_scaling is llama3: expected the tensor rope_freqs.weight, found none")
        self.config, self.foreign_rope_freqs = rope_factors.explain(stated, carried, factors)
        self._settle(carried)

    def _settle(self, carried: ModelConfig | None) -> None:
        """What the header says and the config that the trailer carries are one model, or the file is wrong."""
        if carried is None:
            return
        found = differences(self.config, carried, ROPE_SCALING_FIELDS if self.foreign_rope_freqs else ())
        if found:
            raise FormatError(f"{self.name}: the header and the section CONF disagree: {'; '.join(found)}")
        if self.foreign_rope_freqs:
            self.warnings.append(f"{self.name}: CONF does not explain rope_freqs.weight; the tensor is taken, CONF left out")
            self.hf_config = None
            return
        self.config = replace(carried, seq_len=self.config.seq_len)

    # -- the Source interface --

    @property
    def files(self) -> list[Path]:
        if "TOKN" in self._ak42.sections and self._given_tokenizer is None:
            return [self.path]
        return [self.path, *vocabulary.paths_beside(self.path, self._given_tokenizer)]

    def names(self) -> list[str]:
        return list(self._expected)

    def tensor(self, name: str) -> tuple[WeightType, tuple[int, ...], int]:
        tensor = self._tensors[name]
        return tensor.type, tensor.shape, tensor.group_size

    def read(self, name: str, begin: int, end: int) -> np.ndarray:
        """uint8 (end - begin, row_bytes); FormatError where the checksum over these weights does not hold."""
        self.verify(name)
        tensor = self._tensors[name]
        if len(tensor.shape) == 3:
            return self._read_experts(tensor, begin, end)
        return self._read_rows(tensor, begin, end)

    def _read_experts(self, tensor: Ak42Tensor, begin: int, end: int) -> np.ndarray:
        """Rows of experts that follow one another, each a matrix by itself."""
        experts, rows, columns = tensor.shape
        parts = []
        for e in range(begin // rows, -(-end // rows)):
            one = replace(tensor, shape=(rows, columns), offset=tensor.offset + e * (tensor.nbytes // experts),
                          nbytes=tensor.nbytes // experts)
            parts.append(self._read_rows(one, max(begin - e * rows, 0), min(end - e * rows, rows)))
        return np.concatenate(parts) if parts else np.empty((0, tensor.type.row_bytes(columns, tensor.group_size)), np.uint8)

    def _read_rows(self, tensor: Ak42Tensor, begin: int, end: int) -> np.ndarray:
        if tensor.layout != ROWS:
            return self._read_panels(tensor, begin, end)
        if tensor.type.name == "int8":
            return self._read_int8(tensor, begin, end)
        if tensor.type.name == NF4_DQ:
            return self._read_nested(tensor, begin, end)
        row_bytes = tensor.type.row_bytes(tensor.shape[-1])
        return self._file.read_array(tensor.offset + begin * row_bytes, (end - begin) * row_bytes).reshape(end - begin, row_bytes)

    def verify(self, name: str) -> bool:
        """Compares the checksum that covers a tensor, once: v3 has one for each, v1 and v2 one for all, v0 none (False)."""
        tensor = self._tensors[name]
        if tensor.crc is not None:
            covered, begin, size, expected = name, tensor.offset, tensor.nbytes, tensor.crc
        elif self._ak42.crc_payload is not None:
            covered, begin, size, expected = "", self._ak42.data_offset, self._ak42.data_bytes, self._ak42.crc_payload
        else:
            return False
        if covered in self._verified:
            return True
        found = 0
        for at in range(begin, begin + size, CHECKED):
            found = crc32c(self._file.read_array(at, min(CHECKED, begin + size - at)), found)
        if found != expected:
            raise FormatError(f"{self.name}: {covered or 'payload'}: checksum: expected 0x{expected:08x}, found 0x{found:08x}; "
                              "the file is damaged")
        self._verified.add(covered)
        return True

    @cached_property
    def vocab(self) -> Vocab | None:
        if self._given_tokenizer is not None:
            return vocabulary.from_file(self._given_tokenizer, self.config.vocab_size)
        tokens = self._ak42.sections.get("TOKN")
        if tokens is not None:
            return vocabulary.from_tokn(tokens, self.name)
        return vocabulary.beside(self.path, self.config.vocab_size)

    @cached_property
    def chat_template(self) -> str | None:
        template = self._ak42.sections.get("TMPL")
        if template is None:
            return None
        try:
            return template.decode("utf-8")
        except UnicodeDecodeError:
            raise FormatError(f"{self.name}: trailer: expected UTF-8 in the section TMPL, found other bytes") from None

    def close(self) -> None:
        self._file.close()

    # -- rows --

    def _read_panels(self, tensor: Ak42Tensor, begin: int, end: int) -> np.ndarray:
        rows, columns = tensor.shape
        first = begin // PANEL_ROWS * PANEL_ROWS
        last = min(-(-end // PANEL_ROWS) * PANEL_ROWS, rows)
        size = panel_bytes(tensor.type.name, columns, tensor.group_size)
        n_panels = -(-(last - first) // PANEL_ROWS)
        panels = self._file.read_array(tensor.offset + first // PANEL_ROWS * size, n_panels * size)
        whole = unpack(tensor.type.name, panels, last - first, columns, tensor.group_size, tensor.layout)
        return whole[begin - first : end - first]

    def _read_int8(self, tensor: Ak42Tensor, begin: int, end: int) -> np.ndarray:
        """The codes of the whole matrix lie before its scales."""
        rows, columns = tensor.shape if len(tensor.shape) == 2 else (1, tensor.shape[0])
        scale_bytes = columns // tensor.group_size * 4
        codes = self._file.read_array(tensor.offset + begin * columns, (end - begin) * columns)
        scales = self._file.read_array(tensor.offset + rows * columns + begin * scale_bytes, (end - begin) * scale_bytes)
        return np.concatenate([codes.reshape(-1, columns), scales.reshape(-1, scale_bytes)], axis=1)

    def _read_nested(self, tensor: Ak42Tensor, begin: int, end: int) -> np.ndarray:
        """nf4-dq: blocks, and with each row what it needs of the tables behind the matrix."""
        rows, columns = tensor.shape if len(tensor.shape) == 2 else (1, tensor.shape[0])
        per_row = columns // NF4_BLOCK
        row_bytes = per_row * tensor.type.block_bytes
        first, last = begin * per_row // NF4_NESTED, -(-end * per_row // NF4_NESTED)
        at = tensor.offset + rows * row_bytes
        offset = self._file.read_array(at, 4).view("<f4")
        nested = self._file.read_array(at + 4 + 4 * first, 4 * (last - first)).view("<f4")
        groups = np.arange(begin * per_row, end * per_row) // NF4_NESTED - first
        packed = self._file.read_array(tensor.offset + begin * row_bytes, (end - begin) * row_bytes).reshape(end - begin, row_bytes)
        tables = np.concatenate((nested[groups].reshape(end - begin, per_row), np.repeat(offset, end - begin)[:, None]), axis=1)
        return np.concatenate((packed, np.ascontiguousarray(tables, "<f4").view(np.uint8)), axis=1)

    # -- opening --

    def _json(self, tag: str) -> dict[str, Any] | None:
        data = self._ak42.sections.get(tag)
        return None if data is None else strict_json.load_object(data, f"{self.name}: section {tag}")

    def _carried_config(self) -> ModelConfig | None:
        if self.hf_config is None:
            return None
        config, warnings = config_from_hf(self.hf_config, f"{self.name}: section CONF", self.generation_config)
        self.warnings.extend(warnings)
        return config

    def _factors(self, name: str) -> np.ndarray:
        kind, shape, group = self.tensor(name)
        return kind.decode(self.read(name, 0, 1), shape[-1], group)[0]
