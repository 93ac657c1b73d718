"""ak42 files of every version as sources: their weights, and every field, cut and flipped byte that a reader has to refuse."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from models import ModelSpec
from source_checks import check_weights, refused

import converter
from converter.arch import INTERLEAVED
from converter.config import config_from_hf
from converter.crc32c import crc32c
from converter.errors import ConvertError, FormatError
from converter.sources import Source, open_source

OLD = ModelSpec(dim=48, hidden_dim=84, vocab_size=301, seed=3)  # one that llama2.c's formats hold

pytest_plugins = ["source_fixtures"]


# ---- ak42 ----


@pytest.fixture(scope="module")
def ak42_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of every version and layout of the model OLD; "strict" ones have no extension."""
    folder = tmp_path_factory.mktemp("ak42")
    source = models.make_hf_model_numpy(folder / "hf", OLD)
    files = {}
    for name, options in {
        "v0": {"format": "ak42-v0"},
        "v1": {"format": "ak42-v1"},
        "v1 strict": {"format": "ak42-v1", "strict": True},
        "v2": {"format": "ak42-v2"},
        "v2 strict": {"format": "ak42-v2", "strict": True},
        "v3": {"format": "ak42-v3"},
        "v3 rows": {"format": "ak42-v3", "layout": "rows"},
        "v3 int8": {"format": "ak42-v3", "type": "int8"},
        "v3 int8 rows": {"format": "ak42-v3", "type": "int8", "layout": "rows"},
        "v3 f16": {"format": "ak42-v3", "type": "f16"},
        "v3 bf16 rows": {"format": "ak42-v3", "type": "bf16", "layout": "rows"},
    }.items():
        files[name] = folder / (name.replace(" ", "-") + ".bin")
        converter.convert(source, files[name], **options)
    return files


TOLERANCES = {"int8": 1e-2, "v2": 1e-2, "bf16": 5e-3, "f16": 1e-3}  # the first that a kind's name has
AK42_KINDS = ["v0", "v1", "v1 strict", "v2", "v2 strict", "v3", "v3 rows", "v3 int8", "v3 int8 rows", "v3 f16", "v3 bf16 rows"]


@pytest.mark.parametrize("kind", AK42_KINDS)
def test_every_ak42_file_is_read(ak42_files: dict[str, Path], opened: Callable[..., Source], kind: str) -> None:
    source = opened(ak42_files[kind])
    assert source.format == "ak42 " + kind[:2] and source.rope_layout == INTERLEAVED
    expected, _warnings = config_from_hf(models.config_json(OLD))
    plain = kind == "v0" or "strict" in kind
    assert source.config == (expected if not plain else type(expected)(**{**vars(expected), "bos_id": -1, "eos_ids": ()}))
    assert (source.hf_config == models.config_json(OLD)) != plain
    check_weights(source, OLD, next((value for name, value in TOLERANCES.items() if name in kind), 0.0))


@pytest.mark.parametrize("kind", ["v2", "v3", "v3 int8", "v3 int8 rows", "v3 f16"])
def test_ak42_rows_are_read_by_ranges(ak42_files: dict[str, Path], opened: Callable[..., Source], kind: str) -> None:
    source = opened(ak42_files[kind])
    whole = source.read("token_embd.weight", 0, 301)
    for begin, end in ((0, 1), (5, 40), (15, 17), (16, 32), (299, 301), (300, 301), (7, 7)):
        assert np.array_equal(source.read("token_embd.weight", begin, end), whole[begin:end])


def test_layouts_hold_the_same_rows(ak42_files: dict[str, Path], opened: Callable[..., Source]) -> None:
    for one_kind, other_kind in (("v3", "v3 rows"), ("v3 int8", "v3 int8 rows"), ("v2", "v3 int8"), ("v1", "v3")):
        one_source, other = opened(ak42_files[one_kind]), opened(ak42_files[other_kind])
        for name in one_source.names():
            rows = one_source.tensor(name)[1][0] if len(one_source.tensor(name)[1]) == 2 else 1
            assert np.array_equal(one_source.read(name, 0, rows), other.read(name, 0, rows)), name


