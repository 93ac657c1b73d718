"""The tensors of a model as data: what they are for, what they are called in each world, how their rows are ordered and cut.

A tensor is a row of `ROLES`, the same for every architecture; an architecture adds how Hugging Face's format spells some of them
and which of them its files hold as one. A transform is a named function with its own test. Reads nothing and writes nothing.
Called by plan.py, the sources and the targets.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .config import ModelConfig
from .families import AFTER, BEFORE, EXPERTS, HALF_SPLIT, INTERLEAVED, Facts
from .families import ARCHITECTURES as FACTS

__all__ = ["ARCHITECTURES", "HALF_SPLIT", "INTERLEAVED", "LLAMA", "Architecture", "Piece", "Role", "Tensor", "gguf_pieces",
           "hf_names", "hf_pieces", "letter_sizes", "reorder", "reordered_rows", "reordered_vector"]


@dataclass(frozen=True)
class Role:
    """One tensor of a model, or one of every layer (`{}` in its names is the layer)."""

    role: str
    gguf: str
    hf: str                                # "" where Hugging Face's format has none; of experts, with the expert's number as `{e}`
    shape: tuple[str, ...]                 # letters of format.md: D, H, Q = n_heads * head_dim, KV, V, R = rotary_dim / 2, ...
    rope_heads: str = ""                   # "n_heads" or "n_kv_heads": the rows (a vector's weights) are rotated, as so many heads
    need: str = ""                         # a rule of _NEEDS that says which models, and which layers, have it
    norm: bool = False                     # the weight of a norm
    exact: bool = False                    # it stays f32 whatever type the matrices get

    @property
    def per_layer(self) -> bool:
        return "{}" in self.gguf


def _norms_before(config: ModelConfig, _layer: int) -> bool:
    return config.facts.norms != AFTER


def _norms_after(config: ModelConfig, _layer: int) -> bool:
    return config.facts.norms != BEFORE


def _is_expert_layer(config: ModelConfig, layer: int) -> bool:
    return bool(config.flags[layer] & EXPERTS)


_NEEDS: dict[str, Callable[[ModelConfig, int], bool]] = {
    "": lambda _config, _layer: True,
    "norms_before": _norms_before,
    "norms_after": _norms_after,
    "qkv_bias": lambda config, _layer: config.facts.qkv_bias or config.attention_bias,
    "out_bias": lambda config, _layer: config.attention_bias,
    "mlp_bias": lambda config, layer: config.mlp_bias and not _is_expert_layer(config, layer),
    "qk_norm": lambda config, _layer: bool(config.facts.qk_norm),
    "dense": lambda config, layer: not _is_expert_layer(config, layer),
    "experts": _is_expert_layer,
    "longrope": lambda config, _layer: config.rope_scaling == "longrope",
    "head": lambda config, _layer: not config.shared_classifier,
}

# In the file order of ak42 v3 and GGUF. Hugging Face's names are Llama's, where it has one.
ROLES = (
    Role("tok_emb", "token_embd.weight", "model.embed_tokens.weight", ("V", "D")),
    Role("rope_freqs", "rope_freqs.weight", "", ("R",)),
    Role("rope_long", "rope_factors_long.weight", "", ("R",), need="longrope"),
    Role("rope_short", "rope_factors_short.weight", "", ("R",), need="longrope"),
    Role("att_norm", "blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight", ("D",), need="norms_before", norm=True),
    Role("wq", "blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight", ("Q", "D"), rope_heads="n_heads"),
    Role("wk", "blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight", ("KV", "D"), rope_heads="n_kv_heads"),
    Role("wv", "blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight", ("KV", "D")),
    Role("bq", "blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias", ("Q",), need="qkv_bias", rope_heads="n_heads"),
    Role("bk", "blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias", ("KV",), need="qkv_bias",
         rope_heads="n_kv_heads"),
    Role("bv", "blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias", ("KV",), need="qkv_bias"),
    Role("q_norm", "blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight", ("QN",), need="qk_norm", norm=True),
    Role("k_norm", "blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight", ("KN",), need="qk_norm", norm=True),
    Role("wo", "blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight", ("D", "Q")),
    Role("bo", "blk.{}.attn_output.bias", "model.layers.{}.self_attn.o_proj.bias", ("D",), need="out_bias"),
    Role("att_post_norm", "blk.{}.post_attention_norm.weight", "model.layers.{}.post_attention_layernorm.weight", ("D",),
         need="norms_after", norm=True),
    Role("ffn_norm", "blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight", ("D",), need="norms_before",
         norm=True),
    Role("w1", "blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight", ("H", "D"), need="dense"),
    Role("w3", "blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight", ("H", "D"), need="dense"),
    Role("w2", "blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight", ("D", "H"), need="dense"),
    Role("b1", "blk.{}.ffn_gate.bias", "model.layers.{}.mlp.gate_proj.bias", ("H",), need="mlp_bias"),
    Role("b3", "blk.{}.ffn_up.bias", "model.layers.{}.mlp.up_proj.bias", ("H",), need="mlp_bias"),
    Role("b2", "blk.{}.ffn_down.bias", "model.layers.{}.mlp.down_proj.bias", ("D",), need="mlp_bias"),
    Role("router", "blk.{}.ffn_gate_inp.weight", "model.layers.{}.mlp.gate.weight", ("E", "D"), need="experts", exact=True),
    Role("experts_w1", "blk.{}.ffn_gate_exps.weight", "model.layers.{}.mlp.experts.{e}.gate_proj.weight", ("E", "HE", "D"),
         need="experts"),
    Role("experts_w3", "blk.{}.ffn_up_exps.weight", "model.layers.{}.mlp.experts.{e}.up_proj.weight", ("E", "HE", "D"),
         need="experts"),
    Role("experts_w2", "blk.{}.ffn_down_exps.weight", "model.layers.{}.mlp.experts.{e}.down_proj.weight", ("E", "D", "HE"),
         need="experts"),
    Role("ffn_post_norm", "blk.{}.post_ffw_norm.weight", "model.layers.{}.post_feedforward_layernorm.weight", ("D",),
         need="norms_after", norm=True),
    Role("norm", "output_norm.weight", "model.norm.weight", ("D",), norm=True),
    Role("output", "output.weight", "lm_head.weight", ("V", "D"), need="head"),
)


@dataclass(frozen=True)
class Fused:
    """Tensors that stand one below another as one, in some format."""

    gguf: str
    hf: str
    roles: tuple[str, ...]


_FUSED = (
    Fused("blk.{}.attn_qkv.weight", "model.layers.{}.self_attn.qkv_proj.weight", ("wq", "wk", "wv")),
    Fused("blk.{}.ffn_up.weight", "model.layers.{}.mlp.gate_up_proj.weight", ("w1", "w3")),
)
# What a GGUF file of any architecture may have as one: llama.cpp's converter joins them when asked to.
_JOINED = (_FUSED[0], Fused("blk.{}.attn_qkv.bias", "", ("bq", "bk", "bv")))


# What transformers 5 may save in place of single experts: a tensor of all, each with its roles' rows one below another.
_STACKED = (("model.layers.{}.mlp.experts.gate_up_proj", ("experts_w1", "experts_w3")),
            ("model.layers.{}.mlp.experts.down_proj", ("experts_w2",)))


@dataclass(frozen=True)
class Architecture:
    """The tensors of an architecture. `spelled` is how a family spells a role that others spell differently, by model_type; under
    "" for all families of it."""

    facts: Facts
    spelled: Mapping[str, Mapping[str, str]]

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def rope_gguf(self) -> str:
        """How GGUF (and ak42) orders the rows of q and k."""
        return self.facts.rope

    @property
    def rope_hf(self) -> str:
        return HALF_SPLIT

    def tensors(self, config: ModelConfig, rope_freqs: bool = False) -> list[Tensor]:
        """Every tensor of a model in file order; the head only where it is its own, rope_freqs.weight where asked for."""
        sizes = letter_sizes(config)
        spelled = self.spelled.get("", {}) | self.spelled.get(config.hf_model_type, {})
        return [Tensor(role, number, tuple(sizes[letter] for letter in role.shape), spelled.get(role.role, role.hf))
                for role, number in _placed(config.n_layers)
                if _NEEDS[role.need](config, number) and (rope_freqs or role.role != "rope_freqs")]


@dataclass(frozen=True)
class Tensor:
    """A tensor that a model of some config has to have. Of three dimensions, the first counts experts."""

    role: Role
    layer: int
    shape: tuple[int, ...]
    hf: str                                # how its family spells it

    @property
    def name(self) -> str:
        """Its name in GGUF's vocabulary, which the whole converter speaks."""
        return self.role.gguf.format(self.layer)

    @property
    def hf_name(self) -> str:
        """Hugging Face's; of experts, that of the first."""
        return self.hf.format(self.layer, e=0)

    @property
    def n_rows(self) -> int:
        """Rows of all its experts; a vector is one row."""
        return int(np.prod(self.shape[:-1], dtype=np.int64))


