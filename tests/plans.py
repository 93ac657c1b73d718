"""Small plans for the tests of the writers: a config, tensors from a seed, a vocabulary that answers with fixed bytes.

It holds no test. What it makes goes straight to converter.targets, without a source or a planner between.
"""
from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from converter.config import ModelConfig
from converter.plan import Plan, SourceInfo, TensorPlan
from converter.quant import TYPES, group_size_for

CONFIG = ModelConfig(
    architecture="llama", dim=32, hidden_dim=96, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, vocab_size=11, seq_len=16,
    trained_ctx=16, rope_theta=10000.0, norm_eps=1e-5, shared_classifier=True, rotary_dim=8, sliding_window=0, rope_scaling="none",
    rope_factor=1.0, rope_low_freq=0.0, rope_high_freq=0.0, rope_original_ctx=0, hf_model_type="llama", bos_id=1, eos_ids=(2,),
    pad_id=-1)

# Small enough to be written down; 64 does not divide hidden_dim, and neither does 8: int8 groups are of 4.
GOLDEN_CONFIG = replace(CONFIG, dim=8, hidden_dim=4, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=4, vocab_size=3, seq_len=2,
                        trained_ctx=2, rotary_dim=4)


@dataclass(frozen=True)
class FakeVocab:
    """Answers as converter.tokenizer.Vocab does, with next to nothing in it."""

    kind: str = "spm"
    tokens: tuple[bytes, ...] = (b"<unk>", b"<s>", b"</s>")
    bos_id: int = 1
    eos_ids: tuple[int, ...] = (2,)
    unk_id: int = 0
    pad_id: int = -1
    gguf: dict[str, Any] = field(default_factory=lambda: {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>"],
        "tokenizer.ggml.scores": [0.0, 0.0, -1.5],
        "tokenizer.ggml.token_type": [2, 3, 3], "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.add_bos_token": True})

    def to_tokn(self) -> bytes:
        return b"tokn!"

    def to_gguf(self) -> dict[str, Any]:
        return self.gguf

    def to_tokenizer_bin(self) -> bytes:
        return b"tokenizer.bin's bytes"

    def to_tokenizer_json(self) -> dict[str, Any]:
        return {"version": "1.0"}

    def to_tokenizer_config(self) -> dict[str, Any]:
        return {"tokenizer_class": "PreTrainedTokenizerFast"}


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """GGUF name -> shape, in the file order of ak42 v3."""
    heads, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (config.vocab_size, config.dim)}
    for i in range(config.n_layers):
        layer = {"attn_norm": (config.dim,), "attn_q": (heads, config.dim), "attn_k": (kv, config.dim), "attn_v": (kv, config.dim),
                 "attn_output": (config.dim, heads), "ffn_norm": (config.dim,), "ffn_gate": (config.hidden_dim, config.dim),
                 "ffn_up": (config.hidden_dim, config.dim), "ffn_down": (config.dim, config.hidden_dim)}
        found.update({f"blk.{i}.{name}.weight": shape for name, shape in layer.items()})
    found["output_norm.weight"] = (config.dim,)
    if not config.shared_classifier:
        found["output.weight"] = (config.vocab_size, config.dim)
    return found


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes(config).items()}


def counting_weights(config: ModelConfig) -> dict[str, np.ndarray]:
    """Numbers that one can follow by eye: exact in f16, every tensor goes on where the last one ended."""
    weights, start = {}, 0
    for name, shape in shapes(config).items():
        size = int(np.prod(shape))
        weights[name] = (((np.arange(start, start + size) * 37 % 101) - 50) / 32).astype(np.float32).reshape(shape)
        start += size
    return weights


def make_plan(config: ModelConfig = CONFIG, type_name: str = "f32", weights: dict[str, np.ndarray] | None = None,
              source: Path | None = None, **changes: Any) -> Plan:
    """A plan whose matrices are all of one type. `changes` are fields of Plan."""
    weights = random_weights(config) if weights is None else weights
    group = group_size_for((config.dim, config.n_heads * config.head_dim, config.hidden_dim)) if type_name == "int8" else 0
    tensors = tuple(_tensor(name, value, type_name, group) for name, value in weights.items())
    plan = Plan(config=config, tensors=tensors, vocab=None, chat_template=None, generation_config=None,
                hf_config=config.to_hf("float32"), tensor_errors={}, options={"type": type_name},
                source=SourceInfo(name="source", format="hf", paths=() if source is None else (source,)))
    return replace(plan, **changes)


def _tensor(name: str, value: np.ndarray, type_name: str, group: int) -> TensorPlan:
    matrix = value.ndim == 2
    weight_type = TYPES[type_name if matrix else "f32"]
    group = group if matrix else 0
    rows = weight_type.encode(value.reshape(-1, value.shape[-1]), group)
    return TensorPlan(name=name, role=name, type=weight_type, shape=value.shape, group_size=group,
                      reader=lambda begin, end: rows[begin:end])


def encoded(plan: Plan, name: str) -> np.ndarray:
    """A tensor's rows as the plan gives them."""
    tensor = next(tensor for tensor in plan.tensors if tensor.name == name)
    return tensor.rows(0, tensor.n_rows)
