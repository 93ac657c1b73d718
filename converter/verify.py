"""Whether a checkpoint is whole: every extent and checksum, its config, shapes, vocabulary, and that its weights are numbers.

Reads everything once, in the way a conversion would, and writes nothing. Compares with no other model. Called by users and by the
`verify` command.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .plan import Request, build_plan
from .sources import open_source

CHUNK_BYTES = 1 << 22


def verify(path: str | Path, *, progress: Callable[[int, int, str], None] | None = None) -> dict[str, Any]:
    """{"format", "tensors", "bytes", "checksums", "vocabulary", "chat_template", "warnings"} of a checkpoint that is whole.

    "checksums" says whether the format has any over its weights. Raises ConvertError with the first thing that is wrong.
    """
    source = open_source(path)
    try:
        plan = build_plan(source, Request(container="hf" if source.format == "hf" else "ak42"))
        done = 0
        for tensor in plan.tensors:
            step = max(CHUNK_BYTES // tensor.row_bytes // 16, 1) * 16
            for begin in range(0, tensor.n_rows, step):
                end = min(begin + step, tensor.n_rows)
                tensor.rows(begin, end)
                done += (end - begin) * tensor.row_bytes
                if progress is not None:
                    progress(done, plan.nbytes, tensor.name)
        return {"format": source.format, "tensors": len(plan.tensors), "bytes": plan.nbytes,
                "checksums": any([source.verify(name) for name in source.names()]),
                "vocabulary": None if plan.vocab is None else len(plan.vocab.tokens),
                "chat_template": plan.chat_template is not None, "warnings": list(source.warnings)}
    finally:
        source.close()
