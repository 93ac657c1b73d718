"""A ModelConfig from what model files say themselves: GGUF's keys, and the fields of an ak42 header.

The only reader of either; the sources hand them in as mappings. Names and problems are told as config.py does. Called by
the sources and inspect.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .config import (
    MAX_DIM,
    MAX_HEADS,
    MAX_INT32,
    MAX_LAYERS,
    MAX_VOCAB,
    ModelConfig,
    check_heads,
    shortest,
    token_limit_of,
)
from .fields import Fields, show

# -- GGUF keys ---------------------------------------------------------------------------------------------------------------

GGUF_THETA = 10000.0               # llama.cpp's default where rope.freq_base is absent

# Keys of architecture "llama" that change the maths when they are there, with the values that do not.
_NEUTRAL_GGUF: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,), "expert_used_count": (0,), "expert_feed_forward_length": (0,), "expert_shared_count": (0,),
    "use_parallel_residual": (False,), "logit_scale": (0, 1), "residual_scale": (0, 1), "embedding_scale": (0, 1),
    "attn_logit_softcapping": (0,), "final_logit_softcapping": (0,), "decoder_start_token_id": (),
    "attention.causal": (True,), "attention.clamp_kqv": (0,), "attention.max_alibi_bias": (0,), "attention.scale": (0,),
    "attention.output_scale": (0, 1), "attention.temperature_scale": (0,), "attention.temperature_length": (0,),
    "attention.layer_norm_epsilon": (), "attention.sliding_window_pattern": (), "attention.chunk_size": (0,),
    "attention.kv_lora_rank": (0,), "attention.q_lora_rank": (0,), "attention.shared_kv_layers": (0,),
    "rope.dimension_sections": (), "rope.freq_base_swa": (), "rope.scaling.attn_factor": (0, 1),
    "interleave_moe_layer_step": (0,), "nextn_predict_layers": (0,), "leading_dense_block_count": (0,),
}


def config_from_gguf(metadata: Mapping[str, Any], name: str, *, embedding_rows: int | None = None,
                     shared_classifier: bool = True) -> tuple[ModelConfig, list[str]]:
    """A GGUF's keys -> config, warnings. `embedding_rows` and `shared_classifier` come from its tensors."""
    architecture = metadata.get("general.architecture")
    top = Fields(metadata, name)
    if architecture is None:
        top.absent("general.architecture")
    elif not isinstance(architecture, str):
        top.wrong("general.architecture", "a name")
    elif architecture != "llama":
        top.unsupported("general.architecture", "llama is")
    top.finish()
    prefix = "llama."
    fields = Fields({key[len(prefix):]: value for key, value in metadata.items() if key.startswith(prefix)}, name, prefix, top.log)
    for key, neutral in _NEUTRAL_GGUF.items():
        value = fields.values.get(key)
        if value is not None and value not in neutral:
            fields.unsupported(key, f"only {show(neutral[0])} is" if neutral else "it has to be absent")
    n_layers = fields.integer("block_count", 1, MAX_LAYERS)
    dim = fields.integer("embedding_length", 1, MAX_DIM)
    hidden_dim = _gguf_per_layer(fields, "feed_forward_length", MAX_DIM, n_layers)
    n_heads = _gguf_per_layer(fields, "attention.head_count", MAX_HEADS, n_layers)
    n_kv_heads = _gguf_per_layer(fields, "attention.head_count_kv", MAX_HEADS, n_layers, default=n_heads)
    trained_ctx = fields.integer("context_length", 1, MAX_INT32)
    head_dim = _gguf_head_dim(fields, dim, n_heads)
    if fields.has("rope.freq_base"):
        theta = fields.number("rope.freq_base")
    else:
        theta = GGUF_THETA
        fields.default_used("rope.freq_base", theta, "GGUF's reference reader")
    scaling, factor = _gguf_rope(fields)
    vocab_size = fields.integer("vocab_size", 1, MAX_VOCAB, default=embedding_rows or _gguf_tokens(metadata) or 1)
    window = fields.integer("attention.sliding_window", 0, MAX_INT32, default=0)
    bos, eos, pad = _gguf_special(top, metadata, token_limit_of(fields, vocab_size) if fields.has("vocab_size") else vocab_size)
    config = ModelConfig(
        architecture="llama", dim=dim, hidden_dim=hidden_dim, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads,
        head_dim=head_dim, vocab_size=vocab_size, seq_len=trained_ctx, trained_ctx=trained_ctx, rope_theta=shortest(theta),
        norm_eps=shortest(fields.number("attention.layer_norm_rms_epsilon", below=1.0)), shared_classifier=shared_classifier,
        rotary_dim=head_dim, sliding_window=window, rope_scaling=scaling, rope_factor=shortest(factor), rope_low_freq=0.0,
        rope_high_freq=0.0, rope_original_ctx=0, hf_model_type="mistral" if window else "llama",
        bos_id=bos, eos_ids=eos, pad_id=pad)
    check_heads(fields, config, ("llama.embedding_length", "attention.head_count", "attention.head_count_kv",
                                  "attention.key_length"))
    return config, fields.finish()


