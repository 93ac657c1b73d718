"""The oracle itself: against transformers, against gguf-py's decoders, and against itself in the other rope pairing.

What the other tests trust is tested here, with no code of the project involved.
"""
from __future__ import annotations

import dataclasses

import models
import numpy as np
import oracle
import pytest

SPECS = {
    "mha": models.ModelSpec(n_kv_heads=4),
    "gqa-tied": models.ModelSpec(dim=60, n_heads=6, n_kv_heads=3, tie=True),
    "mqa": models.ModelSpec(n_kv_heads=1, norm_eps=1e-3),
    "own-head-dim": models.ModelSpec(dim=40, head_dim=16, rope_theta=500000.0),
    "linear": models.ModelSpec(rope={"rope_type": "linear", "factor": 4.0}),
    "llama3": models.ModelSpec(head_dim=16, rope=models.LLAMA3),
    "window": models.ModelSpec(family="mistral", sliding_window=11),
}


@pytest.mark.parametrize("name", SPECS)
def test_logits_are_those_of_transformers(name: str, tmp_path) -> None:
    spec = SPECS[name]
    ids = models.random_ids(3, 80, spec.vocab_size)
    model = models.transformers_model(models.make_hf_model(tmp_path / "hf", spec)).double()
    expected = models.transformers_logits(model, ids)
    found = oracle.forward(models.oracle_config(spec), models.random_tensors(spec), ids)
    # transformers keeps its rotary tables and norms in f32, so f64 weights still leave f32 noise
    assert np.abs(found - expected).max() < 2e-4
    assert expected.std() > 1


def test_both_pairings_are_one_model() -> None:
    spec = SPECS["llama3"]
    ids = models.random_ids(4, 70, spec.vocab_size)
    tensors = models.random_tensors(spec)
    turned = dict(tensors)
    for layer in range(spec.n_layers):
        for role, heads in (("q", spec.n_heads), ("k", spec.n_kv_heads)):
            name = f"model.layers.{layer}.self_attn.{role}_proj.weight"
            turned[name] = oracle.interleave_rows(tensors[name], heads)
            assert np.array_equal(oracle.split_rows(turned[name], heads), tensors[name])
            assert not np.array_equal(turned[name], tensors[name])
    config = models.oracle_config(spec)
    half = oracle.forward(config, tensors, ids)
    interleaved = oracle.forward(dataclasses.replace(config, interleaved=True), turned, ids)
    assert np.abs(half - interleaved).max() < 1e-12
    assert np.abs(half - oracle.forward(dataclasses.replace(config, interleaved=True), tensors, ids)).max() > 0.1


def test_only_distances_count() -> None:
    spec = SPECS["window"]
    ids = models.random_ids(5, 30, spec.vocab_size)
    tensors = models.random_tensors(spec)
    here = oracle.forward(models.oracle_config(spec), tensors, ids)
    there = oracle.forward(models.oracle_config(spec), tensors, ids, positions=list(range(1000, 1030)))
    assert np.abs(here - there).max() < 1e-9


def test_interleaving_a_head_by_hand() -> None:
    rows = np.arange(12)[:, None]      # two heads of six rows
    assert oracle.interleave_rows(rows, 2).ravel().tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1"])
def test_dequantised_bytes_are_those_of_gguf(name: str) -> None:
    import gguf

    kind = gguf.GGMLQuantizationType[name]
    rng = np.random.default_rng(6)
    blocks = gguf.quants.quantize(rng.standard_normal((64, 96)).astype(np.float32), kind)
    noise = rng.integers(0, 256, (64, blocks.shape[1]), dtype=np.uint8)
    decode = {"Q8_0": oracle.dequantise_q8_0, "Q4_0": oracle.dequantise_q4_0, "Q4_1": oracle.dequantise_q4_1}[name]
    for data in (blocks, noise):
        with np.errstate(invalid="ignore"):     # noise holds scales that are not finite
            expected = gguf.quants.dequantize(data, kind)
            found = decode(data.tobytes(), 96)
        finite = np.isfinite(expected)
        # gguf-py rounds to f32; Q4_1's product and sum round once each, which cancellation can magnify
        scale = np.abs(found[finite]).max()
        assert np.allclose(found[finite], expected[finite], rtol=1e-6, atol=2e-7 * scale)
        assert finite.mean() > 0.9


def test_int8_by_hand() -> None:
    matrix = np.array([[1.0, -2.0, 0.5, 127 / 64], [0, 0, 0, 0]], np.float32)
    codes, scales = oracle.quantise_int8(matrix, 4)
    step = np.float32(2) / np.float32(127)
    assert scales.tolist() == [[float(step)], [0.0]]
    assert codes.tolist() == [[64, -127, 32, 126], [0, 0, 0, 0]]       # 63.5 and 31.75; 126.0079
    assert oracle.dequantise_int8(codes, scales)[0, 1] == -127 * float(step)


def test_group_size_rule() -> None:
    assert oracle.int8_group_size(576, 576, 1536) == 64
    assert oracle.int8_group_size(64, 64, 172) == 4
    assert oracle.int8_group_size(288, 288, 768) == 32
    assert oracle.int8_group_size(64, 64, 90) == 0
