"""Hugging Face folders as sources: what they are read as, and every damage to safetensors, index and JSON that is refused.

Tables of damage run through `open_source`, a conversion's door. What is no checkpoint at all, and files that change, are here too.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from models import ModelSpec
from source_checks import check_weights, refused

from converter.arch import HALF_SPLIT
from converter.config import config_from_hf
from converter.errors import ConvertError, FormatError, OutputError, UnsupportedError, UsageError
from converter.sources import Source, open_source
from converter.sources.hf import strip_prefixes
from converter.sources.input_file import InputFile
from converter.sources.safetensors_file import read_header

SPEC = ModelSpec(head_dim=16)  # head_dim is not dim / n_heads

pytest_plugins = ["source_fixtures"]


# ---- Hugging Face folders ----


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tie", [False, True])
def test_a_folder_is_read(tmp_path: Path, opened: Callable[..., Source], dtype: str, shards: int, tie: bool) -> None:
    spec = ModelSpec(head_dim=16, dtype=dtype, shards=shards, tie=tie)
    source = opened(models.make_hf_model_numpy(tmp_path / "hf", spec))
    assert (source.format, source.rope_layout, source.warnings) == ("hf", HALF_SPLIT, [])
    assert source.config == config_from_hf(models.config_json(spec))[0]
    assert {source.tensor(name)[0].name for name in source.names()} == {dtype}
    check_weights(source, spec)
    assert source.generation_config is not None and source.generation_config["eos_token_id"] == 2
    assert {path.name for path in source.files} >= {"config.json", "generation_config.json"}


def test_rows_are_read_by_ranges(tmp_path: Path, opened: Callable[..., Source]) -> None:
    source = opened(models.make_hf_model_numpy(tmp_path / "hf", SPEC))
    whole = source.read("token_embd.weight", 0, 301)
    assert whole.shape == (301, 48 * 4)
    assert np.array_equal(source.read("token_embd.weight", 7, 30), whole[7:30])
    assert source.read("token_embd.weight", 5, 5).shape == (0, 48 * 4)
    assert source.read("output_norm.weight", 0, 1).shape == (1, 48 * 4)


def test_shards_may_be_symlinks_to_elsewhere(tmp_path: Path, opened: Callable[..., Source]) -> None:
    """A Hugging Face cache is a farm of them."""
    folder = models.make_hf_model_numpy(tmp_path / "snapshots" / "hf", SPEC, shards=2)
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    for i, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(i))
        path.symlink_to(Path("../../blobs") / str(i))
    check_weights(opened(folder), SPEC)


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], dtype: str = "f32") -> Path:
    models.write_safetensors(folder / "model.safetensors", change(models.random_tensors(SPEC)), dtype)
    return folder


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module.", "_fsdp_wrapped_module.", "_orig_mod.module.", "module._orig_mod._orig_mod."]
)
def test_wrappers_prefixes_are_stripped(tmp_path: Path, opened: Callable[..., Source], prefix: str) -> None:
    folder = rewrite(
        models.make_hf_model_numpy(tmp_path / "hf", SPEC),
        lambda tensors: {prefix + name: values for name, values in tensors.items()},
    )
    check_weights(opened(folder), SPEC)
    assert strip_prefixes("model.layers.0._fsdp_wrapped_module.mlp.up_proj.weight") == "model.layers.0.mlp.up_proj.weight"


def test_the_buffers_of_old_releases_are_ignored(tmp_path: Path, opened: Callable[..., Source]) -> None:
    folder = rewrite(
        models.make_hf_model_numpy(tmp_path / "hf", SPEC),
        lambda tensors: (
            tensors
            | {
                "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32),
                "model.rotary_emb.inv_freq": np.ones(8, np.float32),
            }
        ),
    )
    check_weights(opened(folder), SPEC)


def test_tensors_that_do_not_fit_are_listed_three_of_a_kind(tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        kept = {name: values for name, values in tensors.items() if "mlp" not in name}
        kept["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, np.float32)
        kept["evil\x1b[2Jname"] = np.zeros(1, np.float32)
        kept["model.norm.weight"] = np.zeros(47, np.float32)
        return kept

    text = refused(rewrite(models.make_hf_model_numpy(tmp_path / "hf", SPEC), change), FormatError)
    assert text == (
        "hf: 6 tensors missing: model.layers.0.mlp.gate_proj.weight, model.layers.0.mlp.up_proj.weight, "
        "model.layers.0.mlp.down_proj.weight, ...; 2 tensors left over: model.layers.0.self_attn.q_proj.bias, "
        "evil\\x1b[2Jname; 1 shape not as the config says: model.norm.weight expected 48, found 47"
    )


def test_two_names_for_one_tensor_are_refused(tmp_path: Path) -> None:
    folder = rewrite(
        models.make_hf_model_numpy(tmp_path / "hf", SPEC),
        lambda tensors: tensors | {"module.model.norm.weight": np.ones(48, np.float32)},
    )
    assert "model.norm.weight twice" in refused(folder, FormatError)


@pytest.mark.parametrize("dtype", ["I64", "F64", "F8_E4M3", "U8", "BOOL"])
def test_other_dtypes_are_refused_by_name(tmp_path: Path, dtype: str) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "hf", SPEC)
    tensors = models.read_safetensors(folder)
    bits = {"I64": 64, "F64": 64}.get(dtype, 8)
    name = "model.layers.1.mlp.up_proj.weight"
    _dtype, shape, data = tensors[name]
    tensors[name] = dtype, shape, bytes(len(data) // 4 * bits // 8)
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    assert refused(folder, UnsupportedError) == f"model.safetensors: {name}: dtype {dtype} is not supported; F32, F16 and BF16 are"


# the head: trap 4 of format.md


@pytest.mark.parametrize(
    ("tie", "head", "text"),
    [
        (True, "absent", None),
        (True, "equal", None),
        (False, "other", None),
        (False, "equal", None),
        (None, "other", None),
        (True, "other", "tie_word_embeddings is true and lm_head.weight differs from model.embed_tokens.weight: they disagree"),
        (False, "absent", "tie_word_embeddings is false and lm_head.weight is missing: they disagree"),
        (None, "absent", "tie_word_embeddings is absent and lm_head.weight is missing: they disagree"),
    ],
)
def test_config_presence_and_equality_of_the_head_agree(
    tmp_path: Path, opened: Callable[..., Source], tie: bool | None, head: str, text: str | None
) -> None:
    def change(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if head == "equal":
            return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
        return {name: values for name, values in tensors.items() if head == "other" or name != "lm_head.weight"}

    folder = rewrite(models.make_hf_model_numpy(tmp_path / "hf", SPEC), change)
    config = models.config_json(SPEC) | {"tie_word_embeddings": tie}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    if text is not None:
        assert text in refused(folder, FormatError)
        return
    source = opened(folder)
    assert source.config.shared_classifier == bool(tie)
    assert ("output.weight" in source.names()) == (not tie)
    assert bool(source.warnings) == (head == "equal" and not tie)


# index files


def sharded(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    folder = models.make_hf_model_numpy(tmp_path / "hf", SPEC, shards=3)
    return folder, json.loads((folder / "model.safetensors.index.json").read_text())


INDEX_VALUES = ["../x", "/etc/passwd", "a/b", "..\\x", "C:x", "", ".", "..", "a\0b", "x" * 300, "\n", 7, None, ["a"]]


@pytest.mark.parametrize("value", INDEX_VALUES, ids=repr)
def test_a_weight_map_names_plain_files_only(tmp_path: Path, value: Any) -> None:
    folder, index = sharded(tmp_path)
    index["weight_map"]["model.norm.weight"] = value
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.norm.weight: expected the name of a file in this folder" in refused(folder, FormatError)


@pytest.mark.parametrize("name", ["~", "%s", "é" * 200, "nothing.safetensors"])
def test_a_shard_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    folder, index = sharded(tmp_path)
    index["weight_map"]["model.norm.weight"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "1 of them missing" in refused(folder, FormatError)


def test_missing_shards_are_counted(tmp_path: Path) -> None:
    folder, _index = sharded(tmp_path)
    for i in (1, 3):
        (folder / f"model-0000{i}-of-00003.safetensors").unlink()
    assert refused(folder, FormatError) == (
        "hf: model.safetensors.index.json names 3 files, 2 of them missing: "
        "model-00001-of-00003.safetensors, model-00003-of-00003.safetensors"
    )


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_a_shard_is_a_regular_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    folder, _index = sharded(tmp_path)
    shard = folder / "model-00002-of-00003.safetensors"
    shard.unlink()
    make(shard)
    assert "model-00002-of-00003.safetensors: expected a regular file, found a" in refused(folder, FormatError)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda index: index.pop("weight_map"), "weight_map: expected tensor names and their files, found null"),
        (lambda index: index.update(weight_map={}), "weight_map: expected tensor names and their files"),
        (
            lambda index: index["weight_map"].pop("model.norm.weight"),
            "model.norm.weight is in model-00003-of-00003.safetensors: expected",
        ),
        (
            lambda index: index["weight_map"].update({"model.norm.weight": "model-00001-of-00003.safetensors"}),
            "found 'model-00001-of-",
        ),
        (
            lambda index: index["weight_map"].update(extra="model-00001-of-00003.safetensors"),
            "expected the tensor extra, as model.safe",
        ),
    ],
)
def test_index_and_shards_agree(tmp_path: Path, change: Callable[[dict[str, Any]], Any], text: str) -> None:
    folder, index = sharded(tmp_path)
    change(index)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert text in refused(folder, FormatError)


def test_a_shard_of_the_set_that_the_index_leaves_out_is_refused(tmp_path: Path) -> None:
    folder, _index = sharded(tmp_path)
    models.write_safetensors(folder / "model-00009-of-00003.safetensors", {"x": np.zeros(2, np.float32)})
    assert "found model-00009-of-00003.safetensors beside it" in refused(folder, FormatError)


def test_a_wrong_total_size_is_a_warning(tmp_path: Path, opened: Callable[..., Source]) -> None:
    folder, index = sharded(tmp_path)
    index["metadata"]["total_size"] = 12
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    source = opened(folder)
    assert source.warnings == [
        f"model.safetensors.index.json: total_size says 12, the files hold "
        f"{sum(values.nbytes for values in models.random_tensors(SPEC).values())} bytes"
    ]


def test_what_lies_in_place_of_the_weights_is_named(tmp_path: Path) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "hf", SPEC)
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    assert refused(folder, FormatError).endswith("are missing; found consolidated.safetensors")
    (folder / "config.json").unlink()
    assert refused(folder, FormatError) == "hf: config.json is missing; give the folder of a Hugging Face checkpoint"


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("config.json", b'{"a": NaN}', "config.json: expected strict JSON, found NaN"),
        ("config.json", b"x" * (5 << 20), "config.json: expected at most 4194304 bytes, found 5242880"),
        ("config.json", b"[]", "config.json: expected a JSON object, found an array"),
        ("generation_config.json", b"{", "generation_config.json: expected JSON, found"),
        ("generation_config.json", b'{"eos_token_id": 999}', "generation_config.json: eos_token_id: expected a token id below 301"),
    ],
)
def test_json_files_are_read_strictly(tmp_path: Path, name: str, data: bytes, text: str) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "hf", SPEC)
    (folder / name).write_bytes(data)
    assert text in refused(folder, FormatError)


# ---- safetensors, damaged ----


def safetensors_bytes(tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> bytes:
    header, data = {}, b""
    for name, (dtype, shape, blob) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    return framed(json.dumps(header).encode()) + data


def framed(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def one(shape: Any = (2, 3), offsets: Any = (0, 24), dtype: Any = "F32", data: int = 24, **more: Any) -> bytes:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets} | more
    return framed(json.dumps({"a": entry}).encode()) + bytes(data)


def two(first: tuple[int, int], second: tuple[int, int], data: int = 16) -> bytes:
    return framed(
        json.dumps(
            {
                name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
                for name, (begin, end) in (("a", first), ("b", second))
            }
        ).encode()
    ) + bytes(data)


WHOLE = one()
DAMAGED_SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "expected a safetensors file, found an empty file"),
    "seven bytes": (b"\1" * 7, "expected a safetensors file, found a file of 7 bytes"),
    "header length 0": (framed(b"") + bytes(8), "expected JSON"),
    "header length past the end": (struct.pack("<Q", 10**6) + WHOLE[8:], "header length at byte 0: expected at most"),
    "header length 2^64-1": (b"\xff" * 8 + WHOLE[8:], "header length at byte 0: expected at most"),
    "header length past the cap": (struct.pack("<Q", 100_000_001) + bytes(64), "header length at byte 0"),
    "git-lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "found a git-lfs pointer; run git lfs pull",
    ),
    "HTML": (b"<!DOCTYPE html><html>" + bytes(64), "found an HTML page; the download failed"),
    "not JSON": (framed(b"hello"), "expected JSON"),
    "not UTF-8": (framed(b'{"\xff": 1}'), "expected JSON in UTF-8"),
    "an array": (framed(b"[]"), "expected a JSON object, found an array"),
    "deep": (framed(b'{"a":' * 10000), "expected at most 128 levels"),
    "key twice": (
        framed(b'{"a": {"dtype":"U8","shape":[1],"data_offsets":[0,1]}, "a": {"dtype":"U8","shape":[1],"data_offsets":[0,1]}}')
        + b"\0",
        "the key 'a' twice",
    ),
    "NaN": (one(more=float("nan")), "expected strict JSON, found NaN"),
    "lone surrogate": (framed(b'{"\\ud800": {"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "lone surrogate"),
    "trailing garbage in header": (framed(b"{} x"), "expected JSON"),
    "metadata not strings": (framed(b'{"__metadata__": {"a": 1}}'), "__metadata__: expected an object of strings"),
    "metadata a list": (framed(b'{"__metadata__": []}'), "__metadata__: expected an object of strings"),
    "entry a number": (framed(b'{"a": 1}'), "a: expected an object, found an integer"),
    "no dtype": (framed(b'{"a": {"shape": [], "data_offsets": [0, 0]}}'), "a: dtype: expected a name, found null"),
    "unknown dtype": (one(dtype="F7"), "a: dtype 'F7' is not known; F32, F16 and BF16 are read"),
    "no shape": (framed(b'{"a": {"dtype": "F32", "data_offsets": [0, 0]}}'), "a: shape: expected an array of sizes"),
    "shape a float": (one(shape=[2.0, 3]), "a: shape: expected an array of sizes"),
    "shape a bool": (one(shape=[True, 6]), "a: shape: expected an array of sizes"),
    "shape negative": (one(shape=[-2, -3]), "a: shape: expected an array of sizes"),
    "shape wraps": (one(shape=[4194305, 4194305, 211106198978564]), "a: shape: expected a tensor below 2^63 bytes"),
    "shape 2^63": (one(shape=[2**63]), "a: shape: expected an array of sizes"),
    "offsets a number": (one(offsets=24), "a: data_offsets: expected a begin and an end"),
    "one offset": (one(offsets=[24]), "a: data_offsets: expected a begin and an end"),
    "three offsets": (one(offsets=[0, 24, 48]), "a: data_offsets: expected a begin and an end"),
    "offsets backwards": (one(offsets=[24, 0]), "a: data_offsets: expected a begin and an end"),
    "offsets floats": (one(offsets=[0, 24.0]), "a: data_offsets: expected a begin and an end"),
    "offset negative": (one(offsets=[-24, 0]), "a: data_offsets: expected a begin and an end"),
    "extent too short": (one(offsets=[0, 20], data=20), "a: expected 24 bytes for shape 2x3 of F32, found 20"),
    "extent too long": (one(offsets=[0, 28], data=28), "a: expected 24 bytes for shape 2x3 of F32, found 28"),
    "half a byte": (one(shape=[3], dtype="F4", offsets=[0, 1], data=1), "a: expected 1.5 bytes for shape 3 of F4, found 1"),
    "hole before": (one(offsets=[8, 32], data=32), "a: expected its data to begin at byte 0, found 8"),
    "hole between": (two((0, 8), (12, 16)), "b: expected its data to begin at byte 8, found 12"),
    "overlap": (two((0, 8), (4, 16)), "b: expected its data to begin at byte 8, found 4"),
    "same place": (two((0, 16), (0, 16)), "b: expected its data to begin at byte 16, found 0"),
    "truncated": (WHOLE[:-1], "bytes, as its header says, found"),
    "trailing bytes": (WHOLE + b"\0", "bytes, as its header says, found"),
}


@pytest.mark.parametrize("kind", sorted(DAMAGED_SAFETENSORS))
def test_damaged_safetensors_are_refused(tmp_path: Path, kind: str) -> None:
    data, text = DAMAGED_SAFETENSORS[kind]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with InputFile(path) as file, pytest.raises(ConvertError) as caught:
        read_header(file)
    assert str(caught.value).startswith("model.safetensors: ") and text in str(caught.value)
    assert str(caught.value).isprintable() and caught.value.code == 1


ODD_SAFETENSORS = {
    "white space before": (framed(b'  {"a": {"dtype":"U8","shape":[1],"data_offsets":[0,1]}}') + b"\0", ["a"]),
    "unknown fields": (one(more=[1, 2]), ["a"]),
    "null metadata": (framed(b'{"__metadata__": null}'), []),
    "no tensors": (framed(b"{}"), []),
    "empty name": (framed(b'{"": {"dtype":"U8","shape":[1],"data_offsets":[0,1]}}') + b"\0", [""]),
    "a scalar": (one(shape=[], offsets=[0, 4], data=4), ["a"]),
    "no elements": (framed(b'{"b": {"dtype":"F32","shape":[0, 7],"data_offsets":[0,0]}}'), ["b"]),
    "any order": (two((8, 16), (0, 8)), ["b", "a"]),
}


@pytest.mark.parametrize("kind", sorted(ODD_SAFETENSORS))
def test_odd_safetensors_are_read_as_the_reference_does(tmp_path: Path, kind: str) -> None:
    import safetensors

    data, names = ODD_SAFETENSORS[kind]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with InputFile(path) as file:
        assert list(read_header(file).tensors) == names
    with safetensors.safe_open(path, "np") as other:
        assert sorted(other.keys()) == sorted(names)


def test_many_tensors_on_one_place_are_refused_fast(tmp_path: Path) -> None:
    entry = {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}
    path = tmp_path / "x.safetensors"
    path.write_bytes(framed(json.dumps({f"t{i}": entry for i in range(100_000)}).encode()) + bytes(16))
    begin = time.perf_counter()
    with InputFile(path) as file, pytest.raises(FormatError, match="expected its data to begin at byte 16"):
        read_header(file)
    assert time.perf_counter() - begin < 10  # a second alone; quadratic would be an hour


# ---- what is no checkpoint ----


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "found an empty file"),
        (bytes(4096), "found zeros only"),
        (b"\xff" * 4096, "found no magic"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG"),
        (b"\x7fELF" + bytes(99), "found a program"),
        (b"\x80\x02" + bytes(99), "found a pickle or torch checkpoint"),
        (struct.pack("<I", 0x62616279) + bytes(99), "a baby-llm checkpoint"),
        (struct.pack("<I", 0x616A6331) + bytes(99), "a qwen3.c checkpoint"),
        (struct.pack("<I", 0x0A00ABCD) + bytes(99), "a distributed-llama"),
        (b"version https://git-lfs.github.com/spec/v1\n", "found a git-lfs pointer; run git lfs pull"),
        (b"x" * 27, "27 bytes, too few"),
        (b"\n <!DOCTYPE html>", "found an HTML page; the download failed"),
        (struct.pack("<I", 0x67676A74) + bytes(99), "older than GGUF"),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(data)
    assert refused(path, FormatError).startswith("model.bin: expected an ak42 or GGUF file, found ") and text in refused(path)


def test_paths_that_are_no_checkpoint(tmp_path: Path) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "hf", SPEC)
    assert refused(tmp_path / "nothing.bin", UsageError) == "nothing.bin: no such file"
    for name in ("model.safetensors", "config.json"):
        assert refused(folder / name) == f"{name}: expected a checkpoint, found a part of one; give the folder that it is in"
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe", FormatError) == "pipe: expected a regular file, found a pipe"
    with pytest.raises(UsageError, match="none.json: no such file"):
        open_source(folder, tmp_path / "none.json")


# ---- files that change ----


@pytest.mark.parametrize("change", [lambda file: file.truncate(64), lambda file: os.utime(file.fileno(), ns=(1, 1))])
def test_a_file_that_changes_while_it_is_read_is_an_error(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(128))
    with InputFile(path) as file:
        assert file.read(0, 128) == bytes(128)
        with open(path, "r+b") as other:
            change(other)
        with pytest.raises(OutputError, match="^x: expected the file as it was opened, found it changed") as caught:
            file.read(0, 128)
    assert caught.value.code == 74 and isinstance(caught.value, OSError)


def test_a_file_that_is_replaced_stays_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with InputFile(path) as file:
        (tmp_path / "new").write_bytes(b"new!")
        (tmp_path / "new").rename(path)
        assert file.read(0, 3) == b"old"
