"""ModelConfig: what a model is, in this project's words, whatever file said it.

The only reader of config.json, which the sources hand in as a mapping; GGUF's keys and ak42's header fields are config_files.py's.
Opens no file. Every reader lists all that is absent, wrong or not supported in one message. Called by everybody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .config_family import named_family, refuse_activations, refuse_changed_maths, text_alone
from .config_layers import flags_of, read_experts, read_rotated, read_windows
from .config_rope import Sizes, llama3_factors, read_rope
from .config_text import config_to_hf
from .families import ARCHITECTURES, EXPERTS, FAMILIES, SCALES, WINDOW, Facts, Family
from .fields import LARGEST_F32, SMALLEST_F32, Fields, show


@dataclass(frozen=True)
class ModelConfig:
    """One model. Sizes have been checked; seq_len is the context that a file states, trained_ctx the truth."""

    architecture: str              # GGUF's word: "llama"
    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    seq_len: int
    trained_ctx: int
    rope_theta: float
    norm_eps: float
    shared_classifier: bool
    rotary_dim: int                # of a head, its first so many are rotated
    sliding_window: int            # of the layers that have one; 0: none has
    rope_scaling: str              # "none", "linear", "dynamic", "yarn", "llama3", "longrope"
    rope_factor: float             # 1 where unused
    rope_low_freq: float           # llama3; yarn's beta_slow; 0 where unused
    rope_high_freq: float          # llama3; yarn's beta_fast
    rope_original_ctx: int
    hf_model_type: str             # a row of families.FAMILIES: "llama"
    bos_id: int                    # -1: none
    eos_ids: tuple[int, ...]
    pad_id: int
    rope_attn_factor: float = 1.0  # cos and sin are multiplied by it
    rope_theta_local: float = 0.0  # of layers with a window, which then have no scaling; 0: they are like the others
    rope_long: tuple[float, ...] = ()          # longrope's factors (rotary_dim / 2), beyond original_ctx
    rope_short: tuple[float, ...] = ()         # and within
    layer_flags: tuple[int, ...] = ()          # families.WINDOW, NO_ROPE, EXPERTS; (): all layers are alike
    attn_softcap: float = 0.0      # 0: none
    final_softcap: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    attention_scale: float = 0.0   # 0: 1/sqrt(head_dim)
    logit_scale: float = 1.0       # logits are multiplied by it
    n_experts: int = 0
    n_experts_used: int = 0
    expert_dim: int = 0
    experts_norm: bool = False     # the weights of a token's experts are made to add up to 1
    attention_bias: bool = False   # q, k, v and attn_output have biases
    mlp_bias: bool = False         # gate, up and down have

    @property
    def facts(self) -> Facts:
        """What it has in common with all models of its architecture."""
        return ARCHITECTURES[self.architecture]

    @property
    def flags(self) -> tuple[int, ...]:
        """families.WINDOW, NO_ROPE and EXPERTS of every layer."""
        return self.layer_flags or (WINDOW * (self.sliding_window > 0) | EXPERTS * (self.n_experts > 0),) * self.n_layers

    def rope_freqs(self) -> np.ndarray | None:
        """GGUF's rope_freqs.weight: what each rotary frequency is divided by, f32 (rotary_dim / 2); None but for llama3."""
        if self.rope_scaling != "llama3":
            return None
        return llama3_factors(self).astype(np.float32)

    def to_hf(self, dtype: str) -> dict[str, Any]:
        """A config.json of the family that both generations of transformers read."""
        return config_to_hf(self, dtype)


MAX_LAYERS = 1024                  # the runtime's limits: runtime_c/core/config.h
MAX_DIM = 1 << 20
MAX_VOCAB = 1 << 24
MAX_HEADS = 1 << 14
MAX_EXPERTS = 4096
MAX_INT32 = (1 << 31) - 1

# -- what the readers of all three kinds share ----------------------------------------------------------------------------------


def token_limit_of(fields: Fields, vocab_size: int, default: int | None = None) -> int:
    """What token ids are below: no second problem where the size of the vocabulary is one itself."""
    return vocab_size if fields.values.get("vocab_size", default) == vocab_size else MAX_VOCAB


