"""GGUF files, version 3: the model as llama.cpp's architecture of it has it, its vocabulary, its chat template.

An own writer: everything is known before the first byte, tensors stream, and the same plan gives the same bytes. What GGUF has no
key for travels along under ak42.*: config.json, generation_config.json, the CHAT section. Called by targets/__init__.py.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..about import NAME, SIZE, TYPE, default_name, size_label
from ..arch import gguf_pieces
from ..chat import derive_chat
from ..config_rope import YARN_BETA_FAST, YARN_BETA_SLOW, yarn_sharpening
from ..errors import UnsupportedError
from ..families import EXPERTS, NO_ROPE, NO_WINDOW, WINDOW
from ..manifest import json_bytes
from ..mixes import MIXES, mix_of
from ..output import OutputFile, check_output
from ..plan import EXACT_ROLES
from .base import Job, Meter, as_pieces, chat_warnings, chunks, main_type

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..plan import Plan, TensorPlan

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
QUANTIZATION_VERSION = 2                                          # of ggml's blocks
# Ids of tensor types, and general.file_type of a file that is mostly of that type (LLAMA_FTYPE).
TYPE_IDS = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_k": 10, "q3_k": 11, "q4_k": 12,
            "q5_k": 13, "q6_k": 14, "iq4_nl": 20, "iq4_xs": 23, "bf16": 30, "mxfp4": 39}
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 11, "q4_k": 14,
              "q5_k": 16, "q6_k": 18, "iq4_nl": 25, "iq4_xs": 30, "bf16": 32, "mxfp4": 38}

# Value types.
U8, U32, I32, F32, BOOL, STRING, ARRAY = 0, 4, 5, 6, 7, 8, 9

# Element types of the arrays that a vocabulary has: an empty one says nothing of itself.
_ARRAYS = {"tokenizer.ggml.tokens": STRING, "tokenizer.ggml.merges": STRING, "tokenizer.ggml.scores": F32,
           "tokenizer.ggml.token_type": I32, "ak42.tokenizer": U8}


def write_gguf(plan: Plan, job: Job) -> list[Path]:
    """Writes job.out; the paths."""
    _check(plan, job)
    check_output(job.out, job.force, plan.source.paths)
    tensors = _tensors(plan, job.shown)
    head, offset = _head(plan, tensors)
    meter = Meter(plan, job)
    size = len(head) + offset
    with OutputFile(job.out, job.force, plan.source.paths, size) as stream:
        stream.write(head)
        for tensor in tensors:
            for rows in chunks(tensor):
                stream.write(rows)
                meter.add(rows.nbytes, tensor.name)
            stream.pad_to(ALIGNMENT)
    return [job.out]


def _tensors(plan: Plan, shown: str) -> list[TensorPlan]:
    """As GGUF has them: some architectures' files hold several as one."""
    has_factors = any(tensor.role == "rope_freqs" for tensor in plan.tensors)
    pieces = {name: [piece] for name, piece in gguf_pieces(plan.config, has_factors).items()}
    return as_pieces(plan.tensors, pieces, shown)