def letter_sizes(config: ModelConfig) -> Mapping[str, int]:
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    whole = config.facts.qk_norm == "row"
    return {"D": config.dim, "H": config.hidden_dim, "Q": queries, "KV": keys, "V": config.vocab_size, "R": config.rotary_dim // 2,
            "QN": queries if whole else config.head_dim, "KN": keys if whole else config.head_dim, "E": config.n_experts,
            "HE": config.expert_dim}


def _placed(n_layers: int) -> Iterator[tuple[Role, int]]:
    """Roles before, of, and after the layers, in file order, each with its layer."""
    first = next(i for i, role in enumerate(ROLES) if role.per_layer)
    last = max(i for i, role in enumerate(ROLES) if role.per_layer)
    yield from ((role, 0) for role in ROLES[:first])
    yield from ((role, number) for number in range(n_layers) for role in ROLES[first : last + 1])
    yield from ((role, 0) for role in ROLES[last + 1 :])


_BOTH_NORMS = {"": {"ffn_norm": "model.layers.{}.pre_feedforward_layernorm.weight"}}
_MIXTRAL = {"mixtral": {
    "router": "model.layers.{}.block_sparse_moe.gate.weight",
    "experts_w1": "model.layers.{}.block_sparse_moe.experts.{e}.w1.weight",
    "experts_w3": "model.layers.{}.block_sparse_moe.experts.{e}.w3.weight",
    "experts_w2": "model.layers.{}.block_sparse_moe.experts.{e}.w2.weight",
}}
_SPELLED: dict[str, Mapping[str, Mapping[str, str]]] = {"llama": _MIXTRAL, "gemma2": _BOTH_NORMS, "gemma3": _BOTH_NORMS}

