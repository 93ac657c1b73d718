"""The first 256 bytes of an ak42 file and the trailer at its end: fields by offset, as docs/format.md has them.

It places nothing and reads no plan: ak42.py says where the parts lie and what the sections are. Called by ak42.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..config_files import ACTIVATIONS, FLAG_EXPERTS_NORM, INCOMPAT, NORM_FLAGS, ROPE_SCALINGS
from ..crc32c import crc32c
from ..families import HALF_SPLIT

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..output import Stream

MAGIC = 0x616B3432
HEADER_BYTES = 256
EXTENSION_AT = 64
MAX_EOS = 4

# The constants of llama2.c, which a header without an extension stands for.
OLD_ROPE_THETA = 10000.0
OLD_NORM_EPS = 1e-5

@dataclass
class Placed:
    """Where a file's parts came to lie, and their checksums."""

    data_offset: int
    data_bytes: int
    crc_payload: int = 0             # v1, v2
    n_tensors: int = 0               # v3, and so are the next two
    crc_directory: int = 0
    incompat_flags: int = 0
    trailer_offset: int = 0
    trailer_bytes: int = 0
    crc_trailer: int = 0


def header_bytes(config: ModelConfig, version: int, seq_len: int, group_size: int, placed: Placed | None) -> bytes:
    """The 256 bytes; placed is None where there is no extension (--strict)."""
    head = struct.pack("<Ii7iBi", MAGIC, version, config.dim, config.hidden_dim, config.n_layers, config.n_heads, config.n_kv_heads,
                       config.vocab_size, seq_len, int(config.shared_classifier), group_size).ljust(EXTENSION_AT, b"\0")
    if placed is None:
        return head.ljust(HEADER_BYTES, b"\0")
    header = head + _extension(config, placed)
    return header + struct.pack("<I", crc32c(header))


def _extension(config: ModelConfig, placed: Placed) -> bytes:
    """Bytes 64 to 251: AKX1."""
    eos = (*config.eos_ids[:MAX_EOS], -1, -1, -1, -1)[:MAX_EOS]
    facts = config.facts
    scaling = next(code for code, name in ROPE_SCALINGS.items() if name == config.rope_scaling)
    model_flags = NORM_FLAGS[facts.norms] | FLAG_EXPERTS_NORM * config.experts_norm
    return b"".join((
        struct.pack("<4s2H2I", b"AKX1", HEADER_BYTES - EXTENSION_AT, 0, 0, placed.incompat_flags),
        struct.pack("<2f3i4B", config.rope_theta, config.norm_eps, config.head_dim, config.rotary_dim, config.sliding_window,
                    scaling, facts.rope == HALF_SPLIT, ACTIVATIONS[facts.activation], model_flags),
        struct.pack("<3fif", config.rope_factor, config.rope_low_freq, config.rope_high_freq, config.rope_original_ctx,
                    config.rope_attn_factor),
        struct.pack("<8i", config.bos_id, *eos, config.pad_id, config.n_experts, config.n_experts_used),
        struct.pack("<4fi", config.attn_softcap, config.final_softcap, _or_zero(config.embedding_scale),
                    _or_zero(config.residual_scale), config.trained_ctx),
        struct.pack("<Q2I", HEADER_BYTES if placed.n_tensors else 0, placed.n_tensors, placed.crc_directory),
        struct.pack("<5Q", placed.data_offset, placed.data_bytes, placed.trailer_offset, placed.trailer_bytes,
                    placed.trailer_offset + placed.trailer_bytes),                # file_bytes
        struct.pack("<3f2I", config.attention_scale, _or_zero(config.logit_scale), config.rope_theta_local, placed.crc_payload,
                    placed.crc_trailer),
    ))


def _or_zero(scale: float) -> float:
    """A scale as a header has it: 0 stands for 1."""
    return 0.0 if scale == 1.0 else scale


def incompat_flags(config: ModelConfig, rope_factors: bool) -> int:
    """What a reader must know to run a v3 file rightly; rope_factors: it holds rope_freqs.weight."""
    return sum(INCOMPAT[name] for name in features(config)) | (INCOMPAT["ROPE_SCALING"] if rope_factors else 0)


def features(config: ModelConfig) -> list[str]:
    """The names of the bits that a v3 file of a model has."""
    facts = config.facts
    needed = {
        "ROPE_THETA": np.float32(config.rope_theta) != np.float32(OLD_ROPE_THETA) or config.rope_theta_local != 0,
        "ROPE_SCALING": config.rope_scaling != "none" or config.rope_attn_factor != 1,
        "NORM_EPS": np.float32(config.norm_eps) != np.float32(OLD_NORM_EPS),
        "HEAD_DIM": config.head_dim * config.n_heads != config.dim,
        "QKV_BIAS": facts.qkv_bias or config.attention_bias,
        "QK_NORM": bool(facts.qk_norm),
        "SLIDING_WINDOW": config.sliding_window > 0,
        "ACTIVATION": facts.activation != "silu",
        "SOFTCAP": bool(config.attn_softcap or config.final_softcap),
        "SCALES": (config.embedding_scale, config.residual_scale, config.logit_scale, config.attention_scale) != (1, 1, 1, 0),
        "MOE": config.n_experts > 0,
        "ROPE_HALF_SPLIT": facts.rope == HALF_SPLIT,
        "PARTIAL_ROTARY": config.rotary_dim != config.head_dim,
        "MODEL_FLAGS": bool(NORM_FLAGS[facts.norms] or config.experts_norm),
        "LAYER_FLAGS": bool(config.layer_flags),
        "DIRECTORY": True,
    }
    return [name for name, bit in needed.items() if bit]


def write_trailer(stream: Stream, sections: list[tuple[str, bytes]], placed: Placed,
                  checksum: Callable[[memoryview, int], int]) -> None:
    """The sections at the next multiple of 8; says in `placed` where they lie."""
    stream.pad_to(8)
    placed.trailer_offset = stream.position
    for tag, data in sections:
        section = struct.pack("<4sIQ", tag.encode(), 0, len(data)) + data
        section += bytes(-len(section) % 8)
        stream.write(section)
        placed.crc_trailer = checksum(memoryview(section), placed.crc_trailer)
    placed.trailer_bytes = stream.position - placed.trailer_offset
