"""GGUF files as sources: read as gguf-py wrote them, every damage refused, rope factors only where four numbers explain them."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import models
import numpy as np
import pytest
from models import ModelSpec
from source_checks import check_weights, refused, values_of

import converter
import pyllama
from converter.about import size_label
from converter.arch import INTERLEAVED, LLAMA
from converter.config import config_from_hf
from converter.config_files import NEUTRAL_GGUF
from converter.errors import FormatError, UnsupportedError
from converter.quant import TYPES
from converter.sources import Source
from converter.sources.rope_factors import explain, reproduces

pytest_plugins = ["source_fixtures"]


# ---- GGUF ----


def gguf_string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def gguf_key(key: str | bytes, kind: int, value: bytes) -> bytes:
    return gguf_string(key) + struct.pack("<I", kind) + value


def gguf_tensor(name: str | bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return gguf_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def gguf_bytes(
    keys: list[bytes],
    tensors: list[bytes],
    data: bytes = b"",
    version: int = 3,
    magic: bytes = b"GGUF",
    n_keys: int | None = None,
    n_tensors: int | None = None,
) -> bytes:
    head = (
        magic
        + struct.pack("<IQQ", version, len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
        + b"".join(keys)
        + b"".join(tensors)
    )
    return head + bytes(-len(head) % 32) + data


U32, STRING, ARRAY = 4, 8, 9
KEY = gguf_key("general.architecture", STRING, gguf_string("llama"))
TENSOR = gguf_tensor("a", (32, 2), 0, 0)
DATA = bytes(256)


def array(element: int, length: int, data: bytes = b"") -> bytes:
    return struct.pack("<IQ", element, length) + data


DAMAGED_GGUF: dict[str, tuple[bytes, str]] = {
    "four bytes": (b"GGUF", "expected 4 bytes at 4, found the end of the file at 4"),
    "version 1": (gguf_bytes([KEY], [], version=1), "version 1 is not supported; 2 and 3 are"),
    "version 4": (gguf_bytes([KEY], [], version=4), "version 4 is not supported"),
    "version 0": (gguf_bytes([KEY], [], version=0), "version 0 is not supported"),
    "big-endian": (gguf_bytes([KEY], [], version=3 << 24), "a big-endian GGUF file is not supported"),
    "tensors 2^64-1": (gguf_bytes([KEY], [], n_tensors=2**64 - 1), "number of tensors: expected at most 65536"),
    "tensors not there": (gguf_bytes([KEY], [], n_tensors=60000), "number of tensors: expected no more than"),
    "keys 2^63": (gguf_bytes([], [], n_keys=2**63), "number of keys: expected at most 65536"),
    "keys not there": (gguf_bytes([], [], n_keys=60000), "number of keys: expected no more than"),
    "key length 2^64-1": (gguf_bytes([struct.pack("<Q", 2**64 - 1) + bytes(64)], []), "a key: expected a string of at most"),
    "key length 65536": (gguf_bytes([gguf_key("k" * 65536, U32, bytes(4))], []), "a key: expected a string of at most 65535"),
    "key empty": (gguf_bytes([gguf_key("", U32, bytes(4))], []), "a key: expected a name, found ''"),
    "key twice": (gguf_bytes([KEY, KEY], []), "the key 'general.architecture' stands twice"),
    "key with NUL": (gguf_bytes([gguf_key("k\0x", U32, bytes(4))], []), "a key: expected a name, found 'k\\x00x'"),
    "key not UTF-8": (gguf_bytes([gguf_key(b"k\xff", U32, bytes(4))], []), "a key: expected UTF-8, found 'k\\xff'"),
    "value type 13": (gguf_bytes([gguf_key("k", 13, bytes(8))], []), "k: expected a value type up to 12, found 13"),
    "value type 2^31": (gguf_bytes([gguf_key("k", 2**31, bytes(8))], []), "k: expected a value type up to 12"),
    "array of type 99": (gguf_bytes([gguf_key("k", ARRAY, array(99, 2**62))], []), "found element type 99"),
    "array in array": (gguf_bytes([gguf_key("k", ARRAY, array(ARRAY, 1, array(ARRAY, 1) * 999))], []), "found element type 9"),
    "array length 2^62": (
        gguf_bytes([gguf_key("k", ARRAY, array(4, 2**62))], []),
        "k: an array of 4611686018427387904: expected no",
    ),
    "array length wraps": (
        gguf_bytes([gguf_key("k", ARRAY, array(10, 2**61))], []),
        "k: an array of 2305843009213693952: expected no",
    ),
    "string array of 2^30": (gguf_bytes([gguf_key("k", ARRAY, array(STRING, 2**30))], [], DATA), "expected no more than"),
    "string past the end": (gguf_bytes([gguf_key("k", STRING, struct.pack("<Q", 2**40))], []), "k: expected a string of at most"),
    "alignment 0": (gguf_bytes([gguf_key("general.alignment", U32, struct.pack("<I", 0))], []), "expected a power of two, found 0"),
    "alignment 13": (
        gguf_bytes([gguf_key("general.alignment", U32, struct.pack("<I", 13))], []),
        "expected a power of two, found 13",
    ),
    "alignment a string": (gguf_bytes([gguf_key("general.alignment", STRING, gguf_string("32"))], []), "expected a power of two"),
    "0 dimensions": (gguf_bytes([KEY], [gguf_tensor("a", (), 0, 0) + bytes(99)]), "a: expected 1 to 4 dimensions, found 0"),
    "5 dimensions": (gguf_bytes([KEY], [gguf_tensor("a", (1, 1, 1, 1, 1), 0, 0)], DATA), "a: expected 1 to 4 dimensions, found 5"),
    "dimension 2^64-1": (
        gguf_bytes([KEY], [gguf_tensor("a", (2**64 - 1,), 0, 0)], DATA),
        "a: expected a tensor below 2^63 weights",
    ),
    "dimensions wrap": (
        gguf_bytes([KEY], [gguf_tensor("a", (4194305, 4194305, 211106198978564), 0, 0)], DATA),
        "below 2^63 weights",
    ),
    "type 200": (gguf_bytes([KEY], [gguf_tensor("a", (32,), 200, 0)], DATA), "a: tensor type 200 is not known"),
    "type 4, removed": (gguf_bytes([KEY], [gguf_tensor("a", (32,), 4, 0)], DATA), "a: tensor type 4 is not known"),
    "broken blocks": (
        gguf_bytes([KEY], [gguf_tensor("a", (33,), 8, 0)], DATA),
        "a: expected rows of a multiple of 32 weights for Q8_0",
    ),
    "offset 2^64-1": (
        gguf_bytes([KEY], [gguf_tensor("a", (32,), 0, 2**64 - 1)], DATA),
        "a: expected its data at offset 0, found 1844",
    ),
    "offset unaligned": (gguf_bytes([KEY], [gguf_tensor("a", (32,), 0, 4)], DATA), "a: expected its data at offset 0, found 4"),
    "overlap": (
        gguf_bytes([KEY], [TENSOR, gguf_tensor("b", (32,), 0, 32)], DATA + DATA),
        "b: expected its data at offset 256, found 32",
    ),
    "gap": (
        gguf_bytes([KEY], [TENSOR, gguf_tensor("b", (32,), 0, 512)], DATA * 3),
        "b: expected its data at offset 256, found 512",
    ),
    "one byte short": (gguf_bytes([KEY], [TENSOR], DATA[:-1]), "a: expected its 256 bytes at"),
    "tensor twice": (gguf_bytes([KEY], [TENSOR, gguf_tensor("a", (32,), 0, 256)], DATA * 2), "the tensor 'a' stands twice"),
    "tensor name of 65 bytes": (
        gguf_bytes([KEY], [gguf_tensor("n" * 65, (32,), 0, 0)], DATA),
        "a tensor name: expected a string of at",
    ),
    "no tensors": (gguf_bytes([KEY], []), "expected a model, found a GGUF file without tensors (a vocabulary)"),
}


@pytest.mark.parametrize("kind", sorted(DAMAGED_GGUF))
def test_damaged_gguf_files_are_refused(tmp_path: Path, kind: str) -> None:
    data, text = DAMAGED_GGUF[kind]
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    begin = time.perf_counter()
    found = refused(path)
    assert found.startswith("m.gguf: ") and text in found
    assert time.perf_counter() - begin < 1


def write_gguf(
    path: Path,
    spec: ModelSpec,
    type_name: str = "F32",
    without: tuple[str, ...] = (),
    more: dict[str, Any] | None = None,
    keys: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
) -> Path:
    """A model by gguf-py's own writer, as llama.cpp's converter lays it out. `more` are further tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(spec.n_layers)
    writer.add_context_length(spec.max_positions)
    writer.add_embedding_length(spec.dim)
    writer.add_feed_forward_length(spec.hidden_dim)
    writer.add_head_count(spec.n_heads)
    writer.add_head_count_kv(spec.n_kv_heads)
    writer.add_key_length(spec.size_head)
    writer.add_value_length(spec.size_head)
    writer.add_rope_dimension_count(spec.size_head)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_rope_freq_base(spec.rope_theta or 10000.0)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    keys(writer)
    kind = gguf.GGMLQuantizationType[type_name]
    expected = models.random_tensors(spec)
    for tensor in LLAMA.tensors(config_from_hf(models.config_json(spec))[0]):
        values = expected[tensor.hf_name]
        if tensor.role.rope_heads:
            values = values.reshape(-1, 2, spec.size_head // 2, spec.dim).swapaxes(1, 2).reshape(values.shape)
        if tensor.name in without:
            continue
        if len(tensor.shape) == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(tensor.name, values)
        else:
            writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    for name, values in (more or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


BLOCKS = ModelSpec(dim=64, hidden_dim=96, head_dim=16, vocab_size=37, tie=True)


@pytest.mark.parametrize(
    ("type_name", "tolerance"), [("F32", 0), ("F16", 1e-3), ("BF16", 5e-3), ("Q8_0", 1e-2), ("Q4_0", 0.15), ("Q4_1", 0.15)]
)
def test_a_gguf_file_is_read(tmp_path: Path, opened: Callable[..., Source], type_name: str, tolerance: float) -> None:
    source = opened(write_gguf(tmp_path / "m.gguf", BLOCKS, type_name))
    assert (source.format, source.rope_layout, source.foreign_rope_freqs, source.warnings) == ("gguf", INTERLEAVED, False, [])
    assert source.config == config_from_hf(models.config_json(BLOCKS))[0]
    assert source.tensor("blk.1.ffn_up.weight")[0] is TYPES[type_name.lower()]
    assert source.vocab is None and source.chat_template is None and source.hf_config is None
    check_weights(source, BLOCKS, tolerance)


def test_gguf_padding_version_2_and_trailing_bytes_are_fine(tmp_path: Path, opened: Callable[..., Source]) -> None:
    data = bytearray(write_gguf(tmp_path / "m.gguf", BLOCKS).read_bytes())
    struct.pack_into("<I", data, 4, 2)
    (tmp_path / "m.gguf").write_bytes(bytes(data) + b"trailing")
    check_weights(opened(tmp_path / "m.gguf"), BLOCKS)


def test_gguf_types_that_are_not_decoded_are_refused_by_name(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf", BLOCKS, without=("output_norm.weight",), more={"output_norm.weight": np.ones(64, np.float64)}
    )
    assert refused(path, UnsupportedError) == (
        "m.gguf: output_norm.weight: type F64 is not supported; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL, "
        "IQ4_XS and MXFP4 are"
    )


def test_gguf_tensors_are_those_of_the_config(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf", BLOCKS, without=("blk.1.ffn_up.weight",), more={"blk.0.attn_q.bias": np.ones(64, np.float32)}
    )
    assert refused(path, FormatError) == "m.gguf: 1 tensor missing: blk.1.ffn_up.weight; 1 tensor left over: blk.0.attn_q.bias"


def test_gguf_vocabulary_sizes_are_one(tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "m.gguf", BLOCKS, without=("token_embd.weight",), more={"token_embd.weight": np.ones((36, 64), np.float32)}
    )
    assert refused(path, FormatError) == (
        "m.gguf: expected one size of the vocabulary, found llama.vocab_size 37, 36 rows of token_embd.weight and 0 tokens"
    )


# rope factors: only what four numbers explain exactly becomes a config

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
ROPED = ModelSpec(
    dim=64, hidden_dim=96, head_dim=64, vocab_size=37, tie=True, rope_theta=500000.0, rope=LLAMA3, max_positions=131072
)


def torch_factors(spec: ModelSpec, rope: dict[str, Any]) -> np.ndarray:
    """rope_freqs.weight computed as converters with torch do: f32 at every step."""
    import torch

    half = torch.arange(0, spec.size_head, 2, dtype=torch.float32)
    frequencies = 1.0 / ((spec.rope_theta or 1e4) ** (half / spec.size_head))
    low, high, original = rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    factors = []
    for frequency in frequencies:
        wavelength = 2 * np.pi / frequency
        blend = (original / wavelength - low) / (high - low)
        factors.append(
            1.0
            if wavelength < original / high
            else rope["factor"]
            if wavelength > original / low
            else 1 / ((1 - blend) / rope["factor"] + blend)
        )
    return torch.tensor(factors, dtype=torch.float32).numpy()


@pytest.mark.parametrize("theta", [10000.0, 500000.0, 1e6, 123456.7])
@pytest.mark.parametrize("head_dim", [32, 64, 96, 128, 256])
@pytest.mark.parametrize(("factor", "original"), [(8.0, 8192), (32.0, 8192), (4.0, 64)])
def test_factors_of_either_arithmetic_are_recognised(theta: float, head_dim: int, factor: float, original: int) -> None:
    rope = {**LLAMA3, "factor": factor, "original_max_position_embeddings": original}
    spec = ModelSpec(head_dim=head_dim, rope_theta=theta, rope=rope, max_positions=131072)
    config, _warnings = config_from_hf(models.config_json(spec))
    factors = torch_factors(spec, rope)
    assert reproduces(config, factors) and reproduces(config, config.rope_freqs())
    blended = int(np.argmax((factors > 1) & (factors < factor)))
    for wrong in (1 + 1e-4, 1 - 1e-4):
        other = factors.copy()
        other[blended] *= np.float32(wrong)
        assert not reproduces(config, other)


def test_standard_factors_of_a_foreign_file_are_explained(tmp_path: Path, opened: Callable[..., Source]) -> None:
    source = opened(write_gguf(tmp_path / "m.gguf", ROPED, more={"rope_freqs.weight": torch_factors(ROPED, LLAMA3)}))
    assert not source.foreign_rope_freqs
    assert source.config == config_from_hf(models.config_json(ROPED))[0]
    assert "rope_freqs.weight" in source.names()


def test_factors_that_nothing_explains_are_foreign(tmp_path: Path, opened: Callable[..., Source]) -> None:
    factors = torch_factors(ROPED, LLAMA3) * np.float32(1.001)
    source = opened(write_gguf(tmp_path / "m.gguf", ROPED, more={"rope_freqs.weight": factors}))
    assert source.foreign_rope_freqs and source.config.rope_scaling == "none"
    for name, back in (("m.bin", "m.bin"), ("n.gguf", "n.gguf")):
        assert converter.convert(tmp_path / "m.gguf", tmp_path / name).version == 3
        again = opened(tmp_path / back)
        assert again.foreign_rope_freqs
        assert np.array_equal(values_of(again, "rope_freqs.weight"), factors)
    for path in ("m.gguf", "m.bin", "n.gguf"):
        with pytest.raises(UnsupportedError, match="rope_freqs.weight: expected factors that a config.json's llama3 scaling gives"):
            converter.convert(tmp_path / path, tmp_path / "hf", format="hf")
    assert not (tmp_path / "hf").exists()


def test_numbers_that_are_not_standard_need_the_config_that_our_files_carry(tmp_path: Path, opened: Callable[..., Source]) -> None:
    rope = {**LLAMA3, "low_freq_factor": 2.0, "original_max_position_embeddings": 4096}
    spec = ModelSpec(**{**vars(ROPED), "rope": rope})
    factors = {"rope_freqs.weight": torch_factors(spec, rope)}
    assert opened(write_gguf(tmp_path / "foreign.gguf", spec, more=factors)).foreign_rope_freqs
    text = json.dumps(models.config_json(spec))
    source = opened(
        write_gguf(tmp_path / "own.gguf", spec, more=factors, keys=lambda writer: writer.add_string("ak42.config", text))
    )
    assert not source.foreign_rope_freqs
    assert source.config == config_from_hf(models.config_json(spec))[0]
    assert source.hf_config == models.config_json(spec)


def test_factors_of_one_are_no_scaling() -> None:
    config, _warnings = config_from_hf(models.config_json(BLOCKS))
    assert explain(config, None, np.ones(8, np.float32)) == (config, False)
    assert explain(config, None, np.full(8, 2, np.float32)) == (config, True)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_hidden_layers": 3}, "ak42.config and the file's own keys disagree: n_layers 2 and 3"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "disagree: rope_theta 10000.0 and 500000.0"),
        ({"tie_word_embeddings": False}, "disagree: shared_classifier true and false"),
        ({"attention_bias": True}, "ak42.config and the file's own keys disagree: attention_bias false and true"),
        ({"lm_head_bias": True}, "ak42.config: lm_head_bias: true is not supported"),
    ],
)
def test_a_carried_config_says_the_same_as_the_file(tmp_path: Path, change: dict[str, Any], text: str) -> None:
    carried = json.dumps(models.config_json(BLOCKS) | change)
    path = write_gguf(tmp_path / "m.gguf", BLOCKS, keys=lambda writer: writer.add_string("ak42.config", carried))
    assert text in refused(path)


