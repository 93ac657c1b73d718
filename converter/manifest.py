"""The manifest of an ak42 file: where its weights come from, with which options, and what their encoding cost.

JSON with sorted keys that says nothing of clock, host or path: the same input and options give the same bytes on any machine.
Called by targets/ak42.py.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plan import Plan


def manifest(plan: Plan, target: Mapping[str, Any]) -> bytes:
    """UTF-8 JSON. `target` is what was written (format, layout); tensor errors are there once the tensors are encoded.

    Hashes the source's files when it is first asked: OutputError where they cannot be read.
    """
    errors = {name: {kind: _short(value) for kind, value in error.items()} for name, error in plan.tensor_errors.items()}
    content = {
        "tool": "ak42",
        "version": tool_version(),
        "source": {"format": plan.source.format, "files": dict(plan.source.sha256s)},
        "options": {name: _plain(value) for name, value in plan.options.items()},
        "target": dict(target),
        "tensor_errors": errors,
    }
    if plan.fallbacks:
        content["fallbacks"] = {name: {"wanted": one.wanted, "written": one.written} for name, one in plan.fallbacks.items()}
    return json_bytes(content)


def json_bytes(content: Any) -> bytes:
    """JSON as this package stores it in files for programs: sorted keys, no spaces, ASCII."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


@lru_cache(maxsize=1)
def tool_version() -> str:
    """The distribution's version, which stands in pyllama/__init__.py, read as text: this package imports nothing of pyllama."""
    try:
        text = (Path(__file__).parent.parent / "pyllama" / "__init__.py").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(r'^__version__\s*=\s*"([^"]+)"', text, re.MULTILINE)
    return found.group(1) if found else "unknown"


def _short(value: float) -> float | None:
    """Four digits: more would differ with the order in which a machine adds. JSON has no infinity."""
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    """An option's value; of a path only the name."""
    if isinstance(value, os.PathLike):
        return Path(value).name
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
