"""Checkpoints that bitsandbytes has quantised, made here with bitsandbytes 0.50.2 itself and compared with its dequantisation.

The CPU kernel of that release mixes blocks up where a row is no multiple of the block; for such shapes the definition is its own
portable implementation, which the CUDA kernels agree with.
"""

from __future__ import annotations

import json
import math
import struct
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
from source_checks import refused, values_of

import converter
from converter.errors import FormatError, UnsupportedError
from converter.quant import TYPES, NestedRows, nf4_absmax
from converter.sources import Source, open_source

functional = pytest.importorskip("bitsandbytes.functional")
portable = pytest.importorskip("bitsandbytes.backends.default.ops")

SPEC = ModelSpec(dim=64, hidden_dim=96, dtype="bf16", vocab_size=303, n_kv_heads=4)
ODD = ModelSpec(dim=36, hidden_dim=76, n_heads=2, n_kv_heads=1, vocab_size=301)         # no row is a multiple of a block
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
KEEP = ("embed_tokens", "norm", "lm_head")             # what bitsandbytes leaves alone

pytest_plugins = ["source_fixtures"]


def packed(weight: torch.Tensor, kind: str, nested: bool, block: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """A matrix as bitsandbytes saves it, and its own dequantisation."""
    if kind == "int8":
        codes, scales, _outliers = functional.int8_vectorwise_quant(weight.half())
        parts = {"weight": codes, "SCB": scales, "weight_format": torch.tensor(0, dtype=torch.uint8)}
        return parts, functional.int8_vectorwise_dequant(codes, scales)
    codes, state = functional.quantize_4bit(weight, blocksize=block, compress_statistics=nested, quant_type=kind)
    parts = {f"weight.{key}": value for key, value in state.as_dict(packed=True).items()} | {"weight": codes}
    if weight.shape[1] % block == 0:
        return parts, functional.dequantize_4bit(codes, state)
    absmax = state.absmax
    if nested:
        absmax = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    return parts, portable._dequantize_4bit_compute(codes.reshape(-1), absmax, state.code, block, weight.shape, weight.dtype)


def folder_of(folder: Path, spec: ModelSpec, kind: str, nested: bool = False, block: int = 64) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder as transformers' save_pretrained writes it, and what each quantised matrix is in full."""
    models.make_hf_model_numpy(folder, spec)
    tensors: dict[str, torch.Tensor] = {}
    full: dict[str, torch.Tensor] = {}
    for name, values in models.random_tensors(spec).items():
        weight = torch.from_numpy(values).to(DTYPES[spec.dtype])
        full[name] = weight
        if any(kept in name for kept in KEEP):
            tensors[name] = weight
            continue
        parts, full[name] = packed(weight, kind, nested, block)
        tensors |= {name.removesuffix("weight") + key: value for key, value in parts.items()}
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / "model.safetensors")
    stated = {"quant_method": "bitsandbytes", "load_in_4bit": kind != "int8", "load_in_8bit": kind == "int8", "bnb_4bit_quant_type": kind}
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": stated}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, full


def check_equal(source: Source, full: dict[str, torch.Tensor]) -> None:
    for name in source.names():
        label = source.label(name)
        assert np.array_equal(values_of(source, name), full[label].float().numpy()), label


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(("kind", "nested", "block"), [("nf4", False, 64), ("nf4", True, 64), ("fp4", False, 64), ("fp4", True, 64),
                                                       ("nf4", True, 32), ("nf4", False, 4096), ("int8", False, 0)])
@pytest.mark.parametrize("spec", [SPEC, ODD], ids=["even", "odd"])
def test_the_values_are_bitsandbytes_own(tmp_path: Path, opened: Callable[..., Source], spec: ModelSpec, kind: str, nested: bool,
                                         block: int, dtype: str) -> None:
    spec = models.dataclasses.replace(spec, dtype=dtype)
    folder, full = folder_of(tmp_path / "hf", spec, kind, nested, block)
    source = opened(folder)
    assert source.warnings == [] and "quantization_config" not in source.hf_config
    assert {source.tensor(name)[0].name for name in source.names() if "attn_q" in name} == {"f32" if kind == "int8" else dtype}
    check_equal(source, full)
    whole = source.read("blk.1.ffn_up.weight", 0, spec.hidden_dim)
    for begin, end in ((0, 1), (1, 2), (3, 29), (spec.hidden_dim - 1, spec.hidden_dim), (5, 5)):
        assert np.array_equal(source.read("blk.1.ffn_up.weight", begin, end), whole[begin:end])


