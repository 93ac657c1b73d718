"""ModelConfig: what a model is, in this project's words, whatever file said it.

The only reader of config.json, which the sources hand in as a mapping; GGUF's keys and ak42's header fields are config_files.py's.
Opens no file. Every reader lists all that is absent, wrong or not supported in one message. Called by everybody.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .errors import escape
from .fields import Fields, show


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
    rotary_dim: int                # = head_dim here
    sliding_window: int            # 0: none
    rope_scaling: str              # "none", "linear", "llama3"
    rope_factor: float             # 1 where unused
    rope_low_freq: float           # 0 where unused
    rope_high_freq: float
    rope_original_ctx: int
    hf_model_type: str             # "llama" or "mistral"
    bos_id: int                    # -1: none
    eos_ids: tuple[int, ...]
    pad_id: int

    def rope_freqs(self) -> np.ndarray | None:
        """GGUF's rope_freqs.weight: what each rotary frequency is divided by, f32 (rotary_dim / 2); None but for llama3."""
        if self.rope_scaling != "llama3":
            return None
        return llama3_factors(self).astype(np.float32)

    def to_hf(self, dtype: str) -> dict[str, Any]:
        """A config.json that both generations of transformers read: rope_parameters, and rope_theta and rope_scaling beside it."""
        rope = self._hf_rope()
        config: dict[str, Any] = {
            "architectures": ["MistralForCausalLM" if self.hf_model_type == "mistral" else "LlamaForCausalLM"],
            "model_type": self.hf_model_type,
            "hidden_size": self.dim,
            "intermediate_size": self.hidden_dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.trained_ctx,
            "hidden_act": "silu",
            "rms_norm_eps": self.norm_eps,
            "rope_theta": self.rope_theta,
            "rope_scaling": rope if self.rope_scaling != "none" else None,
            "rope_parameters": {"rope_theta": self.rope_theta, **rope},
            "tie_word_embeddings": self.shared_classifier,
            "attention_dropout": 0.0,
            "bos_token_id": _hf_id(self.bos_id),
            "eos_token_id": _hf_ids(self.eos_ids),
            "pad_token_id": _hf_id(self.pad_id),
            "torch_dtype": dtype,
            "dtype": dtype,
        }
        if self.hf_model_type == "mistral":
            config["sliding_window"] = self.sliding_window or None
        else:
            config["attention_bias"] = False
            config["mlp_bias"] = False
        return config

    def _hf_rope(self) -> dict[str, Any]:
        if self.rope_scaling == "linear":
            return {"rope_type": "linear", "factor": self.rope_factor}
        if self.rope_scaling == "llama3":
            return {"rope_type": "llama3", "factor": self.rope_factor, "low_freq_factor": self.rope_low_freq,
                    "high_freq_factor": self.rope_high_freq, "original_max_position_embeddings": self.rope_original_ctx}
        return {"rope_type": "default"}


def _hf_id(token: int) -> int | None:
    return token if token >= 0 else None


def _hf_ids(tokens: tuple[int, ...]) -> int | list[int] | None:
    if not tokens:
        return None
    return tokens[0] if len(tokens) == 1 else list(tokens)


def llama3_factors(config: ModelConfig) -> np.ndarray:
    """f64 (rotary_dim / 2): wavelengths far below original_ctx are kept, far above it stretched by rope_factor, between blended."""
    exponents = np.arange(0, config.rotary_dim, 2, dtype=np.float64) / config.rotary_dim
    wavelengths = 2 * math.pi * np.float64(config.rope_theta) ** exponents
    turns = config.rope_original_ctx / wavelengths              # of each pair within the original context
    blend = (turns - config.rope_low_freq) / (config.rope_high_freq - config.rope_low_freq)
    with np.errstate(divide="ignore"):                          # outside of what is blended
        blended = 1 / ((1 - blend) / config.rope_factor + blend)
    return np.where(turns > config.rope_high_freq, 1.0, np.where(turns < config.rope_low_freq, config.rope_factor, blended))