def warnings(plan: Plan) -> list[str]:
    """What llama.cpp will not do as the source's own program does."""
    config, facts = plan.config, plan.config.facts
    lines = []
    if 0 < config.sliding_window < config.trained_ctx and not facts.windowed:
        lines.append(f"llama.cpp ignores the sliding window of {config.sliding_window} for this architecture: beyond that many "
                     "tokens it attends to more than the model was trained for")
    if _has_local_key(config) and facts.local_plain:
        lines.append(f"llama.cpp takes the rope_theta of {config.rope_theta:g} in the layers with a window too, where this model "
                     f"has {config.rope_theta_local:g}")
    if _rotated(config) is not None:
        lines.append("llama.cpp takes every fourth layer to be without rope, which this model's layers are not")
    if facts.wide_layers and _attention_scale(config) is not None:
        lines.append("llama.cpp derives this architecture's attention scale from its size, and comes to another")
    for key, default in facts.unsaid:
        if key.endswith("softcapping") and key not in _scale_keys(config):
            lines.append(f"llama.cpp takes {key} to be {default:g} where a file says none, and this model has none")
    if config.rope_scaling == "yarn" and (config.rope_high_freq, config.rope_low_freq) != (YARN_BETA_FAST, YARN_BETA_SLOW):
        lines.append(f"llama.cpp takes yarn's beta_fast and beta_slow to be {YARN_BETA_FAST:g} and {YARN_BETA_SLOW:g} whatever the "
                     f"file says, and this model has {config.rope_high_freq:g} and {config.rope_low_freq:g}")
    if (config.attention_bias or config.mlp_bias) and not facts.biased:
        lines.append("llama.cpp has no biases of attn_output, ffn_gate, ffn_up and ffn_down for this architecture: it will not "
                     "open the file")
    if any(tensor.role == "rope_freqs" for tensor in plan.tensors) and not facts.freqs:
        lines.append("llama.cpp has no rope_freqs.weight, which says llama3's scaling, for this architecture: it will not open the "
                     "file")
    if config.shared_classifier and facts.own_head:
        lines.append("llama.cpp wants an output.weight for this architecture, and the head of this model is its embedding: it will "
                     "not open the file")
    if config.n_experts and not config.experts_norm:
        lines.append("llama.cpp makes the weights of a token's experts add up to 1, which this model does not")
    if config.n_experts and any(not flag & EXPERTS for flag in config.flags):
        lines.append("llama.cpp expects experts in every layer of this architecture, which this model does not have")
    if plan.vocab is not None:
        lines += plan.vocab.gguf_notes()
    return lines + chat_warnings(plan)


def _check(plan: Plan, job: Job) -> None:
    foreign = next((tensor for tensor in plan.tensors if tensor.type.name not in TYPE_IDS), None)
    if foreign is not None:
        raise UnsupportedError(f"{job.shown}: GGUF cannot hold {foreign.type.name}: {foreign.name}: expected one of "
                               f"{', '.join(TYPE_IDS)}; use --type q8_0")
    if plan.config.rope_scaling == "dynamic":
        raise UnsupportedError(f"{job.shown}: GGUF has no key for a rope scaled by the length of the text (dynamic); use ak42")


# -- what it says ------------------------------------------------------------------------------------------------------------


def metadata(plan: Plan) -> dict[str, tuple[int, Any]]:
    """Every key in file order, with its value type and value; arrays are (ARRAY, (element type, values))."""
    config = plan.config
    keys: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, config.architecture),
        TYPE: (STRING, plan.about.get(TYPE) or "model"),
        NAME: (STRING, plan.about.get(NAME) or default_name(config, plan.hf_config)),
        SIZE: (STRING, plan.about.get(SIZE) or size_label(tensor.shape for tensor in plan.tensors)),
        "general.alignment": (U32, ALIGNMENT),
        "general.quantization_version": (U32, QUANTIZATION_VERSION),
        "general.file_type": (U32, _file_type(plan)),
    }
    keys.update({key: _typed(key, value) for key, value in plan.about.items() if key not in keys})
    model = {
        "vocab_size": (U32, config.vocab_size),
        "context_length": (U32, config.trained_ctx),
        "embedding_length": (U32, config.dim),
        "block_count": (U32, config.n_layers),
        "feed_forward_length": (U32, config.hidden_dim),
        "attention.head_count": (U32, config.n_heads),
        "attention.head_count_kv": (U32, config.n_kv_heads),
        "attention.key_length": (U32, config.head_dim),
        "attention.value_length": (U32, config.head_dim),
        "attention.layer_norm_rms_epsilon": (F32, config.norm_eps),
        "rope.dimension_count": (U32, config.rotary_dim),
        "rope.freq_base": (F32, config.rope_theta),
    }
    model |= _layer_keys(config) | _scale_keys(config) | _rope_keys(config)
    if config.n_experts:
        model["expert_count"] = (U32, config.n_experts)
        model["expert_used_count"] = (U32, config.n_experts_used)
        model["expert_feed_forward_length"] = (U32, config.expert_dim)
        if not config.experts_norm:
            model["expert_weights_norm"] = (BOOL, False)
    keys.update({f"{config.architecture}.{key}": value for key, value in model.items()})
    if plan.vocab is not None:
        keys.update({key: _typed(key, value) for key, value in plan.vocab.to_gguf().items()})
        if plan.vocab.pad_id < 0 <= config.pad_id < len(plan.vocab.tokens):        # a config.json may say it alone
            keys["tokenizer.ggml.padding_token_id"] = (U32, config.pad_id)
    if plan.chat_template is not None:
        keys["tokenizer.chat_template"] = (STRING, plan.chat_template)
    keys["ak42.config"] = (STRING, json_bytes(plan.hf_config or config.to_hf("float32")))
    if plan.generation_config is not None:
        keys["ak42.generation_config"] = (STRING, json_bytes(plan.generation_config))
    chat = derive_chat(plan.chat_template, plan.vocab) if plan.chat_template is not None else None
    if chat is not None:
        keys["ak42.chat"] = (ARRAY, (U8, chat))
    return keys


