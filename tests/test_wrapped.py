"""Text models that a larger class holds beside a vision tower: Gemma3ForConditionalGeneration and Mistral3ForConditionalGeneration.

Either form of their tensors' names gives what the text model's own checkpoint gives, byte for byte; what is left out is said, and
nothing else is. test_families.py and test_families_keys.py have the logits and the keys.
"""
from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import families
import models
import numpy as np
import pytest
from families import WRAPPED
from source_checks import refused
from test_families import assert_close, evaluate
from test_sources_gguf import write_gguf

import converter
from converter.config import config_from_hf
from converter.errors import ConvertError, FormatError, UnsupportedError
from converter.inspect import inspect
from converter.sources import open_source

PROMPT = 61


@dataclass
class Made:
    """A wrapper's folder, that of its text model alone, and transformers' own logits."""

    folder: Path
    alone: Path
    ids: list[int]
    expected: np.ndarray


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    found: dict[str, Made] = {}

    def get(name: str) -> Made:
        if name not in found:
            import transformers

            folder = tmp_path_factory.mktemp(name)
            model = families.build(WRAPPED[name])
            model.save_pretrained(folder / "hf")
            text = getattr(transformers, f"{WRAPPED[name].hf_class}ForCausalLM")(model.config.text_config)
            text.load_state_dict({"lm_head.weight": model.lm_head.weight,
                                  **{f"model.{key}": value for key, value in model.model.language_model.state_dict().items()}})
            text.save_pretrained(folder / "alone")
            ids = models.random_ids(7, PROMPT, model.config.text_config.vocab_size)
            found[name] = Made(folder / "hf", folder / "alone", ids, models.transformers_logits(model, ids))
        return found[name]

    return get


def copied(folder: Path, out: Path, rename: Callable[[str], str] = str, extra: dict[str, Any] | None = None,
           **config: Any) -> Path:
    """A copy of a folder with other names of its tensors, more of them, and other keys in its config."""
    from safetensors.numpy import load_file, save_file

    out.mkdir()
    shutil.copy(folder / "generation_config.json", out)
    tensors = {rename(name): values for name, values in load_file(folder / "model.safetensors").items()}
    save_file({**tensors, **(extra or {})}, out / "model.safetensors")
    values = json.loads((folder / "config.json").read_text()) | config
    (out / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))
    return out


def as_the_class_has_them(name: str) -> str:
    for begin, own in (("language_model.model.", "model.language_model."), ("language_model.lm_head.", "lm_head.")):
        if name.startswith(begin):
            return own + name[len(begin):]
    return "model." + name


RENAMES = {"published": str, "the class's": as_the_class_has_them, "compiled": lambda name: "_orig_mod." + name}


@pytest.mark.parametrize("names", RENAMES)
@pytest.mark.parametrize("name", WRAPPED)
@pytest.mark.parametrize("suffix", [".gguf", ".bin"])
def test_it_is_the_text_model_s_own_checkpoint(made: Callable[[str], Made], tmp_path: Path, name: str, names: str,
                                               suffix: str) -> None:
    one = made(name)
    folder = copied(one.folder, tmp_path / "hf", RENAMES[names])
    converter.convert(folder, tmp_path / f"one{suffix}")
    converter.convert(one.alone, tmp_path / f"other{suffix}")
    found, wanted = (open_source(tmp_path / f"{which}{suffix}") for which in ("one", "other"))
    assert found.config == wanted.config and found.hf_config == wanted.hf_config
    found.close()
    wanted.close()
    if suffix == ".gguf":
        assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "other.gguf").read_bytes()
    assert_close(evaluate(tmp_path / f"one{suffix}", one.ids), one.expected)
    assert np.array_equal(evaluate(tmp_path / f"one{suffix}", one.ids, chunks=1), evaluate(tmp_path / f"other{suffix}", one.ids))


@pytest.mark.parametrize("name", WRAPPED)
def test_a_folder_comes_back_as_the_text_model(made: Callable[[str], Made], tmp_path: Path, name: str) -> None:
    one = made(name)
    converter.convert(one.folder, tmp_path / "back")
    assert models.read_safetensors(tmp_path / "back") == models.read_safetensors(one.alone)
    model = models.transformers_model(tmp_path / "back")
    assert type(model).__name__ == f"{WRAPPED[name].hf_class}ForCausalLM"
    assert np.array_equal(models.transformers_logits(model, one.ids), one.expected)


