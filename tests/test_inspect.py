"""`converter.inspect`: what any container is, from its headers, as JSON that other programs may rely on."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import models
import numpy as np
import pytest
from models import ModelSpec

import converter
from converter.config import config_from_hf
from converter.errors import ConvertError, UsageError

SPEC = ModelSpec(dim=64, hidden_dim=96, head_dim=32, vocab_size=37)
OLD = ModelSpec(dim=64, hidden_dim=96, vocab_size=37, tie=True)


def inspect(path: Path, **options: Any) -> dict[str, Any]:
    """Through JSON, as a program would see it: strict, and with no lone surrogate in it."""
    text = json.dumps(converter.inspect(path, **options), allow_nan=False, ensure_ascii=False)
    return json.loads(text.encode("utf-8"))


def numel(spec: ModelSpec) -> int:
    return sum(values.size for values in models.random_tensors(spec).values())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inspect")
    made = {
        "hf": models.make_hf_model_numpy(folder / "hf", SPEC, dtype="bf16", shards=2),
        "old": models.make_hf_model_numpy(folder / "old", OLD),
    }
    for name, source, options in (
        ("v0.bin", "old", {"format": "ak42-v0"}),
        ("v1.bin", "old", {}),
        ("v2.bin", "old", {"type": "int8"}),
        ("v3.bin", "hf", {}),
        ("rows.bin", "hf", {"type": "q4_0", "layout": "rows"}),
        ("int8.bin", "hf", {"type": "int8"}),
        ("q8.gguf", "hf", {"type": "q8_0"}),
    ):
        made[name] = folder / name
        converter.convert(made[source], made[name], **options)
    return made


def test_a_gguf_file_is_what_gguf_py_says(files: dict[str, Path]) -> None:
    found = inspect(files["q8.gguf"])
    reader = gguf.GGUFReader(files["q8.gguf"])
    assert (found["format"], found["version"]) == ("gguf", 3)
    assert [(line["name"], line["type"], line["shape"], line["offset"], line["bytes"]) for line in found["tensors"]] == [
        (tensor.name, tensor.tensor_type.name, tensor.shape.tolist()[::-1], int(tensor.data_offset), int(tensor.n_bytes))
        for tensor in reader.tensors
    ]
    own = {key: value for key, value in found["metadata"].items()}
    assert own == {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}


def test_a_model_has_config_parameters_and_memory(files: dict[str, Path]) -> None:
    config = config_from_hf(models.config_json(SPEC))[0]
    for name in ("hf", "v3.bin", "int8.bin", "q8.gguf"):
        found = inspect(files[name])
        assert found["config"] == json.loads(json.dumps(vars(config)))
        assert found["parameters"] == numel(SPEC)
        memory = found["memory"]
        assert memory["context"] == 256 and memory["kv_cache"] == 2 * 2 * 256 * 2 * 32 * 2
        assert memory["total"] == memory["weights"] + memory["kv_cache"]
    assert inspect(files["hf"])["memory"]["weights"] > 2 * numel(SPEC)
    assert inspect(files["hf"], context=1024)["memory"]["kv_cache"] == 4 * inspect(files["hf"])["memory"]["kv_cache"]
    old = inspect(files["v1.bin"])
    assert (old["parameters"], old["memory"]["kv_type"]) == (numel(OLD), "f32")
    assert inspect(files["old"])["parameters"] == numel(OLD)


@pytest.mark.parametrize(
    ("name", "version", "type_name", "layout"),
    [
        ("v0.bin", 0, "F32", "rows"),
        ("v1.bin", 1, "F32", "rows"),
        ("v2.bin", 2, "INT8", "rows"),
        ("v3.bin", 3, "BF16", "panel16"),
        ("rows.bin", 3, "Q4_0", "rows"),
        ("int8.bin", 3, "INT8", "panel16"),
    ],
)
def test_ak42_files_of_every_version(files: dict[str, Path], name: str, version: int, type_name: str, layout: str) -> None:
    found = inspect(files[name])
    assert (found["format"], found["version"]) == ("ak42", version)
    size = files[name].stat().st_size
    for line in found["tensors"]:
        matrix = len(line["shape"]) == 2
        assert (line["type"], line["layout"]) == ((type_name, layout) if matrix else ("F32", "rows"))
        assert line.get("group_size") == (32 if matrix and type_name == "INT8" else None)
        assert 0 < line["offset"] < line["offset"] + line["bytes"] <= size
    spans = sorted((line["offset"], line["offset"] + line["bytes"]) for line in found["tensors"])
    assert all(end <= begin for (_begin, end), (begin, _end) in zip(spans, spans[1:], strict=False))
    if version:
        assert "CONF" in found["metadata"]["sections"] and found["metadata"]["dim"] == 64


def test_bytes_stand_where_it_says(files: dict[str, Path]) -> None:
    for name, source in (("v1.bin", OLD), ("v0.bin", OLD)):
        data = files[name].read_bytes()
        for line in inspect(files[name])["tensors"]:
            if line["name"] == "blk.1.ffn_down.weight":
                values = np.frombuffer(data[line["offset"] : line["offset"] + line["bytes"]], "<f4").reshape(line["shape"])
                assert np.array_equal(values, models.random_tensors(source)["model.layers.1.mlp.down_proj.weight"])


def test_a_lone_safetensors_file(files: dict[str, Path]) -> None:
    shard = files["hf"] / "model-00001-of-00002.safetensors"
    found = inspect(shard)
    assert (found["format"], found["version"], found["metadata"]) == ("safetensors", None, {"format": "pt"})
    assert {line["name"] for line in found["tensors"]} < set(models.tensor_shapes(SPEC))
    assert all(line["type"] == "BF16" and line["bytes"] == 2 * int(np.prod(line["shape"])) for line in found["tensors"])
    assert "config" not in found
    renamed = shard.parent.parent / "weights"
    renamed.write_bytes(shard.read_bytes())
    assert inspect(renamed) == found


def test_a_folder(files: dict[str, Path]) -> None:
    found = inspect(files["hf"])
    assert (found["format"], found["version"], found["metadata"]["hidden_size"]) == ("hf", None, 64)
    assert found["files"] == [
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
    assert {line["name"] for line in found["tensors"]} == set(models.tensor_shapes(SPEC))
    assert {line["file"] for line in found["tensors"]} == set(found["files"][3:])


def test_a_folder_of_another_architecture_is_still_described(tmp_path: Path) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "hf", SPEC)
    (folder / "config.json").write_text(
        json.dumps(models.config_json(SPEC) | {"architectures": ["BloomForCausalLM"], "model_type": "bloom"})
    )
    found = inspect(folder)
    assert len(found["tensors"]) == 21 and "config" not in found
    assert found["problem"].startswith("config.json: 2 problems: architectures: 'BloomForCausalLM' is not supported")


def write_gguf(path: Path, tensors: list[tuple[bytes, int, int]], keys: list[tuple[bytes, bytes]] = (), data: int = 4096) -> Path:
    """A file by hand: vectors of (name, length, type id), and keys with their value bytes."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    head += b"".join(struct.pack("<Q", len(key)) + key + value for key, value in keys)
    offset = 0
    for name, length, kind in tensors:
        head += struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, length, kind, offset)
        offset += 1024
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(data))
    return path


