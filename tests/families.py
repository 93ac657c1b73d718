"""Tiny models of every family, built by transformers' own classes from a seed: odd sizes, weights that matter, no tokenizer.

It computes nothing of ours: `make` writes a Hugging Face folder with save_pretrained, models.py opens it in transformers. Called
by test_families*.py.
"""
from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LONG = [1.0 + 0.35 * i for i in range(16)]          # longrope's factors, of which a model takes as many as it needs
SHORT = [1.0 + 0.03 * i for i in range(16)]


@dataclass(frozen=True)
class FamilySpec:
    """One tiny model. `config` goes to transformers' config class, over the sizes that all share."""

    hf_class: str                                  # "Qwen2": Qwen2Config and Qwen2ForCausalLM
    config: dict[str, Any] = field(default_factory=dict)
    config_class: str = ""                         # where it is not hf_class + "Config"
    gguf: str = "llama"
    seed: int = 0
    wrapper: str = ""                              # "Gemma3": in Gemma3ForConditionalGeneration, beside a vision tower


SIZES = {"hidden_size": 48, "intermediate_size": 76, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
         "vocab_size": 157, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
THETA = {"rope_theta": 1e5, "rope_type": "default"}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "rope_theta": 1e4}

FAMILIES: dict[str, FamilySpec] = {
    "qwen2": FamilySpec("Qwen2", {"rope_parameters": THETA}, gguf="qwen2", seed=1),
    "qwen2-window": FamilySpec("Qwen2", {"use_sliding_window": True, "sliding_window": 13, "max_window_layers": 1,
                                         "tie_word_embeddings": True}, gguf="qwen2", seed=2),
    "qwen3": FamilySpec("Qwen3", {"head_dim": 16, "rope_parameters": THETA, "tie_word_embeddings": True}, gguf="qwen3", seed=3),
    "granite": FamilySpec("Granite", {"embedding_multiplier": 3.5, "residual_multiplier": 0.6, "attention_multiplier": 0.2,
                                      "logits_scaling": 1.5}, gguf="granite", seed=4),
    "olmo2": FamilySpec("Olmo2", {"num_attention_heads": 6, "num_key_value_heads": 3}, gguf="olmo2", seed=5),
    "smollm3": FamilySpec("SmolLM3", {"num_hidden_layers": 5}, gguf="smollm3", seed=6),
    "smollm3-listed": FamilySpec("SmolLM3", {"no_rope_layers": [1, 0, 1, 0], "use_sliding_window": True, "sliding_window": 19,
                                             "tie_word_embeddings": False}, gguf="smollm3", seed=7),
    "mistral-nemo": FamilySpec("Mistral", {"head_dim": 20, "sliding_window": None, "rope_parameters": THETA}, seed=8),
    "gemma": FamilySpec("Gemma", {"head_dim": 16, "num_key_value_heads": 1}, gguf="gemma", seed=9),
    "gemma2": FamilySpec("Gemma2", {"head_dim": 16, "sliding_window": 11, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 5.0,
                                    "final_logit_softcapping": 3.0}, gguf="gemma2", seed=10),
    "gemma3": FamilySpec("Gemma3", {"head_dim": 16, "sliding_window": 11, "num_hidden_layers": 7, "query_pre_attn_scalar": 16,
                                    "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                                                        "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0}}},
                         config_class="Gemma3TextConfig", gguf="gemma3", seed=11),
    "phi3": FamilySpec("Phi3", {"sliding_window": 21}, gguf="phi3", seed=12),
    "phi4-mini": FamilySpec("Phi3", {"num_attention_heads": 3, "num_key_value_heads": 1, "original_max_position_embeddings": 40,
                                     "tie_word_embeddings": True,
                                     "rope_parameters": {"rope_type": "longrope", "partial_rotary_factor": 0.75, "rope_theta": 1e4,
                                                         "long_factor": LONG[:6], "short_factor": SHORT[:6]}},
                            gguf="phi3", seed=13),
    "mixtral": FamilySpec("Mixtral", {"head_dim": 12, "num_local_experts": 5, "num_experts_per_tok": 2}, seed=14),
    "qwen3-moe": FamilySpec("Qwen3Moe", {"head_dim": 16, "num_experts": 9, "num_experts_per_tok": 3, "moe_intermediate_size": 36,
                                         "norm_topk_prob": True}, gguf="qwen3moe", seed=15),
    "qwen3-moe-mixed": FamilySpec("Qwen3Moe", {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2,
                                               "moe_intermediate_size": 100, "norm_topk_prob": False, "decoder_sparse_step": 2,
                                               "mlp_only_layers": [3], "num_hidden_layers": 6}, gguf="qwen3moe", seed=16),
    "llama-dynamic": FamilySpec("Llama", {"max_position_embeddings": 32, "rope_parameters": {"rope_type": "dynamic", "factor": 3.0,
                                                                                             "rope_theta": 1e4}}, seed=17),
    "llama-yarn": FamilySpec("Llama", {"head_dim": 16, "rope_parameters": YARN}, seed=18),
    "qwen2-yarn": FamilySpec("Qwen2", {"rope_parameters": {**YARN, "attention_factor": 0.8, "beta_fast": 16.0, "beta_slow": 2.0}},
                             gguf="qwen2", seed=19),
    "llama-longrope": FamilySpec("Llama", {"head_dim": 16, "max_position_embeddings": 128,
                                           "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": LONG[:8],
                                                               "short_factor": SHORT[:8],
                                                               "original_max_position_embeddings": 32}}, seed=20),
}
FAMILIES |= {
    "llama-bias": FamilySpec("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 16}, seed=21),
    "granite-bias": FamilySpec("Granite", {"attention_bias": True, "mlp_bias": True, "residual_multiplier": 0.6,
                                           "attention_multiplier": 0.2}, gguf="granite", seed=22),
    "smollm3-bias": FamilySpec("SmolLM3", {"attention_bias": True, "mlp_bias": True}, gguf="smollm3", seed=23),
    "olmo2-bias": FamilySpec("Olmo2", {"attention_bias": True}, gguf="olmo2", seed=24),
    "qwen3-bias": FamilySpec("Qwen3", {"attention_bias": True, "head_dim": 16}, gguf="qwen3", seed=25),
    "qwen3-moe-bias": FamilySpec("Qwen3Moe", {"attention_bias": True, "head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2,
                                              "moe_intermediate_size": 36}, gguf="qwen3moe", seed=26),
    "gemma3-bias": FamilySpec("Gemma3", {"attention_bias": True, "head_dim": 16, "sliding_window": 11, "query_pre_attn_scalar": 16},
                              config_class="Gemma3TextConfig", gguf="gemma3", seed=27),
    "llama-mlp-bias": FamilySpec("Llama", {"mlp_bias": True, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"},
                                           "rms_norm_eps": 1e-5}, seed=28),
    "llama3": FamilySpec("Llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                                                       "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}}, seed=29),
    "mistral": FamilySpec("Mistral", {"sliding_window": 13}, seed=30),
    "olmo3": FamilySpec("Olmo3", {"num_hidden_layers": 5, "sliding_window": 11, "num_attention_heads": 6, "num_key_value_heads": 3,
                                  "rope_parameters": {"full_attention": YARN,
                                                      "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
                        gguf="olmo2", seed=31),
    "olmo3-listed": FamilySpec("Olmo3", {"layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
                                         "sliding_window": 17,
                                         "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4},
                                                             "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}},
                               gguf="olmo2", seed=32),
    "olmo3-bias": FamilySpec("Olmo3", {"attention_bias": True, "sliding_window": 13,
                                       "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4},
                                                           "sliding_attention": {"rope_type": "default", "rope_theta": 3e3}}},
                             gguf="olmo2", seed=35),
}
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28,
          "patch_size": 14}
