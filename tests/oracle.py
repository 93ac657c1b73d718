"""The forward pass of Llama and Mistral in float64, and what quantised bytes mean, from the papers and the formats alone.

It is slow and plain on purpose: one matrix product per line, no cache, no batching. It shares no code with the converter or
the C library; test_oracle.py compares it with transformers, and the other tests compare the project with it. Weights come as
arrays under Hugging Face's names.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]


@dataclass(frozen=True)
class OracleConfig:
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float = 10000.0
    rope: dict[str, Any] | None = None     # {"rope_type": "linear" | "llama3", ...}
    sliding_window: int | None = None      # a position sees itself and the sliding_window - 1 before it
    interleaved: bool = False              # rotation pairs (2i, 2i+1) instead of (i, i + head_dim/2)


# ---- the model ----

def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + eps) * weight, over the last axis."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rope_frequencies(head_dim: int, theta: float, rope: dict[str, Any] | None) -> np.ndarray:
    """(head_dim / 2) radians per position: theta^(-2i/head_dim), then the scaling's rule."""
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    kind = "default" if rope is None else rope.get("rope_type", rope.get("type"))
    if kind == "default":
        return frequencies
    if kind == "linear":
        return frequencies / rope["factor"]
    if kind != "llama3":
        raise ValueError(f"rope type {kind}")
    # Llama 3.1: wavelengths longer than the original context over low_freq_factor are stretched by factor, those shorter than
    # it over high_freq_factor are kept, and between the two the frequency is interpolated.
    original, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    out = []
    for frequency in frequencies:
        turns = original * frequency / (2 * math.pi)       # full turns within the original context
        if turns < low:
            out.append(frequency / rope["factor"])
        elif turns > high:
            out.append(frequency)
        else:
            share = (turns - low) / (high - low)
            out.append((1 - share) * frequency / rope["factor"] + share * frequency)
    return np.array(out)


def rotate(x: np.ndarray, positions: np.ndarray, frequencies: np.ndarray, interleaved: bool) -> np.ndarray:
    """x (n, heads, head_dim) with each pair turned by position * frequency."""
    angles = positions[:, None, None] * frequencies         # (n, 1, head_dim / 2)
    cos, sin = np.cos(angles), np.sin(angles)
    half = x.shape[-1] // 2
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    out = np.empty_like(x)
    turned = first * cos - second * sin, second * cos + first * sin
    if interleaved:
        out[..., 0::2], out[..., 1::2] = turned
    else:
        out[..., :half], out[..., half:] = turned
    return out


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, positions: np.ndarray, window: int | None) -> np.ndarray:
    """softmax(q k^T / sqrt(head_dim)) v, causal; q (n, n_heads, hd), k and v (n, n_kv_heads, hd)."""
    n, n_heads, head_dim = q.shape
    distance = positions[:, None] - positions[None, :]
    hidden = (distance < 0) | (distance >= window) if window else distance < 0
    out = np.empty((n, n_heads, head_dim))
    for head in range(n_heads):
        kv = head // (n_heads // k.shape[1])
        scores = q[:, head] @ k[:, kv].T / math.sqrt(head_dim)
        scores = np.where(hidden, -np.inf, scores)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, head] = weights / weights.sum(axis=1, keepdims=True) @ v[:, kv]
    return out.reshape(n, n_heads * head_dim)