@pytest.mark.parametrize(("kind", "out", "type"), [("nf4", "m.gguf", "q8_0"), ("nf4", "m.bin", "int8"), ("fp4", "m.gguf", "f16"),
                                                   ("nf4", "m.gguf", "keep"), ("fp4", "m.bin", "keep"), ("int8", "m.bin", "q4_0"),
                                                   ("int8", "hf", "bf16"), ("nf4", "hf", "keep")])
def test_it_converts_like_the_values_in_full(tmp_path: Path, kind: str, out: str, type: str) -> None:
    folder, full = folder_of(tmp_path / "packed", SPEC, kind, nested=True)
    plain = models.make_hf_model_numpy(tmp_path / "plain", SPEC)
    save_file({name: tensor.contiguous() for name, tensor in full.items()}, plain / "model.safetensors")
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir(), other.mkdir()
    converter.convert(folder, one / out, type=type)
    converter.convert(plain, other / out, type=type)
    if out == "hf":
        tensors, expected = (load_file(place / out / "model.safetensors") for place in (one, other))
        assert tensors.keys() == expected.keys() and all(torch.equal(tensors[name], expected[name]) for name in tensors)
        assert "quantization_config" not in json.loads((one / out / "config.json").read_text())
        return
    tensors, expected = (converter.inspect(place / out) for place in (one, other))
    for line, wanted in zip(tensors["tensors"], expected["tensors"], strict=True):
        assert line == wanted
        begin, end = line["offset"], line["offset"] + line["bytes"]
        assert (one / out).read_bytes()[begin:end] == (other / out).read_bytes()[begin:end]


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_text_model_in_a_larger_class_is_decoded_too(tmp_path: Path, opened: Callable[..., Source], kind: str) -> None:
    """A matrix of the vision tower in the same form is left out with its statistics."""
    folder, full = folder_of(tmp_path / "hf", models.dataclasses.replace(SPEC, family="mistral"), kind)
    tensors = {f"language_model.{name}": values for name, values in load_file(folder / "model.safetensors").items()}
    parts, _values = packed(torch.randn(64, 64), kind, False, 64)
    tensors |= {f"vision_tower.transformer.layers.0.{key}": values for key, values in parts.items()}
    save_file(tensors, folder / "model.safetensors")
    text = json.loads((folder / "config.json").read_text())
    config = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "text_config": text,
              "quantization_config": text.pop("quantization_config")}
    (folder / "config.json").write_text(json.dumps(config))
    source = opened(folder)
    check_equal(source, {f"language_model.{name}": values for name, values in full.items()})
    assert source.warnings == ["hf: the text model of a Mistral3ForConditionalGeneration alone is converted, and 1 tensor is left "
                               "out: 1 of vision_tower"]


# ---- --type keep: the blocks themselves ----

WIDE = ModelSpec(dim=128, hidden_dim=192, dtype="bf16", vocab_size=303, n_kv_heads=4)