ARCHITECTURES: dict[str, Architecture] = {name: Architecture(facts, _SPELLED.get(name, {})) for name, facts in FACTS.items()}
LLAMA = ARCHITECTURES["llama"]


def hf_names(config: ModelConfig) -> dict[str, str]:
    """GGUF name -> Hugging Face name, of every tensor that a checkpoint of this config holds; of experts, the first one's."""
    tensors = ARCHITECTURES[config.architecture].tensors(config)
    return {tensor.name: tensor.hf_name for tensor in tensors if tensor.hf_name}


# -- pieces: how a format cuts the tensors ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Some rows of a tensor as a format has them: rows [begin, begin + count) of the tensor `name` there."""

    name: str
    begin: int
    count: int
    shape: tuple[int, ...]                 # of the whole tensor there


def hf_pieces(config: ModelConfig, present: Container[str] = ()) -> dict[str, list[Piece]]:
    """GGUF name -> the pieces that make up the tensor in Hugging Face's format, in order: one an expert, or part of a fused one.

    `present` are the names in a checkpoint, where experts may stand as transformers 5 has them in memory.
    """
    found = {}
    fused = _fused_pieces(config, _FUSED, lambda one: one.hf) if config.facts.fused else {}
    for tensor in ARCHITECTURES[config.architecture].tensors(config):
        if tensor.name in fused:
            found[tensor.name] = [fused[tensor.name]]
        elif len(tensor.shape) == 3:
            found[tensor.name] = _expert_pieces(tensor, present)
        elif tensor.hf:
            plain = tensor.role.hf.format(tensor.layer)
            as_in_memory = tensor.role.need == "experts" and tensor.hf_name not in present and plain in present
            found[tensor.name] = [Piece(plain if as_in_memory else tensor.hf_name, 0, tensor.n_rows, tensor.shape)]
    return found


def _expert_pieces(tensor: Tensor, present: Container[str]) -> list[Piece]:
    """One an expert: a matrix of its own, or rows of the stacked tensor where that is present."""
    n_experts, rows, columns = tensor.shape
    stacked, roles = next(one for one in _STACKED if tensor.role.role in one[1])
    name = stacked.format(tensor.layer)
    if name not in present:
        return [Piece(tensor.hf.format(tensor.layer, e=e), 0, rows, (rows, columns)) for e in range(n_experts)]
    height, first = rows * len(roles), rows * roles.index(tensor.role.role)
    return [Piece(name, e * height + first, rows, (n_experts, height, columns)) for e in range(n_experts)]


def gguf_pieces(config: ModelConfig, rope_freqs: bool = False, present: Container[str] = ()) -> dict[str, Piece]:
    """Name -> the piece of a GGUF file's tensor that it is; all of one, but where the architecture's files have fused ones, or
    where this file, whose tensors' names are `present`, has."""
    table, wanted = (_FUSED, None) if config.facts.fused else (_JOINED, present)
    fused = _fused_pieces(config, table, lambda one: one.gguf, wanted)
    return {tensor.name: fused.get(tensor.name) or Piece(tensor.name, 0, tensor.n_rows, tensor.shape)
            for tensor in ARCHITECTURES[config.architecture].tensors(config, rope_freqs)}


def _fused_pieces(config: ModelConfig, table: tuple[Fused, ...], spelled: Callable[[Fused], str],
                  wanted: Container[str] | None = None) -> dict[str, Piece]:
    """Name -> its place in a fused tensor, of those that are wanted. Of a vector it counts weights, not rows."""
    sizes = letter_sizes(config)
    roles = {role.role: role for role in ROLES}
    found = {}
    for one in table:
        shapes = [tuple(sizes[letter] for letter in roles[role].shape) for role in one.roles]
        rows = sum(shape[0] for shape in shapes)
        for name, layer in ((spelled(one).format(layer), layer) for layer in range(config.n_layers)):
            if wanted is not None and name not in wanted:
                continue
            begin = 0
            for role, shape in zip(one.roles, shapes, strict=True):
                found[roles[role].gguf.format(layer)] = Piece(name, begin, shape[0], (rows, *shape[1:]))
                begin += shape[0]
    return found


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


def reordered_vector(row: np.ndarray, columns: int, head_dim: int, source: str, target: str) -> np.ndarray:
    """The bias of such rows, uint8 (1, bytes): each of its weights stands where its row does."""
    if source == target:
        return row
    return row.reshape(columns, -1)[reorder(0, columns, head_dim, source, target)].reshape(row.shape)