@pytest.mark.parametrize(("scores", "warned"), [([-1000.0] * 301, True), ([0.0] * 3 + [-float(i) for i in range(298)], False)])
def test_pieces_without_an_order_are_warned_of(tmp_path: Path, opened: Callable[..., Source], scores: list[float], warned: bool) -> None:
    """llama.cpp's converter gives all tokens one score where a folder has no tokenizer.model."""
    def vocabulary(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list([b"<unk>", b"<s>", b"</s>", *(chr(0x4e00 + i).encode() for i in range(298))])
        writer.add_token_scores(scores)
        writer.add_token_types([2, 3, 3] + [1] * 298)

    path = write_gguf(tmp_path / "m.gguf", ModelSpec(), keys=vocabulary)
    assert any("all tokens have one score" in warning for warning in opened(path).warnings) == warned
    report = converter.convert(path, tmp_path / "m.bin")
    assert any("--tokenizer" in warning for warning in report.warnings) == warned
    converter.convert(tmp_path / "m.bin", tmp_path / "n.gguf", type="f32")
    assert not any("one score" in warning for warning in opened(path, tokenizer=tmp_path / "n.gguf").warnings)


# ---- what is said of the model ----


def test_what_a_gguf_says_of_its_model_comes_back(tmp_path: Path, opened: Callable[..., Source]) -> None:
    """Through ak42 v3, v1 and v2, and GGUF again: name, licence, languages and what else general.* says; not what is the file's."""
    def say(writer: gguf.GGUFWriter) -> None:
        writer.add_name("Tiny Ännie")
        writer.add_license("apache-2.0")
        writer.add_languages(["en", "de"])
        writer.add_string("general.base_model.0.name", "Annie")
        writer.add_uint32("general.base_model.count", 1)
        writer.add_file_type(0)
        writer.add_float32("general.nothing_we_keep", 0.5)
        writer.add_array("general.no_texts", [1, 2])
        writer.add_quantization_version(2)

    said = {"general.name": "Tiny Ännie", "general.license": "apache-2.0", "general.languages": ["en", "de"],
            "general.base_model.0.name": "Annie", "general.base_model.count": 1}
    path = write_gguf(tmp_path / "m.gguf", ModelSpec(max_positions=64), keys=say)
    assert opened(path).about == said
    for name, options in (("m.bin", {"format": "ak42-v3"}), ("m1.bin", {"format": "ak42-v1"}), ("m2.bin", {"format": "ak42-v2", "type": "int8"})):
        converter.convert(path, tmp_path / name, **options)
        assert opened(tmp_path / name).about == said
        pyllama.Model(tmp_path / name).close()
        converter.convert(tmp_path / name, tmp_path / f"{name}.gguf", type="f32")
        fields = gguf.GGUFReader(tmp_path / f"{name}.gguf").fields
        assert {key: fields[key].contents() for key in said} == said
        assert not {"general.nothing_we_keep", "general.no_texts"} & set(fields)
    plain = write_gguf(tmp_path / "plain.gguf", ModelSpec())
    converter.convert(plain, tmp_path / "plain.bin")
    converter.convert(tmp_path / "plain.bin", tmp_path / "again.gguf")
    assert opened(tmp_path / "plain.bin").about == {} and opened(tmp_path / "again.gguf").about["general.name"].startswith("llama ")


@pytest.mark.parametrize("count", [1, 456, 999, 9_499, 9_500, 99_951, 10**6, 10**6 + 1, 134_515_008, 1_100_048_384, 9_400_000_000,
                                   9_500_000_001, 70_553_706_496, 10**12, 1_026_000_000_000])
def test_a_size_is_named_as_gguf_py_names_it(count: int) -> None:
    from gguf import utility

    assert size_label([(count,), (0, 3)]) == utility.size_label(count, 0, 0, 0)
    assert size_label([(8, count), (4, count, 2), (4, 3, count)]) == utility.size_label(0, 8 * count, 5 * count, 4)


def test_a_size_that_a_file_says_stays(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", ModelSpec(), keys=lambda writer: writer.add_size_label("9x9B"))
    converter.convert(path, tmp_path / "m.bin")
    converter.convert(tmp_path / "m.bin", tmp_path / "n.gguf", type="f16")
    fields = gguf.GGUFReader(tmp_path / "n.gguf").fields
    assert [fields[f"general.{key}"].contents() for key in ("type", "size_label")] == ["model", "9x9B"]


def test_too_much_said_of_a_model_is_left_out(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", ModelSpec(), keys=lambda writer: (writer.add_string("general.a", "a"), writer.add_string("general.b", "x" * 70_000)))
    report = converter.convert(path, tmp_path / "m.bin")
    assert any("more than 65536 bytes of general.* keys: 'general.b'" in warning for warning in report.warnings)


# ---- what the runtime makes of the same files ----


@pytest.mark.parametrize("key", NEUTRAL_GGUF)
def test_a_key_that_nobody_computes_is_refused_by_both_readers(tmp_path: Path, opened: Callable[..., Source], key: str) -> None:
    def saying(value: Any) -> Path:
        add = gguf.GGUFWriter.add_bool if isinstance(NEUTRAL_GGUF[key][0], bool) else gguf.GGUFWriter.add_uint32
        return write_gguf(tmp_path / "m.gguf", BLOCKS, keys=lambda writer: add(writer, f"llama.{key}", value))

    for neutral in NEUTRAL_GGUF[key]:
        assert opened(saying(neutral)).config.dim == BLOCKS.dim
        pyllama.Model(tmp_path / "m.gguf").close()
    path = saying(not NEUTRAL_GGUF[key][0] if isinstance(NEUTRAL_GGUF[key][0], bool) else 7)
    assert f"llama.{key}: " in refused(path, UnsupportedError)
    with pytest.raises(pyllama.UnsupportedError, match=f"key llama.{key}: expected "):
        pyllama.Model(path)


def test_a_norm_that_stands_as_a_matrix_of_one_row_is_that_norm(tmp_path: Path) -> None:
    plain = write_gguf(tmp_path / "plain.gguf", BLOCKS)
    tensors = models.random_tensors(BLOCKS)
    norms = {tensor.name: tensors[tensor.hf_name] for tensor in LLAMA.tensors(config_from_hf(models.config_json(BLOCKS))[0])
             if len(tensor.shape) == 1}
    assert len({values.tobytes() for values in norms.values()}) == len(norms)
    path = write_gguf(tmp_path / "rows.gguf", BLOCKS, without=tuple(norms), more={name: row[None] for name, row in norms.items()})
    found = []
    for one in (plain, path):
        with pyllama.Model(one) as model, model.session() as session:
            found.append(session.eval([3, 1, 4, 1, 5], all_logits=True))
    assert np.array_equal(*found)