MAX_LAYERS = 1024                  # the runtime's limits: runtime_c/core/config.h
MAX_DIM = 1 << 20
MAX_VOCAB = 1 << 24
MAX_HEADS = 1 << 14
MAX_INT32 = (1 << 31) - 1

# -- what the readers of all three kinds share ----------------------------------------------------------------------------------


def token_limit_of(fields: Fields, vocab_size: int) -> int:
    """What token ids are below: no second problem where the size of the vocabulary is one itself."""
    return vocab_size if fields.values.get("vocab_size") == vocab_size else MAX_VOCAB


def check_heads(fields: Fields, config: ModelConfig, names: tuple[str, str, str, str]) -> None:
    """The rules between sizes, in the words of the file; only where the sizes themselves were right."""
    if fields.log.problems:
        return
    _dim, heads, kv_heads, head_dim = names
    if config.n_heads % config.n_kv_heads:
        fields.wrong(kv_heads, f"a divisor of {heads} ({config.n_heads})", config.n_kv_heads)
    if config.head_dim % 2:
        fields.wrong(head_dim, "an even number", config.head_dim)
    if config.n_heads * config.head_dim > MAX_DIM:
        fields.wrong(head_dim, f"{heads} times {head_dim} of at most {MAX_DIM}", config.n_heads * config.head_dim)


def shortest(value: float) -> float:
    """The shortest decimal that has the same f32: 9.99999974e-06, as a file of f32 says, is 1e-05."""
    return float(str(np.float32(value)))


# -- what two statements about one model have to share -----------------------------------------------------------------------

ROPE_SCALING_FIELDS = ("rope_scaling", "rope_factor", "rope_low_freq", "rope_high_freq", "rope_original_ctx")
_SAME = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "vocab_size", "trained_ctx", "rope_theta",
         "norm_eps", "shared_classifier", "sliding_window", *ROPE_SCALING_FIELDS)


def differences(stated: ModelConfig, carried: ModelConfig, ignore: tuple[str, ...] = ()) -> list[str]:
    """Fields in which the config that a file carries along differs from what the file itself says; floats count as f32."""
    found = []
    for key in _SAME:
        one, other = getattr(stated, key), getattr(carried, key)
        same = np.float32(one) == np.float32(other) if isinstance(one, float) else one == other
        if not same and key not in ignore:
            found.append(f"{key} {show(one)} and {show(other)}")
    return found


# -- config.json -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FamilyDefaults:
    """What transformers' config class of a family documents for keys that a config.json leaves out."""

    hf_class: str
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    trained_ctx: int = 2048
    n_kv_heads: int | None = None          # None: n_heads
    sliding_window: int = 0
    windowed: bool = False                 # whether the family has a sliding window at all


FAMILIES: dict[str, FamilyDefaults] = {
    "llama": FamilyDefaults("LlamaConfig"),
    "mistral": FamilyDefaults("MistralConfig", trained_ctx=131072, n_kv_heads=8, sliding_window=4096, windowed=True),
}
ARCHITECTURES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral"}
SUPPORTED = "LlamaForCausalLM and MistralForCausalLM are"

