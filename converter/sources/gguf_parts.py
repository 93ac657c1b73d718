"""A GGUF model in one file or in several (NAME-00001-of-0000N.gguf): the keys of the first, the tensors of all.

Any part's name opens all of them; a part that is missing, or is of another model, is named. No model semantics. Called by
gguf.py, inspect.py and vocabulary.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import FormatError, escape
from .gguf_file import GgufFile, GgufTensor, read_gguf
from .input_file import InputFile

MAX_PARTS = 65535                  # split.count is a u16
_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True)
class GgufParts:
    """The open files of a model in their order; `where`: tensor name -> its file. `close` releases them."""

    version: int
    metadata: Mapping[str, Any]
    tensors: tuple[GgufTensor, ...]
    where: Mapping[str, InputFile]
    files: tuple[InputFile, ...]

    def close(self) -> None:
        for file in self.files:
            file.close()


def open_gguf(path: Path, *, unknown_types: bool = False, all_parts: bool = True) -> GgufParts:
    """Opens the file, or all the files that it is a part of; the first alone, which has the keys, without `all_parts`."""
    opened: list[InputFile] = []
    try:
        return _open(path, opened, unknown_types, all_parts)
    except BaseException:
        for file in opened:
            file.close()
        raise


def _open(path: Path, opened: list[InputFile], unknown_types: bool, all_parts: bool) -> GgufParts:
    file = InputFile(path)
    opened.append(file)
    gguf = read_gguf(file, unknown_types=unknown_types)
    number, count = _split(file, gguf)
    if count == 1:
        return _joined([(file, gguf)])
    match = _NAME.fullmatch(path.name)
    if match is None or (int(match.group(2)), int(match.group(3))) != (number + 1, count):
        raise FormatError(f"{file.name}: part {number + 1} of {count}: expected a name that ends in "
                          f"-{number + 1:05d}-of-{count:05d}.gguf, found another")
    wanted = range(count if all_parts else 1)
    names = [f"{match.group(1)}-{part + 1:05d}-of-{count:05d}.gguf" for part in wanted]
    missing = [name for name in names if not os.path.exists(path.parent / name)]
    if missing:
        listed = ", ".join(escape(name, 0) for name in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise FormatError(f"{file.name}: part {number + 1} of {count}: {len(missing)} of the parts missing: {listed}")
    parts = [(file, gguf) if part == number else _part(path.parent / name, part, count, opened, unknown_types)
             for part, name in zip(wanted, names, strict=True)]
    stated, found = parts[0][1].metadata.get("split.tensors.count"), sum(len(gguf.tensors) for _file, gguf in parts)
    if all_parts and isinstance(stated, int) and stated not in (0, found):
        raise FormatError(f"{parts[0][0].name}: split.tensors.count: expected the {found} tensors of all parts, found {stated}")
    if not all_parts and number:
        opened[0].close()
    return _joined(parts)


def _part(path: Path, number: int, count: int, opened: list[InputFile], unknown_types: bool) -> tuple[InputFile, GgufFile]:
    file = InputFile(path)
    opened.append(file)
    gguf = read_gguf(file, unknown_types=unknown_types)
    found = _split(file, gguf)
    if found != (number, count):
        raise FormatError(f"{file.name}: expected part {number + 1} of {count}, found part {found[0] + 1} of {found[1]}")
    return file, gguf


def _split(file: InputFile, gguf: GgufFile) -> tuple[int, int]:
    """Which part a file is, from 0, and of how many."""
    number, count = gguf.metadata.get("split.no", 0), gguf.metadata.get("split.count", 1)
    for value in (number, count):
        if isinstance(value, bool) or not isinstance(value, int):
            raise FormatError(f"{file.name}: split.no, split.count: expected small integers, found other values")
    if not 1 <= count <= MAX_PARTS or not 0 <= number < count:
        raise FormatError(f"{file.name}: split.no, split.count: expected a part of up to {MAX_PARTS}, found part {number + 1} of "
                          f"{count}")
    return number, count


def _joined(parts: list[tuple[InputFile, GgufFile]]) -> GgufParts:
    where: dict[str, InputFile] = {}
    for file, gguf in parts:
        for tensor in gguf.tensors:
            if tensor.name in where:
                raise FormatError(f"{file.name}: the tensor '{escape(tensor.name)}' stands in {where[tensor.name].name} too")
            where[tensor.name] = file
    first = parts[0][1]
    return GgufParts(first.version, first.metadata, tuple(tensor for _file, gguf in parts for tensor in gguf.tensors), where,
                     tuple(file for file, _gguf in parts))
