"""From source to plan: the order of rotary rows, the types, what is refused on the way, and `converter.convert` itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ModelSpec
from plans import CONFIG

import converter
from converter.arch import ARCHITECTURES, HALF_SPLIT, INTERLEAVED, ROLES, Tensor, hf_names, reorder, reordered_rows
from converter.errors import ConvertError, RefusedError, UnsupportedError, UsageError
from converter.mixes import MIXES, fallback_for
from converter.plan import Plan, Request, TensorPlan, build_plan, matrix_types
from converter.quant import TYPES
from converter.sources import open_source
from pyllama.quantize import encode

SPEC = ModelSpec(dim=64, hidden_dim=96, head_dim=32, vocab_size=37)
ORDERS = [INTERLEAVED, HALF_SPLIT]


# ---- the order of rotary rows ----


def moved(weights: np.ndarray, n_heads: int, target: str) -> np.ndarray:
    """The definition: a head's rows as (2 halves, pairs), or as (pairs, 2)."""
    columns = weights.shape[1]
    if target == INTERLEAVED:
        return weights.reshape(n_heads, 2, -1, columns).swapaxes(1, 2).reshape(weights.shape)
    return weights.reshape(n_heads, -1, 2, columns).swapaxes(1, 2).reshape(weights.shape)


@settings(max_examples=120, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(1, 4), st.integers(1, 9), st.sampled_from(ORDERS))
def test_rows_of_any_head_layout_are_reordered_within_their_heads(
    data: st.DataObject, n_kv_heads: int, repeats: int, half: int, target: str
) -> None:
    source = HALF_SPLIT if target == INTERLEAVED else INTERLEAVED
    head_dim = 2 * half
    for n_heads in (n_kv_heads, n_kv_heads * repeats):  # k, and q
        rows = n_heads * head_dim
        weights = np.arange(rows * 3).reshape(rows, 3)
        expected = moved(weights, n_heads, target)
        assert np.array_equal(weights[reorder(0, rows, head_dim, source, target)], expected)
        assert np.array_equal(expected[reorder(0, rows, head_dim, target, source)], weights)
        begin = data.draw(st.integers(0, rows))
        end = data.draw(st.integers(begin, rows))
        asked: list[tuple[int, int]] = []

        def read(first: int, last: int, weights: np.ndarray = weights, asked: list[tuple[int, int]] = asked) -> np.ndarray:
            asked.append((first, last))
            return weights[first:last]

        assert np.array_equal(reordered_rows(read, begin, end, head_dim, source, target), expected[begin:end])
        assert all(begin - first < head_dim and last - end < head_dim for first, last in asked)
        assert np.array_equal(reordered_rows(read, begin, end, head_dim, source, source), weights[begin:end])


def test_pairs_are_what_the_names_say() -> None:
    assert reorder(0, 8, 8, HALF_SPLIT, INTERLEAVED).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert reorder(0, 8, 8, INTERLEAVED, HALF_SPLIT).tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_names_of_both_worlds(tmp_path: Path) -> None:
    source = open_source(models.make_hf_model_numpy(tmp_path / "hf", SPEC))
    names = hf_names(source.config)
    assert list(names) == source.names() and set(names.values()) == set(models.tensor_shapes(SPEC))
    assert names["blk.1.ffn_down.weight"] == "model.layers.1.mlp.down_proj.weight"
    tied = hf_names(replace(source.config, shared_classifier=True))
    assert "output.weight" not in tied and len(tied) == len(names) - 1
    source.close()


# ---- types ----


def plan_of(path: Path, type: str = "keep", container: str = "ak42", **more: Any) -> Plan:
    return build_plan(open_source(path), Request(type, container, **more))


def tensor_of(plan: Plan, name: str) -> TensorPlan:
    return next(tensor for tensor in plan.tensors if tensor.name == name)


def whole(tensor: TensorPlan) -> np.ndarray:
    return tensor.rows(0, tensor.n_rows)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """folder(dtype="bf16", change=..): SPEC as a Hugging Face folder, its tensors changed."""

    def make(change: Callable[[dict[str, np.ndarray]], Any] = lambda tensors: None, **fields: Any) -> Path:
        spec = replace(SPEC, **fields)
        path = models.make_hf_model_numpy(tmp_path / "hf", spec)
        tensors = models.random_tensors(spec)
        change(tensors)
        models.write_safetensors(path / "model.safetensors", tensors, spec.dtype)
        return path

    return make