def check_heads(fields: Fields, config: ModelConfig, names: tuple[str, str, str, str]) -> None:
    """The rules between sizes, in the words of the file; only where the sizes themselves were right."""
    if fields.log.problems:
        return
    _dim, heads, kv_heads, head_dim = names
    if config.n_heads % config.n_kv_heads:
        fields.wrong(kv_heads, f"a divisor of {heads} ({config.n_heads})", config.n_kv_heads)
    if config.head_dim % 2:
        fields.wrong(head_dim, "an even number", config.head_dim)
    if config.rotary_dim % 2 or config.rotary_dim > config.head_dim:
        fields.wrong(head_dim, "an even number of rotated dimensions within it", config.rotary_dim)
    if config.n_heads * config.head_dim > MAX_DIM:
        fields.wrong(head_dim, f"{heads} times {head_dim} of at most {MAX_DIM}", config.n_heads * config.head_dim)
    for field in ("rope_attn_factor", "embedding_scale", "logit_scale"):
        if not SMALLEST_F32 < getattr(config, field) < LARGEST_F32:          # derived from several keys
            fields.log.add(f"{field}: expected a number that f32 holds, found {show(getattr(config, field))}")
    if config.rope_scaling == "yarn" and not np.float32(config.rope_theta) > 1:
        fields.wrong("rope_theta", "a number above 1 with a rope scaling of yarn", config.rope_theta)
    if config.rope_scaling == "dynamic" and config.rotary_dim < 4:
        fields.wrong(head_dim, "4 or more rotated dimensions with a rope scaling of dynamic", config.rotary_dim)


def shortest(value: float) -> float:
    """The shortest decimal that has the same f32: 9.99999974e-06, as a file of f32 says, is 1e-05."""
    return float(str(np.float32(value)))


# -- what two statements about one model have to share -----------------------------------------------------------------------

BIASES = ("attention_bias", "mlp_bias")            # keys of config.json and fields
ROPE_SCALING_FIELDS = ("rope_scaling", "rope_factor", "rope_low_freq", "rope_high_freq", "rope_original_ctx")
_SAME = ("architecture", "dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "vocab_size", "trained_ctx",
         "rope_theta", "norm_eps", "shared_classifier", "sliding_window", "rotary_dim", "rope_attn_factor", "rope_theta_local",
         "rope_long", "rope_short", "layer_flags", *SCALES, "n_experts", "n_experts_used", "expert_dim", "experts_norm",
         "attention_bias", "mlp_bias", *ROPE_SCALING_FIELDS)


def differences(stated: ModelConfig, carried: ModelConfig, ignore: tuple[str, ...] = ()) -> list[str]:
    """Fields in which the config that a file carries along differs from what the file itself says; floats count as f32."""
    found = []
    for key in _SAME:
        one, other = getattr(stated, key), getattr(carried, key)
        same = _nearly(one, other) if isinstance(one, float) else one == other
        if not same and key not in ignore:
            found.append(f"{key} {show(one)} and {show(other)}")
    return found


def _nearly(one: float, other: float) -> bool:
    """Equal as f32, or as far off as a square root and a division in f32 may be."""
    return bool(np.float32(one) == np.float32(other) or abs(one - other) <= 3e-7 * abs(one))


# -- config.json -------------------------------------------------------------------------------------------------------------


