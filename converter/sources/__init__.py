"""The sources: one reader for each kind of checkpoint, all with the interface below.

`open_source` looks at what a path is, not at what it is called. Called by converter.convert.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..config import ModelConfig
from ..errors import FormatError, UsageError, escape
from ..quant import WeightType
from .ak42 import Ak42Source
from .gguf import GgufSource
from .hf import HfSource
from .hf_folder import INDEXES
from .input_file import InputFile
from .meta import MetaSource, is_meta_folder
from .torch_file import is_torch

if TYPE_CHECKING:
    from ..tokenizer import Vocab


# Files of a folder that say nothing without the others.
PARTS = re.compile(r".*\.safetensors|consolidated\..*\.pth|pytorch_model.*\.bin|config\.json|params\.json")


class Source(Protocol):
    """An open checkpoint. Tensors have GGUF's names; rows of q and k stand as `rope_layout` says."""

    name: str                                  # the path's last part, escaped for messages
    path: Path
    format: str                                # "hf", "meta", "llama2.c", "gguf", "ak42 v0", ...
    config: ModelConfig
    rope_layout: str                           # "interleaved" or "half_split"
    folded_norms: bool                         # norms have what their family adds to them (Gemma's 1), as GGUF has it
    foreign_rope_freqs: bool                   # its rope_freqs.weight follows from no config
    hf_config: dict[str, Any] | None           # the config.json that it has or carries
    generation_config: dict[str, Any] | None
    about: dict[str, Any]                      # general.* keys of GGUF that it has or carries (about.py)
    warnings: list[str]

    @property
    def files(self) -> list[Path]: ...
    @property
    def vocab(self) -> Vocab | None: ...
    @property
    def chat_template(self) -> str | None: ...
    def names(self) -> list[str]:
        """Every tensor, in file order of ak42 v3 and GGUF."""
    def tensor(self, name: str) -> tuple[WeightType, tuple[int, ...], int]:
        """Its type, its shape and, of int8, its group."""
    def read(self, name: str, begin: int, end: int) -> np.ndarray:
        """uint8 (end - begin, row_bytes): rows in the source's own type. A vector is one row."""
    def verify(self, name: str) -> bool:
        """Compares the checksum over a tensor; whether the format has one."""
    def close(self) -> None: ...


def open_source(path: str | Path, tokenizer: str | Path | None = None) -> Source:
    """Opens a folder of Hugging Face's or Meta's, a GGUF file, a llama2.c checkpoint or an ak42 file. `tokenizer`: a file to take
    the vocabulary from instead."""
    path = Path(path)
    given = None if tokenizer is None else Path(tokenizer)
    if given is not None and not given.exists():
        raise UsageError(f"{escape(given.name, 0)}: no such file")
    if path.is_dir():
        return MetaSource(path, given) if is_meta_folder(path) else HfSource(path, given)
    with InputFile(path) as file:
        head = file.read(0, min(64, file.size))
    if head.startswith(b"GGUF"):
        return GgufSource(path, given)
    shown = escape(path.name, 0)
    if PARTS.fullmatch(path.name) or path.name in INDEXES:
        raise FormatError(f"{shown}: expected a checkpoint, found a part of one; give the folder that it is in")
    if is_torch(head):
        return MetaSource(path, given)
    return Ak42Source(path, given)