@pytest.mark.parametrize("type_name", sorted(name for name, kind in TYPES.items() if kind.block_len <= 32 and name != "iq4_nl"))
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_the_type_covers_every_matrix(folder: Callable[..., Path], type_name: str, dtype: str) -> None:
    plan = plan_of(folder(dtype=dtype), type_name)
    kind = TYPES[type_name]
    expected = models.random_tensors(replace(SPEC, dtype=dtype))
    assert plan.weight_type == type_name
    for tensor in plan.tensors:
        assert tensor.type is (kind if len(tensor.shape) == 2 else TYPES["f32"])
        assert tensor.group_size == (32 if type_name == "int8" and len(tensor.shape) == 2 else 0)
        values = expected[hf_names(plan.config)[tensor.name]]
        if tensor.role in ("wq", "wk"):
            values = moved(values, tensor.n_rows // 32, INTERLEAVED)
        encoded = tensor.type.encode(values.reshape(-1, values.shape[-1]), tensor.group_size)
        assert np.array_equal(whole(tensor), encoded)
        assert (tensor.n_rows, tensor.row_bytes) == encoded.shape and tensor.nbytes == encoded.nbytes
    assert plan.nbytes == sum(tensor.nbytes for tensor in plan.tensors)


def test_rows_come_in_any_ranges(folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder(dtype="f16")
    expected = {tensor.name: whole(tensor) for tensor in plan_of(path, "q8_0").tensors}
    monkeypatch.setattr("converter.streams.CHUNK_WEIGHTS", 64 * 5)
    for tensor in plan_of(path, "q8_0").tensors:
        assert np.array_equal(whole(tensor), expected[tensor.name])
        for begin in range(0, tensor.n_rows, 7):
            end = min(begin + 7, tensor.n_rows)
            assert np.array_equal(tensor.rows(begin, end), expected[tensor.name][begin:end])
        with pytest.raises(IndexError):
            tensor.rows(0, tensor.n_rows + 1)


@pytest.mark.parametrize("type_name", ["q8_0", "q4_0", "q4_1", "int8"])
def test_keep_copies_blocks(folder: Callable[..., Path], tmp_path: Path, type_name: str) -> None:
    """Through panel16 and rows, and in Hugging Face's order too: blocks lie along a row, so rows move whole."""
    path = folder()
    plan = plan_of(path, type_name)
    converter.convert(path, tmp_path / "m.bin", type=type_name, format="ak42-v3")
    kept = plan_of(tmp_path / "m.bin")
    again = plan_of(tmp_path / "m.bin", type_name)
    for tensor in plan.tensors:
        assert np.array_equal(whole(tensor_of(kept, tensor.name)), whole(tensor))
        assert np.array_equal(whole(tensor_of(again, tensor.name)), whole(tensor))
    assert kept.tensor_errors == again.tensor_errors == {}


def test_keep_keeps_every_tensor_s_own_type(folder: Callable[..., Path], tmp_path: Path) -> None:
    path = folder(dtype="bf16")
    tensors = models.read_safetensors(path)
    name = "model.layers.1.mlp.up_proj.weight"
    values = models.random_tensors(replace(SPEC, dtype="bf16"))[name]
    tensors[name] = "F32", tensors[name][1], values.tobytes()
    header: dict[str, Any] = {}
    data = b""
    for key, (dtype, shape, blob) in tensors.items():
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    text = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    plan = plan_of(path)
    assert plan.weight_type == "mixed" and matrix_types(open_source(path)) == {"f32", "bf16"}
    report = converter.convert(path, tmp_path / "m.bin")
    assert (report.version, report.type) == (3, "mixed")
    converter.convert(tmp_path / "m.bin", tmp_path / "m.gguf")
    assert plan_of(tmp_path / "m.gguf", container="gguf").weight_type == "mixed"
    converter.convert(tmp_path / "m.gguf", tmp_path / "back")
    back = models.read_safetensors(tmp_path / "back")
    assert {key: back[key] for key in tensors if tensors[key][1] != (64,)} == {
        key: value for key, value in tensors.items() if value[1] != (64,)
    }


def test_vectors_of_a_folder_have_the_matrices_type_where_that_loses_nothing(folder: Callable[..., Path], tmp_path: Path) -> None:
    path = folder()
    for type_name, expected in (("f32", "f32"), ("bf16", "f32"), ("keep", "f32")):
        assert tensor_of(plan_of(path, type_name, "hf"), "output_norm.weight").type.name == expected
    converter.convert(folder(dtype="bf16"), tmp_path / "m.bin")
    plan = plan_of(tmp_path / "m.bin", container="hf")
    assert {tensor.type.name for tensor in plan.tensors} == {"bf16"}
    assert {tensor.type.name for tensor in plan_of(path, "keep", "hf").tensors} == {"bf16"}


@pytest.mark.parametrize(
    ("fields", "type_name", "text"),
    [
        (
            {"hidden_dim": 84},
            "q8_0",
            "hf: blk.0.ffn_down.weight: q8_0 needs rows of a multiple of 32 weights, found 84; use --type int8, f16 or bf16",
        ),
        ({"dim": 80}, "q4_0", "hf: token_embd.weight: q4_0 needs rows of a multiple of 32 weights, found 80; use --type int8"),
        (
            {"hidden_dim": 86},
            "q4_1",
            "hf: blk.0.ffn_down.weight: q4_1 needs rows of a multiple of 32 weights, found 86; use --type f16",
        ),
        (
            {"hidden_dim": 86},
            "int8",
            "int8 needs a group of 4, 8, 16, 32 or 64 that divides every row length, found rows of 64; use --type",
        ),
    ],
)
def test_a_row_that_a_block_does_not_divide_is_refused(
    folder: Callable[..., Path], tmp_path: Path, fields: dict[str, int], type_name: str, text: str
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        converter.convert(folder(**fields), tmp_path / "m.bin", type=type_name)
    assert text in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


@pytest.mark.parametrize(("hidden_dim", "group"), [(128, 64), (96, 32), (84, 4)])
def test_the_group_divides_every_row(folder: Callable[..., Path], hidden_dim: int, group: int) -> None:
    plan = plan_of(folder(hidden_dim=hidden_dim, head_dim=None, n_heads=4), "int8")
    assert {tensor.group_size for tensor in plan.tensors} == {0, group}


# ---- numbers that no file may have ----


def spoil(name: str, places: dict[int, float]) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[name] = tensors[name].copy()
        for place, value in places.items():
            tensors[name].reshape(-1)[place] = value

    return change


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("type_name", ["keep", "f32", "q8_0"])
def test_weights_that_are_not_finite_are_refused(folder: Callable[..., Path], tmp_path: Path, dtype: str, type_name: str) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    path = folder(spoil(name, {2000: np.nan, 700: np.inf, 705: -np.inf}), dtype=dtype)
    with pytest.raises(RefusedError) as caught:
        converter.convert(path, tmp_path / "m.bin", type=type_name)
    assert str(caught.value) == f"hf: {name}: expected finite weights, found 1 NaN and 2 infinite, the first at index 700"
    assert caught.value.code == 3
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["hf"]


def test_norms_and_scales_are_looked_at_too(folder: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(
        RefusedError, match="model.norm.weight: expected finite weights, found 1 NaN and 0 infinite, the first at index 3"
    ):
        converter.convert(folder(spoil("model.norm.weight", {3: np.nan})), tmp_path / "m.gguf")
    path = folder()
    converter.convert(path, tmp_path / "m.gguf", type="q8_0")
    data = bytearray((tmp_path / "m.gguf").read_bytes())
    tensor = next(tensor for tensor in converter.inspect(tmp_path / "m.gguf")["tensors"] if tensor["name"] == "blk.0.ffn_up.weight")
    data[tensor["offset"] + 34 : tensor["offset"] + 36] = np.array([np.inf], "<f2").tobytes()  # the second block's scale
    (tmp_path / "m.gguf").write_bytes(data)
    for type_name in ("keep", "f32"):
        with pytest.raises(
            RefusedError, match="m.gguf: blk.0.ffn_up.weight: expected finite weights, found .* the first at index 32"
        ):
            converter.convert(tmp_path / "m.gguf", tmp_path / "n.gguf", type=type_name)


@pytest.mark.parametrize(
    ("type_name", "value"), [("f16", 70000.0), ("f16", -65520.0), ("q8_0", 1e8), ("q4_0", 1e6), ("q4_1", 1e6), ("bf16", 3.4e38),
                              ("f16", 3.4e38), ("q8_0", -3.4e38)]
)
def test_a_value_that_does_not_fit_is_refused(folder: Callable[..., Path], tmp_path: Path, type_name: str, value: float) -> None:
    path = folder(spoil("model.layers.0.mlp.up_proj.weight", {64 * 5 + 7: value}))
    with pytest.raises(RefusedError) as caught:
        converter.convert(path, tmp_path / "m.gguf", type=type_name)
    assert caught.value.code == 3
    remedy = "use --type bf16 or f32" if abs(value) < 3.39e38 else "use --type f32"            # what bf16 holds, and what not
    assert str(caught.value) == (
        f"hf: model.layers.0.mlp.up_proj.weight: expected weights that fit {type_name}, "
        f"found {value:g} at row 5, column 7; {remedy}"
    )


def test_int8_of_the_largest_weights(folder: Callable[..., Path], tmp_path: Path) -> None:
    """127 steps of a scale that was rounded up may be infinite; the type that is suggested holds the weight."""
    largest = float(np.finfo(np.float32).max)
    path = folder(spoil("model.layers.0.mlp.up_proj.weight", {64 * 5 + 7: largest}))
    with pytest.raises(RefusedError, match=r"weights that fit int8, found 3.40282e\+38 at row 5, column 7; use --type f32$"):
        converter.convert(path, tmp_path / "m.bin", type="int8")
    converter.convert(path, tmp_path / "m.bin", type="f32")


@pytest.mark.parametrize(("type_name", "value"), [("iq4_nl", 1e36), ("iq4_xs", 1e36), ("q6_k", 1e20), ("q3_k", 1e38)])
def test_weights_too_large_to_search_a_scale_for(folder: Callable[..., Path], tmp_path: Path, type_name: str, value: float) -> None:
    """Sums of such weights' squares would be infinite, so that no scale would be better than none: zeros must not be written."""
    up = {256 * 5 + at: value for at in range(32)}
    path = folder(spoil("model.layers.0.mlp.up_proj.weight", up), dim=256, hidden_dim=256, head_dim=64)
    with pytest.raises(RefusedError) as caught:
        converter.convert(path, tmp_path / "m.gguf", type=type_name, encoder=encode)
    assert f"up_proj.weight: expected weights that fit {type_name}, found {value:g} at row 5, column 0; " in str(caught.value)
    assert not (tmp_path / "m.gguf").exists()


# ---- what encoding costs ----


def test_errors_are_reported_of_what_was_encoded(folder: Callable[..., Path], tmp_path: Path) -> None:
    path = folder()
    for type_name, worst in (("f16", 5e-4), ("bf16", 4e-3), ("int8", 4e-3), ("q8_0", 5e-3), ("q4_0", 0.13), ("q4_1", 0.07)):
        plan = plan_of(path, type_name)
        for tensor in plan.tensors:
            encoded = whole(tensor)
            if len(tensor.shape) == 1:
                assert tensor.name not in plan.tensor_errors
                continue
            values = models.random_tensors(SPEC)[hf_names(plan.config)[tensor.name]]
            if tensor.role in ("wq", "wk"):
                values = moved(values, tensor.n_rows // 32, INTERLEAVED)
            off = np.abs(tensor.type.decode(encoded, tensor.columns, tensor.group_size).astype(np.float64) - values)
            line = plan.tensor_errors[tensor.name]
            assert line["max_abs"] == pytest.approx(off.max(), rel=1e-3)
            assert line["rms"] == pytest.approx(np.sqrt(np.square(off).mean()), rel=1e-3)
            assert line["rms_rel"] == pytest.approx(np.sqrt(np.square(off).mean() / np.square(values, dtype=np.float64).mean()), rel=1e-3)
            assert line["max_rel"] == pytest.approx((off.max(axis=1) / np.abs(values).max(axis=1)).max(), rel=1e-3)
            assert 0 < line["max_rel"] <= worst
    report = converter.convert(path, tmp_path / "m.bin", type="q8_0")
    assert set(report.tensor_errors) == {tensor.name for tensor in plan.tensors if len(tensor.shape) == 2}


def test_bf16_to_f16_is_measured_and_f32_costs_nothing(folder: Callable[..., Path]) -> None:
    path = folder(dtype="bf16")
    plan = plan_of(path, "f16")
    for tensor in plan.tensors:
        whole(tensor)
    assert all(
        line == {"max_abs": 0.0, "max_rel": 0.0, "rms": 0.0, "rms_rel": 0.0} or 0 < line["max_abs"] < 1e-6 for line in plan.tensor_errors.values()
    )
    assert len(plan.tensor_errors) == sum(len(tensor.shape) == 2 for tensor in plan.tensors)
    plan = plan_of(path, "f32")
    for tensor in plan.tensors:
        whole(tensor)
    assert plan.tensor_errors == {}


def test_an_encoder_may_be_handed_in(folder: Callable[..., Path]) -> None:
    path, asked = folder(), []

    def encoder(name: str, values: np.ndarray, group_size: int) -> np.ndarray | None:
        asked.append((name, values.dtype, group_size))
        return TYPES[name].encode(values, group_size) if len(asked) % 2 else None

    for name, group in (("q8_0", 0), ("int8", 32)):
        asked.clear()
        for own, other in zip(plan_of(path, name, encoder=encoder).tensors, plan_of(path, name).tensors, strict=True):
            assert np.array_equal(whole(own), whole(other))
        assert set(asked) == {(name, np.dtype(np.float32), group)}


# ---- the door ----


@pytest.mark.parametrize(
    ("out", "options", "expected"),
    [
        ("m.bin", {}, ("ak42", 1, "f32")),
        ("m.bin", {"type": "int8"}, ("ak42", 2, "int8")),
        ("m.bin", {"type": "f16"}, ("ak42", 3, "f16")),
        ("m.bin", {"format": "ak42-v0"}, ("ak42", 0, "f32")),
        ("m.bin", {"format": "ak42-v2"}, ("ak42", 2, "int8")),
        ("m.bin", {"format": "ak42-v3"}, ("ak42", 3, "f32")),
        ("m.gguf", {}, ("gguf", 3, "f32")),
        ("m", {}, ("hf", None, "f32")),
        ("m.gguf", {"type": "q4_0"}, ("gguf", 3, "q4_0")),
        ("SomeModel-1.7B", {"type": "bf16"}, ("hf", None, "bf16")),
        ("m.gguf", {"format": "ak42"}, ("ak42", 1, "f32")),
        ("x.safetensors", {"format": "hf"}, ("hf", None, "f32")),
    ],
)
def test_format_and_version_follow_from_out_and_the_model(
    folder: Callable[..., Path], tmp_path: Path, out: str, options: dict[str, Any], expected: tuple[str, int | None, str]
) -> None:
    report = converter.convert(folder(head_dim=None), tmp_path / out, **options)
    assert (report.format, report.version, report.type) == expected
    assert report.out == tmp_path / out and report.out.exists() and report.tensors == 21
    assert report.bytes == sum(path.stat().st_size for path in report.files)
    found = json.loads(json.dumps(report.to_dict()))
    assert found["format"] == report.format and found["files"] and found["out"] == str(report.out)


def test_a_model_with_other_constants_is_version_3(folder: Callable[..., Path], tmp_path: Path) -> None:
    assert converter.convert(folder(head_dim=None, norm_eps=1e-6), tmp_path / "m.bin").version == 3
    for version in ("ak42-v0", "ak42-v1", "ak42-v2"):
        with pytest.raises(ConvertError, match="norm_eps: expected 1e-05, found 1e-06"):
            converter.convert(tmp_path / "m.bin", tmp_path / "n.bin", format=version)


def test_groups_that_no_version_2_file_has_stay_version_3(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder(head_dim=None)
    monkeypatch.setattr("converter.plan.model_group_size", lambda config: 16)
    converter.convert(path, tmp_path / "small.bin", type="int8", format="ak42-v3")
    monkeypatch.undo()
    assert converter.convert(tmp_path / "small.bin", tmp_path / "m.bin").version == 3
    assert {tensor.group_size for tensor in plan_of(tmp_path / "m.bin").tensors} == {0, 16}


@pytest.mark.parametrize(
    ("out", "options", "text"),
    [
        ("m.bin", {"type": "q5_x"}, "--type: expected one of keep, f32, f16, bf16, int8, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, "),
        ("m.bin", {"format": "onnx"}, "--format: expected one of auto, ak42, ak42-v0, "),
        ("m.bin", {"layout": "tiles"}, "--layout: expected one of panel16, rows, found tiles"),
        ("m.safetensors", {}, "m.safetensors: expected a name that ends in .bin or .gguf, or a folder; say --format otherwise"),
        ("m.bin.gz", {}, "m.bin.gz: expected a name that ends in .bin or .gguf, or a folder, found that of a compressed file; what is "
                         "written is not compressed"),
        ("m.GGUF.ZST", {"type": "q8_0"}, "m.GGUF.ZST: expected a name that ends in .bin or .gguf, or a folder, found that of a "),
        ("M.SAFETENSORS", {}, "M.SAFETENSORS: expected a name that ends in .bin or .gguf, or a folder; say --format otherwise"),
        ("m\0.bin", {}, "m\\x00.bin: expected the name of a file or folder, found one with a NUL in it"),
        ("m.bin", {"format": "ak42-v1", "type": "f16"}, "--type f16: ak42-v1 holds f32 only; use --format ak42-v3"),
        ("m.bin", {"format": "ak42-v2", "type": "f32"}, "--type f32: ak42-v2 holds int8 only"),
        ("m.gguf", {"type": "int8"}, "--type int8: a GGUF file holds f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, q2_k, "),
        ("m", {"type": "q8_0"}, "--type q8_0: a Hugging Face folder holds f32, f16, bf16 only"),
    ],
)
def test_what_does_not_exist_is_a_usage_error(
    folder: Callable[..., Path], tmp_path: Path, out: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError) as caught:
        converter.convert(folder(), tmp_path / out, **options)
    assert text in str(caught.value) and caught.value.code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


@pytest.mark.parametrize(("out", "format_name"), [
    ("m.GGUF", "gguf"), ("M.Gguf", "gguf"), ("M.BIN", "ak42"), ("Llama-3.2-1B", "hf"), ("v1.5", "hf")])
def test_a_name_s_end_says_the_format_in_any_case(folder: Callable[..., Path], tmp_path: Path, out: str, format_name: str) -> None:
    assert converter.convert(folder(), tmp_path / out).format == format_name
    assert (tmp_path / out).is_dir() == (format_name == "hf")


def test_a_quantised_source_says_which_type_a_folder_gets(folder: Callable[..., Path], tmp_path: Path) -> None:
    converter.convert(folder(), tmp_path / "m.gguf", type="q8_0")
    with pytest.raises(UsageError) as caught:
        converter.convert(tmp_path / "m.gguf", tmp_path / "back")
    assert str(caught.value) == (
        "m.gguf: a Hugging Face folder holds f32, f16, bf16 only, found q8_0; say which with --type f32, f16 or bf16"
    )
    assert converter.convert(tmp_path / "m.gguf", tmp_path / "back", type="bf16").type == "bf16"
    converter.convert(folder(), tmp_path / "m.bin", type="int8")
    with pytest.raises(UsageError, match="m.bin: a GGUF file holds .* only, found int8; say --type q8_0, or another of these"):
        converter.convert(tmp_path / "m.bin", tmp_path / "n.gguf")


def test_progress_is_told(folder: Callable[..., Path], tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    converter.convert(folder(), tmp_path / "m.gguf", progress=lambda *line: told.append(line))
    done, totals, names = zip(*told, strict=True)
    assert list(done) == sorted(done) and set(totals) == {done[-1]} and names[-1] == "output.weight"


def test_defaults_that_were_taken_are_warnings_and_in_the_manifest(tmp_path: Path) -> None:
    path = models.make_hf_model_numpy(tmp_path / "hf", SPEC, schema=4, rope_theta=None)
    report = converter.convert(path, tmp_path / "m.bin")
    assert "config.json: rope_theta is absent, 10000.0 taken, the default of LlamaConfig" in report.warnings
    assert b"rope_theta is absent, 10000.0 taken" in (tmp_path / "m.bin").read_bytes()


def test_the_same_input_and_options_give_the_same_bytes(folder: Callable[..., Path], tmp_path: Path) -> None:
    path = folder()
    for out, options in (("a.bin", {"type": "q4_0"}), ("b.bin", {"type": "q4_0"})):
        converter.convert(path, tmp_path / out, **options)
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_importing_the_converter_is_light() -> None:
    code = (
        "import sys, converter; heavy = {'torch', 'transformers', 'safetensors', 'gguf', 'tokenizers', 'pyllama', 'jinja2'} & "
        "set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_roles_cover_every_tensor_once() -> None:
    assert len({role.gguf for role in ROLES}) == len({role.role for role in ROLES}) == len(ROLES)


# ---- mixes, fallbacks, overrides ----


def tensors_of(n_layers: int, n_kv_heads: int = 2, shared: bool = False) -> list[Tensor]:
    config = replace(CONFIG, n_layers=n_layers, n_kv_heads=n_kv_heads, shared_classifier=shared)
    return ARCHITECTURES["llama"].tensors(config)


def types_of(mix: str, n_layers: int, **shape: Any) -> dict[str, str]:
    config = replace(CONFIG, n_layers=n_layers, n_kv_heads=shape.get("n_kv_heads", 2), shared_classifier=shape.get("shared", False))
    return {tensor.name: MIXES[mix].type_of(tensor, config) for tensor in tensors_of(n_layers, **shape) if len(tensor.shape) == 2}


def test_the_mixes_are_llama_quantize_s() -> None:
    """Layers as llama-quantize of llama.cpp 0.25 chose them for a llama of 22 layers."""
    found = types_of("q4_k_m", 22)
    six = {0, 1, 4, 7, 10, 13, 16, 19, 20, 21}
    for layer in range(22):
        wanted = "q6_k" if layer in six else "q4_k"
        assert found[f"blk.{layer}.attn_v.weight"] == found[f"blk.{layer}.ffn_down.weight"] == wanted
        for name in ("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up"):
            assert found[f"blk.{layer}.{name}.weight"] == "q4_k"
    assert (found["token_embd.weight"], found["output.weight"]) == ("q4_k", "q6_k")
    five = types_of("q5_k_m", 22)
    assert {name: kind.replace("q5", "q4") for name, kind in five.items()} == found
    small = types_of("q4_k_s", 22)
    assert [small[f"blk.{layer}.attn_v.weight"] for layer in range(5)] == ["q5_k"] * 4 + ["q4_k"]
    assert [small[f"blk.{layer}.ffn_down.weight"] for layer in range(3)] == ["q5_k", "q5_k", "q4_k"]
    assert types_of("q4_k_s", 22, shared=True)["token_embd.weight"] == "q6_k"
    assert set(types_of("q4_k_m", 80).values()) == {"q4_k", "q5_k", "q6_k"}        # 80 layers, few values
    assert types_of("q4_k_s", 80)["blk.50.attn_v.weight"] == "q5_k"
    even = types_of("q5_k_s", 22)
    assert {name for name, kind in even.items() if kind == "q6_k"} == {"output.weight"} and set(even.values()) == {"q5_k", "q6_k"}
    assert set(types_of("q6_k", 22).values()) == {"q6_k"}


@pytest.mark.parametrize("mix", sorted(MIXES))
def test_q_k_and_v_as_one_are_values(mix: str) -> None:
    """Of Phi-3 llama-quantize knows one matrix, and gives it what it gives to values."""
    config = replace(CONFIG, n_layers=22)
    phi3 = replace(config, architecture="phi3")
    attention = [(role.gguf, layer) for role in ROLES if role.role in ("wq", "wk", "wv") for layer in range(22)]
    values = {tensor.layer: MIXES[mix].type_of(tensor, config) for tensor in tensors_of(22) if tensor.role.role == "wv"}
    found = {tensor.name: MIXES[mix].type_of(tensor, phi3) for tensor in ARCHITECTURES["phi3"].tensors(phi3)}
    assert [found[name.format(layer)] for name, layer in attention] == [values[layer] for _name, layer in attention]


@pytest.mark.parametrize(
    ("wanted", "columns", "found"),
    [("q4_k", 512, "q4_k"), ("q4_k", 576, "q5_0"), ("q5_k", 96, "q5_1"), ("q6_k", 576, "q8_0"), ("q2_k", 64, "q4_0"),
     ("q3_k", 64, "q4_0"), ("iq4_xs", 64, "iq4_nl"), ("q6_k", 40, "f16"), ("q5_0", 40, "q5_0"), ("int8", 40, "int8")],
)
def test_a_row_that_does_not_fit_falls_back(wanted: str, columns: int, found: str) -> None:
    assert fallback_for(wanted, columns) == found


@pytest.mark.parametrize(
    ("wanted", "columns", "text"),
    [("q4_k", 64, "use --type q4_k_m, which has q5_0 for such rows"), ("q5_k", 64, "use --type q5_k_m, which has q5_1 for such rows"),
     ("q2_k", 64, "use --type q4_0"), ("q3_k", 64, "use --type q4_0"), ("iq4_xs", 64, "use --type iq4_nl"),
     ("q4_k", 40, "use --type int8, f16 or bf16"), ("q5_0", 40, "use --type int8, f16 or bf16"),
     ("nf4", 40, "use --type int8, f16 or bf16")])
def test_a_plain_type_has_no_fallback(folder: Callable[..., Path], tmp_path: Path, wanted: str, columns: int, text: str) -> None:
    source = folder(dim=columns, n_heads=4, n_kv_heads=2, head_dim=8)
    block = {"q5_0": 32, "nf4": 64}.get(wanted, 256)
    for options in ({"type": wanted}, {"tensor_types": [f"token_embd={wanted}"]}, {"type": "f16", "tensor_types": [f"*={wanted}"]}):
        with pytest.raises(UnsupportedError) as caught:
            converter.convert(source, tmp_path / "m.bin", **options)
        assert str(caught.value) == (f"hf: token_embd.weight: {wanted} needs rows of a multiple of {block} weights, found {columns}; {text}, "
                                     "or --tensor-type for some of the matrices")
    assert list(tmp_path.glob("m.bin*")) == []


@pytest.mark.parametrize("mix", sorted(MIXES))
@pytest.mark.parametrize("columns", [64, 256])
def test_a_file_is_said_to_be_of_its_mix(folder: Callable[..., Path], tmp_path: Path, mix: str, columns: int) -> None:
    """general.file_type: the mix's when it is written, and when its blocks are kept by way of ak42."""
    def file_type(path: Path) -> int:
        return converter.inspect(path)["metadata"]["general.file_type"]

    source = folder(dim=columns, hidden_dim=256, n_layers=8, n_heads=4, n_kv_heads=2, head_dim=columns // 4)
    converter.convert(source, tmp_path / "m.gguf", type=mix, encoder=encode)
    number = {"q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18}[mix]
    assert MIXES[mix].file_type == file_type(tmp_path / "m.gguf") == number
    converter.convert(tmp_path / "m.gguf", tmp_path / "m.bin")
    converter.convert(tmp_path / "m.bin", tmp_path / "n.gguf")
    assert file_type(tmp_path / "n.gguf") == number
    assert (tmp_path / "n.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


def test_fallbacks_and_overrides_reach_the_file(folder: Callable[..., Path], tmp_path: Path) -> None:
    source = folder()
    report = converter.convert(source, tmp_path / "m.bin", type="q6_k", keep_head="f16", tensor_types=["blk.*.attn_v=q5_1"])
    types = {tensor["name"]: tensor["type"] for tensor in converter.inspect(tmp_path / "m.bin")["tensors"]}
    assert types["blk.0.attn_v.weight"] == "Q5_1" and types["blk.0.attn_q.weight"] == "Q8_0"
    assert types.get("output.weight", types["token_embd.weight"]) == "F16"
    assert any("rows that no block of q6_k divides: written as q8_0" in line for line in report.warnings)
    manifest = tmp_path.joinpath("m.bin").read_bytes()
    assert b'"fallbacks":{' in manifest and b'"wanted":"q6_k","written":"q8_0"' in manifest
    for tensor_types, text in ((["x=q8_0"], "expected a matrix of that name"), (["output"], "expected PATTERN=TYPE"),
                               (["output=q9"], "expected PATTERN=TYPE")):
        with pytest.raises(UsageError, match=text):
            converter.convert(source, tmp_path / "n.bin", type="q8_0", tensor_types=tensor_types)
    with pytest.raises(UsageError, match="--keep-head: expected one of"):
        converter.convert(source, tmp_path / "n.bin", keep_head="q4_k_m")
    with pytest.raises(UsageError, match="--tensor-type nf4: a GGUF file holds"):
        converter.convert(source, tmp_path / "n.gguf", type="q8_0", tensor_types=["blk.*=nf4"])
    with pytest.raises(UsageError, match="--keep-head nf4: a GGUF file holds"):
        converter.convert(source, tmp_path / "n.gguf", type="q8_0", keep_head="nf4")
