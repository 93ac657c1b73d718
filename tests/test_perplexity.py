"""Perplexity of SmolLM2 on data/english.txt: what each weight type costs, and that our arithmetic costs nothing more.

The text is cut into windows of 512 tokens, each read from an empty cache; a window's first token is not predicted. What
transformers gives for gguf-py's weights is kept, window by window, in data/perplexity.json, so that everyday runs need not compute
it; a slow test computes it anew and compares. Everyday runs read the first four windows, 2,048 tokens; slow ones the whole text.
"""
from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import texts
from gguf_reference import GgufReference

import pyllama

WINDOW = 512
EVERYDAY = pytest.mark.parametrize("windows", [4, pytest.param(None, id="all", marks=pytest.mark.slow)])
GOLDEN = Path(__file__).parent / "data" / "perplexity.json"


def token_windows(model: pyllama.Model) -> list[list[int]]:
    ids = model.encode(texts.english())
    return [ids[at:at + WINDOW] for at in range(0, len(ids), WINDOW)]


def log_loss(logits: np.ndarray, ids: list[int]) -> float:
    """Sum of -log p of every token but the first. Each exponential is a float32, right to 1e-7 of itself; sums are float64."""
    rows = logits[:-1]
    top = rows.max(axis=1)
    sums = np.exp(rows - top[:, None]).sum(axis=1, dtype=np.float64)
    return float((top - rows[np.arange(len(ids) - 1), ids[1:]] + np.log(sums)).sum())


def window_losses(path: Path, windows: int | None = None, **options: Any) -> list[float]:
    """Mean log loss of each window (or of the first few)."""
    with pyllama.Model(path, **options) as model, model.session(n_ctx=WINDOW) as session:
        losses = []
        for ids in token_windows(model)[:windows]:
            session.truncate(0)
            losses.append(log_loss(session.eval(ids, all_logits=True), ids) / (len(ids) - 1))
        return losses


def perplexity(losses: list[float], counts: list[int]) -> float:
    return math.exp(float(np.average(losses, weights=counts)))


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    values = json.loads(GOLDEN.read_text())
    found = hashlib.sha256(texts.ENGLISH_FILE.read_bytes()).hexdigest()
    assert found == values["text_sha256"], "english.txt changed: make the golden losses anew, as this file's last lines say"
    return values


@pytest.fixture(scope="module")
def fp32(smollm2_as: Callable[[str, str], Path]) -> Callable[[int | None], list[float]]:
    """fp32(4): the losses of the first windows, computed once; fp32(None): of all."""
    return functools.cache(lambda windows: window_losses(smollm2_as("f32", "ak42"), windows))


def test_the_text_is_long_enough_and_plain(golden: dict[str, Any]) -> None:
    assert sum(golden["counts"]) + len(golden["counts"]) >= 4500
    assert 10 < perplexity(golden["f32"], golden["counts"]) < 40


@EVERYDAY
def test_fp32_is_that_of_transformers(fp32: Callable[[int | None], list[float]], golden: dict[str, Any], windows: int | None) -> None:
    assert np.abs(np.array(fp32(windows)) - golden["f32"][:windows]).max() < 1e-4


@EVERYDAY
@pytest.mark.parametrize("type_name,limit", [("int8", 5e-3), ("q8_0", 5e-3), ("f16", 5e-4), ("bf16", 3e-3)])
def test_eight_and_sixteen_bits_cost_next_to_nothing(smollm2_as: Callable[[str, str], Path], fp32: Callable[[int | None], list[float]],
                                                     golden: dict[str, Any], type_name: str, limit: float, windows: int | None) -> None:
    """Eight bits less than half a percent. f16 rounds weights to 11 bits, bf16 to 8, and bf16 kernels round activations likewise."""
    counts = golden["counts"][:windows]
    found = perplexity(window_losses(smollm2_as(type_name, "ak42"), windows), counts)
    assert found == pytest.approx(perplexity(fp32(windows), counts), rel=limit)


