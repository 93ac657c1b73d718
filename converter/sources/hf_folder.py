"""The files of a Hugging Face folder: its JSON texts, and its tensors in one safetensors file or in shards.

Everything that a folder says about its own files is checked here; no file name from inside it leads out of it. No model
semantics. Called by hf.py and inspect.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import strict_json
from ..errors import FormatError, UsageError, escape
from .input_file import InputFile
from .safetensors_file import SafetensorsEntry, read_header

MAX_CONFIG = 4 << 20               # bytes of config.json and its like
MAX_INDEX = 64 << 20
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")


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
        if os.path.exists(self.path / SINGLE):
            file = self.open_file(SINGLE)
            tensors = dict(read_header(file).tensors)
            return tensors, dict.fromkeys(tensors, file)
        if os.path.exists(self.path / INDEX):
            return self._sharded()
        raise FormatError(f"{self.name}: {SINGLE} and {INDEX} are missing{self._instead()}")

    def _instead(self) -> str:
        """What lies in the folder in place of the weights that were looked for."""
        names = sorted(path.name for path in self.path.iterdir())
        pickled = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
        others = [name for name in names if name.endswith((".safetensors", ".gguf"))]
        if pickled:
            return f"; found the pickled {escape(pickled[0])}, save the model with safe_serialization"
        return f"; found {escape(others[0])}" if others else ""

    def _sharded(self) -> tuple[dict[str, SafetensorsEntry], dict[str, InputFile]]:
        index = strict_json.load_object(self.open_file(INDEX).read_all(MAX_INDEX), INDEX)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise FormatError(f"{INDEX}: weight_map: expected tensor names and their files, "
                              f"found {strict_json.type_name(weight_map)}")
        shards = sorted({_shard_name(key, value) for key, value in weight_map.items()})
        missing = [name for name in shards if not os.path.exists(self.path / name)]
        if missing:
            listed = ", ".join(escape(name) for name in missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise FormatError(f"{self.name}: {INDEX} names {len(shards)} files, {len(missing)} of them missing: {listed}")
        self._refuse_unlisted(shards)
        tensors: dict[str, SafetensorsEntry] = {}
        where: dict[str, InputFile] = {}
        for shard in shards:
            file = self.open_file(shard)
            for key, entry in read_header(file).tensors.items():
                if weight_map.get(key) != shard:
                    said = weight_map.get(key)
                    found = "nothing" if said is None else f"'{escape(said)}'"
                    raise FormatError(f"{INDEX}: {escape(key)} is in {escape(shard)}: expected the index to say so, found {found}")
                tensors[key], where[key] = entry, file
        absent = [key for key in weight_map if key not in tensors]
        if absent:
            more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
            raise FormatError(f"{escape(weight_map[absent[0]])}: expected the tensor {escape(absent[0])}, as {INDEX} says, "
                              f"found none{more}")
        self._check_total(index, sum(entry.nbytes for entry in tensors.values()))
        return tensors, where

    def _refuse_unlisted(self, shards: list[str]) -> None:
        """A shard of the same set that the index does not name."""
        counts = {match.group(1) for name in shards if (match := _SHARD.fullmatch(name))}
        for path in sorted(self.path.iterdir()):
            match = _SHARD.fullmatch(path.name)
            if match and match.group(1) in counts and path.name not in shards:
                raise FormatError(f"{self.name}: expected {INDEX} to name every shard, found {path.name} beside it")

    def _check_total(self, index: Mapping[str, Any], total: int) -> None:
        metadata = index.get("metadata")
        stated = metadata.get("total_size") if isinstance(metadata, dict) else None
        if stated is not None and stated != total:
            self.warnings.append(f"{INDEX}: total_size says {escape(stated, 40)}, the files hold {total} bytes")


def _shard_name(key: str, value: object) -> str:
    """A weight_map value that is the plain name of a file in the folder, and nothing else."""
    if (not isinstance(value, str) or not 0 < len(value) <= 255 or value in (".", "..")
            or any(character in "/\\:\0" or character < " " for character in value)):
        shown = f"'{escape(value)}'" if isinstance(value, str) else strict_json.type_name(value)
        raise FormatError(f"{INDEX}: weight_map: {escape(key)}: expected the name of a file in this folder, found {shown}")
    return value
