"""The architectures as data: which tensors a model has, what they are called in each world, and how their rows are ordered.

A family is rows of `Role`; what its rows need beyond a copy is a named transform with its own test. Reads nothing and writes
nothing. Called by plan.py, the sources and the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from .config import ModelConfig

INTERLEAVED = "interleaved"        # rotary pairs are rows (2i, 2i+1) of a head
HALF_SPLIT = "half_split"          # rotary pairs are rows (i, i + head_dim/2) of a head


@dataclass(frozen=True)
class Role:
    """One tensor of an architecture, or one of every layer (`{}` in its names is the layer)."""

    role: str
    gguf: str
    hf: str                                # "" where Hugging Face's format has none
    shape: tuple[str, ...]                 # letters of format.md: D, H, Q = n_heads * head_dim, KV, V, R = rotary_dim / 2
    rope_heads: str = ""                   # "n_heads" or "n_kv_heads": the rows are rotated, as so many heads

    @property
    def per_layer(self) -> bool:
        return "{}" in self.gguf


@dataclass(frozen=True)
class Architecture:
    """`roles` in the file order of ak42 v3 and GGUF; `rope_gguf` is how GGUF (and ak42) orders the rows of q and k."""

    name: str                              # GGUF's word
    roles: tuple[Role, ...]
    rope_gguf: str
    rope_hf: str = HALF_SPLIT

    def tensors(self, config: ModelConfig, rope_freqs: bool = False) -> list[Tensor]:
        """Every tensor of a model in file order; the head only where it is its own, rope_freqs.weight where asked for."""
        sizes = letter_sizes(config)
        before, layer, after = _split(self.roles)
        placed = [(role, 0) for role in before]
        placed += [(role, number) for number in range(config.n_layers) for role in layer]
        placed += [(role, 0) for role in after]
        left_out = set() if rope_freqs else {"rope_freqs"}
        if config.shared_classifier:
            left_out.add("output")
        return [Tensor(role, number, tuple(sizes[letter] for letter in role.shape))
                for role, number in placed if role.role not in left_out]


@dataclass(frozen=True)
class Tensor:
    """A tensor that a model of some config has to have."""

    role: Role
    layer: int
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Its name in GGUF's vocabulary, which the whole converter speaks."""
        return self.role.gguf.format(self.layer)

    @property
    def hf_name(self) -> str:
        return self.role.hf.format(self.layer)


def letter_sizes(config: ModelConfig) -> Mapping[str, int]:
    return {"D": config.dim, "H": config.hidden_dim, "Q": config.n_heads * config.head_dim,
            "KV": config.n_kv_heads * config.head_dim, "V": config.vocab_size, "R": config.rotary_dim // 2}


def _split(roles: tuple[Role, ...]) -> tuple[list[Role], list[Role], list[Role]]:
    """Roles before, of, and after the layers."""
    first = next(i for i, role in enumerate(roles) if role.per_layer)
    last = max(i for i, role in enumerate(roles) if role.per_layer)
    return list(roles[:first]), list(roles[first : last + 1]), list(roles[last + 1 :])


LLAMA = Architecture("llama", rope_gguf=INTERLEAVED, roles=(
    Role("tok_emb", "token_embd.weight", "model.embed_tokens.weight", ("V", "D")),
    Role("rope_freqs", "rope_freqs.weight", "", ("R",)),
    Role("att_norm", "blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight", ("D",)),
    Role("wq", "blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight", ("Q", "D"), rope_heads="n_heads"),
    Role("wk", "blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight", ("KV", "D"), rope_heads="n_kv_heads"),
    Role("wv", "blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight", ("KV", "D")),
    Role("wo", "blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight", ("D", "Q")),
    Role("ffn_norm", "blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight", ("D",)),
    Role("w1", "blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight", ("H", "D")),
    Role("w3", "blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight", ("H", "D")),
    Role("w2", "blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight", ("D", "H")),
    Role("norm", "output_norm.weight", "model.norm.weight", ("D",)),
    Role("output", "output.weight", "lm_head.weight", ("V", "D")),
))

ARCHITECTURES: dict[str, Architecture] = {LLAMA.name: LLAMA}


def hf_names(config: ModelConfig) -> dict[str, str]:
    """GGUF name -> Hugging Face name, of every tensor that a checkpoint of this config holds."""
    tensors = ARCHITECTURES[config.architecture].tensors(config)
    return {tensor.name: tensor.hf_name for tensor in tensors if tensor.hf_name}


# -- the transform: rows of q and k between the two orders of rotary pairs ------------------------------------------------------


def reorder(begin: int, end: int, head_dim: int, source: str, target: str) -> np.ndarray:
    """For rows [begin, end) in the target's order: which rows of the source they are.

    A row stays within its head, so the number of heads does not matter: k's rows have n_kv_heads of them, q's n_heads.
    """
    rows = np.arange(begin, end)
    if source == target:
        return rows
    head, place = np.divmod(rows, head_dim)
    half = head_dim // 2
    if target == INTERLEAVED:
        place = place // 2 + place % 2 * half              # 2i -> i, 2i+1 -> i + half
    else:
        place = place % half * 2 + place // half           # i -> 2i, i + half -> 2i+1
    return head * head_dim + place


def reordered_rows(read: Callable[[int, int], np.ndarray], begin: int, end: int, head_dim: int, source: str,
                   target: str) -> np.ndarray:
    """Rows [begin, end) in the target's order, out of `read(begin, end)` in the source's; reads whole heads around them."""
    if source == target or begin == end:
        return read(begin, end)
    first = begin // head_dim * head_dim
    last = -(-end // head_dim) * head_dim
    return read(first, last)[reorder(begin, end, head_dim, source, target) - first]
