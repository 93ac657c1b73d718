"""Every key of every family's config.json, changed: our logits change as transformers' do, or the key is refused by name.

A key that neither reads may take any value. Sizes that no longer fit the weights are refused by both. No key is left out but those
that name the model or that only training and generation look at.
"""
from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import families
import models
import numpy as np
import pytest
from families import FAMILIES, WRAPPED

import converter
import pyllama
from converter.config import config_from_hf

TESTED = ("qwen2", "qwen2-window", "qwen3", "granite", "olmo2", "smollm3", "smollm3-listed", "gemma", "gemma2", "gemma3", "phi3",
          "phi4-mini", "mixtral", "qwen3-moe", "qwen3-moe-mixed", "llama-yarn", "llama-longrope", "llama-dynamic", "mistral-nemo", "llama-bias", "qwen3-bias", "llama3", "mistral", "olmo3", "olmo3-listed", "olmo3-bias")
IDLE = ("transformers_version", "dtype", "torch_dtype", "architectures", "model_type", "initializer_range", "use_cache",
        "attention_dropout", "resid_pdrop", "embd_pdrop", "router_aux_loss_coef", "router_jitter_noise", "output_router_logits",
        "bos_token_id", "eos_token_id", "pad_token_id", "_name_or_path", "cache_implementation")
# Keys of a wrapper that its other parts alone look at; and the one that counts only while transformers loads a folder, which
# test_wrapped.py looks at.
OF_OTHER_PARTS = ("vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index",
                  "projector_hidden_act", "vision_feature_layer", "multimodal_projector_bias", "spatial_merge_size",
                  "tie_word_embeddings")
PROMPT = 60
MAX_DIFF = 1e-3

# Values for keys that say nothing in some of the models, and for names.
OTHERS: dict[str, list[Any]] = {
    "sliding_window": [9, None], "attn_logit_softcapping": [4.0, None], "final_logit_softcapping": [2.0, None], "head_dim": [8, None],
    "hidden_act": ["gelu", "gelu_pytorch_tanh", "relu"], "hidden_activation": ["gelu", "silu", "relu"],
    "use_bidirectional_attention": [True], "layer_types": [None], "mlp_only_layers": [[0], []], "no_rope_layers": [None],
    "rope_parameters": [], "query_pre_attn_scalar": [9], "num_local_experts": [4, 1], "num_experts_per_tok": [1, 4],
}


def changes(key: str, value: Any) -> Iterator[Any]:
    """Other values of a key."""
    yield from OTHERS.get(key, [])
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value * 2
        yield value + 1
    elif isinstance(value, float):
        yield value * 1.5
    elif key == "layer_types":
        yield ["full_attention" if kind == "sliding_attention" else "sliding_attention" for kind in value]
        yield value[1:] + value[:1]
    elif isinstance(value, list) and value and all(isinstance(item, (int, float)) for item in value):
        yield value[1:] + value[:1]
        yield [1] * len(value)
    elif isinstance(value, dict):
        for inner, item in value.items():
            for other in changes(inner, item):
                yield {**value, inner: other}
        for kind in ("default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional", "mrope"):
            yield {**value, "rope_type": kind}
        for more in ({"rope_type": "linear", "factor": 3.0}, {"rope_type": "dynamic", "factor": 3.0}, {"attention_factor": 0.5},
                     {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32}, {"mscale": 0.7},
                     {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7, "mscale_all_dim": 0.3},
                     {"rope_type": "yarn", "factor": 2.0, "beta_fast": 8, "beta_slow": 2}, {"partial_rotary_factor": 0.5},
                     {"rope_type": "yarn", "factor": 2.0, "truncate": False}, {"rope_theta": 777.0}, {"factor": 1.7}):
            if not any(isinstance(item, dict) for item in value.values()):
                yield {**value, **more}


def without(values: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != key}


