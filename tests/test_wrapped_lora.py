"""--lora with an adapter that was trained in a larger class (Gemma3ForConditionalGeneration, Mistral3ForConditionalGeneration), or in
the text model's own over such a folder: the weights are those of PEFT's merge_and_unload, as test_sources_lora.py compares them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import models
import numpy as np
import pytest
import torch
from families import WRAPPED
from safetensors.torch import load_file, save_file
from source_checks import values_of
from test_sources_lora import changed, check_merged, merged_values, opened, refused_by, trained
from test_wrapped import as_the_class_has_them, copied

import converter
from converter.errors import FormatError, UnsupportedError
from converter.sources import open_source

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SIZE = families.SIZES["vocab_size"]
ROWS = 304
BOTH = ["embed_tokens", "lm_head"]
TEXT = r".*language_model.*\.(q_proj|o_proj|down_proj)"
CLASS = {name: f"{spec.wrapper}ForConditionalGeneration" for name, spec in WRAPPED.items()}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    found: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in found:
            found[name] = tmp_path_factory.mktemp(name) / "hf"
            families.build(WRAPPED[name]).save_pretrained(found[name])
        return found[name]

    return get


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, folder_of: Callable[[str], Path]) -> Path:
    """An adapter of Mistral3ForConditionalGeneration's whose vision tower it leaves alone."""
    out = tmp_path_factory.mktemp("good") / "adapter"
    trained(folder_of("mistral3"), out, model_class=CLASS["mistral3"], target_modules=TEXT)
    return out


