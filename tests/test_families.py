"""Every family against transformers' own class: logits in f32 from a folder, from our model.bin and from our GGUF, prefill and
decode; the same bits whatever the threads and chunks; folders that come back.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import families
import models
import numpy as np
import pytest
from families import FAMILIES, NO_GGUF, FamilySpec

import converter
import pyllama

PROMPT = 73                            # tokens: past the windows and the original contexts
MAX_DIFF, MEAN_DIFF = 1e-3, 1e-4       # of f32 logits


@dataclass
class Case:
    """A family's tiny model: its folder, a prompt, transformers' logits, and the files made of it so far."""

    spec: FamilySpec
    folder: Path
    ids: list[int]
    expected: np.ndarray
    files: dict[tuple[str, ...], Path] = field(default_factory=dict)

    def file(self, format_name: str, type_name: str = "keep", layout: str = "panel16") -> Path:
        key = format_name, type_name, layout
        if key not in self.files:
            out = self.folder.parent / ("-".join(key) + (".gguf" if format_name == "gguf" else ".bin"))
            converter.convert(self.folder, out, format=format_name, type=type_name, layout=layout)
            self.files[key] = out
        return self.files[key]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Case]]:
    cases: dict[str, Case] = {}

    def get(name: str) -> Case:
        if name not in cases:
            spec = FAMILIES[name]
            model = families.build(spec)
            folder = tmp_path_factory.mktemp(name) / "hf"
            model.save_pretrained(folder)
            ids = models.random_ids(spec.seed, PROMPT, model.config.vocab_size)
            cases[name] = Case(spec, folder, ids, models.transformers_logits(model, ids))
        return cases[name]

    yield get


def evaluate(path: Path, ids: list[int], chunks: int | None = None, n_ctx: int | None = None, **options: Any) -> np.ndarray:
    """(len(ids), vocab_size) logits of a fresh session, the prompt cut into pieces of `chunks` tokens."""
    with pyllama.Model(path, **options) as model, model.session(n_ctx=n_ctx or len(ids)) as session:
        step = chunks or len(ids)
        return np.concatenate([session.eval(ids[at:at + step], all_logits=True) for at in range(0, len(ids), step)])


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32 and found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.max() <= MAX_DIFF and difference.mean() <= MEAN_DIFF, (difference.max(), difference.mean())


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(case: Callable[[str], Case], name: str) -> None:
    made = case(name)
    assert made.expected.std() > 0.5                               # a model that says nothing would agree with anything
    path = made.file("ak42-v3")
    prefill = evaluate(path, made.ids)
    assert_close(prefill, made.expected)
    assert np.array_equal(evaluate(path, made.ids, chunks=1), prefill)                  # decode


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in NO_GGUF])
def test_a_gguf_gives_the_same_bits(case: Callable[[str], Case], name: str) -> None:
    made = case(name)
    path = made.file("gguf")
    found = evaluate(path, made.ids)
    assert_close(found, made.expected)
    assert np.array_equal(found, evaluate(made.file("ak42-v3"), made.ids))
    with pyllama.Model(path) as model:
        assert model.info.architecture == made.spec.gguf
