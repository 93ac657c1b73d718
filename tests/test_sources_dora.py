"""--lora with DoRA: each row as long as the adapter says (of an embedding each column), against PEFT's own merge_and_unload.

The tolerances are those of test_sources_lora.py: the lengths are summed up in f64 here and in f32 there, which is far below them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from models import ModelSpec
from safetensors.torch import load_file, save_file
from source_checks import values_of
from test_sources_lora import (
    ALL,
    ATTENTION,
    SPEC,
    changed,
    check_family,
    check_merged,
    check_neighbours,
    merged_values,
    opened,
    refused_by,
    trained,
)

import converter

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def dora(base: Path, out: Path, dtype: str = "f32", **settings: Any) -> Any:
    return trained(base, out, dtype, use_dora=True, **settings)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make_hf_model_numpy(tmp_path_factory.mktemp("dora") / "base", SPEC)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    folder = tmp_path_factory.mktemp("good") / "adapter"
    dora(base, folder, target_modules=[*ALL, "embed_tokens"])
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "lora_alpha": 3, "r": 1},
        {"rank_pattern": {"q_proj": 7, r"model.layers.1.self_attn.o_proj": 2}, "alpha_pattern": {"down_proj": 31}},
        {"target_modules": ATTENTION[:3], "modules_to_save": ["norm", "lm_head"]},
        {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
        {"target_modules": ["v_proj"], "layers_to_transform": [1]},
        {"target_modules": "all-linear", "lora_dropout": 0.1},
    ],
    ids=str,
)
def test_it_is_what_peft_merges(tmp_path: Path, base: Path, settings: dict[str, Any]) -> None:
    expected = merged_values(dora(base, tmp_path / "adapter", **settings))
    source = opened(base, tmp_path / "adapter")
    names = [name for name in source.names() if not np.array_equal(values_of(source, name), values_of(source._base, name))]
    assert names and source.warnings == []
    check_merged(source, expected, rank=7)
    for name in names:                                 # the same rows, whatever is asked for around them
        shape = source.tensor(name)[1]
        if len(shape) == 2:
            whole = source.read(name, 0, shape[0]).view("<f4")
            assert np.allclose(source.read(name, 5, 21).view("<f4"), whole[5:21], rtol=0, atol=1e-6)
    source.close()


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_16_bits_are_rounded_once(tmp_path: Path, dtype: str) -> None:
    """The product of an embedding too, which LoRA without DoRA rounds before it is added."""
    folder = models.make_hf_model_numpy(tmp_path / "base", SPEC, dtype=dtype)
    expected = merged_values(dora(folder, tmp_path / "adapter", dtype, target_modules=[*ALL, "embed_tokens", "lm_head"]))
    source = opened(folder, tmp_path / "adapter")
    assert {source.tensor(name)[0].name for name in source.names()} == {dtype}
    check_merged(source, expected, dtype)
    source.close()


def test_a_tied_embedding(tmp_path: Path) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "base", SPEC, tie=True)
    expected = merged_values(dora(folder, tmp_path / "adapter", target_modules=["embed_tokens", "o_proj"]))
    assert np.array_equal(expected["lm_head.weight"], expected["model.embed_tokens.weight"])
    source = opened(folder, tmp_path / "adapter")
    assert source.config.shared_classifier and "output.weight" not in source.names()
    check_merged(source, expected)
    source.close()


@pytest.mark.parametrize("kind", ["gguf", "bin", "meta"])
def test_lengths_follow_their_rows(tmp_path: Path, base: Path, kind: str) -> None:
    """Sources whose rotary pairs are neighbours."""
    expected = merged_values(dora(base, tmp_path / "adapter", target_modules=["q_proj", "k_proj", "embed_tokens"]))
    check_neighbours(tmp_path, base, expected, kind)


@pytest.mark.parametrize("out", ["hf", "m.gguf"])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("phi3", {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]}),
        ("gemma2", {"target_modules": ["q_proj", "down_proj", "embed_tokens"], "modules_to_save": ["pre_feedforward_layernorm"]}),
        ("qwen2", {"target_modules": "all-linear"}),
    ],
    ids=str,
)
def test_other_families(tmp_path: Path, family: str, settings: dict[str, Any], out: str) -> None:
    check_family(tmp_path, family, lambda folder: dora(folder, tmp_path / "adapter", **settings), out)


def test_a_quantised_base_is_merged_in_f32(tmp_path: Path, base: Path) -> None:
    """What its blocks say is the base model, then."""
    converter.convert(base, tmp_path / "base.gguf", type="q8_0")
    converter.convert(tmp_path / "base.gguf", tmp_path / "decoded", type="f32")
    expected = merged_values(dora(tmp_path / "decoded", tmp_path / "adapter", target_modules=[*ALL, "embed_tokens"]))
    source = opened(tmp_path / "base.gguf", tmp_path / "adapter")
    assert source.tensor("blk.0.attn_q.weight")[0].name == source.tensor("token_embd.weight")[0].name == "f32"
    check_merged(source, expected)
    source.close()


@pytest.mark.parametrize(("kind", "nested"), [("nf4", True), ("fp4", False), ("int8", False)])
def test_over_bitsandbytes(tmp_path: Path, kind: str, nested: bool) -> None:
    """The values that it would compute with are the base model; the merged ones are not packed again."""
    pytest.importorskip("bitsandbytes")
    from test_sources_bitsandbytes import SPEC as PACKED
    from test_sources_bitsandbytes import folder_of

    folder, full = folder_of(tmp_path / "base", PACKED, kind, nested)
    plain = models.make_hf_model_numpy(tmp_path / "plain", PACKED)
    dtype = "f32" if kind == "int8" else "bf16"
    save_file({name: value.contiguous().clone() for name, value in full.items()}, plain / "model.safetensors")
    expected = merged_values(dora(plain, tmp_path / "adapter", dtype))
    source = opened(folder, tmp_path / "adapter")
    assert source.tensor("blk.0.attn_q.weight")[0].name == dtype
    check_merged(source, expected, dtype)
    source.close()


@pytest.mark.parametrize("suffix", [".weight", ".default", ".default.weight"])
def test_other_spellings_are_read(tmp_path: Path, base: Path, good: Path, suffix: str) -> None:
    rename = lambda name: name + suffix if name.endswith("lora_magnitude_vector") else name  # noqa: E731
    other = changed(good, tmp_path / "a", weights=lambda tensors: {rename(name): value for name, value in tensors.items()})
    one, two = opened(base, good), opened(base, other)
    for name in one.names():
        assert np.array_equal(values_of(one, name), values_of(two, name)), name
    one.close(), two.close()


# ---- memory ----

LARGE = ModelSpec(dim=512, hidden_dim=1408, n_layers=3, n_heads=8, n_kv_heads=8, vocab_size=16000)
PEAK = """
import resource, sys, converter, converter.targets, converter.sources.lora
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
converter.convert(sys.argv[1], sys.argv[2], lora=sys.argv[3], type="q8_0")
print(peak() - before)
"""


def test_a_model_is_never_whole_in_memory(tmp_path: Path) -> None:
    """As without an adapter, though the lengths of an embedding's columns are those of all its rows."""
    folder = models.make_hf_model_numpy(tmp_path / "base", LARGE)
    shapes = {name.removesuffix(".weight"): shape for name, shape in models.tensor_shapes(LARGE).items() if len(shape) == 2}
    tensors = {}
    for name, (rows, columns) in shapes.items():
        key, embedding = f"base_model.model.{name}.lora_", "embed_tokens" in name
        tensors[key + ("embedding_A" if embedding else "A.weight")] = torch.full((2, rows if embedding else columns), 0.01)
        tensors[key + ("embedding_B" if embedding else "B.weight")] = torch.full((columns if embedding else rows, 2), 0.01)
        tensors[key + "magnitude_vector"] = torch.ones(columns if embedding else rows)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file(tensors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "use_dora": True,
                                                             "target_modules": [*ALL, "embed_tokens", "lm_head"]}))
    done = subprocess.run([sys.executable, "-c", PEAK, str(folder), str(tmp_path / "out.bin"), str(adapter)], capture_output=True,
                          text=True, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert (folder / "model.safetensors").stat().st_size > 100e6 and int(done.stdout) < 60


# ---- what is refused ----

Q = "base_model.model.model.layers.0.self_attn.q_proj"
E = "base_model.model.model.embed_tokens"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda tensors: {key: value for key, value in tensors.items() if key != f"{Q}.lora_magnitude_vector"},
         "q_proj: expected lora_A, lora_B and lora_magnitude_vector, found no lora_magnitude_vector"),
        (lambda tensors: {key: value for key, value in tensors.items() if key != f"{E}.lora_magnitude_vector"},
         "embed_tokens: expected lora_embedding_A, lora_embedding_B and lora_magnitude_vector, found no lora_magnitude_vector"),
        (lambda tensors: tensors | {f"{Q}.lora_magnitude_vector": torch.ones(63)}, "q_proj: lora_magnitude_vector: expected 64, found 63"),
        (lambda tensors: tensors | {f"{Q}.lora_magnitude_vector": torch.ones(64, 1)}, "lora_magnitude_vector: expected 64, found 64x1"),
        (lambda tensors: tensors | {f"{E}.lora_magnitude_vector": torch.ones(303)}, "embed_tokens: lora_magnitude_vector: expected 64, found 303"),
        (lambda tensors: tensors | {f"{Q}.lora_magnitude_vector": torch.ones(64, dtype=torch.int32)}, "dtype I32 is not supported"),
        (lambda tensors: tensors | {f"{Q}.lora_magnitude_vector.weight": torch.ones(64)}, "expected one lora_magnitude_vector for model.layers.0.self_attn.q_proj, found two"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, base: Path, good: Path, change: Callable[..., Any], text: str) -> None:
    found = refused_by(base, changed(good, tmp_path / "a", weights=change))
    assert text in found and "\n" not in found


def test_the_config_decides(tmp_path: Path, base: Path, good: Path) -> None:
    assert "expected use_dora to be true in adapter_config.json" in refused_by(base, changed(good, tmp_path / "a", {"use_dora": False}))
    assert "use_dora: expected true or false, found 3" in refused_by(base, changed(good, tmp_path / "b", {"use_dora": 3}))


def test_rows_without_a_length_are_refused(tmp_path: Path, base: Path, good: Path) -> None:
    """Their direction is 0 / 0; nothing is left of the output."""
    plain = tmp_path / "base"
    plain.mkdir()
    (plain / "config.json").write_bytes((base / "config.json").read_bytes())
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"][3] = 0
    save_file(tensors, plain / "model.safetensors")
    adapter = changed(good, tmp_path / "a", weights=lambda tensors: tensors | {f"{Q}.lora_B.weight": torch.zeros(64, 4)})
    with pytest.raises(converter.RefusedError, match="q_proj.weight: expected finite weights, found 64 NaN"):
        converter.convert(plain, tmp_path / "out.bin", lora=adapter)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("out")]