def forward(config: OracleConfig, tensors: Tensors, ids: list[int], positions: list[int] | None = None) -> np.ndarray:
    """(len(ids), vocab_size) float64 logits. A model without lm_head.weight is tied."""
    def weight(name: str) -> np.ndarray:
        return tensors[name].astype(np.float64)

    where = np.arange(len(ids)) if positions is None else np.asarray(positions)
    frequencies = rope_frequencies(config.head_dim, config.rope_theta, config.rope)
    embedding = weight("model.embed_tokens.weight")
    x = embedding[np.asarray(ids)]
    for layer in range(config.n_layers):
        name = f"model.layers.{layer}."
        h = rms_norm(x, weight(name + "input_layernorm.weight"), config.norm_eps)
        q, k, v = ((h @ weight(name + f"self_attn.{role}_proj.weight").T).reshape(len(ids), -1, config.head_dim) for role in "qkv")
        q = rotate(q, where, frequencies, config.interleaved)
        k = rotate(k, where, frequencies, config.interleaved)
        x = x + attention(q, k, v, where, config.sliding_window) @ weight(name + "self_attn.o_proj.weight").T
        h = rms_norm(x, weight(name + "post_attention_layernorm.weight"), config.norm_eps)
        gate, up = h @ weight(name + "mlp.gate_proj.weight").T, h @ weight(name + "mlp.up_proj.weight").T
        x = x + (gate / (1 + np.exp(-gate)) * up) @ weight(name + "mlp.down_proj.weight").T
    x = rms_norm(x, weight("model.norm.weight"), config.norm_eps)
    return x @ (weight("lm_head.weight") if "lm_head.weight" in tensors else embedding).T


def interleave_rows(matrix: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of a q or k projection (n_heads heads) from pairs (i, i + hd/2) to pairs (2i, 2i+1)."""
    half = matrix.shape[0] // n_heads // 2
    order = [head * 2 * half + offset for head in range(n_heads) for i in range(half) for offset in (i, i + half)]
    return matrix[order]


def split_rows(matrix: np.ndarray, n_heads: int) -> np.ndarray:
    """The inverse of interleave_rows."""
    half = matrix.shape[0] // n_heads // 2
    order = [head * 2 * half + 2 * i + second for head in range(n_heads) for second in (0, 1) for i in range(half)]
    return matrix[order]


# ---- quantised bytes ----
# Each takes bytes of whole rows and gives float64 values: the exact real number that the bytes stand for.

def dequantise_int8(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """codes (rows, columns) int8, scales (rows, columns / group) f32: code * scale of its group."""
    group = codes.shape[1] // scales.shape[1]
    return codes.astype(np.float64) * np.repeat(scales.astype(np.float64), group, axis=1)


def dequantise_q8_0(blocks: bytes, columns: int) -> np.ndarray:
    """Blocks of 34 bytes: f16 d, 32 x i8 q. value = d q."""
    raw = np.frombuffer(blocks, np.uint8).reshape(-1, 34)
    d = raw[:, :2].copy().view("<f2").astype(np.float64)
    return (d * raw[:, 2:].view(np.int8)).reshape(-1, columns)


def dequantise_q4_0(blocks: bytes, columns: int) -> np.ndarray:
    """Blocks of 18 bytes: f16 d, 16 bytes; byte j holds value j (low nibble) and value j + 16. value = d (nibble - 8)."""
    raw = np.frombuffer(blocks, np.uint8).reshape(-1, 18)
    d = raw[:, :2].copy().view("<f2").astype(np.float64)
    return (d * (_nibbles(raw[:, 2:]) - 8.0)).reshape(-1, columns)


def dequantise_q4_1(blocks: bytes, columns: int) -> np.ndarray:
    """Blocks of 20 bytes: f16 d, f16 m, 16 bytes as in Q4_0. value = d nibble + m."""
    raw = np.frombuffer(blocks, np.uint8).reshape(-1, 20)
    d, m = (raw[:, at:at + 2].copy().view("<f2").astype(np.float64) for at in (0, 2))
    return (d * _nibbles(raw[:, 4:]) + m).reshape(-1, columns)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float64)


def int8_group_size(*row_lengths: int) -> int:
    """The largest power of two from 64 down to 4 that divides every row length; 0 where there is none."""
    return next((group for group in (64, 32, 16, 8, 4) if all(length % group == 0 for length in row_lengths)), 0)


def quantise_int8(matrix: np.ndarray, group: int) -> tuple[np.ndarray, np.ndarray]:
    """(codes, scales) of format.md's version 2 rule: s = max|w| / 127 in f32, q = w / s rounded half to even, 0 for zeros."""
    grouped = matrix.astype(np.float32).reshape(matrix.shape[0], -1, group)
    scales = np.abs(grouped).max(axis=2) / np.float32(127)
    safe = np.where(scales == 0, np.float32(1), scales)
    codes = np.rint(grouped / safe[..., None]).astype(np.int8)
    return codes.reshape(matrix.shape), scales