# Text models in a larger class. The head of the one is the embedding, the other has its own.
WRAPPED: dict[str, FamilySpec] = {
    "gemma3-wrapped": dataclasses.replace(FAMILIES["gemma3"], wrapper="Gemma3", seed=33),
    "mistral3": FamilySpec("Mistral", {"head_dim": 20, "sliding_window": None, "rope_parameters": YARN}, wrapper="Mistral3", seed=34),
}
# What llama.cpp does not open, though every word of it is GGUF's.
UNOPENED: dict[str, FamilySpec] = {
    **{f"{name}-llama3": dataclasses.replace(FAMILIES[name], config={**FAMILIES[name].config, "rope_parameters": LLAMA3})
       for name in ("qwen2", "qwen3", "qwen3-moe", "olmo2", "smollm3", "gemma", "gemma2")},
    **{f"{name}-llama3": dataclasses.replace(FAMILIES[name], config={**FAMILIES[name].config, "rope_parameters": {
        "full_attention": LLAMA3, "sliding_attention": THETA}}) for name in ("olmo3", "gemma3")},
    **{f"{name}-tied": dataclasses.replace(FAMILIES[name], config={**FAMILIES[name].config, "tie_word_embeddings": True})
       for name in ("olmo2", "olmo3")},
}
NO_GGUF = ("llama-dynamic",)                        # GGUF has no key for it