def text_value(text: bytes) -> bytes:
    return struct.pack("<IQ", 8, len(text)) + text


def test_unknown_tensor_types_are_listed_by_number(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", [(b"a", 256, 12), (b"b", 256, 200), (b"c", 256, 0)])
    data = bytearray(path.read_bytes())
    at = data.index(b"b" + struct.pack("<I", 1)) + 1 + 4 + 8 + 4
    struct.pack_into("<Q", data, at, 160)  # behind a's 144 bytes of Q4_K
    path.write_bytes(data)
    found = inspect(path)
    assert [(line["name"], line["type"], line["bytes"]) for line in found["tensors"]] == [
        ("a", "Q4_K", 144),
        ("b", "type 200", None),
        ("c", "F32", 1024),
    ]
    assert found["problem"] == "m.gguf: general.architecture is absent"


def test_a_vocabulary_without_a_model(tmp_path: Path) -> None:
    tokens = struct.pack("<IIQ", 9, 8, 2) + struct.pack("<Q", 1) + b"a" + struct.pack("<Q", 2) + b"\xff\n"
    found = inspect(write_gguf(tmp_path / "vocab.gguf", [], [(b"tokenizer.ggml.tokens", tokens)], data=0))
    assert found == {"format": "gguf", "version": 3, "metadata": {"tokenizer.ggml.tokens": ["a", "\\xff\n"]}, "tensors": []}


def test_strings_and_numbers_of_the_file_stay_valid_json(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf",
        [(b"\xff\x1b[2J", 8, 0)],
        [
            (b"a", text_value(b"\xe2\x80\xaetxt\x00\xc3")),
            (b"b", struct.pack("<If", 6, float("nan"))),
            (b"c", struct.pack("<If", 6, np.inf)),
            (b"d", struct.pack("<IB", 7, 255)),
        ],
    )
    found = inspect(path)
    assert found["metadata"] == {"a": "\u202etxt\0\\xc3", "b": "nan", "c": "inf", "d": True}
    assert found["tensors"][0]["name"] == "\\xff\x1b[2J"
    assert found["problem"].isprintable()


def test_no_weight_is_read(files: dict[str, Path], tmp_path: Path) -> None:
    """Damaged weights do not matter, and neither does their number: a hole of 4 GiB takes no time."""
    for name in ("v1.bin", "v3.bin"):
        data = bytearray(files[name].read_bytes())
        line = inspect(files[name])["tensors"][0]
        data[line["offset"]] ^= 1
        (tmp_path / name).write_bytes(data)
        assert inspect(tmp_path / name)["tensors"] == inspect(files[name])["tensors"]
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 15, 1 << 15], "data_offsets": [0, 1 << 32]}}).encode()
    with open(tmp_path / "big.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + (1 << 32))
    assert inspect(tmp_path / "big.safetensors")["tensors"][0]["bytes"] == 1 << 32


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("m.bin", b"", "m.bin: expected an ak42 or GGUF file, found an empty file"),
        ("m.gguf", b"GGUF", "m.gguf: expected 4 bytes at 4"),
        ("m.safetensors", b"\xff" * 64, "m.safetensors: header length at byte 0"),
        ("m.png", b"\x89PNG" + bytes(60), "found a PNG image"),
    ],
)
def test_what_is_no_container_is_refused(tmp_path: Path, name: str, data: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ConvertError) as caught:
        converter.inspect(tmp_path / name)
    assert text in str(caught.value)