def _layer_keys(config: ModelConfig) -> dict[str, tuple[int, Any]]:
    """The window and which layers have it, and which have rope, where llama.cpp's rule for the architecture says otherwise."""
    keys: dict[str, tuple[int, Any]] = {}
    windowed = [bool(flag & WINDOW) for flag in config.flags]
    period = _window_period(config)
    if config.sliding_window:
        keys["attention.sliding_window"] = (U32, config.sliding_window)
        if config.facts.pattern_listed or period is None:
            keys["attention.sliding_window_pattern"] = (ARRAY, (BOOL, windowed))
        elif period != config.facts.full_period:
            keys["attention.sliding_window_pattern"] = (U32, period)
    elif config.architecture == "phi3":
        keys["attention.sliding_window"] = (U32, 0)          # llama.cpp's reader wants the key
    elif config.architecture == "gemma2":
        keys["attention.sliding_window"] = (U32, NO_WINDOW)
    rotated = _rotated(config)
    if rotated is not None:
        keys["attention.rope_pattern"] = (ARRAY, (BOOL, rotated))
    return keys


def _window_period(config: ModelConfig) -> int | None:
    """Every n-th layer is without the window: the architecture's own n where it fits, else the smallest; None where none does."""
    windowed = [bool(flag & WINDOW) for flag in config.flags]
    periods = (config.facts.full_period, *range(config.n_layers + 1))
    return next((period for period in periods if _by_period(config, period) == windowed), None)


def _by_period(config: ModelConfig, period: int) -> list[bool]:
    return [period == 0 or (i + 1) % period != 0 for i in range(config.n_layers)]


def _rotated(config: ModelConfig) -> list[bool] | None:
    """The layers that have rope; None where they are the architecture's own."""
    rotated = [not flag & NO_ROPE for flag in config.flags]
    return None if rotated == _by_period(config, config.facts.no_rope_period) else rotated


def _scale_keys(config: ModelConfig) -> dict[str, tuple[int, Any]]:
    keys: dict[str, tuple[int, Any]] = {}
    scale = _attention_scale(config)
    if scale is not None:
        keys["attention.scale"] = (F32, scale)
    if config.embedding_scale != 1 and not config.facts.embedding_sqrt:
        keys["embedding_scale"] = (F32, config.embedding_scale)
    if config.residual_scale != 1:
        keys["residual_scale"] = (F32, config.residual_scale)
    if config.facts.logit_divisor:                           # llama.cpp wants the key, and divides
        keys["logit_scale"] = (F32, 1 / config.logit_scale)
    if config.attn_softcap:
        keys["attn_logit_softcapping"] = (F32, config.attn_softcap)
    if config.final_softcap:
        keys["final_logit_softcapping"] = (F32, config.final_softcap)
    return keys