def kept(out: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The types of an ak42 file's matrices, and the rows of each."""
    source = open_source(out)
    try:
        rows = {name: np.array(source.read(name, 0, source.tensor(name)[1][0])) for name in source.names() if len(source.tensor(name)[1]) > 1}
        return {name: source.tensor(name)[0].name for name in rows}, rows
    finally:
        source.close()


@pytest.mark.parametrize("layout", ["panel16", "rows"])
@pytest.mark.parametrize("nested", [False, True])
def test_keep_has_every_block_as_it_was(tmp_path: Path, nested: bool, layout: str) -> None:
    """Codes, absmax, nested absmax and offset are the checkpoint's bytes; q and k, whose rows are put in another order, have the same
    absmax in f32 where theirs were nested in the old order."""
    folder, _full = folder_of(tmp_path / "hf", WIDE, "nf4", nested)
    report = converter.convert(folder, tmp_path / "m.bin", layout=layout)
    stored = load_file(folder / "model.safetensors")
    types, rows = kept(tmp_path / "m.bin")
    turned = [name for name in types if "attn_q" in name or "attn_k" in name]
    assert [line for line in report.warnings if "tokenizer" not in line] == [
        "blk.0.attn_q.weight and 3 more: absmax nested in another order of rows than the file's: written as nf4"][:nested]
    assert report.tensor_errors == {} and report.version == 3
    for name, kind in types.items():
        if name in ("token_embd.weight", "output.weight"):
            assert kind == "bf16"
            continue
        label = converter_label(name)
        codes = stored[label].numpy().reshape(-1)
        state = json.loads(bytes(stored[f"{label}.quant_state.bitsandbytes__nf4"].numpy()))
        absmax = stored[f"{label}.absmax"].numpy()
        if nested and name not in turned:
            assert kind == "nf4-dq"
            parts = NestedRows.of(rows[name], WIDE.hidden_dim if "down" in name else WIDE.dim)
            assert np.array_equal(parts.codes.reshape(-1), codes) and np.array_equal(parts.absmax.reshape(-1), absmax)
            assert set(parts.offset.reshape(-1)) == {np.float32(state["nested_offset"])}
            assert np.array_equal(parts.nested.reshape(-1)[::256], stored[f"{label}.nested_absmax"].numpy())
            continue
        assert kind == "nf4"
        if nested:
            table = stored[f"{label}.nested_absmax"].numpy()[np.arange(absmax.size) // 256]
            absmax = stored[f"{label}.nested_quant_map"].numpy()[absmax] * table + np.float32(state["nested_offset"])
        found = rows[name]
        if name in turned:                     # back in Hugging Face's order
            heads = found.reshape(-1, WIDE.size_head // 2, 2, found.shape[1])
            found = np.swapaxes(heads, 1, 2).reshape(found.shape)
        assert np.array_equal(nf4_absmax(found), absmax)
        assert np.array_equal(found.reshape(-1, 36)[:, 4:].reshape(-1), codes)


def converter_label(name: str) -> str:
    """Hugging Face's name of a layer's matrix."""
    of = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
          "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    _blk, layer, role, _weight = name.split(".")
    return f"model.layers.{layer}.{of[role]}.weight"


@pytest.mark.parametrize(("kind", "nested", "block", "types", "text"), [
    ("fp4", True, 64, {"bf16"}, "FP4, whose values no type here has: written as bf16"),
    ("nf4", True, 128, {"bf16"}, "NF4 in blocks of 128, where 64 is kept: written as bf16"),
    ("int8", False, 0, {"bf16", "f32"}, "LLM.int8, whose one scale a row no type here has: written as f32"),
    ("nf4", False, 64, {"bf16", "nf4"}, "blk.0.ffn_down.weight and 1 more: rows that no block of 64 divides: written as bf16")])
def test_what_keep_cannot_keep_is_said_and_in_the_manifest(tmp_path: Path, kind: str, nested: bool, block: int, types: set[str],
                                                           text: str) -> None:
    folder, _full = folder_of(tmp_path / "hf", SPEC, kind, nested, block)
    report = converter.convert(folder, tmp_path / "m.bin")
    assert any(line.endswith(text) for line in report.warnings), report.warnings
    assert set(kept(tmp_path / "m.bin")[0].values()) == types
    assert b'"fallbacks":{"blk.0.' in (tmp_path / "m.bin").read_bytes()


def test_another_table_of_nested_values_is_kept_in_f32(tmp_path: Path) -> None:
    folder, _full = folder_of(tmp_path / "hf", WIDE, "nf4", True)
    tensors = load_file(folder / "model.safetensors")
    for name in tensors:
        if name.endswith("nested_quant_map"):
            tensors[name] = tensors[name] * 0.5
    save_file(tensors, folder / "model.safetensors")
    report = converter.convert(folder, tmp_path / "m.bin")
    assert any("scales nested in another way" in line for line in report.warnings)
    assert set(kept(tmp_path / "m.bin")[0].values()) == {"bf16", "nf4"}


def test_kept_blocks_go_on_to_everything(tmp_path: Path) -> None:
    """v3 to v3 in either layout bit for bit; to nf4 with the same weights; to other types from the weights in full."""
    folder, _full = folder_of(tmp_path / "hf", WIDE, "nf4", True)
    converter.convert(folder, tmp_path / "a.bin")
    types, rows = kept(tmp_path / "a.bin")
    converter.convert(tmp_path / "a.bin", tmp_path / "b.bin", layout="rows")
    converter.convert(tmp_path / "b.bin", tmp_path / "c.bin")
    for again in ("b.bin", "c.bin"):
        found = kept(tmp_path / again)
        assert found[0] == types and all(np.array_equal(found[1][name], rows[name]) for name in rows)
    report = converter.convert(tmp_path / "a.bin", tmp_path / "nf4.bin", type="nf4")
    flat = kept(tmp_path / "nf4.bin")[1]
    for name, kind in types.items():
        columns = WIDE.hidden_dim if "down" in name else WIDE.dim
        if kind == "nf4-dq":
            assert np.array_equal(TYPES["nf4"].decode(flat[name], columns), TYPES["nf4-dq"].decode(rows[name], columns))
            assert name not in report.tensor_errors


def test_an_adapter_merges_into_the_values(tmp_path: Path) -> None:
    """Nothing of a model with an adapter is kept in blocks."""
    folder, _full = folder_of(tmp_path / "hf", WIDE, "nf4", True)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4,
                                                                "target_modules": ["layers.0.self_attn.v_proj"]}))
    name = "base_model.model.model.layers.0.self_attn.v_proj.lora_"
    save_file({f"{name}A.weight": torch.ones(2, 128), f"{name}B.weight": torch.full((128, 2), 0.5)}, adapter / "adapter_model.safetensors")
    converter.convert(folder, tmp_path / "m.bin", lora=adapter)
    assert set(kept(tmp_path / "m.bin")[0].values()) == {"bf16"}