def _gguf_per_layer(fields: Fields, key: str, high: int, n_layers: int, default: int | None = None) -> int:
    """A size that may stand once, or once a layer: all alike, then."""
    value = fields.values.get(key)
    if not isinstance(value, list):
        return fields.integer(key, 1, high, default)
    if len(value) != n_layers:
        fields.wrong(key, f"one value, or one for each of {n_layers} layers")
        return 1
    if any(item != value[0] for item in value):
        fields.unsupported(key, "layers of one size are", value)
        return 1
    return fields.checked_integer(key, value[0], 1, high)


def _gguf_head_dim(fields: Fields, dim: int, n_heads: int) -> int:
    if fields.has("attention.key_length"):
        head_dim = fields.integer("attention.key_length", 2, MAX_DIM)
    elif dim % n_heads:
        if fields.values.get("embedding_length") == dim:
            fields.wrong("embedding_length", f"a multiple of attention.head_count ({n_heads}) where attention.key_length is absent")
        head_dim = 2
    else:
        head_dim = dim // n_heads
    for key in ("attention.value_length", "rope.dimension_count"):
        if fields.has(key) and fields.integer(key, 1, MAX_DIM) == fields.values[key] != head_dim:
            fields.unsupported(key, f"only the head's own length ({head_dim}) is")
    return head_dim


def _gguf_rope(fields: Fields) -> tuple[str, float]:
    kind = fields.values.get("rope.scaling.type")
    if kind is not None and not isinstance(kind, str):
        fields.wrong("rope.scaling.type", "a name")
        return "none", 1.0
    old = fields.number("rope.scale_linear", default=1.0)          # what rope.scaling.factor was called before
    if kind is None:
        if fields.has("rope.scaling.factor") and fields.values["rope.scaling.factor"] not in (0, 1):
            fields.absent("rope.scaling.type")
        return ("linear", old) if old != 1.0 else ("none", 1.0)
    if kind == "none":
        return "none", 1.0
    if kind != "linear":
        fields.unsupported("rope.scaling.type", "none and linear are")
        return "none", 1.0
    return "linear", fields.number("rope.scaling.factor", default=old if fields.has("rope.scale_linear") else None)


def _gguf_tokens(metadata: Mapping[str, Any]) -> int:
    tokens = metadata.get("tokenizer.ggml.tokens")
    return len(tokens) if isinstance(tokens, list) else 0


def _gguf_special(top: Fields, metadata: Mapping[str, Any], vocab_size: int) -> tuple[int, tuple[int, ...], int]:
    key = "tokenizer.ggml."
    eos: list[int] = []
    for name in ("eos_token_id", "eot_token_id", "eom_token_id"):
        token = top.token(key + name, vocab_size)
        if token >= 0 and token not in eos:
            eos.append(token)
    return (top.token(key + "bos_token_id", vocab_size), tuple(eos),
            top.token(key + "padding_token_id", vocab_size, strict=False))


# -- ak42 headers ------------------------------------------------------------------------------------------------------------

ROPE_SCALINGS = {0: "none", 1: "linear", 2: "dynamic", 3: "yarn", 4: "llama3", 5: "longrope"}     # byte 100
OLD_THETA, OLD_EPS = 10000.0, 1e-5                                                                # llama2.c's constants