def build(spec: FamilySpec, **changes: Any) -> Any:
    """transformers' model with the spec's weights, which a change of a config key that is no size does not touch."""
    import torch
    import transformers

    config_class = getattr(transformers, spec.config_class or f"{spec.hf_class}Config")
    config = config_class(**copy.deepcopy({**SIZES, **spec.config, **changes}))
    model_class = f"{spec.hf_class}ForCausalLM"
    if spec.wrapper:
        vision = {**VISION, "model_type": "pixtral", "head_dim": 8} if spec.wrapper == "Mistral3" else VISION
        config = getattr(transformers, f"{spec.wrapper}Config")(
            text_config=config.to_dict(), vision_config=vision, image_token_index=SIZES["vocab_size"] - 1,
            tie_word_embeddings=config.tie_word_embeddings)
        model_class = f"{spec.wrapper}ForConditionalGeneration"
    model = getattr(transformers, model_class)._from_config(config, attn_implementation="eager").float()
    generator = torch.Generator().manual_seed(spec.seed)
    folded = spec.gguf.startswith("gemma")
    with torch.no_grad():
        for name, values in sorted(model.state_dict().items()):
            if name == "lm_head.weight" and model.config.tie_word_embeddings:
                continue
            values.copy_(random_values(name, tuple(values.shape), generator, folded, config.get_text_config().hidden_size))
    model.tie_weights()
    return model.eval().requires_grad_(False)


def random_values(name: str, shape: tuple[int, ...], generator: Any, folded: bool, dim: int) -> Any:
    """Values that make every tensor tell in the logits."""
    import torch

    if "norm" in name:
        values = torch.randint(0, 256, shape, generator=generator) / 256          # so that adding 1 to them is exact, as to bf16
        return values + (-0.5 if folded else 0.5)
    normal = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return normal * 0.5
    if "embed_tokens" in name or "lm_head" in name:
        return normal * (2.0 / math.sqrt(dim))
    if "q_proj" in name or "k_proj" in name or "qkv_proj" in name:
        return normal * (1.5 / math.sqrt(shape[-1]))
    return normal * (1.0 / math.sqrt(shape[-1]))


def make(folder: Path, spec: FamilySpec, **changes: Any) -> Path:
    """The folder of a spec with these config keys changed. Returns folder."""
    build(spec, **changes).save_pretrained(folder)
    return folder


def changed(spec: FamilySpec, **config: Any) -> FamilySpec:
    return dataclasses.replace(spec, config={**spec.config, **config})