def test_nothing_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none.bin: no such file"):
        converter.inspect(tmp_path / "none.bin")


# ---- verify ----


VERIFIED = {"hf": False, "v0.bin": False, "v1.bin": True, "v2.bin": True, "v3.bin": True, "int8.bin": True, "q8.gguf": False}


@pytest.mark.parametrize("name", VERIFIED)
def test_verify_reads_everything(files: dict[str, Path], name: str) -> None:
    told: list[tuple[int, int, str]] = []
    found = json.loads(json.dumps(converter.verify(files[name], progress=lambda *line: told.append(line))))
    assert found["checksums"] is VERIFIED[name]
    assert found["bytes"] == told[-1][0] == told[-1][1]
    assert found["tensors"] == len(inspect(files[name])["tensors"])


@pytest.mark.parametrize("name", [name for name, checksums in VERIFIED.items() if checksums])
def test_verify_finds_a_flipped_bit(files: dict[str, Path], tmp_path: Path, name: str) -> None:
    data = bytearray(files[name].read_bytes())
    for line in inspect(files[name])["tensors"]:
        data[line["offset"] + line["bytes"] // 2] ^= 1
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ConvertError, match="checksum: expected 0x"):
            converter.verify(tmp_path / name)
        data[line["offset"] + line["bytes"] // 2] ^= 1


def test_verify_finds_what_is_no_number(files: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(files["v0.bin"].read_bytes())
    for line in inspect(files["v0.bin"])["tensors"]:
        changed = bytearray(data)
        struct.pack_into("<f", changed, line["offset"] + 8, float("nan"))
        (tmp_path / "m.bin").write_bytes(changed)
        text = f"m.bin: {line['name']}: expected finite weights, found 1 NaN and 0 infinite, the first at index 2"
        with pytest.raises(ConvertError) as caught:
            converter.verify(tmp_path / "m.bin")
        assert str(caught.value) == text and caught.value.code == 3