def cuts(data: bytes) -> list[int]:
    """Where an ak42 file of any version is cut: around the header, the first tensors and the end."""
    return sorted(
        {0, 1, 3, 4, 27, 28, 29, 63, 64, 65, 255, 256, 257, 512, len(data) // 2, len(data) - 17, len(data) - 8, len(data) - 1}
    )


@pytest.mark.parametrize("kind", AK42_KINDS)
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, ak42_files: dict[str, Path], kind: str) -> None:
    data = ak42_files[kind].read_bytes()
    path = tmp_path / "cut.bin"
    for size in cuts(data):
        path.write_bytes(data[:size])
        assert refused(path, FormatError).startswith("cut.bin: expected")
    path.write_bytes(data)
    open_source(path).close()


@pytest.mark.parametrize("kind", AK42_KINDS)
def test_trailing_bytes_are_refused(tmp_path: Path, ak42_files: dict[str, Path], kind: str) -> None:
    path = tmp_path / "long.bin"
    path.write_bytes(ak42_files[kind].read_bytes() + b"\0")
    refused(path, FormatError)


@pytest.mark.parametrize("kind", ["v1", "v2", "v3", "v3 int8 rows"])
def test_a_flipped_byte_never_passes(tmp_path: Path, ak42_files: dict[str, Path], kind: str) -> None:
    """Anywhere in a file with an extension: in the header, the directory, the weights, the trailer. Gaps have to be zero."""
    data = ak42_files[kind].read_bytes()
    rng = np.random.default_rng(5)
    path = tmp_path / "flipped.bin"
    for place in [*range(0, 256, 3), *rng.integers(256, len(data), 60).tolist(), len(data) - 1]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        if is_gap(data, place):
            continue
        with pytest.raises(ConvertError):
            source = open_source(path)
            try:
                for name in source.names():
                    source.read(name, 0, 1)
            finally:
                source.close()


def is_gap(data: bytes, place: int) -> bool:
    """Whether nothing is said of a byte: between v3's directory and data, and between its tensors."""
    if struct.unpack_from("<i", data, 4)[0] != 3:
        return False
    n_tensors, data_end = struct.unpack_from("<I", data, 184)[0], sum(struct.unpack_from("<2Q", data, 192))
    directory = struct.unpack_from("<Q", data, 176)[0]
    if place < directory + 128 * n_tensors or place >= data_end:
        return False
    extents = [struct.unpack_from("<2Q", data, directory + 128 * i + 104) for i in range(n_tensors)]
    return not any(offset <= place < offset + size for offset, size in extents)


def patched(data: bytes, offset: int, code: str, value: Any) -> bytes:
    """A header field changed, and the header's checksum made right again where there is one."""
    changed = bytearray(data)
    struct.pack_into("<" + code, changed, offset, value)
    if changed[64:68] == b"AKX1":
        struct.pack_into("<I", changed, 252, crc32c(bytes(changed[:252])))
    return bytes(changed)


