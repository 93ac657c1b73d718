"""The families as data: what transformers' config class of each takes for granted, and what its GGUF files leave unsaid.

Three tables. `FAMILIES` is by config.json's model_type, `ARCHITECTURES` by GGUF's general.architecture, of which several families
may be one, `WRAPPERS` by the class that holds a family's model among others. Nothing is computed and nothing read here. Called by
the readers and writers of configs, by arch.py and by sources/hf.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

INTERLEAVED = "interleaved"        # rotary pairs are rows (2i, 2i+1) of a head
HALF_SPLIT = "half_split"          # rotary pairs are rows (i, i + rotary_dim/2) of a head

WINDOW, NO_ROPE, EXPERTS = 1, 2, 4                                 # a layer's flags, as section LAYR has them

BEFORE, AFTER, BOTH = "before", "after", "both"                    # where a block's norms stand


# Numbers of a config that multiply or cap something, and what they are where they do nothing.
NO_SCALES = {"embedding_scale": 1.0, "residual_scale": 1.0, "logit_scale": 1.0, "attention_scale": 0.0, "attn_softcap": 0.0,
             "final_softcap": 0.0}
SCALES = tuple(NO_SCALES)


# -- GGUF's architectures ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What all models of an architecture have in common."""

    name: str                      # general.architecture
    rope: str = INTERLEAVED        # how GGUF, and ak42 v3 after it, orders the rows of q and k
    activation: str = "silu"
    norms: str = BEFORE
    qkv_bias: bool = False         # q, k and v have biases in all models
    biased: bool = False           # llama.cpp reads the biases of all matrices that a model may have
    freqs: bool = False            # it reads rope_freqs.weight
    own_head: bool = False         # it wants output.weight, whose place the embedding does not take
    qk_norm: str = ""              # "head": each head by itself, "row": all together
    embedding_sqrt: bool = False   # the embedding is multiplied by sqrt(dim)
    scales: tuple[str, ...] = ()   # the fields of a config that its models may differ in
    logit_divisor: bool = False    # GGUF's logit_scale divides
    norm_offset: float = 0.0       # what Hugging Face's norm weights lack of GGUF's
    fused: bool = False            # q, k and v are one tensor, gate and up another, in GGUF and in Hugging Face's format
    experts: bool = False          # there may be experts
    full_period: int = 0           # every n-th layer is without the window; 0: none is
    no_rope_period: int = 0        # every n-th layer is without rope; 0: none is
    theta_local: float = 0.0       # of layers with a window, where no key says it; 0: as the others
    local_plain: bool = False      # layers with a window have the theta of the others, and no scaling
    wide_layers: int = 0           # llama.cpp takes 1/sqrt(dim / n_heads) for the attention scale at that many layers
    windowed: bool = False         # whether llama.cpp has a window for it
    rope_switched: bool = False    # rope.scaling.finetuned says whether its layers have rope; elsewhere it is a remark
    unsaid: tuple[tuple[str, float], ...] = ()       # what llama.cpp takes where a file of another writer has no such key
    pattern_listed: bool = False   # GGUF files list the layers that have the window even where they are the architecture's own