def config_from_ak42(values: Mapping[str, Any], name: str) -> tuple[ModelConfig, list[str]]:
    """An ak42 header's fields (sources/ak42.py names them as format.md does) -> config, warnings.

    A header without extension has only the seven sizes and shared_classifier: the rest is llama2.c's.
    """
    fields = Fields(values, name)
    dim = fields.integer("dim", 1, MAX_DIM)
    n_heads = fields.integer("n_heads", 1, MAX_HEADS)
    if fields.has("head_dim"):
        head_dim = fields.integer("head_dim", 2, MAX_DIM)
    elif dim % n_heads:
        fields.wrong("dim", f"a multiple of n_heads ({n_heads})")
        head_dim = 2
    else:
        head_dim = dim // n_heads
    seq_len = fields.integer("seq_len", 1, MAX_INT32)
    if values.get("rotary_dim", 0) not in (0, head_dim):
        fields.unsupported("rotary_dim", f"only head_dim ({head_dim}) is")
    for key, neutral in (("activation", (0,)), ("model_flags", (0,)), ("attn_softcap", (0,)), ("final_softcap", (0,)),
                         ("embedding_scale", (0, 1)), ("residual_scale", (0, 1)), ("logit_scale", (0, 1)),
                         ("n_experts", (0,)), ("n_experts_used", (0,)), ("rope_attn_factor", (0, 1))):
        if values.get(key, 0) not in neutral:
            fields.unsupported(key, f"only {neutral[-1]} is")
    _ak42_scales(fields, head_dim)
    scaling = ROPE_SCALINGS.get(values.get("rope_scaling", 0))
    if scaling not in ("none", "linear", "llama3"):
        fields.unsupported("rope_scaling", "none, linear and llama3 are", scaling or values.get("rope_scaling"))
        scaling = "none"
    scaled, llama3 = scaling != "none", scaling == "llama3"
    vocab_size = fields.integer("vocab_size", 1, MAX_VOCAB)
    token_limit = token_limit_of(fields, vocab_size)
    window = fields.integer("sliding_window", 0, MAX_INT32, default=0)
    config = ModelConfig(
        architecture="llama", dim=dim, hidden_dim=fields.integer("hidden_dim", 1, MAX_DIM),
        n_layers=fields.integer("n_layers", 1, MAX_LAYERS), n_heads=n_heads,
        n_kv_heads=fields.integer("n_kv_heads", 1, MAX_HEADS), head_dim=head_dim, vocab_size=vocab_size, seq_len=seq_len,
        trained_ctx=fields.integer("trained_ctx", 1, MAX_INT32, default=seq_len),
        rope_theta=shortest(fields.number("rope_theta", default=OLD_THETA)),
        norm_eps=shortest(fields.number("norm_eps", default=OLD_EPS, below=1.0)),
        shared_classifier=bool(values["shared_classifier"]), rotary_dim=head_dim, sliding_window=window, rope_scaling=scaling,
        rope_factor=shortest(fields.number("rope_factor")) if scaled else 1.0,
        rope_low_freq=shortest(fields.number("rope_low_freq")) if llama3 else 0.0,
        rope_high_freq=shortest(fields.number("rope_high_freq")) if llama3 else 0.0,
        rope_original_ctx=fields.integer("rope_original_ctx", 1, MAX_INT32) if llama3 else 0,
        hf_model_type="mistral" if window else "llama", bos_id=fields.token("bos_id", token_limit),
        eos_ids=fields.tokens("eos_ids", token_limit), pad_id=fields.token("pad_id", token_limit, strict=False))
    if llama3 and not config.rope_low_freq < config.rope_high_freq:
        fields.wrong("rope_high_freq", f"a number above rope_low_freq ({config.rope_low_freq:g})")
    check_heads(fields, config, ("dim", "n_heads", "n_kv_heads", "head_dim"))
    return config, fields.finish()


def _ak42_scales(fields: Fields, head_dim: int) -> None:
    """attention_scale 0 or 1/sqrt(head_dim), rope_theta_local 0 or rope_theta: what the one supported family has."""
    scale = fields.values.get("attention_scale", 0)
    if scale and np.float32(scale) != np.float32(1 / math.sqrt(head_dim)):
        fields.unsupported("attention_scale", f"only 1/sqrt(head_dim), {1 / math.sqrt(head_dim):g}, is")
    local = fields.values.get("rope_theta_local", 0)
    if local and local != fields.values.get("rope_theta"):
        fields.unsupported("rope_theta_local", "only rope_theta's own value is")