HEADER_DAMAGE: list[tuple[str, int, str, Any, str]] = [
    *(
        (kind, 8 + 4 * i, "i", value, name)
        for kind in ("v1", "v2 strict", "v3")
        for i, name in enumerate(("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len"))
        for value in (0, -1, -(2**31))
    ),
    ("v1", 4, "i", 0, "version at byte 4: expected 1, 2 or 3, found 0"),
    ("v1", 4, "i", 4, "version at byte 4"),
    ("v3", 4, "i", 2**31 - 1, "version at byte 4"),
    ("v1 strict", 36, "B", 2, "shared_classifier at byte 36: expected 0 or 1, found 2"),
    ("v1 strict", 37, "i", 4, "group_size at byte 37: expected 0 in version 1, found 4"),
    *(("v2 strict", 37, "i", value, "group_size at byte 37") for value in (0, -4, 3, 2, 128, 2**30, -(2**31), 8)),
    ("v1 strict", 41, "B", 1, "reserved byte 41: expected 0, found 1"),
    ("v1 strict", 255, "B", 1, "reserved byte 255"),
    ("v1", 63, "B", 1, "reserved byte 63"),
    ("v3", 64, "B", 0, "expected AKX1 at byte 64 of version 3"),
    ("v1", 68, "H", 200, "extension 200.0 is not supported"),
    ("v1", 70, "H", 1, "extension 192.1 is not supported"),
    ("v1", 76, "I", 1, "incompat_flags at byte 76: expected none in version 1, found ROPE_THETA"),
    ("v3", 76, "I", 1 << 16 | 1 << 15, "has bits that are not known"),
    ("v3", 76, "I", 0, "expected DIRECTORY in version 3"),
    ("v3", 148, "i", 8, "n_experts_used: expected an integer from 1 to 8, found 0"),
    ("v3", 76, "I", 1 << 15 | 1 << 4, "QKV_BIAS: expected 0 of a llama model, found 1"),
    ("v1", 80, "f", 5e5, "expected llama2.c's constants in version 1"),
    ("v3", 80, "f", float("nan"), "rope_theta: expected a finite"),
    ("v3", 84, "f", 0.0, "norm_eps"),
    ("v3", 88, "i", 7, "rotary_dim: expected an integer from 0 to 7, found 12"),
    ("v3", 92, "i", 6, "rotary_dim"),
    ("v3", 100, "B", 6, "rope_scaling: 6 is not supported"),
    ("v3", 101, "B", 2, "rope_layout at byte 101"),
    ("v3", 101, "B", 1, "expected 0 without the feature ROPE_HALF_SPLIT"),
    ("v3", 102, "B", 1, "activation: expected 0 of a llama model, found 1"),
    ("v3", 103, "B", 1, "model_flags: expected 0 of a llama model, found 1"),
    ("v3", 156, "f", 50.0, "attn_softcap: 50 is not supported, only 0 is"),
    ("v3", 236, "f", 0.5, "logit_scale: 0.5 is not supported, only 1 is"),
    ("v3", 240, "f", 1e4, "rope_theta_local: 10000 is not supported, only 0 is"),
    ("v3", 100, "B", 4, "rope_original_ctx: expected an integer"),
    ("v3", 124, "i", 301, "bos_id"),
    ("v3", 172, "i", 0, "trained_ctx"),
    ("v3", 80, "f", 5e5, "the header and the section CONF disagree: rope_theta 500000.0 and 10000.0"),
    ("v3", 176, "Q", 2**63, "directory_offset at byte 176"),
    ("v3", 184, "I", 0, "n_tensors at byte 184: expected 1 to 65536, found 0"),
    ("v3", 184, "I", 2**31, "n_tensors at byte 184"),
    ("v3", 188, "I", 1, "directory checksum at byte 188"),
    ("v3", 192, "Q", 64, "data at byte 192"),
    ("v3", 200, "Q", 2**63, "data at byte 192"),
    ("v1", 200, "Q", 4, "data at byte 192"),
    ("v1", 184, "I", 1, "directory at byte 176: expected none before version 3"),
    ("v1", 208, "Q", 8, "trailer_offset at byte 208"),
    ("v1", 208, "Q", 0, "trailer_bytes at byte 216: expected 0 without a trailer"),
    ("v3", 216, "Q", 8, "expected data and trailer to end with"),
    ("v1", 224, "Q", 1, "expected a file of 1 bytes, as its header says at byte 224"),
    ("v1", 248, "I", 1, "trailer checksum at byte 248"),
]