@EVERYDAY
def test_q4_0_is_what_its_weights_give_in_transformers(smollm2_as: Callable[[str, str], Path], golden: dict[str, Any],
                                                       windows: int | None) -> None:
    counts = golden["counts"][:windows]
    found = perplexity(window_losses(smollm2_as("q4_0", "ak42"), windows), counts)
    assert found == pytest.approx(perplexity(golden["q4_0"][:windows], counts), rel=3e-3)


def test_q4_0_is_the_same_through_gguf(smollm2_as: Callable[[str, str], Path]) -> None:
    found = [window_losses(smollm2_as("q4_0", format_name), windows=1) for format_name in ("ak42", "gguf")]
    assert found[0] == found[1]


REFERENCE_TOKENS = 128


def test_reference_kernels_round_nothing(smollm2_as: Callable[[str, str], Path], golden: dict[str, Any]) -> None:
    """The first 128 tokens only, for these kernels are slow. The slow test reads the whole text."""
    found = _first_tokens(smollm2_as("q4_0", "ak42"), REFERENCE_TOKENS)
    assert math.exp(found) == pytest.approx(math.exp(golden["q4_0_first_128"]), rel=1e-3)


def _first_tokens(path: Path, n: int) -> float:
    with pyllama.Model(path, isa="reference", kv_type="f32") as model, model.session(n_ctx=n) as session:
        ids = token_windows(model)[0][:n]
        return log_loss(session.eval(ids, all_logits=True), ids) / (n - 1)


@pytest.mark.slow
def test_reference_kernels_on_the_whole_text(smollm2_as: Callable[[str, str], Path], golden: dict[str, Any]) -> None:
    """About two minutes on two cores."""
    found = window_losses(smollm2_as("q4_0", "ak42"), isa="reference", kv_type="f32")
    counts = golden["counts"]
    assert len(found) == len(counts)
    whole = perplexity(found, counts), perplexity(golden["q4_0"], counts)
    assert whole[0] == pytest.approx(whole[1], rel=1e-3), whole
    assert np.abs(np.array(found) - golden["q4_0"]).max() < 1e-4     # window by window too


@pytest.mark.slow
def test_golden_losses_are_still_those_of_transformers(smollm2_gguf: Path, golden: dict[str, Any]) -> None:
    assert_golden(transformers_golden(smollm2_gguf), golden)


def assert_golden(found: dict[str, Any], golden: dict[str, Any]) -> None:
    assert found.keys() == golden.keys()
    for key, value in found.items():
        assert golden[key] == (value if isinstance(value, str) else pytest.approx(value, abs=2e-5)), key


def transformers_golden(gguf_path: Path) -> dict[str, Any]:
    """data/perplexity.json anew: transformers on gguf-py's weights, and on what gguf-py's Q4_0 makes of them."""
    import gguf
    import torch

    reference = GgufReference(gguf_path)
    model, ids = reference.model(), reference.tokenizer()(texts.english()).input_ids
    windows = [ids[at:at + WINDOW] for at in range(0, len(ids), WINDOW)]
    values: dict[str, Any] = {"text_sha256": hashlib.sha256(texts.ENGLISH_FILE.read_bytes()).hexdigest(),
                              "counts": [len(window) - 1 for window in windows]}
    for name in ("f32", "q4_0"):
        if name == "q4_0":
            for tensor in model.parameters():
                if tensor.ndim == 2:
                    blocks = gguf.quants.quantize(tensor.numpy(), gguf.GGMLQuantizationType.Q4_0)
                    tensor.copy_(torch.from_numpy(gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_0)))
        logits = [models.transformers_logits(model, window) for window in windows[:1]]
        losses = [log_loss(logits[0], windows[0]) / (WINDOW - 1)]
        losses += [log_loss(models.transformers_logits(model, window), window) / (len(window) - 1) for window in windows[1:]]
        values[name] = losses
        values[name + "_first_128"] = log_loss(logits[0][:REFERENCE_TOKENS], windows[0][:REFERENCE_TOKENS]) / (REFERENCE_TOKENS - 1)
    return values


if __name__ == "__main__":       # python tests/test_perplexity.py SmolLM2.gguf > tests/data/perplexity.json
    import sys

    print(json.dumps(transformers_golden(Path(sys.argv[1])), indent=1))