def test_what_is_left_out_is_said(made: Callable[[str], Made], tmp_path: Path) -> None:
    """In one line of the report, and in the file."""
    folder = made("mistral3").folder
    names = models.read_safetensors(folder)
    towers, projectors = (sum(name.startswith(begin) for name in names) for begin in ("vision_tower.", "multi_modal_projector."))
    assert towers and projectors
    said = (f"the text model of a Mistral3ForConditionalGeneration alone is converted, and {towers + projectors} tensors are left "
            f"out: {projectors} of multi_modal_projector and {towers} of vision_tower")
    report = converter.convert(folder, tmp_path / "m.bin", format="ak42-v3")
    assert [warning for warning in report.warnings if "left out" in warning] == [f"{folder.name}: {said}"]
    assert said.encode() in (tmp_path / "m.bin").read_bytes()                  # the manifest
    described = inspect(folder)
    alone = inspect(made("mistral3").alone)
    assert described["parameters"] == alone["parameters"] and described["memory"] == alone["memory"]
    assert len(described["tensors"]) == len(names)


@pytest.mark.parametrize(("rename", "extra", "says"), [
    (str, {"vision_model.head.weight": 3}, "1 tensor left over: vision_model.head.weight"),
    (str, {"language_model.model.layers.0.extra.weight": 3}, "1 tensor left over: model.layers.0.extra.weight"),
    (str, {"visual.weight": 2, "audio_tower.weight": 1}, "2 tensors left over: audio_tower.weight, visual.weight"),
    (str, {"model.norm.weight": 48}, "1 tensor left over: model.norm.weight"),
    (str, {"model.language_model.norm.weight": 48}, "model.norm.weight twice: as language_model.model.norm.weight and as "
                                                    "model.language_model.norm.weight"),
    (lambda name: name.removeprefix("language_model."), {}, "tensors left over: model.embed_tokens.weight, "),
])
def test_other_tensors_are_refused(made: Callable[[str], Made], tmp_path: Path, rename: Callable[[str], str], extra: dict[str, int],
                                   says: str) -> None:
    tensors = {name: np.ones(size, dtype=np.float32) for name, size in extra.items()}
    assert says in refused(copied(made("gemma3-wrapped").folder, tmp_path / "hf", rename, tensors), FormatError)


@pytest.mark.parametrize(("change", "kind", "says"), [
    ({"text_config": ...}, FormatError, "config.json: text_config is absent"),
    ({"text_config": [1]}, FormatError, "config.json: text_config: expected an object, found an array of 1"),
    ({"text_config": {"hidden_size": 48}}, FormatError, "config.json: text_config.model_type is absent"),
    ({"text_config": {"model_type": "ministral3"}}, UnsupportedError,
     "config.json: text_config.model_type: 'ministral3' is not supported, of Mistral3ForConditionalGeneration only 'mistral' is"),
    ({"text_config": {"model_type": "mistral"}}, FormatError, "config.json: text_config: 5 problems: hidden_size is absent; "),
    ({"model_type": "mistral"}, FormatError,
     "config.json: architectures and model_type disagree: 'Mistral3ForConditionalGeneration' and 'mistral'"),
    ({"architectures": ["MistralForCausalLM"]}, FormatError, "model_type: 'mistral3' is not supported, gemma, "),
    ({"architectures": "Mistral3ForConditionalGeneration"}, FormatError,
     "config.json: architectures: expected an array of one name, found 'Mistral3ForConditionalGeneration'"),
    ({"architectures": ["Mistral3ForConditionalGeneration"] * 2}, FormatError,
     "config.json: architectures: expected an array of one name, found an array of 2"),
    ({"quantization_config": {"quant_method": "fp8"}}, UnsupportedError, "quantization_config"),
    ({"auto_map": {"AutoConfig": "other.Config"}}, UnsupportedError, "config.json: auto_map: an object is not supported"),
])
def test_configs_that_are_refused(made: Callable[[str], Made], tmp_path: Path, change: dict[str, Any], kind: type[ConvertError],
                                  says: str) -> None:
    assert says in refused(copied(made("mistral3").folder, tmp_path / "hf", **change), kind)


@pytest.mark.parametrize("change", [{"architectures": ...}, {"model_type": ...}])
def test_either_name_tells_the_class(made: Callable[[str], Made], tmp_path: Path, change: dict[str, Any]) -> None:
    source = open_source(copied(made("gemma3-wrapped").folder, tmp_path / "hf", **change))
    assert source.config.hf_model_type == "gemma3_text"
    source.close()


def test_a_gguf_may_carry_the_whole_of_a_config(tmp_path: Path) -> None:
    """Its text_config is that of the file; what is written again has no other."""
    spec = models.ModelSpec(vocab_size=303)
    text = models.config_json(spec) | {"model_type": "mistral", "sliding_window": None}
    whole = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "text_config": text, "vision_config": {}}
    write_gguf(tmp_path / "m.gguf", spec, keys=lambda writer: writer.add_string("ak42.config", json.dumps(whole)))
    source = open_source(tmp_path / "m.gguf")
    assert source.hf_config == {**text, "architectures": ["MistralForCausalLM"]}
    source.close()


# ---- the head ----

# tie_word_embeddings beside text_config and in it, whether the file has a head, and whether the model's is the embedding; None: it is
# refused.
HEADS = [(True, False, True, False), (True, False, False, True), (..., False, True, False), (..., ..., True, False),
         (False, True, True, False), (True, True, False, True), (True, ..., False, True), (False, False, False, None),
         (True, True, True, None)]


