"""Which config a file's rope_freqs.weight comes from: the llama3 numbers that give exactly these factors, if there are any.

A file states the factors alone, a config.json states the four numbers behind them; to go from the first to the second they have
to be recovered, and a guess would be a model that runs wrongly. Called by gguf.py and ak42.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..config import ModelConfig

# low_freq_factor, high_freq_factor, original_max_position_embeddings of every Llama 3.1, 3.2 and 3.3; the factor is 8 or 32,
# and stands in the tensor itself.
STANDARD = ((1.0, 4.0, 8192),)


def explain(stated: ModelConfig, carried: ModelConfig | None, factors: np.ndarray | None) -> tuple[ModelConfig, bool]:
    """The config with its rope scaling recovered, and whether the factors are foreign: unexplained, to be taken as they are.

    `stated` is what the file's own fields say, `carried` the config text it brings along (None: none).
    """
    if factors is None:
        return stated, False
    candidates = []
    if carried is not None and carried.rope_scaling == "llama3":
        candidates.append(_as_llama3(stated, carried.rope_factor, carried.rope_low_freq, carried.rope_high_freq,
                                     carried.rope_original_ctx))
    if stated.rope_scaling == "llama3":
        candidates.append(stated)
    elif carried is None:
        factor = float(factors.max())
        candidates += [_as_llama3(stated, factor, *numbers) for numbers in STANDARD if factor > 1]
    if stated.rope_scaling == "none":
        candidates.append(stated)              # factors of 1 throughout are no scaling
    for candidate in candidates:
        if reproduces(candidate, factors):
            return candidate, False
    return replace(stated, rope_scaling="none", rope_factor=1.0, rope_low_freq=0.0, rope_high_freq=0.0, rope_original_ctx=0), True


def with_long_factors(stated: ModelConfig, read: Callable[[str], np.ndarray]) -> ModelConfig:
    """The config with longrope's factors, which stand in two tensors; `read` gives a tensor's values."""
    if stated.rope_scaling != "longrope":
        return stated
    long, short = (tuple(float(value) for value in read(f"rope_factors_{which}.weight")) for which in ("long", "short"))
    return replace(stated, rope_long=long, rope_short=short)


def reproduces(config: ModelConfig, factors: np.ndarray) -> bool:
    """Whether the config's factors are these, bit for bit, in f64 rounded once, or in f32 as the reference writers compute them.

    An f32 power function may be wrong in its last bit, and the reciprocal after it doubles that: each frequency counts with the
    two neighbours on either side.
    """
    expected = config.rope_freqs()
    if expected is None:
        return bool((factors == 1).all())
    matched = expected == factors
    frequencies = _frequencies_f32(config)
    for last_bits in (-2, -1, 0, 1, 2):
        nudged = (frequencies.view(np.int32) + np.int32(last_bits)).view(np.float32)
        matched |= _factors_f32(config, nudged) == factors
    return bool(matched.all())


def _as_llama3(config: ModelConfig, factor: float, low: float, high: float, original_ctx: int) -> ModelConfig:
    return replace(config, rope_scaling="llama3", rope_factor=factor, rope_low_freq=low, rope_high_freq=high,
                   rope_original_ctx=original_ctx)


def _frequencies_f32(config: ModelConfig) -> np.ndarray:
    exponents = np.arange(0, config.rotary_dim, 2, dtype=np.float32) / np.float32(config.rotary_dim)
    powers = np.power(np.float64(config.rope_theta), exponents.astype(np.float64)).astype(np.float32)
    return np.float32(1) / powers


def _factors_f32(config: ModelConfig, frequencies: np.ndarray) -> np.ndarray:
    """The same formula as ModelConfig.rope_freqs, every step rounded to f32; a number over an array is torch's reciprocal first."""
    one = np.float32(1)
    wavelengths = one / frequencies * np.float32(2 * math.pi)
    turns = one / wavelengths * np.float32(config.rope_original_ctx)
    low, high, factor = (np.float32(value) for value in (config.rope_low_freq, config.rope_high_freq, config.rope_factor))
    blend = (turns - low) / (high - low)
    with np.errstate(divide="ignore"):                          # outside of what is blended
        blended = one / ((one - blend) / factor + blend)
    longest, shortest = (np.float32(config.rope_original_ctx / value) for value in (config.rope_low_freq, config.rope_high_freq))
    return np.where(wavelengths < shortest, one, np.where(wavelengths > longest, factor, blended))