def test_inspect_says_what_the_model_is(tmp_path: Path) -> None:
    folder, _full = folder_of(tmp_path / "hf", SPEC, "nf4", True)
    found = converter.inspect(folder)
    assert found["parameters"] == sum(math.prod(shape) for shape in models.tensor_shapes(SPEC).values())
    assert any(line["type"] == "U8" for line in found["tensors"])


def test_neither_torch_nor_bitsandbytes_is_needed(tmp_path: Path) -> None:
    folder, _full = folder_of(tmp_path / "hf", SPEC, "nf4", True)
    script = ("import sys; sys.modules['torch'] = sys.modules['bitsandbytes'] = None; import converter; "
              f"print(converter.convert({str(folder)!r}, {str(tmp_path / 'out.gguf')!r}).type)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert done.stdout.strip() == "bf16", done.stderr


@pytest.mark.parametrize("method", ["gptq", "awq", "fp8", "compressed-tensors", "hqq", "mxfp4", "torchao", None])
def test_other_methods_are_refused_by_name(tmp_path: Path, method: str | None) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "hf", SPEC)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": method, "bits": 4}}))
    assert refused(folder, UnsupportedError) == (
        f"config.json: quantization_config: a checkpoint that {method or 'an unnamed method'} has quantised is not supported, bitsandbytes is; "
        "convert the checkpoint from before its quantisation")
    assert "has quantised is not supported" in converter.inspect(folder)["problem"]


NAME = "model.layers.0.mlp.up_proj."
STATE = NAME + "weight.quant_state.bitsandbytes__nf4"


def json_tensor(values: dict[str, Any]) -> torch.Tensor:
    return torch.tensor(list(json.dumps(values).encode()), dtype=torch.uint8)


