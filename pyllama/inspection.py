"""`pyllama inspect` for people: the lines that say what a file is, from the JSON that converter.inspect makes. Strings out of files
are shown with escapes: they may hold anything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from .errors import printable

# Of metadata, what a line shows of a long value.
SHOWN_CHARACTERS = 72
# Fields of the config that go without saying when they have these values.
UNSAID = {
    "rope_scaling": "none",
    "rope_factor": 1.0,
    "rope_low_freq": 0,
    "rope_high_freq": 0,
    "rope_original_ctx": 0,
    "sliding_window": 0,
}


def described(path: str, found: dict[str, Any]) -> Iterator[str]:
    version = "" if found.get("version") is None else f" v{found['version']}"
    yield f"{printable(path)}: {found['format']}{version}"
    if "problem" in found:
        yield f"problem      {printable(found['problem'])}"
    config = found.get("config")
    if config:
        yield "config       " + ", ".join(
            f"{name} {_short(value)}" for name, value in config.items() if UNSAID.get(name, ...) != value
        )
        yield f"parameters   {found['parameters']:,}"
        yield from _memory(found["memory"])
    if found["metadata"]:
        yield "metadata"
        width = min(max(map(len, found["metadata"])), 40)
        for name, value in found["metadata"].items():
            yield f"  {printable(name):<{width}}  {_short(value)}"
    yield from _tensors(found["tensors"])


def _memory(memory: dict[str, Any]) -> Iterator[str]:
    yield (
        f"memory       {_size(memory['total'])} at a context of {memory['context']:,}: "
        f"weights {_size(memory['weights'])}, cache {_size(memory['kv_cache'])} ({memory['kv_type']})"
    )


def _tensors(tensors: list[dict[str, Any]]) -> Iterator[str]:
    types = Counter(tensor["type"] for tensor in tensors)
    total = sum(tensor["bytes"] or 0 for tensor in tensors)
    counted = ", ".join(f"{count} {printable(name)}" for name, count in types.items())
    yield f"tensors      {len(tensors)} ({counted}), {_size(total)}"
    width = min(max((len(tensor["name"]) for tensor in tensors), default=0), 64)
    for tensor in tensors:
        shape = " x ".join(map(str, tensor["shape"]))
        size = "?" if tensor["bytes"] is None else f"{tensor['bytes']:,}"
        line = f"  {printable(tensor['name']):<{width}}  {printable(tensor['type']):<5} {shape:>16}  {size:>14} bytes"
        yield f"{line}  {tensor['layout']}" if "layout" in tensor else line


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 8:
        return f"{len(value)} values"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = printable(text)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text):,} characters)"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
