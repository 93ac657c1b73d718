"""What a GGUF file says about a model beside how it computes: its name, who made it, licence, languages, links (general.*).

Kept on the way through ak42 files (section CARD) and written back into GGUF. Texts, lists of texts and whole numbers are; what
concerns the file itself (alignment, type, quantisation) is not. Bounded, and never needed to run a model. Called by the sources,
which read it, and the targets, which write it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .manifest import json_bytes

if TYPE_CHECKING:
    from .config import ModelConfig

PREFIX = "general."
NAME, TYPE, SIZE = PREFIX + "name", PREFIX + "type", PREFIX + "size_label"
# Of the file, not of the model: written anew.
OF_THE_FILE = tuple(PREFIX + key for key in ("architecture", "alignment", "quantization_version", "file_type"))
BYTES_MAX = 1 << 16                # of all keys as JSON


def keys_of(values: Mapping[str, Any], name: str) -> tuple[dict[str, Any], list[str]]:
    """The general.* keys among others that are kept, and a warning where there are too many."""
    kept: dict[str, Any] = {}
    size = 0
    for key in sorted(values):
        value = values[key]
        if not key.startswith(PREFIX) or key in OF_THE_FILE or not _is_kept(value):
            continue
        if key in (NAME, TYPE, SIZE) and not isinstance(value, str):
            continue
        size += len(json_bytes({key: value}))
        if size > BYTES_MAX:
            return kept, [f"{name}: more than {BYTES_MAX} bytes of general.* keys: {key[:100]!a} and those behind it are left out"]
        kept[key] = value
    return kept, []


def _is_kept(value: Any) -> bool:
    """A text, a list of texts, or a number that GGUF's u32 holds."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, str) and _is_kept(item) for item in value)
    if isinstance(value, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in value)          # bytes that are no UTF-8
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32


def size_label(shapes: Iterable[tuple[int, ...]]) -> str:
    """How many weights a model has, in the words of GGUF files' names: 135M, 1.1B, at least two digits; 8x7B where three dimensions
    count experts: what one of them and all that is shared come to."""
    n_experts, count = 0, 0
    for shape in shapes:
        if len(shape) == 3:
            n_experts = shape[0]
        count += math.prod(shape[-2:])
    unit, suffix = next((one for one in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if count > one[0]), (1e3, "K"))
    digits = 0 if round(count / unit) >= 10 else 1 if round(count / unit) >= 1 else 2
    return f"{n_experts}x" * (n_experts > 0) + f"{count / unit:.{digits}f}{suffix}"


def default_name(config: ModelConfig, hf_config: Mapping[str, Any] | None) -> str:
    """What a model is called that nobody has named; no folder or machine has a part in it."""
    given = hf_config.get("_name_or_path") if hf_config else None
    last = given.rstrip("/").rsplit("/", 1)[-1] if isinstance(given, str) else ""
    return last or f"{config.hf_model_type} {config.dim}x{config.n_layers}"
