"""What the writers share: the job they are given, a tensor's bytes in chunks, progress, a warning.

It knows no format. Called by the other modules of this folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..chat import explain_chat
from ..crc32c import crc32c
from ..errors import UnsupportedError, escape
from ..panel import PANEL_ROWS
from ..plan import EXACT_ROLES

if TYPE_CHECKING:
    from ..arch import Piece
    from ..plan import Plan, TensorPlan

Progress = Callable[[int, int, str], None]       # bytes done, bytes in all, tensor's name

CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class Job:
    """Where and how to write; the same for every format, which takes what concerns it."""

    out: Path
    layout: str = "panel16"                      # or "rows": of ak42 v3
    strict: bool = False                         # ak42 v1, v2: llama2.c's bytes and nothing else
    force: bool = False                          # an existing OUT is replaced
    progress: Progress | None = None
    checksum: Callable[[memoryview, int], int] = crc32c      # (data, crc so far) -> crc

    @property
    def shown(self) -> str:
        """OUT's name, for messages."""
        return escape(self.out.name, 0)


class Meter:
    """Counts the bytes of tensors that have been written, for the job's progress callback."""

    def __init__(self, plan: Plan, job: Job) -> None:
        self._progress = job.progress
        self._total = plan.nbytes
        self._done = 0

    def add(self, n_bytes: int, name: str) -> None:
        self._done += n_bytes
        if self._progress is not None:
            self._progress(self._done, self._total, name)


def chunks(tensor: TensorPlan, begin: int = 0, end: int | None = None) -> Iterator[np.ndarray]:
    """Rows [begin, end) of a tensor, all where nothing is said, in order, uint8 (n, row_bytes), some megabytes at a time; every n
    but the last is a multiple of 16."""
    end = tensor.n_rows if end is None else end
    step = max(CHUNK_BYTES // tensor.row_bytes // PANEL_ROWS, 1) * PANEL_ROWS
    for first in range(begin, end, step):
        yield tensor.rows(first, min(first + step, end))


def matrices(tensor: TensorPlan) -> Iterator[tuple[int, int]]:
    """[begin, end) of the rows of each matrix that a tensor is: one, or an expert each."""
    rows = tensor.n_rows // (tensor.shape[0] if len(tensor.shape) == 3 else 1)
    for begin in range(0, tensor.n_rows, rows):
        yield begin, begin + rows


@dataclass(frozen=True)
class _Part:
    """Rows [begin, begin + count) of a plan's tensor, which are a part of some format's tensor."""

    tensor: TensorPlan
    begin: int
    count: int


def as_pieces(tensors: Iterable[TensorPlan], pieces: Mapping[str, list[Piece]], shown: str) -> list[TensorPlan]:
    """The tensors as a format cuts them, under its names: put together where it has one for several, apart where it has several
    for one. UnsupportedError where parts of one tensor differ in type."""
    parts: dict[str, list[_Part]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in tensors:
        at = 0
        for piece in pieces.get(tensor.name, ()):            # rope factors are numbers in a config.json
            parts.setdefault(piece.name, []).append(_Part(tensor, at, piece.count))
            shapes[piece.name] = piece.shape
            at += piece.count
    return [_joined(name, shapes[name], whole, shown) for name, whole in parts.items()]


def _joined(name: str, shape: tuple[int, ...], parts: list[_Part], shown: str) -> TensorPlan:
    first = parts[0].tensor
    kinds = {part.tensor.type.name for part in parts}
    if len(kinds) > 1:
        raise UnsupportedError(f"{shown}: {name}: expected one type for its parts, found {', '.join(sorted(kinds))}; say which "
                               "with --type")
    if len(parts) == 1 and parts[0].count == first.n_rows:
        return replace(first, name=name, shape=shape)
    return replace(first, name=name, shape=shape, reader=partial(_read_parts, parts))


def _read_parts(parts: list[_Part], begin: int, end: int) -> np.ndarray:
    found = []
    for part in parts:
        first, last = max(begin, 0), min(end, part.count)
        if first < last:
            found.append(part.tensor.rows(part.begin + first, part.begin + last))
        begin, end = begin - part.count, end - part.count
    return found[0] if len(found) == 1 else np.concatenate(found)


def chat_warnings(plan: Plan) -> list[str]:
    """Why a file will not have the CHAT section that its chat template suggests."""
    if plan.chat_template is None:
        return []
    _, reason = explain_chat(plan.chat_template, plan.vocab)
    return [f"the chat template has no CHAT section, which the native program needs: {reason}"] if reason else []


def main_type(plan: Plan) -> str:
    """The type that most of the matrices' weights have, layers before embedding and head."""
    weights: dict[str, int] = {}
    matrices = [tensor for tensor in plan.tensors if len(tensor.shape) > 1 and tensor.role not in EXACT_ROLES]
    inner = [tensor for tensor in matrices if tensor.name.startswith("blk.")]
    for tensor in inner or matrices:
        weights[tensor.type.name] = weights.get(tensor.type.name, 0) + tensor.n_rows * tensor.columns
    return max(weights, key=lambda name: (weights[name], name))
