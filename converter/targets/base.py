"""What the writers share: the job they are given, a tensor's bytes in chunks, progress, a warning.

It knows no format. Called by the other modules of this folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..chat import explain_chat
from ..crc32c import crc32c
from ..errors import escape
from ..panel import PANEL_ROWS

if TYPE_CHECKING:
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


def chunks(tensor: TensorPlan) -> Iterator[np.ndarray]:
    """A tensor's rows in order, uint8 (n, row_bytes), some megabytes at a time; every n but the last is a multiple of 16."""
    step = max(CHUNK_BYTES // tensor.row_bytes // PANEL_ROWS, 1) * PANEL_ROWS
    for begin in range(0, tensor.n_rows, step):
        yield tensor.rows(begin, min(begin + step, tensor.n_rows))


def chat_warnings(plan: Plan) -> list[str]:
    """Why a file will not have the CHAT section that its chat template suggests."""
    if plan.chat_template is None:
        return []
    _, reason = explain_chat(plan.chat_template, plan.vocab)
    return [f"the chat template has no CHAT section, which the native program needs: {reason}"] if reason else []


def main_type(plan: Plan) -> str:
    """The type that most of the matrices' weights have, layers before embedding and head."""
    weights: dict[str, int] = {}
    inner = [tensor for tensor in plan.tensors if len(tensor.shape) == 2 and tensor.name.startswith("blk.")]
    for tensor in inner or [tensor for tensor in plan.tensors if len(tensor.shape) == 2]:
        weights[tensor.type.name] = weights.get(tensor.type.name, 0) + tensor.n_rows * tensor.columns
    return max(weights, key=lambda name: (weights[name], name))
