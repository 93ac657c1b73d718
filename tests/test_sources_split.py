"""Models in several GGUF files: read by the converter and run by the runtime under any part's name, as gguf-py's writer splits them.

Both readers are given the same damage; each names the part that is wrong.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import models
import numpy as np
import pytest
from models import ModelSpec
from source_checks import check_weights, refused

import converter
import pyllama
from converter.arch import LLAMA
from converter.config import config_from_hf
from converter.sources import Source

SPEC = ModelSpec(dim=64, hidden_dim=96, head_dim=16, vocab_size=403, tokenizer="bpe")
PARTS = 3
IDS = [5, 9, 200, 3, 77]

pytest_plugins = ["source_fixtures"]


def write(path: Path, spec: ModelSpec, type_name: str, max_tensors: int, first_empty: bool = False) -> None:
    """A model by gguf-py's own writer, cut where it has `max_tensors` (0: one file)."""
    from converter.sources import open_source

    folder = models.make_hf_model_numpy(path.parent / "hf", spec)
    source = open_source(folder)
    keys = source.vocab.to_gguf()
    source.close()
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=max_tensors, small_first_shard=first_empty)
    for add, value in ((writer.add_block_count, spec.n_layers), (writer.add_context_length, spec.max_positions),
                       (writer.add_embedding_length, spec.dim), (writer.add_feed_forward_length, spec.hidden_dim),
                       (writer.add_head_count, spec.n_heads), (writer.add_head_count_kv, spec.n_kv_heads),
                       (writer.add_key_length, spec.size_head), (writer.add_value_length, spec.size_head),
                       (writer.add_layer_norm_rms_eps, spec.norm_eps), (writer.add_vocab_size, spec.vocab_size),
                       (writer.add_tokenizer_model, keys["tokenizer.ggml.model"]), (writer.add_tokenizer_pre, keys["tokenizer.ggml.pre"]),
                       (writer.add_token_list, keys["tokenizer.ggml.tokens"]), (writer.add_token_types, keys["tokenizer.ggml.token_type"]),
                       (writer.add_token_merges, keys["tokenizer.ggml.merges"])):
        add(value)
    kind = gguf.GGMLQuantizationType[type_name]
    expected = models.random_tensors(spec)
    for tensor in LLAMA.tensors(config_from_hf(models.config_json(spec))[0]):
        values = expected[tensor.hf_name]
        if tensor.role.rope_heads:
            values = values.reshape(-1, 2, spec.size_head // 2, spec.dim).swapaxes(1, 2).reshape(values.shape)
        if len(tensor.shape) == 1 or type_name == "F32":
            writer.add_tensor(tensor.name, values)
        else:
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def part(number: int, count: int = PARTS) -> str:
    return f"m-{number:05d}-of-{count:05d}.gguf"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with m.gguf, and with the same model in three parts, F32."""
    folder = tmp_path_factory.mktemp("split")
    write(folder / "m.gguf", SPEC, "F32", 0)
    write(folder / "m.gguf", SPEC, "F32", 8)
    assert sorted(path.name for path in folder.glob("m-*")) == [part(number) for number in (1, 2, 3)]
    return folder


def logits(path: Path, **options: object) -> np.ndarray:
    with pyllama.Model(path, n_threads=1, **options) as model, model.session() as session:
        return np.array(session.eval(IDS))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_part_opens_the_whole(made: Path, tmp_path: Path, opened: Callable[..., Source], number: int) -> None:
    source = opened(made / part(number))
    check_weights(source, SPEC)
    assert [path.name for path in source.files] == [part(1), part(2), part(3)] and source.name == part(1)
    assert source.vocab is not None and len(source.vocab.tokens) == 403
    whole, parts = (converter.convert(made / name, tmp_path / f"{name}.bin", type="q8_0").out for name in ("m.gguf", part(number)))
    one, other = (converter.inspect(path)["tensors"] for path in (whole, parts))
    assert one == other
    found = converter.inspect(made / part(number))
    assert found["files"] == [part(1), part(2), part(3)] and found["parameters"] == converter.inspect(made / "m.gguf")["parameters"]
    assert {line["file"] for line in found["tensors"]} == set(found["files"])


@pytest.mark.parametrize("use_mmap", [True, False])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_runtime_runs_any_part(made: Path, number: int, use_mmap: bool) -> None:
    assert np.array_equal(logits(made / part(number), use_mmap=use_mmap), logits(made / "m.gguf"))
    with pyllama.Model(made / part(number)) as model:
        assert model.info.file_bytes == sum((made / part(i)).stat().st_size for i in (1, 2, 3))
        text = model.tokenizer.encode("The ferry left the harbour.")
    assert pyllama.Tokenizer(made / part(number)).encode("The ferry left the harbour.") == text


def test_blocks_and_a_first_part_without_tensors(tmp_path: Path, opened: Callable[..., Source]) -> None:
    write(tmp_path / "m.gguf", SPEC, "Q8_0", 0)
    write(tmp_path / "m.gguf", SPEC, "Q8_0", 6, first_empty=True)
    count = len(list(tmp_path.glob("m-*")))
    assert count == 5 and not gguf.GGUFReader(tmp_path / part(1, count)).tensors
    for number in (1, count):
        assert np.array_equal(logits(tmp_path / part(number, count)), logits(tmp_path / "m.gguf"))
        check_weights(opened(tmp_path / part(number, count)), SPEC, 1e-2)


def both_refuse(path: Path) -> tuple[str, str]:
    """The converter's line and the runtime's."""
    with pytest.raises(pyllama.PyllamaError) as caught:
        pyllama.Model(path, n_threads=1).close()
    return refused(path), str(caught.value)


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        shutil.copy(made / part(number), tmp_path / part(number))
    return tmp_path


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_part_is_named(copy: Path, missing: int) -> None:
    (copy / part(missing)).unlink()
    for number in {1, 2, 3} - {missing}:
        converted, run = both_refuse(copy / part(number))
        assert converted == f"{part(number)}: part {number} of 3: 1 of the parts missing: {part(missing)}"
        assert run.startswith(f"part {missing} of 3: ") and f"{part(missing)}: cannot open: No such file" in run


def test_parts_of_other_models_and_names_are_named(copy: Path) -> None:
    (copy / "other.gguf").write_bytes((copy / part(2)).read_bytes())
    for text in both_refuse(copy / "other.gguf"):
        assert text == "other.gguf: part 2 of 3: expected a name that ends in -00002-of-00003.gguf, found another"
    shutil.copy(copy / part(3), copy / part(2))
    converted, run = both_refuse(copy / part(1))
    assert converted == f"{part(2)}: expected part 2 of 3, found part 3 of 3" and run == f"part 2 of 3: {converted}"
    (copy / part(2)).write_bytes(b"GGUG" * 10)
    converted, run = both_refuse(copy / part(1))
    assert f"{part(2)}: expected a GGUF file, found other first bytes" == converted and run == f"part 2 of 3: {converted}"


def patched(path: Path, key: bytes, layout: str, value: int) -> None:
    """Writes another number where a key's value is."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, data.index(key) + len(key) + 4, value)
    path.write_bytes(data)


def test_counts_that_disagree_are_refused(copy: Path) -> None:
    patched(copy / part(1), b"split.tensors.count", "<i", 20)
    for text in both_refuse(copy / part(3)):
        assert "split.tensors.count: expected the 21 tensors of all parts, found 20" in text
    patched(copy / part(1), b"split.tensors.count", "<i", 21)
    patched(copy / part(2), b"split.count", "<H", 4)
    for text in both_refuse(copy / part(1)):
        assert "expected part 2 of 3, found part 2 of 4" in text
    patched(copy / part(1), b"split.count", "<H", 0)
    for text in both_refuse(copy / part(1)):
        assert "expected a part of up to 65535, found part 1 of 0" in text


def test_a_tensor_in_two_parts_is_refused(copy: Path) -> None:
    data = bytearray((copy / part(3)).read_bytes())
    at = data.index(b"blk.1.ffn_up.weight") if b"blk.1.ffn_up.weight" in data else data.index(b"blk.1.ffn_norm.weight")
    name = b"blk.0" + bytes(data[at + 5 : data.index(b".weight", at) + 7])
    data[at : at + len(name)] = name
    (copy / part(3)).write_bytes(data)
    converted, run = both_refuse(copy / part(1))
    assert f"{part(3)}: the tensor '{name.decode()}' stands in m-0000" in converted and f"tensor {name.decode()}: expected once, found twice" in run


def test_a_truncated_part_is_named(copy: Path) -> None:
    with open(copy / part(2), "r+b") as file:
        file.truncate((copy / part(2)).stat().st_size - 1)
    converted, run = both_refuse(copy / part(1))
    assert converted.startswith(f"{part(2)}: ") and run.startswith(f"part 2 of 3: {part(2)}: truncated")


def test_big_endian_files_are_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "be.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_block_count(1)
    writer.add_tensor("a", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for text in both_refuse(tmp_path / "be.gguf"):
        assert "big-endian" in text


def test_a_part_in_memory_is_refused(made: Path) -> None:
    from pyllama._native import ffi, lib

    data = (made / part(1)).read_bytes()
    out, error = ffi.new("ak42_model **"), ffi.new("ak42_error *")
    assert lib.ak42_model_open_memory(out, data, len(data), b"m", ffi.NULL, error) == lib.AK42_STATUS_UNSUPPORTED
    assert ffi.string(error.text) == b"m: part 1 of 3: expected a file with the others beside it, found memory"