def config_from_hf(values: Mapping[str, Any], name: str = "config.json",
                   generation: Mapping[str, Any] | None = None) -> tuple[ModelConfig, list[str]]:
    """A config.json of transformers 4 or 5 (and generation_config.json's token ids, which win) -> config, warnings.

    Of a class that holds a text model among others, the text model's. FormatError or UnsupportedError lists everything that is
    absent, wrong or not supported.
    """
    values, wrapper = text_alone(values, name)
    fields = Fields(values, name if wrapper is None else f"{name}: text_config")
    family = FAMILIES[named_family(fields)]
    facts = ARCHITECTURES[family.gguf]
    refuse_activations(fields, family)
    refuse_changed_maths(fields, family.reads, (family.hf_class, family.architecture))
    dim = fields.integer("hidden_size", 1, MAX_DIM)
    n_heads = _with_default_if_any(fields, "num_attention_heads", family.n_heads, family,
                                   lambda: fields.integer("num_attention_heads", 1, MAX_HEADS))
    vocab_size = _with_default_if_any(fields, "vocab_size", family.vocab_size, family,
                                      lambda: fields.integer("vocab_size", 1, MAX_VOCAB))
    n_kv_default = n_heads
    if "num_key_value_heads" not in values and family.n_kv_heads is not None:
        n_kv_default = family.n_kv_heads
        fields.default_used("num_key_value_heads", n_kv_default, family.hf_class)
    trained_ctx = _with_default(fields, "max_position_embeddings", family.trained_ctx, family,
                                lambda: fields.integer("max_position_embeddings", 1, MAX_INT32))
    norm_eps = _with_default(fields, "rms_norm_eps", family.norm_eps, family, lambda: fields.number("rms_norm_eps", below=1.0))
    n_kv_heads = fields.integer("num_key_value_heads", 1, MAX_HEADS, default=n_kv_default)
    hidden_dim = fields.integer("intermediate_size", 1, MAX_DIM)
    n_layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
    head_dim = _hf_head_dim(fields, family, dim, n_heads)
    rope, theta_local = read_rope(fields, family, Sizes(head_dim, trained_ctx))
    experts = _hf_experts(fields, family, hidden_dim)
    rotated = read_rotated(fields, family, n_layers)
    window, windowed = read_windows(fields, family, n_layers, rotated)
    with_experts = read_experts(fields, family, n_layers, experts["n_experts"])
    if not any(with_experts):
        experts = NO_EXPERTS
    tokens = _hf_tokens(fields, generation, token_limit_of(fields, vocab_size, family.vocab_size))
    tied = family.tied if "tie_word_embeddings" not in values else fields.flag("tie_word_embeddings", False)
    config = ModelConfig(
        architecture=facts.name, dim=dim, hidden_dim=hidden_dim, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads,
        head_dim=head_dim, vocab_size=vocab_size, seq_len=trained_ctx, trained_ctx=trained_ctx, rope_theta=rope.theta,
        norm_eps=norm_eps, shared_classifier=tied, rotary_dim=rope.rotary_dim or head_dim,
        sliding_window=window, rope_scaling=rope.scaling, rope_factor=rope.factor, rope_low_freq=rope.low_freq,
        rope_high_freq=rope.high_freq, rope_original_ctx=rope.original_ctx, hf_model_type=family.model_type,
        bos_id=tokens[0], eos_ids=tokens[1], pad_id=tokens[2], rope_attn_factor=rope.attn_factor,
        rope_theta_local=theta_local if window else 0.0, rope_long=rope.long, rope_short=rope.short,
        layer_flags=flags_of(windowed, rotated, with_experts), **_hf_scales(fields, family, dim, head_dim), **experts,
        **{key: fields.flag(key, False) for key in BIASES if key in family.reads})
    check_heads(fields, config, ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"))
    return config, fields.finish()


def _with_default(fields: Fields, key: str, default: Any, family: Family, read: Callable[[], Any]) -> Any:
    if fields.has(key):
        return read()
    fields.default_used(key, default, family.hf_class)
    return default


def _with_default_if_any(fields: Fields, key: str, default: Any, family: Family, read: Callable[[], Any]) -> Any:
    """Of keys that most classes have no default for that any model is of."""
    return read() if default is None or key in fields.values else _with_default(fields, key, default, family, read)


def _hf_head_dim(fields: Fields, family: Family, dim: int, n_heads: int) -> int:
    if fields.has("head_dim"):
        return fields.integer("head_dim", 2, MAX_DIM)
    if family.head_dim is not None and "head_dim" not in fields.values:
        fields.default_used("head_dim", family.head_dim, family.hf_class)
        return family.head_dim
    if dim % n_heads:
        if fields.values.get("hidden_size") == dim and fields.values.get("num_attention_heads") == n_heads:
            fields.wrong("hidden_size", f"a multiple of num_attention_heads ({n_heads}) where head_dim is absent")
        return 2
    return dim // n_heads


# Scales and caps by key: the field, and what transformers' class has where the key is absent.
_SCALES = {"embedding_multiplier": ("embedding_scale", 1.0), "residual_multiplier": ("residual_scale", 1.0),
           "attention_multiplier": ("attention_scale", 1.0), "logits_scaling": ("logit_scale", 1.0)}
_CAPS = {"attn_logit_softcapping": ("attn_softcap", 50.0), "final_logit_softcapping": ("final_softcap", 30.0)}     # of Gemma 2


def _hf_scales(fields: Fields, family: Family, dim: int, head_dim: int) -> dict[str, float]:
    found: dict[str, float] = {}
    if ARCHITECTURES[family.gguf].embedding_sqrt:
        found["embedding_scale"] = math.sqrt(dim)
    for key, (field, default) in _SCALES.items():
        if key in family.reads:
            found[field] = _with_default(fields, key, default, family, lambda key=key: fields.number(key))
    if "logits_scaling" in family.reads:
        if found["logit_scale"] * SMALLEST_F32 >= 1:
            fields.wrong("logits_scaling", f"a number below {1 / SMALLEST_F32:g}, by which logits are divided")
        found["logit_scale"] = 1 / found["logit_scale"]
    if "query_pre_attn_scalar" in family.reads:
        scalar = _with_default(fields, "query_pre_attn_scalar", 256, family, lambda: fields.number("query_pre_attn_scalar"))
        found["attention_scale"] = 1 / math.sqrt(scalar)
    if np.float32(found.get("attention_scale", 0)) == np.float32(1 / math.sqrt(head_dim)):
        found["attention_scale"] = 0.0         # what it is where nothing is said
    for key, (field, default) in _CAPS.items():
        if key not in family.reads:
            continue
        if key not in fields.values and family.model_type == "gemma2":
            fields.default_used(key, default, family.hf_class)
            found[field] = default
        else:
            found[field] = fields.number(key, 0.0)
    return found


NO_EXPERTS: dict[str, Any] = {"n_experts": 0, "n_experts_used": 0, "expert_dim": 0, "experts_norm": False}


def _hf_experts(fields: Fields, family: Family, hidden_dim: int) -> dict[str, Any]:
    if not family.expert_keys:
        return NO_EXPERTS
    present = [key for key in family.expert_keys if fields.has(key)]
    if not present:
        fields.default_used(family.expert_keys[0], family.n_experts, family.hf_class)
    counts = {key: fields.integer(key, 0, MAX_EXPERTS) for key in present} or {family.expert_keys[0]: family.n_experts}
    if len(set(counts.values())) > 1:
        fields.log.add(" and ".join(f"{key} ({count})" for key, count in counts.items()) + " disagree")
    n_experts = next(iter(counts.values()))
    n_used = _with_default(fields, "num_experts_per_tok", family.n_experts_used, family,
                           lambda: fields.integer("num_experts_per_tok", 1, MAX_EXPERTS))
    if n_experts and n_used > n_experts:
        fields.wrong("num_experts_per_tok", f"at most {family.expert_keys[0]} ({n_experts})", n_used)
    key = family.expert_dim_key
    expert_dim = hidden_dim
    if key:
        expert_dim = _with_default(fields, key, family.expert_dim, family, lambda: fields.integer(key, 1, MAX_DIM))
    return {"n_experts": n_experts, "n_experts_used": n_used, "expert_dim": expert_dim,
            "experts_norm": family.experts_norm or fields.flag("norm_topk_prob", False)}


def _hf_tokens(fields: Fields, generation: Mapping[str, Any] | None, vocab_size: int) -> tuple[int, tuple[int, ...], int]:
    """BOS, EOS list, PAD: generation_config.json's where it has them, as transformers' generate does."""
    other = Fields(generation or {}, "generation_config.json")
    chosen = {key: other if other.has(key) else fields for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tokens = (chosen["bos_token_id"].token("bos_token_id", vocab_size),
              chosen["eos_token_id"].tokens("eos_token_id", vocab_size),
              chosen["pad_token_id"].token("pad_token_id", vocab_size, strict=False))
    for problem in other.log.problems:
        fields.log.add(f"generation_config.json: {problem}")
    fields.log.warnings.extend(other.log.warnings)
    return tokens
