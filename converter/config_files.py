"""A ModelConfig from what model files say themselves: GGUF's keys, and the fields of an ak42 header.

The only reader of either; the sources hand them in as mappings. Names and problems are told as config.py does. Called by
the sources and inspect.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .config import (
    BIASES,
    MAX_DIM,
    MAX_EXPERTS,
    MAX_HEADS,
    MAX_INT32,
    MAX_LAYERS,
    MAX_VOCAB,
    NO_EXPERTS,
    ModelConfig,
    check_heads,
    shortest,
    token_limit_of,
)
from .config_layers import flags_of
from .config_rope import YARN_BETA_FAST, YARN_BETA_SLOW, yarn_sharpening
from .errors import FormatError, UnsupportedError, escape
from .families import (
    AFTER,
    ALIASES,
    ARCHITECTURES,
    BEFORE,
    BOTH,
    EXPERTS,
    FAMILIES,
    NO_ROPE,
    NO_SCALES,
    NO_WINDOW,
    OF_GGUF,
    WINDOW,
    Facts,
    Family,
)
from .fields import Fields, show

# -- GGUF keys ---------------------------------------------------------------------------------------------------------------

GGUF_THETA = 10000.0               # llama.cpp's default where rope.freq_base is absent

# Keys that change the maths when they are there, with the values that do not; runtime_c/core/gguf_keys.c has the same.
NEUTRAL_GGUF: dict[str, tuple[Any, ...]] = {
    "expert_shared_count": (0,), "expert_group_count": (0,), "expert_group_used_count": (0,), "expert_weights_scale": (0, 1),
    "expert_gating_func": (0, 1), "router_logit_softcapping": (0,),
    "use_parallel_residual": (False,), "swin_norm": (False,),
    "attention.causal": (True,), "attention.clamp_kqv": (0,), "attention.max_alibi_bias": (0,),
    "attention.output_scale": (0, 1), "attention.value_scale": (0, 1), "attention.temperature_scale": (0,),
    "attention.temperature_length": (0,), "attention.chunk_size": (0,), "attention.key_length_swa": (0,),
    "attention.value_length_swa": (0,), "attention.kv_lora_rank": (0,), "attention.q_lora_rank": (0,),
    "attention.shared_kv_layers": (0,), "rope.dimension_sections": (0,), "rope.dimension_count_swa": (0,),
    "rope.scaling.alpha": (0,), "rope.scaling.yarn_log_multiplier": (0,),
    "interleave_moe_layer_step": (0, 1), "nextn_predict_layers": (0,), "leading_dense_block_count": (0,),
}
# And those that the runtime reads or passes over.
_NEUTRAL_HERE: dict[str, tuple[Any, ...]] = {
    "attention.layer_norm_epsilon": (), "decoder_start_token_id": (), "rope.scaling.yarn_ext_factor": (1,),
}


def config_from_gguf(metadata: Mapping[str, Any], name: str, *, embedding_rows: int | None = None, shared_classifier: bool = True,
                     shapes: Mapping[str, tuple[int, ...]] | None = None) -> tuple[ModelConfig, list[str]]:
    """A GGUF's keys -> config, warnings. `embedding_rows`, `shared_classifier` and the `shapes` by name come from its tensors."""
    top = Fields(metadata, name)
    stated = metadata.get("general.architecture")
    if stated is None:
        top.absent("general.architecture")
    elif not isinstance(stated, str):
        top.wrong("general.architecture", "a name")
    elif stated not in ARCHITECTURES and stated not in ALIASES:
        top.unsupported("general.architecture", f"{', '.join(ARCHITECTURES)} are")
    top.finish()
    facts = ARCHITECTURES[ALIASES.get(str(stated), str(stated))]
    shapes = shapes or {}
    prefix = f"{stated}."
    own = {key[len(prefix):]: value for key, value in metadata.items() if key.startswith(prefix)}
    fields = Fields(own, name, prefix, top.log)
    if "ak42.config" not in metadata:                  # our own files leave out what a model has not
        for key, default in facts.unsaid:
            if key not in fields.values:
                fields.default_used(key, default, "GGUF's reference reader")
                own[key] = default
    for key, neutral in (NEUTRAL_GGUF | _NEUTRAL_HERE).items():
        value = fields.values.get(key)
        if value is not None and value not in neutral:
            fields.unsupported(key, f"only {show(neutral[0])} is" if neutral else "it has to be absent")
    if facts.rope_switched and not fields.flag("rope.scaling.finetuned", True):
        fields.unsupported("rope.scaling.finetuned", "only true is, as false takes rope from all layers")
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
    rope = _gguf_rope(fields, trained_ctx, "rope_factors_long.weight" in shapes)
    vocab_size = fields.integer("vocab_size", 1, MAX_VOCAB, default=embedding_rows or _gguf_tokens(metadata) or 1)
    window = fields.integer("attention.sliding_window", 0, MAX_INT32, default=0)
    window = 0 if window == NO_WINDOW else window
    bos, eos, pad = _gguf_special(top, metadata, token_limit_of(fields, vocab_size) if fields.has("vocab_size") else vocab_size)
    experts = _gguf_experts(fields, facts, shapes)
    windowed, flags = _gguf_layers(fields, facts, n_layers, window, _layers_with_experts(shapes, n_layers, experts["n_experts"]))
    window = window if windowed else 0
    default_local = theta if facts.local_plain else facts.theta_local
    theta_local = fields.number("rope.freq_base_swa", default_local) if window else 0.0
    if theta_local and not default_local and theta_local != theta:
        fields.unsupported("rope.freq_base_swa", f"an architecture {facts.name} with one rope is")
    theta_local = theta_local if default_local else 0.0
    config = ModelConfig(
        architecture=facts.name, dim=dim, hidden_dim=hidden_dim, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads,
        head_dim=head_dim, vocab_size=vocab_size, seq_len=trained_ctx, trained_ctx=trained_ctx, rope_theta=shortest(theta),
        norm_eps=shortest(fields.number("attention.layer_norm_rms_epsilon", below=1.0)), shared_classifier=shared_classifier,
        rotary_dim=fields.integer("rope.dimension_count", 1, MAX_DIM, default=head_dim), sliding_window=window,
        hf_model_type=_family(facts, experts["n_experts"] > 0, window > 0).model_type,
        bos_id=bos, eos_ids=eos, pad_id=pad, rope_theta_local=shortest(theta_local), layer_flags=flags, **rope, **experts,
        **_gguf_scales(fields, facts, dim, n_heads, head_dim, n_layers))
    config = replace(config, **_biases(config.hf_model_type, shapes))
    if config.rotary_dim != head_dim and not FAMILIES[config.hf_model_type].partial_rotary:
        fields.unsupported("rope.dimension_count", f"only the head's own length ({head_dim}) is")
    check_heads(fields, config, (f"{prefix}embedding_length", "attention.head_count", "attention.head_count_kv",
                                 "attention.key_length"))
    return config, fields.finish()