def variants(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each key changed, and each key left out."""
    for key in sorted(set(values) - set(IDLE)):
        for other in changes(key, values[key]):
            if other != values[key] or type(other) is not type(values[key]):
                yield f"{key}={other!r}", {**values, key: other}
        yield f"no {key}", without(values, key)
    for key, other in (("attention_bias", True), ("mlp_bias", True), ("rope_scaling", {"type": "linear", "factor": 2.0}),
                       ("sliding_window", 9), ("rope_theta", 500.0), ("partial_rotary_factor", 0.5), ("rope_local_base_freq", 77.0),
                       ("sliding_window_pattern", 2), ("embedding_multiplier", 2.0), ("attn_logit_softcapping", 3.0),
                       ("final_logit_softcapping", 3.0), ("query_pre_attn_scalar", 7), ("num_local_experts", 3), ("head_dim", 8)):
        if key not in values:
            yield f"{key}={other!r}", {**values, key: other}


@pytest.mark.parametrize("name", ["gemma3", "olmo3"])
def test_a_scaling_under_the_old_key_is_refused_where_there_are_two_ropes(name: str, tmp_path: Path) -> None:
    """transformers 4 scales by it, 5 does not; under rope_type both do."""
    model = families.build(FAMILIES[name])
    values = {**without(model.config.to_dict(), "rope_parameters"), "rope_theta": 5e5}
    folder = tmp_path / "hf"
    model.save_pretrained(folder)
    ids = models.random_ids(3, PROMPT, model.config.vocab_size)
    plain = transformers_logits(model, values, ids)
    old = {**values, "rope_scaling": {"type": "linear", "factor": 8.0}}
    assert plain is not None and np.array_equal(transformers_logits(model, old, ids), plain)
    with pytest.raises(converter.UnsupportedError, match=r"rope_scaling\.type: 'linear' is not supported, only rope_type is"):
        config_from_hf(old)
    new = {**values, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    theirs, ours = transformers_logits(model, new, ids), our_logits(folder, new, ids, tmp_path)
    assert np.abs(theirs - plain).max() > 0.1 and ours is not None and np.abs(ours - theirs).max() <= MAX_DIFF


def test_a_theta_that_rope_scaling_hides_is_refused(tmp_path: Path) -> None:
    """transformers takes rope_scaling in place of rope_parameters, and the class's own theta where neither it nor the config says one."""
    model = families.build(FAMILIES["qwen3"])
    folder = tmp_path / "hf"
    model.save_pretrained(folder)
    ids = models.random_ids(3, PROMPT, model.config.vocab_size)
    values = json.loads((folder / "config.json").read_text())
    assert values["rope_parameters"]["rope_theta"] == 1e5 and "rope_theta" not in values
    both = {**values, "rope_scaling": {"rope_type": "default"}}
    plain = models.transformers_logits(model, ids)
    assert np.abs(transformers_logits(model, both, ids) - plain).max() > 0.1
    with pytest.raises(converter.FormatError, match="rope_theta: expected it beside rope_scaling, or in it, found 100000.0 in rope_param"):
        config_from_hf(both)
    for fine in ({**both, "rope_theta": 1e5}, {**values, "rope_scaling": {"rope_type": "default", "rope_theta": 1e5}}):
        assert np.abs(transformers_logits(model, fine, ids) - our_logits(folder, fine, ids, tmp_path)).max() <= MAX_DIFF


@pytest.mark.parametrize("name", ["gemma3", "olmo3"])
def test_an_original_context_beside_the_block_is_refused_where_there_are_two_ropes(name: str, tmp_path: Path) -> None:
    """transformers takes the context in its place."""
    model = families.build(FAMILIES[name])
    folder = tmp_path / "hf"
    model.save_pretrained(folder)
    ids = models.random_ids(3, PROMPT, model.config.vocab_size)
    values = {**without(model.config.to_dict(), "rope_parameters"), "rope_theta": 5e5, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    plain = transformers_logits(model, values, ids)
    assert np.abs(our_logits(folder, values, ids, tmp_path) - plain).max() <= MAX_DIFF
    outer = {**values, "original_max_position_embeddings": 32}
    assert np.array_equal(transformers_logits(model, outer, ids), plain)
    with pytest.raises(converter.UnsupportedError, match="original_max_position_embeddings: 32 is not supported, only in rope_scaling is it"):
        config_from_hf(outer)
    inner = {**values, "rope_scaling": {**values["rope_scaling"], "original_max_position_embeddings": 32}}
    theirs, ours = transformers_logits(model, inner, ids), our_logits(folder, inner, ids, tmp_path)
    assert np.abs(theirs - plain).max() > 0.01 and np.abs(ours - theirs).max() <= MAX_DIFF


def wrapped_variants(values: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same of a wrapper's text_config, and of the keys beside it."""
    for what, text in variants(values["text_config"]):
        yield f"text_config: {what}", {**values, "text_config": text}
    parts = ("text_config", *OF_OTHER_PARTS)
    for what, other in variants({key: value for key, value in values.items() if key not in parts}):
        yield what, {**other, **{key: values[key] for key in parts if key in values}}
    yield "no text_config", without(values, "text_config")


def transformers_logits(model: Any, values: dict[str, Any], ids: list[int]) -> np.ndarray | None:
    """Logits of the same weights under another config; None where transformers will not have it."""
    try:
        config = type(model.config).from_dict(copy.deepcopy(values))
        other = type(model)._from_config(config, attn_implementation="eager").float().eval().requires_grad_(False)
        missing = other.load_state_dict(model.state_dict(), strict=False)
        if missing.unexpected_keys or missing.missing_keys:
            return None
        return models.transformers_logits(other, ids)
    except Exception:                              # whatever it is: it is not run
        return None


@pytest.mark.parametrize("name", [*TESTED, *WRAPPED])
def test_every_key_counts_as_in_transformers_or_is_refused(name: str, tmp_path: Path) -> None:
    model = families.build((FAMILIES | WRAPPED)[name])
    folder = tmp_path / "hf"
    model.save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    ids = models.random_ids(3, PROMPT, model.config.get_text_config().vocab_size)
    expected = models.transformers_logits(model, ids)
    config = config_from_hf(values)[0]
    taken, refused, changed = 0, 0, 0
    for what, other in wrapped_variants(values) if name in WRAPPED else variants(values):
        try:
            found = config_from_hf(other)[0]
        except converter.ConvertError as error:
            assert str(error).startswith("config.json: ")
            refused += 1
            continue
        if found == config:
            ours: np.ndarray | None = expected
        else:
            ours = our_logits(folder, other, ids, tmp_path)
        if ours is None:
            refused += 1
            continue
        theirs = transformers_logits(model, other, ids)
        assert theirs is not None, f"{what}: taken, and transformers does not run it"
        assert np.isfinite(theirs).all(), what
        assert np.abs(ours - theirs).max() <= MAX_DIFF, f"{what}: {np.abs(ours - theirs).max()}"
        taken += 1
        changed += np.abs(theirs - expected).max() > 10 * MAX_DIFF
    assert taken > 10 and refused > 10 and changed > 3, (taken, refused, changed)


def our_logits(folder: Path, values: dict[str, Any], ids: list[int], tmp_path: Path) -> np.ndarray | None:
    """None where the weights do not fit, or the model cannot be had."""
    (folder / "config.json").write_text(json.dumps(values))
    try:
        converter.convert(folder, tmp_path / "m.bin", format="ak42-v3", force=True)
    except converter.ConvertError:
        return None
    with pyllama.Model(tmp_path / "m.bin") as model, model.session(n_ctx=len(ids)) as session:
        return session.eval(ids, all_logits=True)
