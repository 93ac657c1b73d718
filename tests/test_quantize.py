"""The C library's encoders through pyllama: the bytes of numpy's where numpy has them, and how near the searched blocks come."""

from __future__ import annotations

import numpy as np
import pytest

import converter
from converter.quant import TYPES
from pyllama.quantize import BLOCKS, TYPE_IDS, encode

SEARCHED = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")
# Of normal weights, the root of the mean square error over that of the weights, a hundredth above what was found; with llama.cpp's
# own quantiser it is 1 to 5 hundredths more (q4_k 0.4).
WORST = {"q2_k": 0.300, "q3_k": 0.154, "q4_k": 0.0753, "q5_k": 0.0373, "q6_k": 0.0193, "iq4_nl": 0.0756, "iq4_xs": 0.0763}


def weights(seed: int = 11) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((64, 1024)) * 0.02).astype(np.float32)


def test_ids_and_blocks_are_the_converter_s() -> None:
    assert {name: TYPES[name].id for name in TYPE_IDS} == TYPE_IDS
    assert {name: (TYPES[name].block_len, TYPES[name].block_bytes) for name in BLOCKS} == BLOCKS
    assert set(TYPES) - set(BLOCKS) == {"f32", "f16", "bf16", "int8", "nf4-dq"}


@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in SEARCHED])
def test_the_bytes_are_numpy_s(name: str) -> None:
    values = weights()
    values[0] = 0
    values[1, ::3] = 1.5
    values[2] = np.abs(values[2])
    values[3] *= np.float32(2.0) ** np.arange(-20, 20, 40 / 1024, dtype=np.float32).round()[:1024]
    assert np.array_equal(encode(name, values), TYPES[name].encode(values))


@pytest.mark.parametrize("name", SEARCHED)
def test_searched_blocks_are_near(name: str) -> None:
    values = weights()
    decoded = TYPES[name].decode(encode(name, values), values.shape[1])
    error = np.sqrt(np.square(decoded - values, dtype=np.float64).mean() / np.square(values, dtype=np.float64).mean())
    assert error <= WORST[name]


@pytest.mark.parametrize("name", SEARCHED)
def test_what_is_easy_is_exact(name: str) -> None:
    zeros = np.zeros((2, 512), np.float32)
    assert not TYPES[name].decode(encode(name, zeros), 512).any()
    if name not in ("iq4_nl", "iq4_xs"):
        steps = np.tile(np.array([0, 1], np.float32), (1, 256)) * np.float32(-0.5)
        assert np.abs(TYPES[name].decode(encode(name, steps), 512) - steps).max() <= 0.01


@pytest.mark.parametrize("spread", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("name", SEARCHED)
def test_weights_that_hardly_differ(name: str, spread: float) -> None:
    """Near a constant an error is at most the spread and half a step of the scale and of the min: of 63 (Q2_K: 15) for a type with
    mins, of 32 for a type without, whose scales are signed."""
    values = (1 + spread * np.random.default_rng(5).random((64, 256))).astype(np.float32)
    for constant in (1.0, -1.0, 0.02):
        weights = values * np.float32(constant)
        error = np.abs(TYPES[name].decode(encode(name, weights), 256) - weights).max() / abs(constant)
        assert error <= spread + (1 / 30 if name == "q2_k" else 1 / 63), constant


@pytest.mark.parametrize("name", SEARCHED)
def test_weights_of_every_size_are_near_or_not_finite(name: str) -> None:
    """From where a half of d is no longer a subnormal on: as near as ever, and beyond what the type holds never a wrong number."""
    values = weights() / np.float32(0.02)
    for exponent in range(-1, 38):
        scaled = values * np.float32(10.0**exponent)
        decoded = TYPES[name].decode(encode(name, scaled), scaled.shape[1])
        fits = np.isfinite(decoded)
        assert fits.all() or exponent > 5, exponent
        assert not fits.any() or exponent < 9, exponent
        assert np.abs(decoded - scaled)[fits].max(initial=0) <= 8 * WORST[name] * 10.0**exponent


@pytest.mark.parametrize("name", SEARCHED)
def test_one_weight_too_large_leaves_nothing_of_its_block(name: str) -> None:
    length = BLOCKS[name][0]
    for value in (1e10, -1e20, 3e38, np.inf, -np.inf, np.nan):
        values = weights()
        values[3, length + 5] = value
        decoded = TYPES[name].decode(encode(name, values), values.shape[1])
        block = np.zeros(values.shape, bool)
        block[3, length:2 * length] = True
        assert np.array_equal(~np.isfinite(decoded), block), value


def test_rows_do_not_know_of_each_other() -> None:
    values = weights()
    for name in SEARCHED:
        whole = encode(name, values)
        assert np.array_equal(whole, np.concatenate([encode(name, values[:7]), encode(name, values[7:])]))


def test_a_type_without_an_encoder_is_left_to_numpy() -> None:
    assert encode("f16", weights()) is None and encode("nf4-dq", weights()) is None
    assert "q4_k_m" in converter.mixes.TYPE_NAMES
