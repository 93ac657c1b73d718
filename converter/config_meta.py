"""A ModelConfig from what Meta's own code writes beside its weights: params.json, and the model_args of a llama2.c checkpoint.

These files say little: the feed-forward length is a rule over three keys, the context stands nowhere, and the rope scaling of
Llama 3 is a yes or no. What they leave out is in the tables here, and each use of one is a warning. The rest is put into the words
of a config.json and read by config.py. Called by sources/meta.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config import MAX_DIM, MAX_HEADS, MAX_INT32, MAX_LAYERS, MAX_VOCAB, ModelConfig, config_from_hf
from .fields import Fields

META_THETA, META_EPS = 10000.0, 1e-5               # ModelArgs' defaults
LLAMA2C_CTX = 2048                                 # the default of llama2.c's ModelArgs
LLAMA3_VOCAB = 128256
# Llama 3's scaled rope. The factor is 8, but for the two text models of Llama 3.2, here by (dim, layers).
SCALED_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
SCALED_FACTOR, SCALED_FACTORS = 8.0, {(2048, 16): 32.0, (3072, 28): 32.0}

KNOWN = {"dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps", "rope_theta",
         "use_scaled_rope", "rope_scaling_factor", "rope_high_freq_factor", "max_seq_len", "max_batch_size", "hidden_dim",
         "dropout"}
IDLE = ("lora_args", "quantization_args", "vision_chunk_size", "vision_num_cross_attention_layers", "vision_max_num_chunks", "moe",
        "model_parallel_size")


def config_from_params(values: Mapping[str, Any], name: str, *, embedding_rows: int, shared_classifier: bool,
                       llama2c: bool = False) -> tuple[ModelConfig, list[str]]:
    """The config, and warnings. `embedding_rows` and `shared_classifier` come from the tensors: the file does not say them.

    FormatError or UnsupportedError lists everything that is absent, wrong or not supported.
    """
    fields = Fields(values, name)
    for key, value in values.items():
        if key in IDLE and value is not None:
            fields.unsupported(key, "it has to be absent")
        elif key not in KNOWN and key not in IDLE:
            fields.unsupported(key, "the key is not known")
    dim = fields.integer("dim", 1, MAX_DIM)
    n_layers = fields.integer("n_layers", 1, MAX_LAYERS)
    n_heads = fields.integer("n_heads", 1, MAX_HEADS)
    n_kv_heads = fields.integer("n_kv_heads", 1, MAX_HEADS, default=n_heads)
    vocab_size = embedding_rows
    if fields.has("vocab_size") and values["vocab_size"] != -1:            # -1: the tokenizer decides
        vocab_size = fields.integer("vocab_size", 1, MAX_VOCAB)
    hidden_dim = _hidden_dim(fields, dim)
    theta = fields.number("rope_theta", default=META_THETA)
    eps = fields.number("norm_eps", default=META_EPS, below=1.0)
    scaled = _rope_scaling(fields, dim, n_layers)
    context = _context(fields, theta, eps, scaled is not None, llama2c)
    fields.finish()
    rope = {"rope_type": "default"} if scaled is None else scaled
    stated = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": dim, "intermediate_size": hidden_dim,
              "num_hidden_layers": n_layers, "num_attention_heads": n_heads, "num_key_value_heads": n_kv_heads,
              "vocab_size": vocab_size, "max_position_embeddings": context, "rms_norm_eps": eps,
              "tie_word_embeddings": shared_classifier,
              "rope_parameters": rope | {"rope_theta": theta}}
    config, warnings = config_from_hf(stated, name)
    return config, [*fields.log.warnings, *warnings]


def _hidden_dim(fields: Fields, dim: int) -> int:
    """Two thirds of 4 dim, times a factor, rounded up to a multiple; llama2.c may say it itself."""
    if fields.has("hidden_dim"):
        return fields.integer("hidden_dim", 1, MAX_DIM)
    multiple = fields.integer("multiple_of", 1, MAX_DIM)
    hidden = int(2 * (4 * dim) / 3)
    if fields.has("ffn_dim_multiplier"):
        hidden = int(fields.number("ffn_dim_multiplier") * hidden)
    return max(-(-hidden // multiple) * multiple, 1)


def _rope_scaling(fields: Fields, dim: int, n_layers: int) -> dict[str, Any] | None:
    if not fields.flag("use_scaled_rope", False):
        return None
    factor = SCALED_FACTORS.get((dim, n_layers), SCALED_FACTOR)
    if fields.has("rope_scaling_factor"):
        factor = fields.number("rope_scaling_factor")
    else:
        family = "Llama 3.1" if factor == SCALED_FACTOR else "Llama 3.2's text models"
        fields.default_used("rope_scaling_factor", f"{factor:g}", family)
    high = fields.number("rope_high_freq_factor", default=SCALED_ROPE["high_freq_factor"])
    return SCALED_ROPE | {"rope_type": "llama3", "factor": factor, "high_freq_factor": high}


def _context(fields: Fields, theta: float, eps: float, scaled: bool, llama2c: bool) -> int:
    """max_seq_len where it is stated; else that of the generation which the other keys tell, and a warning."""
    if fields.has("max_seq_len"):
        return fields.integer("max_seq_len", 1, MAX_INT32)
    if llama2c:
        fields.default_used("max_seq_len", LLAMA2C_CTX, "llama2.c")
        return LLAMA2C_CTX
    if scaled:
        context, of = 131072, "Llama 3.1 and later"
    elif fields.values.get("vocab_size") == LLAMA3_VOCAB:
        context, of = 8192, "Llama 3"
    elif theta == 1e6:
        context, of = 16384, "Code Llama"
    elif eps < 5e-6 or (fields.values.get("dim") == 8192 and not fields.has("n_kv_heads")):
        context, of = 2048, "Llama 1"
    else:
        context, of = 4096, "Llama 2"
    fields.default_used("max_seq_len", context, of)
    return context