@pytest.mark.parametrize(("beside", "inside", "head", "tied"), HEADS)
def test_the_head_is_the_one_that_transformers_takes(made: Callable[[str], Made], tmp_path: Path, beside: Any, inside: Any,
                                                     head: bool, tied: bool | None) -> None:
    """transformers 5 writes tie_word_embeddings true beside a text_config with false, its class's own default."""
    one = made("mistral3")
    text = json.loads((one.folder / "config.json").read_text())["text_config"] | {"tie_word_embeddings": inside}
    folder = copied(one.folder, tmp_path / "hf", lambda name: name if head or "lm_head" not in name else "vision_tower.lm_head",
                    tie_word_embeddings=beside, text_config={key: value for key, value in text.items() if value is not ...})
    if tied is None:
        assert "they disagree on whether the head is the embedding" in refused(folder, FormatError)
        return
    converter.convert(folder, tmp_path / "m.bin", format="ak42-v3")
    source = open_source(tmp_path / "m.bin")
    assert source.config.shared_classifier == tied
    source.close()
    from transformers import Mistral3ForConditionalGeneration

    model = Mistral3ForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    assert_close(evaluate(tmp_path / "m.bin", one.ids), models.transformers_logits(model, one.ids))


# ---- as published ----

# text_config of google/gemma-3-4b-it, -12b-it, -27b-it and of mistralai/Mistral-Small-3.1-24B-Instruct-2503.
GEMMA3 = {"model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
PUBLISHED = {
    "gemma3-4b": ("Gemma3", {**GEMMA3, "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}),
    "gemma3-12b": ("Gemma3", {**GEMMA3, "hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 48,
                              "num_attention_heads": 16, "num_key_value_heads": 8}),
    "gemma3-27b": ("Gemma3", {**GEMMA3, "hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62, "head_dim": 128,
                              "num_attention_heads": 32, "num_key_value_heads": 16, "query_pre_attn_scalar": 168}),
    "mistral-small-3.1": ("Mistral3", {
        "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120, "initializer_range": 0.02,
        "intermediate_size": 32768, "max_position_embeddings": 131072, "model_type": "mistral", "num_attention_heads": 32,
        "num_hidden_layers": 40, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000000.0,
        "sliding_window": None, "use_cache": True, "vocab_size": 131072}),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_what_transformers_makes_of_them(name: str) -> None:
    """Most of their keys are left to the class."""
    import transformers

    wrapper, text = PUBLISHED[name]
    theirs = getattr(transformers, f"{wrapper}Config").from_dict({"text_config": dict(text)}).text_config
    values = {"architectures": [f"{wrapper}ForConditionalGeneration"], "model_type": wrapper.lower(), "text_config": text,
              "eos_token_id": [1, 106], "torch_dtype": "bfloat16", "vision_config": {"model_type": "siglip_vision_model"}}
    config, warnings = config_from_hf(values)
    assert (config.dim, config.hidden_dim, config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim, config.vocab_size) == (
        theirs.hidden_size, theirs.intermediate_size, theirs.num_hidden_layers, theirs.num_attention_heads,
        theirs.num_key_value_heads, theirs.head_dim, theirs.vocab_size)
    assert (config.trained_ctx, config.norm_eps, config.eos_ids) == (theirs.max_position_embeddings, theirs.rms_norm_eps, (1, 106))
    rope = theirs.rope_parameters
    full = rope.get("full_attention", rope)
    assert (config.rope_theta, config.rope_scaling, config.rope_factor) == (
        full["rope_theta"], full["rope_type"].replace("default", "none"), full.get("factor", 1.0))
    assert config.shared_classifier == (wrapper == "Gemma3")
    if wrapper == "Gemma3":
        assert (config.rope_theta_local, config.sliding_window) == (rope["sliding_attention"]["rope_theta"], theirs.sliding_window)
        assert (config.attention_scale or config.head_dim ** -0.5) == pytest.approx(theirs.query_pre_attn_scalar ** -0.5, rel=1e-7)
        assert [bool(flag) for flag in config.flags] == [kind == "sliding_attention" for kind in theirs.layer_types]
        assert "config.json: text_config: vocab_size is absent, 262208 taken, the default of Gemma3TextConfig" in warnings
    else:
        assert config.sliding_window == 0 and warnings == []


def test_a_key_that_the_class_does_not_go_by_is_refused(made: Callable[[str], Made], tmp_path: Path) -> None:
    text = json.loads((made("gemma3-wrapped").folder / "config.json").read_text())["text_config"]
    text["final_logit_softcapping"] = 30.0
    said = refused(copied(made("gemma3-wrapped").folder, tmp_path / "hf", text_config=text), UnsupportedError)
    assert said == ("config.json: text_config.final_logit_softcapping: 30.0 is not supported, Gemma3ForConditionalGeneration has no "
                    "such key")