@pytest.mark.parametrize(("kind", "offset", "code", "value", "text"), HEADER_DAMAGE)
def test_every_field_of_a_header_is_checked(
    tmp_path: Path, ak42_files: dict[str, Path], kind: str, offset: int, code: str, value: Any, text: str
) -> None:
    path = tmp_path / "damaged.bin"
    path.write_bytes(patched(ak42_files[kind].read_bytes(), offset, code, value))
    found = refused(path)
    assert found.startswith("damaged.bin: ") and text in found


def test_unknown_compat_bits_are_ignored(tmp_path: Path, ak42_files: dict[str, Path], opened: Callable[..., Source]) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(patched(ak42_files["v3"].read_bytes(), 72, "I", 0xFFFFFFFF))
    check_weights(opened(path), OLD)


@pytest.mark.parametrize(
    ("offset", "code", "value", "text"),
    [
        (0, "4s", b"\0\0\0\0", "expected a name of 1 to 64 ASCII characters"),
        (0, "4s", b"x\0yz", "expected a name of 1 to 64 ASCII"),
        (64, "I", 22, "type 0x16 is not supported"), (64, "I", 12, "whole q4_k blocks"),
        (68, "I", 2, "layout 2 of f32 is not supported"),
        (72, "I", 0, "expected 1 to 3 dimensions"),
        (72, "I", 4, "expected 1 to 3 dimensions, found 4"),
        (76, "I", 1, "expected reserved fields of 0"),
        (80, "Q", 0, "expected sizes of 1"),
        (80, "Q", 2**63, "expected sizes of 1 to 2^32"),
        (80, "Q", 100, "bytes for its shape"),
        (96, "Q", 1, "expected 1 to 3 dimensions"),
        (104, "Q", 4097, "expected a place of its own at a multiple of 64"),
        (104, "Q", 2**62, "expected a place of its own"),
        (112, "Q", 8, "bytes for its shape, found 8"),
        (124, "I", 1, "expected reserved fields of 0"),
    ],
)
def test_every_field_of_a_directory_entry_is_checked(
    tmp_path: Path, ak42_files: dict[str, Path], offset: int, code: str, value: Any, text: str
) -> None:
    data = bytearray(ak42_files["v3"].read_bytes())
    directory, n_tensors = struct.unpack_from("<QI", data, 176)
    struct.pack_into("<" + code, data, directory + offset, value)
    checksum = crc32c(bytes(data[directory : directory + 128 * n_tensors]))
    path = tmp_path / "damaged.bin"
    path.write_bytes(patched(bytes(data), 188, "I", checksum))
    assert text in refused(path)


def test_weights_are_checked_before_they_are_handed_out(
    tmp_path: Path, ak42_files: dict[str, Path], opened: Callable[..., Source]
) -> None:
    for kind, text in (("v1", "payload: checksum"), ("v3", "blk.1.ffn_down.weight: checksum")):
        data = bytearray(ak42_files[kind].read_bytes())
        clean = opened(ak42_files[kind])
        data[clean._tensors["blk.1.ffn_down.weight"].offset + 40] ^= 1
        path = tmp_path / f"{kind}.bin"
        path.write_bytes(data)
        source = opened(path)
        with pytest.raises(FormatError, match=text):
            source.read("blk.1.ffn_down.weight", 0, 1)
    assert source.read("blk.0.ffn_down.weight", 0, 1).shape[0] == 1  # version 3 knows which tensor it is


def test_a_headerless_file_has_exactly_its_size(tmp_path: Path, ak42_files: dict[str, Path]) -> None:
    data = ak42_files["v0"].read_bytes()
    path = tmp_path / "m.bin"
    for name, value in (("dim", 96), ("n_layers", 3), ("seq_len", 255), ("vocab_size", 301)):
        offset = 4 * ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len").index(name)
        path.write_bytes(patched(data, offset, "i", value))
        assert "as llama2.c's headerless format: expected exactly" in refused(path, FormatError)
    for offset in range(0, 28, 4):
        for value in (0, -(2**31), 2**31 - 1, 2**30):
            path.write_bytes(patched(data, offset, "i", value))
            refused(path, FormatError)