# Keys that change the maths in some family, and the values that leave it as it is here (absent and null always do).
_NEUTRAL_HF: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",), "hidden_activation": ("silu",), "activation_function": ("silu",),
    "attention_bias": (False,), "mlp_bias": (False,), "qkv_bias": (False,), "use_bias": (False,), "use_qkv_bias": (False,),
    "attention_out_bias": (False,), "lm_head_bias": (False,),
    "pretraining_tp": (1,), "partial_rotary_factor": (1,), "rotary_pct": (1,), "rope_interleave": (False,),
    "rope_interleaved": (False,), "rope_local_base_freq": (), "no_rope_layers": ([],), "no_rope_layer_interval": (),
    "layer_norm_type": (), "use_parallel_residual": (False,), "parallel_attn": (False,), "alibi": (False,),
    "use_qk_norm": (False,), "qk_norm": (False,), "qk_layernorm": (False,), "clip_qkv": (),
    "attn_logit_softcapping": (), "final_logit_softcapping": (), "query_pre_attn_scalar": (), "attention_multiplier": (),
    "attention_scale": (), "logit_scale": (1,), "logits_scaling": (1,), "embedding_multiplier": (1,),
    "residual_multiplier": (1,), "scale_emb": (1,), "scale_depth": (), "dim_model_base": (),
    "num_local_experts": (0, 1), "num_experts": (0, 1), "n_routed_experts": (0, 1), "num_experts_per_tok": (0, 1),
    "moe_intermediate_size": (), "per_layer_config": ({},), "is_encoder_decoder": (False,), "add_cross_attention": (False,),
    "cross_attention_layers": ([],), "pruned_heads": ({},), "quantization_config": ({},), "compression_config": ({},),
    "auto_map": ({},), "attention_chunk_size": (), "norm_type": ("rmsnorm",), "multi_query": (False,),
}

_REMEDIES = {
    "quantization_config": "convert the checkpoint from before its quantisation",
    "compression_config": "convert the checkpoint from before its compression",
    "auto_map": "code that comes with a model is never run",
}

# The keys of a rope block, by its type: those it needs. Beside them `_ROPE_IDLE` may stand.
_ROPE_KEYS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
_ROPE_IDLE = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings")


@dataclass(frozen=True)
class Rope:
    """The rope part of a ModelConfig."""

    theta: float
    scaling: str = "none"
    factor: float = 1.0
    low_freq: float = 0.0
    high_freq: float = 0.0
    original_ctx: int = 0


def config_from_hf(values: Mapping[str, Any], name: str = "config.json",
                   generation: Mapping[str, Any] | None = None) -> tuple[ModelConfig, list[str]]:
    """A config.json of transformers 4 or 5 (and generation_config.json's token ids, which win) -> config, warnings.

    FormatError or UnsupportedError lists everything that is absent, wrong or not supported.
    """
    fields = Fields(values, name)
    family = _hf_family(fields)
    defaults = FAMILIES[family]
    _refuse_changed_maths(fields, family)
    dim = fields.integer("hidden_size", 1, MAX_DIM)
    n_heads = fields.integer("num_attention_heads", 1, MAX_HEADS)
    vocab_size = fields.integer("vocab_size", 1, MAX_VOCAB)
    n_kv_default = n_heads
    if "num_key_value_heads" not in values and defaults.n_kv_heads is not None:
        n_kv_default = defaults.n_kv_heads
        fields.default_used("num_key_value_heads", n_kv_default, defaults.hf_class)
    trained_ctx = _with_default(fields, "max_position_embeddings", defaults.trained_ctx, defaults,
                                lambda: fields.integer("max_position_embeddings", 1, MAX_INT32))
    norm_eps = _with_default(fields, "rms_norm_eps", defaults.norm_eps, defaults, lambda: fields.number("rms_norm_eps", below=1.0))
    n_kv_heads = fields.integer("num_key_value_heads", 1, MAX_HEADS, default=n_kv_default)
    hidden_dim = fields.integer("intermediate_size", 1, MAX_DIM)
    n_layers = fields.integer("num_hidden_layers", 1, MAX_LAYERS)
    head_dim = _hf_head_dim(fields, dim, n_heads)
    rope = _hf_rope(fields, defaults)
    window = _hf_window(fields, family, defaults)
    tokens = _hf_tokens(fields, generation, token_limit_of(fields, vocab_size))
    config = ModelConfig(
        architecture="llama", dim=dim, hidden_dim=hidden_dim, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads,
        head_dim=head_dim, vocab_size=vocab_size, seq_len=trained_ctx, trained_ctx=trained_ctx, rope_theta=rope.theta,
        norm_eps=norm_eps, shared_classifier=fields.flag("tie_word_embeddings", False), rotary_dim=head_dim,
        sliding_window=window, rope_scaling=rope.scaling, rope_factor=rope.factor, rope_low_freq=rope.low_freq,
        rope_high_freq=rope.high_freq, rope_original_ctx=rope.original_ctx, hf_model_type=family,
        bos_id=tokens[0], eos_ids=tokens[1], pad_id=tokens[2])
    check_heads(fields, config, ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim"))
    return config, fields.finish()


def _hf_family(fields: Fields) -> str:
    """The family that `architectures` and `model_type` name; "llama" as a stand-in after a problem."""
    listed, model_type = fields.values.get("architectures"), fields.values.get("model_type")
    if listed is None and model_type is None:
        fields.absent("architectures", " (and so is model_type)")
        return "llama"
    named = None
    if listed is not None:
        if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], str):
            fields.wrong("architectures", "an array of one name")
        elif listed[0] not in ARCHITECTURES:
            fields.unsupported("architectures", SUPPORTED, listed[0])
        else:
            named = ARCHITECTURES[listed[0]]
    if model_type is not None:
        if not isinstance(model_type, str):
            fields.wrong("model_type", "a name")
        elif model_type not in FAMILIES:
            fields.unsupported("model_type", "llama and mistral are")
        elif named is not None and named != model_type:
            fields.log.add(f"architectures and model_type disagree: {show(listed[0])} and {show(model_type)}")
        else:
            named = model_type
    return named or "llama"


