"""The files of a Hugging Face folder: its JSON texts, and its tensors in safetensors or torch files, one or several shards.

Everything that a folder says about its own files is checked here; no file name from inside it leads out of it. No model
semantics. Called by hf.py and inspect.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import strict_json
from ..errors import FormatError, UsageError, escape
from .input_file import InputFile
from .safetensors_file import SafetensorsEntry, read_header
from .torch_file import state_dict

MAX_CONFIG = 4 << 20               # bytes of config.json and its like
MAX_INDEX = 64 << 20


@dataclass(frozen=True)
class Weights:
    """One way in which a folder holds its tensors."""

    single: str                    # the file of an undivided checkpoint
    index: str                     # which shard has which tensor
    shard: re.Pattern[str]
    read: Callable[[InputFile], Mapping[str, SafetensorsEntry]]


SAFETENSORS = Weights("model.safetensors", "model.safetensors.index.json", re.compile(r"model-\d{5}-of-(\d{5})\.safetensors"),
                      lambda file: read_header(file).tensors)
TORCH = Weights("pytorch_model.bin", "pytorch_model.bin.index.json", re.compile(r"pytorch_model-\d{5}-of-(\d{5})\.bin"), state_dict)
INDEXES = (SAFETENSORS.index, TORCH.index)


class HfFolder:
    """The open files of a folder. `close` releases them."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise UsageError(f"{escape(path.name, 0)}: no such folder")
        self.path = path
        self.name = escape(path.resolve().name, 0)
        self.opened: list[InputFile] = []
        self.warnings: list[str] = []

    def close(self) -> None:
        for file in self.opened:
            file.close()

    def open_file(self, name: str) -> InputFile:
        file = InputFile(self.path / name, name)
        self.opened.append(file)
        return file

    def required_json(self, name: str) -> dict[str, Any]:
        if not os.path.exists(self.path / name):
            raise FormatError(f"{self.name}: {name} is missing; give the folder of a Hugging Face checkpoint")
        return strict_json.load_object(self.open_file(name).read_all(MAX_CONFIG), name)

    def optional_json(self, name: str) -> dict[str, Any] | None:
        return self.required_json(name) if os.path.exists(self.path / name) else None

    def tensors(self) -> tuple[dict[str, SafetensorsEntry], dict[str, InputFile]]:
        """Every tensor under the name that its file gives it, and its file."""
        for weights in (SAFETENSORS, TORCH):
            if os.path.exists(self.path / weights.single):
                file = self.open_file(weights.single)
                tensors = dict(weights.read(file))
                return tensors, dict.fromkeys(tensors, file)
            if os.path.exists(self.path / weights.index):
                return self._sharded(weights)
        raise FormatError(f"{self.name}: {SAFETENSORS.single} and {SAFETENSORS.index} are missing{self._instead()}")

    def _instead(self) -> str:
        """What lies in the folder in place of the weights that were looked for."""
        names = sorted(path.name for path in self.path.iterdir())
        found = [name for name in names if name.endswith((".safetensors", ".gguf", ".bin", ".pt", ".pth"))]
        return f"; found {escape(found[0])}" if found else ""

    def _sharded(self, weights: Weights) -> tuple[dict[str, SafetensorsEntry], dict[str, InputFile]]:
        listed_in = weights.index
        index = strict_json.load_object(self.open_file(weights.index).read_all(MAX_INDEX), weights.index)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise FormatError(f"{listed_in}: weight_map: expected tensor names and their files, "
                              f"found {strict_json.type_name(weight_map)}")
        shards = sorted({_shard_name(listed_in, key, value) for key, value in weight_map.items()})
        missing = [name for name in shards if not os.path.exists(self.path / name)]
        if missing:
            listed = ", ".join(escape(name) for name in missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise FormatError(f"{self.name}: {listed_in} names {len(shards)} files, {len(missing)} of them missing: {listed}")
        self._refuse_unlisted(weights, shards)
        tensors: dict[str, SafetensorsEntry] = {}
        where: dict[str, InputFile] = {}
        for shard in shards:
            file = self.open_file(shard)
            for key, entry in weights.read(file).items():
                if weight_map.get(key) != shard:
                    said = weight_map.get(key)
                    found = "nothing" if said is None else f"'{escape(said)}'"
                    raise FormatError(f"{listed_in}: {escape(key)} is in {escape(shard)}: expected the index to say so, "
                                      f"found {found}")
                tensors[key], where[key] = entry, file
        absent = [key for key in weight_map if key not in tensors]
        if absent:
            more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
            raise FormatError(f"{escape(weight_map[absent[0]])}: expected the tensor {escape(absent[0])}, as {listed_in} says, "
                              f"found none{more}")
        self._check_total(weights.index, index, sum(entry.nbytes for entry in tensors.values()))
        return tensors, where

    def _refuse_unlisted(self, weights: Weights, shards: list[str]) -> None:
        """A shard of the same set that the index does not name."""
        counts = {match.group(1) for name in shards if (match := weights.shard.fullmatch(name))}
        for path in sorted(self.path.iterdir()):
            match = weights.shard.fullmatch(path.name)
            if match and match.group(1) in counts and path.name not in shards:
                raise FormatError(f"{self.name}: expected {weights.index} to name every shard, found {path.name} beside it")

    def _check_total(self, listed_in: str, index: Mapping[str, Any], total: int) -> None:
        metadata = index.get("metadata")
        stated = metadata.get("total_size") if isinstance(metadata, dict) else None
        if stated is not None and stated != total:
            self.warnings.append(f"{listed_in}: total_size says {escape(stated, 40)}, the files hold {total} bytes")


def _shard_name(listed_in: str, key: str, value: object) -> str:
    """A weight_map value that is the plain name of a file in the folder, and nothing else."""
    if (not isinstance(value, str) or not 0 < len(value) <= 255 or value in (".", "..")
            or any(character in "/\\:\0" or character < " " for character in value)):
        shown = f"'{escape(value)}'" if isinstance(value, str) else strict_json.type_name(value)
        raise FormatError(f"{listed_in}: weight_map: {escape(key)}: expected the name of a file in this folder, found {shown}")
    return value