def _family(facts: Facts, experts: bool, window: bool) -> Family:
    """Of the architecture's families, in their order, the one that has experts and a window where the file does."""
    families = OF_GGUF[facts.name]
    fitting = [family for family in families if bool(family.expert_keys) == experts] or families
    return next((family for family in fitting if (family.window != "none") == window), fitting[0])


def _biases(model_type: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, bool]:
    """Which biases a model has, of those that its family may have: the first layer's tensors say it."""
    tells = zip(BIASES, ("blk.0.attn_output.bias", "blk.0.ffn_gate.bias"), strict=True)
    return {key: name in shapes and key in FAMILIES[model_type].reads for key, name in tells}


def _gguf_layers(fields: Fields, facts: Facts, n_layers: int, window: int, experts: list[bool]) -> tuple[bool, tuple[int, ...]]:
    """Whether any layer has the window, and the layers' flags."""
    windowed = _gguf_pattern(fields, "attention.sliding_window_pattern", facts.full_period, n_layers)
    rotated = _gguf_pattern(fields, "attention.rope_pattern", facts.no_rope_period, n_layers)
    windowed = [window > 0 and one for one in windowed]
    return any(windowed), flags_of(windowed, rotated, experts)


def _gguf_pattern(fields: Fields, key: str, period: int, n_layers: int) -> list[bool]:
    """One bool for each layer, or a period: every n-th is false. 0: none is."""
    value = fields.values.get(key)
    if isinstance(value, list):
        if len(value) != n_layers or any(item not in (False, True) for item in value):
            fields.wrong(key, f"true or false for each of {n_layers} layers")
            return [True] * n_layers
        return [bool(item) for item in value]
    period = fields.integer(key, 0, MAX_INT32, default=period)
    return [period == 0 or (i + 1) % period != 0 for i in range(n_layers)]