def _attention_scale(config: ModelConfig) -> float | None:
    """Where it is not what a reader takes by itself: 1/sqrt(head_dim), but for the largest model of some architectures."""
    plain = 1 / math.sqrt(config.head_dim)
    wide = config.facts.wide_layers == config.n_layers and config.dim >= config.n_heads
    taken = 1 / math.sqrt(config.dim // config.n_heads) if wide else plain
    scale = config.attention_scale or plain
    return None if abs(scale - taken) <= 3e-7 * taken else scale


def _has_local_key(config: ModelConfig) -> bool:
    """Whether layers with a window have a rope_theta of their own that no reader takes by itself."""
    return config.rope_theta_local > 0 and not (config.facts.local_plain and config.rope_theta_local == config.rope_theta)


def _rope_keys(config: ModelConfig) -> dict[str, tuple[int, Any]]:
    """rope.scaling.*: llama3's factors are a tensor, rope_freqs.weight, and longrope's are two."""
    keys: dict[str, tuple[int, Any]] = {}
    if _has_local_key(config):
        keys["rope.freq_base_swa"] = (F32, config.rope_theta_local)
    if config.rope_scaling in ("linear", "yarn", "longrope"):
        keys["rope.scaling.type"] = (STRING, config.rope_scaling)
    if config.rope_scaling in ("linear", "yarn"):
        keys["rope.scaling.factor"] = (F32, config.rope_factor)
    if config.rope_scaling in ("yarn", "longrope"):
        keys["rope.scaling.original_context_length"] = (U32, config.rope_original_ctx)
    elif config.architecture == "phi3":
        keys["rope.scaling.original_context_length"] = (U32, config.trained_ctx)
    attn_factor = config.rope_attn_factor
    if config.rope_scaling == "yarn":                        # the reader multiplies what the factor gives by it
        attn_factor /= yarn_sharpening(config.rope_factor)
        keys["rope.scaling.yarn_beta_fast"] = (F32, config.rope_high_freq)
        keys["rope.scaling.yarn_beta_slow"] = (F32, config.rope_low_freq)
    if abs(attn_factor - 1) > 1e-7:
        keys["rope.scaling.attn_factor"] = (F32, attn_factor)
    return keys


def _file_type(plan: Plan) -> int:
    """The number of the mix or type that was asked for, whatever some matrices got; of what was kept, that of the mix that it is,
    or of the type of most weights."""
    if plan.asked in MIXES:
        return MIXES[plan.asked].file_type
    if plan.asked in FILE_TYPES:
        return FILE_TYPES[plan.asked]
    types = {tensor.name: tensor.type.name for tensor in plan.tensors if len(tensor.shape) > 1 and tensor.role not in EXACT_ROLES}
    mix = mix_of(types, plan.config)
    return MIXES[mix].file_type if mix else FILE_TYPES[main_type(plan)]


def _typed(key: str, value: Any) -> tuple[int, Any]:
    """A value of a vocabulary, or of what is said about the model, with its value type."""
    if isinstance(value, (list, tuple)):
        kind = _ARRAYS[key] if key in _ARRAYS else _typed(key, value[0])[0]
        return ARRAY, (kind, value)
    for python, kind in ((bool, BOOL), (int, U32), (float, F32), ((str, bytes), STRING)):
        if isinstance(value, python):
            return kind, value
    raise TypeError(f"{key}: {type(value).__name__} has no GGUF type here")


# -- its bytes ---------------------------------------------------------------------------------------------------------------


def _head(plan: Plan, tensors: list[TensorPlan]) -> tuple[bytes, int]:
    """Everything before the data, and the bytes of the data."""
    keys = metadata(plan)
    parts = [MAGIC, struct.pack("<I2Q", VERSION, len(tensors), len(keys))]
    for key, (kind, value) in keys.items():
        parts += [_string(key), struct.pack("<I", kind), _value(kind, value)]
    offset = 0
    for tensor in tensors:
        dims = tensor.shape[::-1]                  # innermost first
        parts += [_string(tensor.name), struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, TYPE_IDS[tensor.type.name], offset)]
        offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    head = b"".join(parts)
    return head + bytes(-len(head) % ALIGNMENT), offset


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _string(value)
    if kind == ARRAY:
        inner, values = value
        head = struct.pack("<IQ", inner, len(values))
        if inner == STRING:
            return head + b"".join(map(_string, values))
        return head + struct.pack(f"<{len(values)}{_FORMATS[inner]}", *values)
    return struct.pack("<" + _FORMATS[kind], value)


_FORMATS = {U8: "B", U32: "I", I32: "i", F32: "f", BOOL: "?"}


def _string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else bytes(text)
    return struct.pack("<Q", len(data)) + data
