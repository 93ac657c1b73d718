"""How the tests of the sources look at one: how it was refused, and whether its weights are those of a seeded checkpoint.

It holds no test.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import pytest
from models import ModelSpec

from converter.arch import HALF_SPLIT, LLAMA, reordered_rows
from converter.errors import ConvertError
from converter.sources import Source, open_source


def refused(path: Path, kind: type[ConvertError] = ConvertError) -> str:
    """The one line with which a path is refused."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(kind) as caught:
        open_source(path).close()
    assert len(os.listdir("/proc/self/fd")) == before
    text = str(caught.value)
    assert "\n" not in text and text.isprintable() and text.isascii()
    return text


def values_of(source: Source, name: str) -> np.ndarray:
    """A tensor as f32 in Hugging Face's row order."""
    kind, shape, group = source.tensor(name)
    rows = shape[0] if len(shape) == 2 else 1
    read: Callable[[int, int], np.ndarray] = lambda begin, end: source.read(name, begin, end)  # noqa: E731
    if "attn_q" in name or "attn_k" in name:
        raw = reordered_rows(read, 0, rows, source.config.head_dim, source.rope_layout, HALF_SPLIT)
    else:
        raw = read(0, rows)
    return kind.decode(raw, shape[-1], group).reshape(shape)


def check_weights(source: Source, spec: ModelSpec, tolerance: float = 0.0) -> None:
    """Every tensor of the source against the spec's own, and its names against what its config asks for."""
    expected = models.random_tensors(spec)
    tensors = LLAMA.tensors(source.config)
    assert source.names() == [tensor.name for tensor in tensors]
    assert {tensor.hf_name for tensor in tensors} == set(expected)
    for tensor in tensors:
        values, found = expected[tensor.hf_name], values_of(source, tensor.name)
        assert found.shape == values.shape
        assert np.abs(found - values).max() <= tolerance * np.abs(values).max(), tensor.name
