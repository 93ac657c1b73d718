"""A ModelConfig as the config.json of its family, which transformers of both generations reads: rope_parameters, and rope_theta
and rope_scaling beside it.

Which keys a family has beside those that all have is families.py's; what each of them says is here. Called by config.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .config_rope import rope_to_hf
from .families import EXPERTS, FAMILIES, NO_ROPE, WINDOW

if TYPE_CHECKING:
    from .config import ModelConfig


def config_to_hf(config: ModelConfig, dtype: str) -> dict[str, Any]:
    family = FAMILIES[config.hf_model_type]
    values: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": config.hf_model_type,
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.trained_ctx,
        family.activation_key: family.activations[0],
        "rms_norm_eps": config.norm_eps,
        **_rope(config),
        "tie_word_embeddings": config.shared_classifier,
        "attention_dropout": 0.0,
        "bos_token_id": _id(config.bos_id),
        "eos_token_id": _ids(config.eos_ids),
        "pad_token_id": _id(config.pad_id),
        "torch_dtype": dtype,
        "dtype": dtype,
    }
    return values | {key: _VALUES[key](config) for key in family.writes}


def _rope(config: ModelConfig) -> dict[str, Any]:
    block = rope_to_hf(config)
    scaled = {"rope_theta": config.rope_theta, **block}
    old = {"rope_theta": config.rope_theta, "rope_scaling": block if config.rope_scaling != "none" else None}
    theta_local = FAMILIES[config.hf_model_type].theta_local
    if theta_local:
        local = {"rope_theta": config.rope_theta_local or theta_local, "rope_type": "default"}
        return {**old, "rope_parameters": {"full_attention": scaled, "sliding_attention": local}}
    if config.rotary_dim != config.head_dim:
        scaled["partial_rotary_factor"] = config.rotary_dim / config.head_dim
    return {**old, "rope_parameters": scaled}


# What a key says of a config.
_VALUES: dict[str, Callable[[ModelConfig], Any]] = {
    "attention_bias": lambda config: config.attention_bias,
    "mlp_bias": lambda config: config.mlp_bias,
    "sliding_window": lambda config: config.sliding_window or _unused_window(config),
    "use_sliding_window": lambda config: config.sliding_window > 0,
    "max_window_layers": lambda config: next((i for i, flag in enumerate(config.flags) if flag & WINDOW), config.n_layers),
    "layer_types": lambda config: ["sliding_attention" if flag & WINDOW else "full_attention" for flag in config.flags],
    "no_rope_layers": lambda config: [int(not flag & NO_ROPE) for flag in config.flags],
    "num_local_experts": lambda config: config.n_experts,
    "num_experts": lambda config: config.n_experts,
    "num_experts_per_tok": lambda config: config.n_experts_used,
    "moe_intermediate_size": lambda config: config.expert_dim,
    "norm_topk_prob": lambda config: config.experts_norm,
    "decoder_sparse_step": lambda _config: 1,
    "mlp_only_layers": lambda config: [i for i, flag in enumerate(config.flags) if not flag & EXPERTS],
    "embedding_multiplier": lambda config: config.embedding_scale,
    "residual_multiplier": lambda config: config.residual_scale,
    "attention_multiplier": lambda config: config.attention_scale or 1 / math.sqrt(config.head_dim),
    "logits_scaling": lambda config: _whole(1 / config.logit_scale),
    "query_pre_attn_scalar": lambda config: _whole(config.attention_scale ** -2) if config.attention_scale else config.head_dim,
    "attn_logit_softcapping": lambda config: config.attn_softcap or None,
    "final_logit_softcapping": lambda config: config.final_softcap or None,
    "rope_local_base_freq": lambda config: config.rope_theta_local or FAMILIES[config.hf_model_type].theta_local,
    "original_max_position_embeddings": lambda config: config.rope_original_ctx or config.trained_ctx,
    "partial_rotary_factor": lambda config: config.rotary_dim / config.head_dim,
}


def _unused_window(config: ModelConfig) -> int | None:
    """Where no layer has a window. A class that lists the layers which have one wants a number all the same."""
    return config.trained_ctx if FAMILIES[config.hf_model_type].window == "pattern" else None


def _whole(value: float) -> float:
    """What was a whole number before it was inverted is one again."""
    return round(value) if abs(value - round(value)) <= 1e-6 * abs(value) else value


def _id(token: int) -> int | None:
    return token if token >= 0 else None


def _ids(tokens: tuple[int, ...]) -> int | list[int] | None:
    if not tokens:
        return None
    return tokens[0] if len(tokens) == 1 else list(tokens)