def of_the_text(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The wrapper's weights under the text model's names."""
    return {name.replace("model.language_model.", "model."): weight for name, weight in values.items()}


def as_older_releases(name: str) -> str:
    """A name of an adapter as it was before transformers 4.52."""
    for own, begin in (("model.language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head."), ("model.", "")):
        if name.startswith(f"base_model.model.{own}"):
            return name.replace(f"base_model.model.{own}", f"base_model.model.{begin}", 1)
    raise AssertionError(name)


def renamed(adapter: Path, out: Path) -> Path:
    stated = json.loads((adapter / "adapter_config.json").read_text())
    patterns = {key: {name.replace("model.language_model", "language_model.model"): value for name, value in stated[key].items()}
                for key in ("rank_pattern", "alpha_pattern")}
    return changed(adapter, out, patterns, lambda tensors: {as_older_releases(name): value for name, value in tensors.items()})


SETTINGS: list[dict[str, Any]] = [
    {"target_modules": TEXT},
    {"target_modules": "all-linear"},                              # the vision tower's and the projector's too
    {"target_modules": TEXT, "use_dora": True, "rank_pattern": {"^model.language_model.*q_proj": 7}, "alpha_pattern": {r"layers\.1\.mlp\.down_proj": 3}},
    {"target_modules": TEXT, "modules_to_save": ["input_layernorm"]},
    {"target_modules": TEXT, "modules_to_save": ["multi_modal_projector"]},
    {"target_modules": TEXT, "trainable_token_indices": [9, 2]},
    {"target_modules": TEXT, "modules_to_save": BOTH},
    {"target_modules": ["q_proj", "embed_tokens"]},
]


@pytest.mark.parametrize("older", [False, True], ids=["", "older"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("name", WRAPPED)
def test_it_is_what_peft_merges(folder_of: Callable[[str], Path], tmp_path: Path, name: str, settings: dict[str, Any],
                                older: bool) -> None:
    """Whichever names the adapter has; what changes a part that is left out is said in one line."""
    adapter = tmp_path / "adapter"
    expected = of_the_text(merged_values(trained(folder_of(name), adapter, model_class=CLASS[name], **settings)))
    keys = [key for key in models.read_safetensors(adapter)
            if "vision_tower" in key or "multi_modal_projector" in key]
    source = opened(folder_of(name), renamed(adapter, tmp_path / "older") if older else adapter)
    check_merged(source, expected, rank=7)
    plain = open_source(folder_of(name))
    assert any(not np.array_equal(values_of(source, key), values_of(plain, key)) for key in plain.names())
    said = [text for text in source.warnings if "the text model alone is merged" in text]
    assert len(said) == bool(keys) and all(f"and {len(keys)} tensors are left out: " in text for text in said)
    source.close(), plain.close()


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_16_bits(tmp_path: Path, dtype: str) -> None:
    kind = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    families.build(WRAPPED["mistral3"]).to(kind).save_pretrained(tmp_path / "hf")
    model = trained(tmp_path / "hf", tmp_path / "adapter", dtype, model_class=CLASS["mistral3"], target_modules=TEXT)
    source = opened(tmp_path / "hf", tmp_path / "adapter")
    check_merged(source, of_the_text(merged_values(model)), dtype)
    source.close()


@pytest.mark.parametrize("kind", ["names", "hf", "gguf", "bin"])
@pytest.mark.parametrize("name", WRAPPED)
def test_every_kind_of_source(folder_of: Callable[[str], Path], tmp_path: Path, name: str, kind: str) -> None:
    """Over the wrapper's folder under its class's names, and over what was converted from it."""
    model = trained(folder_of(name), tmp_path / "adapter", model_class=CLASS[name], target_modules="all-linear").merge_and_unload()
    model.save_pretrained(tmp_path / "merged")
    path = tmp_path / ("base" if kind in ("names", "hf") else f"base.{kind}")
    if kind == "names":
        copied(folder_of(name), path, as_the_class_has_them)
    else:
        converter.convert(folder_of(name), path)
    converter.convert(path, tmp_path / "out.bin", lora=tmp_path / "adapter", format="ak42-v3")
    converter.convert(tmp_path / "merged", tmp_path / "theirs.bin", format="ak42-v3")
    found, wanted = open_source(tmp_path / "out.bin"), open_source(tmp_path / "theirs.bin")
    assert found.names() == wanted.names() and found.config == wanted.config
    for tensor in found.names():
        values = values_of(wanted, tensor)
        assert np.abs(values_of(found, tensor) - values).max() <= 16 * 2.0**-24 * np.abs(values).max(), tensor
    found.close(), wanted.close()


def test_a_gguf_that_says_no_family(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """Mistral's are of architecture llama, as all of Llama's."""
    expected = of_the_text(merged_values(trained(folder_of("mistral3"), tmp_path / "adapter", model_class=CLASS["mistral3"],
                                                 target_modules=TEXT)))
    converter.convert(folder_of("mistral3"), tmp_path / "base.gguf")
    carried = (tmp_path / "base.gguf").read_bytes()
    (tmp_path / "base.gguf").write_bytes(carried.replace(b"ak42.config", b"none.config"))
    source = opened(tmp_path / "base.gguf", tmp_path / "adapter")
    assert source.config.hf_model_type == "llama"
    check_merged(source, expected)
    source.close()


@pytest.mark.parametrize("name", WRAPPED)
def test_an_adapter_of_the_text_model_alone(folder_of: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    """Trained in the text model's own class, and merged into the wrapper's folder."""
    converter.convert(folder_of(name), tmp_path / "alone")
    settings = {"target_modules": ["q_proj", "embed_tokens", "up_proj"], "rank_pattern": {"^model.layers.1": 2}}
    expected = merged_values(trained(tmp_path / "alone", tmp_path / "adapter", **settings))
    source = opened(folder_of(name), tmp_path / "adapter")
    check_merged(source, expected)
    assert not [text for text in source.warnings if "merged" in text]
    source.close()


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_over_bitsandbytes(tmp_path: Path, good: Path, kind: str) -> None:
    """As over the text model's own folder in the same form."""
    pytest.importorskip("bitsandbytes")
    from test_sources_bitsandbytes import SPEC, folder_of

    folder, _full = folder_of(tmp_path / "alone", models.dataclasses.replace(SPEC, family="mistral"), kind)
    whole = tmp_path / "whole"
    whole.mkdir()
    tensors = load_file(folder / "model.safetensors")
    save_file({f"language_model.{name}": values for name, values in tensors.items()}, whole / "model.safetensors")
    text = json.loads((folder / "config.json").read_text())
    (whole / "config.json").write_text(json.dumps({
        "architectures": [CLASS["mistral3"]], "model_type": "mistral3", "text_config": text,
        "quantization_config": text.pop("quantization_config")}))
    module = "base_model.model.model.language_model.layers.1.mlp.down_proj"
    weights = {f"{module}.lora_A.weight": torch.randn(4, SPEC.hidden_dim), f"{module}.lora_B.weight": torch.randn(SPEC.dim, 4)}
    adapter = changed(good, tmp_path / "a", {"target_modules": ["layers.1.mlp.down_proj"]}, lambda _tensors: weights)
    one, other, plain = opened(whole, adapter), opened(folder, adapter), open_source(folder)
    assert all(np.array_equal(values_of(one, name), values_of(other, name)) for name in plain.names())
    assert not np.array_equal(values_of(one, "blk.1.ffn_down.weight"), values_of(plain, "blk.1.ffn_down.weight"))
    one.close(), other.close(), plain.close()


# ---- another vocabulary ----


@pytest.mark.parametrize("older", [False, True], ids=["", "older"])
@pytest.mark.parametrize("settings", [{"modules_to_save": BOTH}, {"save": True}, {"trainable_token_indices": [5, ROWS - 1]}], ids=str)
@pytest.mark.parametrize("name", WRAPPED)
def test_other_tokens(folder_of: Callable[[str], Path], tmp_path: Path, name: str, settings: dict[str, Any], older: bool) -> None:
    """The rows, and every text that is written: of the wrapper's config.json, text_config alone says how many there are."""
    model = trained(folder_of(name), tmp_path / "adapter", rows=ROWS, model_class=CLASS[name],
                    **{"target_modules": TEXT, **{key: value for key, value in settings.items() if key != "save"}})
    if settings.get("save") or "trainable_token_indices" in settings:
        model.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    expected = of_the_text(merged_values(model))
    adapter = renamed(tmp_path / "adapter", tmp_path / "older") if older else tmp_path / "adapter"
    (adapter / "tokenizer.json").write_text(models.bpe_tokenizer_json(ROWS))
    source = opened(folder_of(name), adapter)
    assert source.config.vocab_size == ROWS == source.hf_config["vocab_size"] == len(source.vocab.tokens)
    assert "text_config" not in source.hf_config
    check_merged(source, expected)
    tied = source.config.shared_classifier
    assert tied == np.array_equal(expected["model.embed_tokens.weight"], expected["lm_head.weight"])
    source.close()
    for out in ("out.bin", "out.gguf", "out"):
        converter.convert(folder_of(name), tmp_path / out, lora=adapter)
        again = open_source(tmp_path / out)
        assert again.config.vocab_size == again.hf_config["vocab_size"] == ROWS
        assert again.config.shared_classifier == again.hf_config["tie_word_embeddings"] == tied
        again.close()
    written = models.transformers_model(tmp_path / "out")
    assert written.config.vocab_size == len(written.get_output_embeddings().weight) == ROWS


# ---- what is refused ----


def test_modules_without_tensors_are_refused(folder_of: Callable[[str], Path], tmp_path: Path, good: Path) -> None:
    """By a pattern, or names, as the adapter has them: of the larger class."""
    whole = "model.language_model.layers.1.self_attn.q_proj"
    listed = ["q_proj", "o_proj", "down_proj"]
    full = [whole, *listed[1:], *(f"layers.{n}.self_attn.q_proj" for n in (0, 2, 3))]
    for number, targets in enumerate((TEXT, listed, full)):
        adapter = changed(good, tmp_path / f"a{number}", {"target_modules": targets},
                          lambda tensors: {name: value for name, value in tensors.items() if whole not in name})
        assert "model.layers.1.self_attn.q_proj.weight: expected lora_A and lora_B" in refused_by(folder_of("mistral3"), adapter)


Q = "base_model.model.model.language_model.layers.0.self_attn.q_proj"


def both_forms(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors | {as_older_releases(name): value.clone() for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (both_forms, "model.layers.0.mlp.down_proj.weight twice: as language_model.model.layers.0.mlp.down_proj.weight and as "
                     "model.language_model.layers.0.mlp.down_proj.weight"),
        (lambda tensors: tensors | {name.replace("language_model.", ""): value.clone() for name, value in tensors.items()},
         "model.layers.0.mlp.down_proj.weight twice: as model.language_model.layers.0.mlp.down_proj.weight and as "
         "model.layers.0.mlp.down_proj.weight"),
        (lambda tensors: {as_older_releases(name) if "lora_A" in name else name: value for name, value in tensors.items()},
         "expected lora_A and lora_B, found no lora_"),
        (lambda tensors: {name.replace("language_model", "vision_tower"): value for name, value in tensors.items()},
         "adapter_model.safetensors: expected tensors that change the text model, found those of vision_tower alone"),
        (lambda tensors: tensors | {"base_model.model.x.lm_head.token_adapter.trainable_tokens_delta": torch.zeros(1, 48)},
         "x.lm_head: expected a module of trainable_token_indices, found another"),
        (lambda tensors: tensors | {"base_model.model.model.audio_tower.proj.weight": torch.zeros(3)},
         "model.audio_tower.proj.weight: expected a weight of hf, found that it has none of this name"),
        (lambda tensors: tensors | {f"{Q}.lora_A.weight": torch.zeros(4, 40)}, "expected 80x48, as hf has it, found 80x40"),
        (lambda tensors: tensors | {"base_model.model.model.language_model.language_model.model.norm.weight": torch.zeros(48)},
         "model.language_model.model.norm.weight: expected a weight of hf"),
    ],
)
def test_names_that_do_not_fit_are_refused(folder_of: Callable[[str], Path], tmp_path: Path, good: Path, change: Callable[..., Any],
                                           text: str) -> None:
    config = {"target_modules": ["q_proj", "o_proj", "down_proj"]}             # of any name
    found = refused_by(folder_of("mistral3"), changed(good, tmp_path / "a", config, change), FormatError)
    assert text in found and "\n" not in found


def test_what_is_left_out_need_not_be_known(folder_of: Callable[[str], Path], tmp_path: Path, good: Path) -> None:
    """Of no rank, no type and no name that would be merged; the manifest says it."""
    tower = "base_model.model.model.vision_tower.encoder.layers.0.conv"
    extra = {f"{tower}.lora_A.weight": torch.zeros(2, 3, 3, 1, dtype=torch.int8), f"{tower}.lora_other": torch.zeros(3)}
    adapter = changed(good, tmp_path / "a", weights=lambda tensors: tensors | extra)
    said = "a: the text model alone is merged, and 2 tensors are left out: 2 of vision_tower"
    report = converter.convert(folder_of("mistral3"), tmp_path / "out.bin", lora=adapter, format="ak42-v3")
    assert [text for text in report.warnings if "merged" in text] == [said]
    assert said.encode() in (tmp_path / "out.bin").read_bytes()
    converter.convert(folder_of("mistral3"), tmp_path / "plain.bin", lora=good, format="ak42-v3")
    one, other = open_source(tmp_path / "out.bin"), open_source(tmp_path / "plain.bin")
    assert all(np.array_equal(values_of(one, name), values_of(other, name)) for name in one.names())
    one.close(), other.close()


def test_half_of_what_is_tied_is_refused(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    for older in (False, True):
        adapter = tmp_path / f"a{older}"
        trained(folder_of("gemma3-wrapped"), adapter, model_class=CLASS["gemma3-wrapped"], target_modules=TEXT,
                modules_to_save=["lm_head"])
        if older:
            adapter = renamed(adapter, tmp_path / "older")
        found = refused_by(folder_of("gemma3-wrapped"), adapter, UnsupportedError)
        assert "lm_head.weight: the base model's head is its embedding" in found


def test_a_family_that_no_class_is_known_of(tmp_path: Path, good: Path) -> None:
    base = families.make(tmp_path / "base", families.FAMILIES["qwen2"])
    assert "model.language_model.layers.0.mlp.down_proj.weight: expected a weight of base, found that it has none" in refused_by(
        base, good, FormatError)