ARCHITECTURES: dict[str, Facts] = {facts.name: facts for facts in (
    Facts("llama", experts=True, biased=True, freqs=True),
    Facts("qwen2", HALF_SPLIT, qkv_bias=True),
    Facts("qwen3", HALF_SPLIT, qk_norm="head"),
    Facts("qwen3moe", HALF_SPLIT, qk_norm="head", experts=True),
    Facts("granite", rope_switched=True, biased=True, freqs=True, scales=SCALES[:4], logit_divisor=True),
    Facts("olmo2", HALF_SPLIT, norms=AFTER, qk_norm="row", full_period=4, local_plain=True, windowed=True,
          pattern_listed=True, own_head=True),
    Facts("smollm3", no_rope_period=4),
    Facts("gemma", HALF_SPLIT, "gelu_tanh", embedding_sqrt=True, norm_offset=1.0),
    Facts("gemma2", HALF_SPLIT, "gelu_tanh", BOTH, embedding_sqrt=True, norm_offset=1.0, full_period=2, wide_layers=46,
          windowed=True, scales=SCALES[3:],
          unsaid=(("attention.sliding_window", 4096), ("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0))),
    Facts("gemma3", HALF_SPLIT, "gelu_tanh", BOTH, qk_norm="head", embedding_sqrt=True, norm_offset=1.0, full_period=6,
          theta_local=10000.0, wide_layers=62, windowed=True, scales=SCALES[3:]),
    Facts("phi3", HALF_SPLIT, fused=True),
)}

# A window that no text reaches: how a GGUF file says that there is none where its architecture takes one for granted. The runtime's
# GGUF_NO_WINDOW. llama.cpp, whose cache has as many positions as window and sequences say, counts both in 32 bits.
NO_WINDOW = 1 << 28

# Other words of general.architecture for one of them, whose keys then begin with that word.
ALIASES = {"mistral": "llama", "mistral3": "llama"}


# -- Hugging Face's families ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """What transformers' config class of a family documents for keys that a config.json leaves out, and which keys it has."""

    model_type: str
    hf_class: str
    architecture: str              # the word in `architectures`
    gguf: str = "llama"            # ARCHITECTURES' row
    rope_theta: float = 10000.0
    theta_local: float = 0.0               # of layers with a window, which have a rope of their own; 0: there is one rope
    norm_eps: float = 1e-6
    trained_ctx: int = 2048
    vocab_size: int | None = None          # None: a config.json has to say it
    n_heads: int | None = None
    n_kv_heads: int | None = None          # None: n_heads
    head_dim: int | None = None            # None: dim / n_heads
    tied: bool = False
    window: str = "none"                   # a rule of config_layers.py: which layers have one
    sliding_window: int = 0
    activation_key: str = "hidden_act"
    activations: tuple[str, ...] = ("silu",)         # names of the one that the family has; the first is written
    rope_types: tuple[str, ...] = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
    original_ctx: int = 0                  # of longrope, where no key says it; 0: the context
    partial_rotary: bool = False
    expert_keys: tuple[str, ...] = ()      # of the number of experts; the first is written
    n_experts: int = 0
    n_experts_used: int = 0
    expert_dim_key: str = ""               # "" : intermediate_size
    expert_dim: int = 0
    experts_norm: bool = False             # their weights add up to 1 whatever norm_topk_prob says
    reads: tuple[str, ...] = ()            # keys that change the maths and are handled
    writes: tuple[str, ...] = ()           # keys of its config.json beside those that all have


_BIAS, _BIASES = ("attention_bias",), ("attention_bias", "mlp_bias")
_QWEN_WINDOW = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
_GEMMA = {"tied": True, "activations": ("gelu_pytorch_tanh",), "trained_ctx": 8192, "head_dim": 256}
_EXPERTS = ("num_experts_per_tok", "num_local_experts", "num_experts")

FAMILIES: dict[str, Family] = {family.model_type: family for family in (
    Family("llama", "LlamaConfig", "LlamaForCausalLM", reads=_BIASES, writes=_BIASES),
    Family("mistral", "MistralConfig", "MistralForCausalLM", trained_ctx=131072, n_kv_heads=8, window="all", sliding_window=4096,
           writes=("sliding_window",)),
    Family("mixtral", "MixtralConfig", "MixtralForCausalLM", rope_theta=1e6, norm_eps=1e-5, trained_ctx=131072, n_kv_heads=8,
           window="all", expert_keys=("num_local_experts", "num_experts"), n_experts=8, n_experts_used=2, experts_norm=True,
           reads=_EXPERTS, writes=("sliding_window", "num_experts_per_tok", "num_local_experts")),
    Family("qwen2", "Qwen2Config", "Qwen2ForCausalLM", "qwen2", trained_ctx=32768, n_kv_heads=32, window="from_layer",
           sliding_window=4096, reads=_QWEN_WINDOW, writes=_QWEN_WINDOW),
    Family("qwen3", "Qwen3Config", "Qwen3ForCausalLM", "qwen3", trained_ctx=32768, n_kv_heads=32, head_dim=128,
           window="from_layer", sliding_window=4096, reads=(*_BIAS, *_QWEN_WINDOW), writes=(*_BIAS, *_QWEN_WINDOW)),
    Family("qwen3_moe", "Qwen3MoeConfig", "Qwen3MoeForCausalLM", "qwen3moe", trained_ctx=32768, n_kv_heads=4,
           window="if_used", sliding_window=4096, expert_keys=("num_experts", "num_local_experts"), n_experts=128,
           n_experts_used=8, expert_dim_key="moe_intermediate_size", expert_dim=768,
           reads=(*_BIAS, *_EXPERTS, "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers"),
           writes=(*_BIAS, "use_sliding_window", "sliding_window", "num_experts_per_tok", "num_experts",
                   "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers")),
    Family("granite", "GraniteConfig", "GraniteForCausalLM", "granite",
           reads=(*_BIASES, "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"),
           writes=(*_BIASES, "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")),
    Family("olmo2", "Olmo2Config", "Olmo2ForCausalLM", "olmo2", norm_eps=1e-5, reads=_BIAS, writes=_BIAS),
    Family("olmo3", "Olmo3Config", "Olmo3ForCausalLM", "olmo2", rope_theta=5e5, theta_local=5e5, norm_eps=1e-5, window="pattern",
           sliding_window=4096, reads=(*_BIAS, "layer_types"), writes=(*_BIAS, "sliding_window", "layer_types")),
    Family("smollm3", "SmolLM3Config", "SmolLM3ForCausalLM", "smollm3", rope_theta=2e6, trained_ctx=32768, n_kv_heads=4, tied=True,
           window="without_rope",
           reads=(*_BIASES, "no_rope_layers", "no_rope_layer_interval", "use_sliding_window", "layer_types", "pretraining_tp"),
           writes=(*_BIASES, "no_rope_layers", "use_sliding_window", "sliding_window", "layer_types")),
    Family("gemma", "GemmaConfig", "GemmaForCausalLM", "gemma", n_kv_heads=16, reads=_BIAS, writes=_BIAS,
           **{**_GEMMA, "activations": ("gelu_pytorch_tanh", "gelu")}),
    Family("gemma2", "Gemma2Config", "Gemma2ForCausalLM", "gemma2", n_kv_heads=4, window="pattern", sliding_window=4096,
           activation_key="hidden_activation",
           reads=(*_BIAS, "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "layer_types"),
           writes=(*_BIAS, "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar",
                   "sliding_window", "layer_types"), **_GEMMA),
    Family("gemma3_text", "Gemma3TextConfig", "Gemma3ForCausalLM", "gemma3", vocab_size=262208, n_heads=8, n_kv_heads=4,
           window="pattern", sliding_window=4096, rope_theta=1e6, theta_local=10000.0, activation_key="hidden_activation",
           reads=(*_BIAS, "final_logit_softcapping", "query_pre_attn_scalar", "layer_types", "rope_local_base_freq",
                  "sliding_window_pattern"),
           writes=(*_BIAS, "final_logit_softcapping", "query_pre_attn_scalar", "sliding_window", "layer_types",
                   "rope_local_base_freq"), **{**_GEMMA, "trained_ctx": 131072}),
    Family("phi3", "Phi3Config", "Phi3ForCausalLM", "phi3", norm_eps=1e-5, trained_ctx=4096, window="all", partial_rotary=True,
           rope_types=("default", "longrope", "su"), original_ctx=4096, reads=("partial_rotary_factor",),
           writes=("sliding_window", "original_max_position_embeddings", "partial_rotary_factor")),
)}

BY_ARCHITECTURE: dict[str, str] = {family.architecture: family.model_type for family in FAMILIES.values()}

# The families of each GGUF architecture, for a file that carries no config.json.
OF_GGUF: dict[str, tuple[Family, ...]] = {
    name: tuple(family for family in FAMILIES.values() if family.gguf == name) for name in ARCHITECTURES}


# -- classes that hold a family's model among others -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wrapper:
    """A class of transformers' whose config.json has the family's own as `text_config`, and whose tensors are the family's behind
    a prefix, beside others that the text has no use for."""

    model_type: str
    architecture: str              # the word in `architectures`
    text: str                      # FAMILIES' row, the model_type of text_config
    prefixes: tuple[tuple[str, str], ...]  # what a tensor's name begins with, and what the family's own begins with in its place
    skipped: tuple[str, ...]       # what the names of tensors that are left out begin with
    ignored: tuple[str, ...] = ()  # keys of text_config that the family's own class goes by and this one does not


# As published, and as the class itself has them since transformers 4.52.
_NAMED = (("language_model.model.", "model."), ("language_model.lm_head.", "lm_head."), ("model.language_model.", "model."),
          ("lm_head.", "lm_head."))
_VISION = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")

WRAPPERS: tuple[Wrapper, ...] = (
    Wrapper("gemma3", "Gemma3ForConditionalGeneration", "gemma3_text", _NAMED, _VISION, ("final_logit_softcapping",)),
    Wrapper("mistral3", "Mistral3ForConditionalGeneration", "mistral", _NAMED, _VISION),
)

# Keys that change the maths in some family, and the values that leave it as it is (absent and null always do). A family's own
# `reads` are exempt.
NEUTRAL_KEYS: dict[str, tuple[Any, ...]] = {
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
    "moe_intermediate_size": (), "decoder_sparse_step": (1,), "mlp_only_layers": ([],), "norm_topk_prob": (False, True),
    "shared_expert_intermediate_size": (0,), "per_layer_config": ({},), "is_encoder_decoder": (False,),
    "add_cross_attention": (False,), "cross_attention_layers": ([],), "pruned_heads": ({},), "quantization_config": ({},),
    "compression_config": ({},), "auto_map": ({},), "attention_chunk_size": (), "norm_type": ("rmsnorm",), "multi_query": (False,),
    "use_bidirectional_attention": (False,), "is_causal": (True,), "rope_type": ("default",), "use_mrope": (False,),
}