def _refuse_changed_maths(fields: Fields, family: str) -> None:
    for key, neutral in _NEUTRAL_HF.items():
        value = fields.values.get(key)
        if value is None or any(value == fine and isinstance(value, bool) == isinstance(fine, bool) for fine in neutral):
            continue
        plain = neutral and not isinstance(neutral[0], (dict, list))
        fields.unsupported(key, f"only {show(neutral[0])} is" if plain else _REMEDIES.get(key, "it has to be absent"))
    layer_types = fields.values.get("layer_types")
    if layer_types is not None:
        # an array of kinds, one a layer: fine where it says what the family does anyway
        windowed = FAMILIES[family].windowed and fields.values.get("sliding_window", 1) is not None
        kind = "sliding_attention" if windowed else "full_attention"
        if not isinstance(layer_types, list) or any(item != kind for item in layer_types):
            other = next((item for item in layer_types if item != kind), None) if isinstance(layer_types, list) else layer_types
            fields.unsupported("layer_types", f"only '{kind}' for every layer is", other)


def _with_default(fields: Fields, key: str, default: Any, family: FamilyDefaults, read: Callable[[], Any]) -> Any:
    if fields.has(key):
        return read()
    fields.default_used(key, default, family.hf_class)
    return default


def _hf_head_dim(fields: Fields, dim: int, n_heads: int) -> int:
    if fields.has("head_dim"):
        return fields.integer("head_dim", 2, MAX_DIM)
    if dim % n_heads:
        if fields.values.get("hidden_size") == dim and fields.values.get("num_attention_heads") == n_heads:
            fields.wrong("hidden_size", f"a multiple of num_attention_heads ({n_heads}) where head_dim is absent")
        return 2
    return dim // n_heads


def _hf_window(fields: Fields, family: str, defaults: FamilyDefaults) -> int:
    if not defaults.windowed:
        if fields.has("sliding_window") and fields.values.get("use_sliding_window") is not False:
            fields.unsupported("sliding_window", f"{defaults.hf_class} has no such window")
        return 0
    if fields.values.get("use_sliding_window") is False and fields.has("sliding_window"):
        fields.unsupported("use_sliding_window", f"a {family} model without a window has sliding_window null")
    if "sliding_window" not in fields.values:
        fields.default_used("sliding_window", defaults.sliding_window, defaults.hf_class)
        return defaults.sliding_window
    return fields.integer("sliding_window", 1, MAX_INT32, default=0)


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