GOOD = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [96, 64], "nested_blocksize": 256, "nested_dtype": "float32",
        "nested_offset": 0.5}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({NAME + "weight": None}, "expected the codes that its quantisation state is of, found none"),
        ({NAME + "weight": torch.zeros(3071, 1, dtype=torch.uint8)}, "expected 3072 bytes of codes for 96x64, found 3071"),
        ({NAME + "weight.absmax": None}, "up_proj.weight.absmax: expected 96 elements of U8, found none"),
        ({NAME + "weight.absmax": torch.zeros(95, dtype=torch.uint8)}, "absmax: expected 96 elements of U8, found 95 of U8"),
        ({NAME + "weight.absmax": torch.zeros(96)}, "absmax: expected 96 elements of U8, found 96 of F32"),
        ({NAME + "weight.nested_absmax": None}, "absmax: expected 96 elements of F32, found 96 of U8"),
        ({NAME + "weight.nested_absmax": torch.zeros(2)}, "nested_absmax: expected 1 elements of F32, found 2"),
        ({NAME + "weight.nested_quant_map": torch.zeros(255)}, "nested_quant_map: expected 256"),
        ({NAME + "weight.quant_map": torch.linspace(-1, 1, 16)}, "quant_map: a table of other values than bitsandbytes' own"),
        ({STATE: torch.zeros(5000, dtype=torch.uint8)}, "quantisation state: expected a short text"),
        ({STATE: torch.zeros(9, dtype=torch.uint8)}, "quantisation state: expected JSON"),
        ({STATE: json_tensor(GOOD | {"blocksize": 63})}, "expected quant_type nf4, a shape, a blocksize from 32 to 4096"),
        ({STATE: json_tensor(GOOD | {"shape": [96, -64]})}, "expected quant_type nf4, a shape"),
        ({STATE: json_tensor(GOOD | {"dtype": "float64"})}, "expected quant_type nf4, a shape"),
        ({STATE: json_tensor(GOOD | {"dtype": []})}, "expected quant_type nf4, a shape"),
        ({STATE: json_tensor(GOOD | {"blocksize": 64.0})}, "expected quant_type nf4, a shape"),
        ({STATE: json_tensor(GOOD | {"nested_blocksize": 256.0})}, "expected nested_blocksize, nested_dtype float32 and nested_offset"),
        ({STATE: json_tensor(GOOD | {"nested_offset": 10**400})}, "expected nested_blocksize, nested_dtype float32 and nested_offset"),
        ({STATE: json_tensor(GOOD | {"quant_type": "fp4"})}, "expected quant_type nf4, a shape"),
        ({STATE: json_tensor(GOOD | {"nested_offset": "x"})}, "expected nested_blocksize, nested_dtype float32 and nested_offset"),
        ({STATE: json_tensor(GOOD | {"shape": [64, 96]})}, "up_proj.weight expected 96x64, found 64x96"),
        ({STATE: None, STATE[:-3] + "af4": json_tensor(GOOD)}, "quant_type af4 is not supported, nf4 and fp4 are"),
        ({STATE: None}, "left over"),
    ],
)
def test_damaged_statistics_are_refused(tmp_path: Path, changes: dict[str, torch.Tensor | None], text: str) -> None:
    folder, _full = folder_of(tmp_path / "hf", SPEC, "nf4", True)
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")
    assert text in refused(folder)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({NAME + "SCB": torch.zeros(95)}, FormatError, "up_proj.SCB: expected 96 scales of F32, found 95 of F32"),
        ({NAME + "weight": None}, FormatError, "expected a matrix of I8 beside its SCB, found none"),
        ({NAME + "weight": torch.zeros(96, 64)}, FormatError, "expected a matrix of I8 beside its SCB, found 96x64 of F32"),
        ({NAME + "weight_format": torch.tensor(2, dtype=torch.uint8)}, UnsupportedError, "a weight_format other than row by row"),
        ({NAME + "SCB": None, NAME + "weight_format": None}, UnsupportedError, "dtype I8 is not supported"),
    ],
)
def test_damaged_int8_is_refused(tmp_path: Path, changes: dict[str, torch.Tensor | None], kind: type, text: str) -> None:
    folder, _full = folder_of(tmp_path / "hf", SPEC, "int8")
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")
    assert text in refused(folder, kind)


def test_scales_that_are_no_numbers_are_refused_while_converting(tmp_path: Path) -> None:
    folder, _full = folder_of(tmp_path / "hf", SPEC, "nf4")
    tensors = load_file(folder / "model.safetensors")
    tensors[NAME + "weight.absmax"][5] = math.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(converter.RefusedError, match="expected finite weights, found 64 NaN and 0 infinite, the first at index 320"):
        converter.convert(folder, tmp_path / "out.bin")


def test_a_golden_matrix(tmp_path: Path, opened: Callable[..., Source]) -> None:
    """By hand: codes 0 to 15 twice, blocks of 32, scales 2 and -1: two rows of the table times its scale."""
    from converter.blocks import NF4_VALUES
    from converter.sources.bitsandbytes import unpacked
    from converter.sources.input_file import InputFile
    from converter.sources.safetensors_file import read_header

    codes = bytes((2 * i % 16) << 4 | (2 * i + 1) % 16 for i in range(32))
    state = json.dumps({"quant_type": "nf4", "blocksize": 32, "dtype": "float32", "shape": [2, 32]}).encode()
    blobs = {"a": ("U8", [32, 1], codes), "a.absmax": ("F32", [2], struct.pack("<2f", 2, -1)),
             "a.quant_map": ("F32", [16], struct.pack("<16f", *NF4_VALUES)), "a.quant_state.bitsandbytes__nf4": ("U8", [len(state)], state)}
    header, data = {}, b""
    for name, (dtype, shape, blob) in blobs.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    with InputFile(tmp_path / "x.safetensors") as file:
        entries = dict(read_header(file).tensors)
        rows = unpacked(entries, dict.fromkeys(entries, file))["a"].rows(file, 0, 2).view("<f4")
    table = np.array(NF4_VALUES, np.float32)
    assert np.array_equal(rows, np.stack([np.tile(table, 2) * np.float32(2), np.tile(table, 2) * np.float32(-1)]))
