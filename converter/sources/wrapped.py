"""Tensors of a text model in a larger class (families.WRAPPERS), by name: which are the text's, and what it calls them itself.

Reads no file. Called by hf.py and peft_adapter.py, which have names of a checkpoint and of an adapter, and by inspect.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..families import FAMILIES, WRAPPERS, Wrapper


def wrapper_around(architecture: str) -> Wrapper | None:
    """The class that holds text models of a GGUF architecture among others; None where none is known."""
    return next((row for row in WRAPPERS if FAMILIES[row.text].gguf == architecture), None)


def part_left_out(name: str, wrapper: Wrapper) -> str | None:
    """The part of a wrapper that a tensor is of and the text has no use for: "vision_tower"; None of all other tensors."""
    begin = next((prefix for prefix in wrapper.skipped if name.startswith(prefix)), None)
    return None if begin is None else begin.removeprefix("model.").rstrip(".")


def unwrapped(name: str, wrapper: Wrapper) -> str | None:
    """A tensor's name in the text model of a wrapper; None where it is none of its."""
    return next((own + name[len(prefix):] for prefix, own in wrapper.prefixes if name.startswith(prefix)), None)


def left_out(parts: Sequence[str]) -> str:
    """Of the parts that each tensor left out is of: "3 tensors are left out: 1 of multi_modal_projector and 2 of vision_tower" """
    listed = " and ".join(f"{parts.count(part)} of {part}" for part in dict.fromkeys(parts))
    return f"{'1 tensor is' if len(parts) == 1 else f'{len(parts)} tensors are'} left out: {listed}"