def _hf_rope(fields: Fields, defaults: FamilyDefaults) -> Rope:
    """rope_theta and rope_scaling (transformers 4), rope_parameters (5), or both where they agree."""
    blocks = []
    for key in ("rope_scaling", "rope_parameters"):
        block = fields.values.get(key)
        if block is None or block == {}:
            continue
        if not isinstance(block, dict):
            fields.wrong(key, "an object or null")
            continue
        if any(isinstance(value, dict) for value in block.values()):
            nested = next(name for name, value in block.items() if isinstance(value, dict))
            fields.unsupported(f"{key}.{nested}", "one rope for all layers is", block[nested])
            continue
        blocks.append((key, block, _rope_block(fields.within(key, block), fields)))
    thetas = {key: block["rope_theta"] for key, block, _rope in blocks if isinstance(block.get("rope_theta"), (int, float))}
    if fields.has("rope_theta"):
        thetas["rope_theta"] = fields.number("rope_theta")
    if len(set(thetas.values())) > 1:
        fields.log.add("rope_theta: " + " and ".join(f"{key} says {show(value)}" for key, value in thetas.items()))
    if len(blocks) == 2 and blocks[0][2] != blocks[1][2]:
        fields.log.add("rope_scaling and rope_parameters disagree: "
                        f"{show(_rope_type(blocks[0][1]))} and {show(_rope_type(blocks[1][1]))} do not say the same")
    if thetas:
        theta = float(next(iter(thetas.values())))
    else:
        theta = defaults.rope_theta
        if not any("rope_theta" in block for _key, block, _rope in blocks):
            fields.default_used("rope_theta", theta, defaults.hf_class)
    scaling = blocks[0][2] if blocks else Rope(1.0)
    return replace(scaling, theta=theta)


def _rope_type(block: Mapping[str, Any]) -> Any:
    return block.get("rope_type", block.get("type", "default"))


def _rope_block(block: Fields, top: Fields) -> Rope:
    """One rope block without its theta; problems are named inside the block."""
    values = block.values
    if block.has("rope_type") and block.has("type") and values["rope_type"] != values["type"]:
        block.log.add(f"{block.prefix}rope_type and type disagree: {show(values['rope_type'])} and {show(values['type'])}")
    kind = values.get("rope_type") or values.get("type")
    if kind is None:
        if any(key not in _ROPE_IDLE for key in values):
            block.absent("rope_type")
            return Rope(1.0)
        kind = "default"
    if not isinstance(kind, str):
        block.wrong("rope_type", "a name")
        return Rope(1.0)
    if kind not in _ROPE_KEYS:
        block.unsupported("rope_type" if block.has("rope_type") else "type", "default, linear and llama3 are", kind)
        return Rope(1.0)
    if block.has("rope_theta"):
        block.number("rope_theta")
    if block.has("partial_rotary_factor") and values["partial_rotary_factor"] != 1:
        block.unsupported("partial_rotary_factor", "only 1 is")
    for key, value in values.items():
        if value is not None and key not in _ROPE_KEYS[kind] and key not in _ROPE_IDLE:
            block.unsupported(escape(key), f"rope type {kind} has no such key")
    if kind == "default":
        return Rope(1.0)
    factor = block.number("factor")
    if kind == "linear":
        return Rope(1.0, "linear", factor)
    low, high = block.number("low_freq_factor"), block.number("high_freq_factor")
    original = block.integer("original_max_position_embeddings", 1, MAX_INT32)
    if all(isinstance(values.get(key), (int, float)) for key in ("low_freq_factor", "high_freq_factor")) and not low < high:
        block.wrong("high_freq_factor", f"a number above low_freq_factor ({low:g})")
    outer = top.values.get("original_max_position_embeddings")
    if outer is not None and outer != original:
        block.log.add(f"original_max_position_embeddings: {block.prefix[:-1]} says {original}, the config {show(outer)}")
    return Rope(1.0, "llama3", factor, low, high, original)