# GGUF's key of each scale.
_SCALE_KEYS = {"embedding_scale": "embedding_scale", "residual_scale": "residual_scale", "attention_scale": "attention.scale",
               "logit_scale": "logit_scale", "attn_softcap": "attn_logit_softcapping", "final_softcap": "final_logit_softcapping"}


def _gguf_scales(fields: Fields, facts: Facts, dim: int, n_heads: int, head_dim: int, n_layers: int) -> dict[str, float]:
    plain = 1 / math.sqrt(head_dim)
    found = dict(NO_SCALES)
    if facts.embedding_sqrt:
        found["embedding_scale"] = math.sqrt(dim)
    if facts.wide_layers == n_layers and dim >= n_heads:
        found["attention_scale"] = 1 / math.sqrt(dim // n_heads)
    for field, key in _SCALE_KEYS.items():
        value = fields.values.get(key)
        if value is None or value == 0:                # 0 says nothing, as in the reference reader
            continue
        if field in facts.scales:
            found[field] = shortest(fields.number(key))
        elif value != NO_SCALES[field]:
            fields.unsupported(key, f"only {NO_SCALES[field]:g} is")
    if facts.logit_divisor:
        found["logit_scale"] = 1 / found["logit_scale"]
    if np.float32(found["attention_scale"]) == np.float32(plain):
        found["attention_scale"] = 0.0
    return found


def _gguf_experts(fields: Fields, facts: Facts, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    n_experts = fields.integer("expert_count", 0, MAX_EXPERTS, default=0)
    if n_experts and not facts.experts:
        fields.unsupported("expert_count", f"architecture {facts.name} has none")
    if not n_experts or not facts.experts:
        return NO_EXPERTS
    n_used = fields.integer("expert_used_count", 1, n_experts)
    gate = next((shape for name, shape in shapes.items() if name.endswith(".ffn_gate_exps.weight") and len(shape) == 3), None)
    return {"n_experts": n_experts, "n_experts_used": n_used, "expert_dim": gate[1] if gate else 0,
            "experts_norm": fields.flag("expert_weights_norm", True)}


def _layers_with_experts(shapes: Mapping[str, tuple[int, ...]], n_layers: int, n_experts: int) -> list[bool]:
    return [n_experts > 0 and (not shapes or f"blk.{i}.ffn_gate_inp.weight" in shapes) for i in range(n_layers)]


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
    key = "attention.value_length"
    if fields.has(key) and fields.integer(key, 1, MAX_DIM) == fields.values[key] != head_dim:
        fields.unsupported(key, f"only the head's own length ({head_dim}) is")
    return head_dim


def _gguf_rope(fields: Fields, trained_ctx: int, has_long_factors: bool) -> dict[str, Any]:
    """The rope_* fields of a config, but for theta; llama3's numbers are not in the file, only its factors."""
    kind = fields.values.get("rope.scaling.type")
    if kind is not None and not isinstance(kind, str):
        fields.wrong("rope.scaling.type", "a name")
        kind = None
    old = fields.number("rope.scale_linear", default=1.0)          # what rope.scaling.factor was called before
    attn_factor = 1.0
    if fields.values.get("rope.scaling.attn_factor") not in (None, 0):
        attn_factor = shortest(fields.number("rope.scaling.attn_factor"))
    if kind == "longrope" or has_long_factors:
        return _gguf_scaling("longrope", attn_factor=attn_factor,
                             original_ctx=fields.integer("rope.scaling.original_context_length", 1, MAX_INT32))
    if kind != "yarn" and attn_factor != 1:
        fields.unsupported("rope.scaling.attn_factor", "only 1 is but with yarn and longrope")
        attn_factor = 1.0
    if kind is None:
        if fields.has("rope.scaling.factor") and fields.values["rope.scaling.factor"] not in (0, 1):
            fields.absent("rope.scaling.type")
        return _gguf_scaling("linear", old) if old != 1.0 else _gguf_scaling()
    if kind == "none":
        return _gguf_scaling()
    if kind not in ("linear", "yarn"):
        fields.unsupported("rope.scaling.type", "none, linear, yarn and longrope are")
        return _gguf_scaling()
    factor = fields.number("rope.scaling.factor", default=old if fields.has("rope.scale_linear") else None)
    if kind == "linear":
        return _gguf_scaling("linear", factor)
    fast = fields.number("rope.scaling.yarn_beta_fast", YARN_BETA_FAST)
    slow = fields.number("rope.scaling.yarn_beta_slow", YARN_BETA_SLOW)
    if not slow < fast:
        fields.wrong("rope.scaling.yarn_beta_fast", f"a number above rope.scaling.yarn_beta_slow ({slow:g})", fast)
    return _gguf_scaling("yarn", factor, slow, fast,
                         fields.integer("rope.scaling.original_context_length", 1, MAX_INT32, default=trained_ctx),
                         fields.number("rope.scaling.yarn_attn_factor", yarn_sharpening(factor) * attn_factor))


def _gguf_scaling(scaling: str = "none", factor: float = 1.0, low_freq: float = 0.0, high_freq: float = 0.0, original_ctx: int = 0,
                  attn_factor: float = 1.0) -> dict[str, Any]:
    return {"rope_scaling": scaling, "rope_factor": shortest(factor), "rope_low_freq": shortest(low_freq),
            "rope_high_freq": shortest(high_freq), "rope_original_ctx": original_ctx, "rope_attn_factor": attn_factor}


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
    scaling = ROPE_SCALINGS.get(values.get("rope_scaling", 0))
    if scaling is None:
        fields.unsupported("rope_scaling", f"{', '.join(ROPE_SCALINGS.values())} are")
        scaling = "none"
    unsaid = {**NO_SCALES, "rope_attn_factor": 1.0, "rope_theta_local": 0.0}
    scales = {key: shortest(fields.number(key)) if values.get(key) else default for key, default in unsaid.items()}
    if np.float32(scales["attention_scale"]) == np.float32(1 / math.sqrt(head_dim)):
        scales["attention_scale"] = 0.0
    ranged = scaling in ("llama3", "yarn")
    with_ctx = scaling in ("llama3", "yarn", "longrope")
    vocab_size = fields.integer("vocab_size", 1, MAX_VOCAB)
    token_limit = token_limit_of(fields, vocab_size)
    window = fields.integer("sliding_window", 0, MAX_INT32, default=0)
    n_experts = fields.integer("n_experts", 0, MAX_EXPERTS, default=0)
    config = ModelConfig(
        architecture="llama", dim=dim, hidden_dim=fields.integer("hidden_dim", 1, MAX_DIM),
        n_layers=fields.integer("n_layers", 1, MAX_LAYERS), n_heads=n_heads,
        n_kv_heads=fields.integer("n_kv_heads", 1, MAX_HEADS), head_dim=head_dim, vocab_size=vocab_size, seq_len=seq_len,
        trained_ctx=fields.integer("trained_ctx", 1, MAX_INT32, default=seq_len),
        rope_theta=shortest(fields.number("rope_theta", default=OLD_THETA)),
        norm_eps=shortest(fields.number("norm_eps", default=OLD_EPS, below=1.0)),
        shared_classifier=bool(values["shared_classifier"]), rotary_dim=fields.integer("rotary_dim", 0, head_dim, 0) or head_dim,
        sliding_window=window, rope_scaling=scaling,
        rope_factor=shortest(fields.number("rope_factor")) if scaling in ("linear", "dynamic", "yarn", "llama3") else 1.0,
        rope_low_freq=shortest(fields.number("rope_low_freq")) if ranged else 0.0,
        rope_high_freq=shortest(fields.number("rope_high_freq")) if ranged else 0.0,
        rope_original_ctx=fields.integer("rope_original_ctx", 1, MAX_INT32) if with_ctx else 0,
        hf_model_type="mistral" if window else "llama", bos_id=fields.token("bos_id", token_limit),
        eos_ids=fields.tokens("eos_ids", token_limit), pad_id=fields.token("pad_id", token_limit, strict=False),
        n_experts=n_experts, n_experts_used=fields.integer("n_experts_used", 1, n_experts) if n_experts else 0,
        experts_norm=bool(n_experts and values.get("model_flags", 0) & FLAG_EXPERTS_NORM), **scales)
    if ranged and not config.rope_low_freq < config.rope_high_freq:
        fields.wrong("rope_high_freq", f"a number above rope_low_freq ({config.rope_low_freq:g})")
    check_heads(fields, config, ("dim", "n_heads", "n_kv_heads", "head_dim"))
    return config, fields.finish()


# What a header says in its own fields that every model of an architecture has alike.
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2}                      # byte 102
NORM_FLAGS = {BEFORE: 0, AFTER: 1, BOTH: 2}                               # of byte 103, model_flags
FLAG_EXPERTS_NORM = 4


def complete_ak42(config: ModelConfig, model_type: str, values: Mapping[str, Any], layers: tuple[int, ...],
                  shapes: Mapping[str, tuple[int, ...]], name: str) -> ModelConfig:
    """A v3 header's config with what else the file says: the family that section CONF names, the flags of section LAYR, an
    expert's width. FormatError where the header's fields are not that family's."""
    if model_type not in FAMILIES:
        raise UnsupportedError(f"{name}: section CONF: model_type: '{escape(model_type)}' is not supported, "
                               f"{', '.join(sorted(FAMILIES))} are")
    facts = ARCHITECTURES[FAMILIES[model_type].gguf]
    config = replace(config, **_biases(model_type, shapes))
    expected = {"activation": ACTIVATIONS[facts.activation],
                "model_flags": NORM_FLAGS[facts.norms] | FLAG_EXPERTS_NORM * config.experts_norm,
                "QKV_BIAS": facts.qkv_bias or config.attention_bias, "QK_NORM": bool(facts.qk_norm)}
    flags = values["incompat_flags"]
    found = {key: values[key] for key in ("activation", "model_flags")}
    found |= {feature: bool(flags & INCOMPAT[feature]) for feature in ("QKV_BIAS", "QK_NORM")}
    wrong = next((key for key in expected if expected[key] != found[key]), None)
    if wrong is not None:
        raise FormatError(f"{name}: header: {wrong}: expected {int(expected[wrong])} of a {model_type} model, "
                          f"found {int(found[wrong])}")
    _check_family(config, facts, name)
    gate = next((shape for key, shape in shapes.items() if key.endswith(".ffn_gate_exps.weight") and len(shape) == 3), None)
    flagged = layers or config.flags
    return replace(config, architecture=facts.name, hf_model_type=model_type, expert_dim=gate[1] if gate else 0,
                   layer_flags=flags_of([bool(flag & WINDOW) for flag in flagged], [not flag & NO_ROPE for flag in flagged],
                                        [bool(flag & EXPERTS) for flag in flagged]))


def _check_family(config: ModelConfig, facts: Facts, name: str) -> None:
    """A field that no model of the architecture has would be lost on the way to a format that has no place for it."""
    for field, default in NO_SCALES.items():
        value = getattr(config, field)
        if field == "embedding_scale" and facts.embedding_sqrt:
            if abs(value - math.sqrt(config.dim)) > 3e-7 * value:
                raise UnsupportedError(f"{name}: header: embedding_scale: {value:g} is not supported, only sqrt(dim) is")
        elif field not in facts.scales and value != default:
            raise UnsupportedError(f"{name}: header: {field}: {value:g} is not supported, only {default:g} is")
    if config.rope_attn_factor != 1 and config.rope_scaling not in ("yarn", "longrope"):
        raise UnsupportedError(f"{name}: header: rope_attn_factor: {config.rope_attn_factor:g} is not supported with rope scaling "
                               f"{config.rope_scaling}, only 1 is")
    if config.n_experts and not facts.experts:
        raise UnsupportedError(f"{name}: header: n_experts: {config.n_experts} is not supported, only 0 is")
    if config.rope_theta_local and not facts.theta_local and not facts.local_plain:
        raise UnsupportedError(f"{name}: header: rope_theta_local: {config.rope_theta_local:g} is not supported, only 0 is")


# Bits of incompat_flags.
INCOMPAT = {name: 1 << bit for bit, name in enumerate((
    "ROPE_THETA", "ROPE_SCALING", "NORM_EPS", "HEAD_DIM", "QKV_BIAS", "QK_NORM", "SLIDING_WINDOW", "ACTIVATION", "SOFTCAP",
    "SCALES", "MOE", "ROPE_HALF_SPLIT", "PARTIAL_ROTARY", "MODEL_FLAGS", "LAYER_FLAGS", "DIRECTORY"))}
