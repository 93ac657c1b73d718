"""The writers, through converter.targets.write: llama2.c's rules told a second time, v3 read by a reader written here, GGUF read
by gguf-py, a Hugging Face folder opened by transformers; what does not fit is refused with its fields, and two runs give the same
bytes. The literal bytes are in test_goldens.py.
"""
from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from converter import panel, targets
from converter.arch import hf_names
from converter.chat import ChatFormat, derive_chat
from converter.crc32c import crc32c
from converter.errors import ConvertError, RefusedError, UnsupportedError, UsageError
from converter.quant import TYPES, NestedRows
from converter.targets import ak42, ak42_header, base, hf
from plans import CONFIG, FakeVocab, encoded, make_plan, random_weights

ROOT = Path(__file__).resolve().parent.parent
SCALED = replace(CONFIG, rope_theta=500000.0, rope_scaling="llama3", rope_factor=8.0, rope_low_freq=1.0, rope_high_freq=4.0,
                 rope_original_ctx=32, norm_eps=1e-6, head_dim=16, rotary_dim=16, shared_classifier=False, trained_ctx=64,
                 seq_len=64, eos_ids=(2, 5))
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


SHORT_TYPES = tuple(name for name, kind in TYPES.items() if kind.block_len <= 32 and name != "iq4_nl")      # that numpy encodes


def write(plan, path: Path, format: str, **options) -> bytes:
    targets.write(plan, path, format, **options)
    return path.read_bytes() if path.is_file() else b""


# ---- llama2.c's export, told straight ----


def llama2c_export(config, weights: dict[str, np.ndarray], version: int) -> bytes:
    """version1_export and version2_export as their rules are, value by value; the group is our stricter one."""
    data = struct.pack("<I", 0x616B3432) + struct.pack("<i", version)
    data += struct.pack("<7i", config.dim, config.hidden_dim, config.n_layers, config.n_heads, config.n_kv_heads, config.vocab_size,
                        config.seq_len)
    data += struct.pack("<B", int(config.shared_classifier))
    group = 64
    while any(length % group for length in (config.dim, config.n_heads * config.head_dim, config.hidden_dim)):
        group //= 2
    if version == 2:
        data += struct.pack("<i", group)
    data += bytes(256 - len(data))
    layers = range(config.n_layers)
    norms = [f"blk.{i}.attn_norm.weight" for i in layers] + [f"blk.{i}.ffn_norm.weight" for i in layers] + ["output_norm.weight"]
    matrices = ["token_embd.weight"]
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down", "ffn_up"):
        matrices += [f"blk.{i}.{part}.weight" for i in layers]
    if not config.shared_classifier:
        matrices.append("output.weight")
    for name in norms:
        data += struct.pack(f"<{weights[name].size}f", *weights[name])
    for name in matrices:
        flat = [float(value) for value in weights[name].reshape(-1)]
        if version == 1:
            data += struct.pack(f"<{len(flat)}f", *flat)
            continue
        codes, scales = [], []
        for begin in range(0, len(flat), group):
            values = flat[begin:begin + group]
            scale = np.float32(max(abs(value) for value in values)) / np.float32(127.0)
            scales.append(scale)
            codes += [round(float(np.float32(value) / scale)) if scale else 0 for value in values]
        data += struct.pack(f"<{len(codes)}b", *codes) + struct.pack(f"<{len(scales)}f", *scales)
    return data


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("config", [
    CONFIG, replace(CONFIG, shared_classifier=False, n_kv_heads=1, vocab_size=17),
    replace(CONFIG, dim=24, hidden_dim=20, n_heads=2, n_kv_heads=2, head_dim=12, rotary_dim=12),
    replace(CONFIG, dim=64, hidden_dim=172, n_heads=8, n_layers=3)], ids=["gqa", "untied", "group 4", "hidden 172"])
def test_strict_is_llama2c(tmp_path: Path, config, version: int) -> None:
    weights = random_weights(config, seed=version)
    weights["blk.0.attn_q.weight"][0] = 0                # a group of zeros
    plan = make_plan(config, "int8" if version == 2 else "f32", weights)
    assert write(plan, tmp_path / "m.bin", f"ak42-v{version}", strict=True) == llama2c_export(config, weights, version)


@pytest.mark.parametrize("version", [1, 2])
def test_the_extension_leaves_the_old_bytes_alone(tmp_path: Path, version: int) -> None:
    plan = make_plan(CONFIG, "int8" if version == 2 else "f32", vocab=FakeVocab())
    strict = write(plan, tmp_path / "s.bin", f"ak42-v{version}", strict=True)
    extended = write(plan, tmp_path / "m.bin", f"ak42-v{version}")
    assert extended[:64] == strict[:64] and extended[256:len(strict)] == strict[256:]
    assert len(extended) == struct.unpack_from("<Q", extended, 224)[0] > len(strict)


# ---- which version ----


@pytest.mark.parametrize(("changes", "field"), [
    ({"rope_theta": 100000.0}, "rope_theta"), ({"norm_eps": 1e-6}, "norm_eps"), ({"head_dim": 16, "rotary_dim": 16}, "head_dim"),
    ({"rope_scaling": "linear", "rope_factor": 2.0}, "rope_scaling"), ({"sliding_window": 8}, "sliding_window"),
    ({"rotary_dim": 4}, "rotary_dim"), ({"vocab_size": 1 << 26}, "vocab_size * dim"),
    ({"n_layers": 1 << 27}, "n_layers * n_kv_heads * head_dim")])
def test_what_v1_cannot_say(changes: dict, field: str) -> None:
    config = replace(CONFIG, **changes)
    reasons = ak42.fits(config, 1)
    assert [reason for reason in reasons if reason.startswith(f"{field}: expected ")] == reasons and len(reasons) == 1
    assert ak42.choose_ak42_version(config, "f32") == 3 and not ak42.fits(config, 3)


def test_choice_of_version() -> None:
    assert ak42.choose_ak42_version(CONFIG, "f32") == 1 and ak42.choose_ak42_version(CONFIG, TYPES["int8"]) == 2
    assert ak42.choose_ak42_version(CONFIG, "q8_0") == 3
    odd = replace(CONFIG, hidden_dim=98)
    assert ak42.choose_ak42_version(odd, "int8") == 3 and ak42.choose_ak42_version(odd, "f32") == 1
    assert "98" in ak42.fits(odd, 2)[0]
    assert not ak42.fits(replace(CONFIG, sliding_window=16), 1)                       # the whole context


def test_a_context_too_long_for_int_is_lowered(tmp_path: Path) -> None:
    config = replace(CONFIG, n_layers=32, n_kv_heads=8, n_heads=32, dim=4096, head_dim=128, rotary_dim=128, seq_len=131072,
                     trained_ctx=131072)
    assert ak42.old_seq_len(config) == 65535 and not ak42.fits(config, 1)
    long = replace(CONFIG, seq_len=1 << 30, trained_ctx=1 << 30)
    data = write(make_plan(long), tmp_path / "m.bin", "ak42-v1")
    header, trained = struct.unpack_from("<i", data, 32)[0], struct.unpack_from("<i", data, 172)[0]
    assert header == ((1 << 31) - 1) // (2 * 2 * 8) and trained == 1 << 30
    assert any(str(header) in line for line in targets.target_warnings(make_plan(long), tmp_path / "m.bin", "ak42-v1"))


def test_asking_for_a_version_that_does_not_fit_lists_every_field(tmp_path: Path) -> None:
    out = tmp_path / "m.bin"
    for version in (0, 1, 2):
        with pytest.raises(UnsupportedError) as caught:
            targets.write(make_plan(SCALED), out, f"ak42-v{version}")
        text = str(caught.value)
        assert all(word in text for word in ("m.bin", "rope_theta", "norm_eps", "head_dim", "rope_scaling", "ak42-v3"))
        assert "\n" not in text and caught.value.code == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("format", "type_name", "options", "error", "words"), [
    ("ak42-v1", "q8_0", {}, UnsupportedError, ("--type f32", "token_embd.weight", "q8_0")),
    ("ak42-v2", "f32", {}, UnsupportedError, ("--type int8",)),
    ("ak42-v0", "int8", {}, UnsupportedError, ("--type f32",)),
    ("ak42-v3", "f16", {"strict": True}, UsageError, ("--strict",)),
    ("gguf", "f32", {"strict": True}, UsageError, ("--strict",)),
    ("ak42-v3", "f16", {"layout": "columns"}, UsageError, ("--layout", "columns", "panel16")),
    ("ak42-v9", "f16", {}, UsageError, ("--format", "ak42-v9", "gguf")),
    ("gguf", "int8", {}, UnsupportedError, ("--type q8_0", "token_embd.weight")),
    ("hf", "q4_0", {}, UsageError, ("--type f32, f16 or bf16", "q4_0")),
    ("hf", "int8", {}, UsageError, ("--type f32, f16 or bf16",)),
])
def test_refusals(tmp_path: Path, format: str, type_name: str, options: dict, error: type, words: tuple[str, ...]) -> None:
    with pytest.raises(error) as caught:
        targets.write(make_plan(CONFIG, type_name), tmp_path / "out", format, **options)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


# ---- v0 ----


def test_v0_brings_its_tokenizer(tmp_path: Path) -> None:
    plan = make_plan(CONFIG, vocab=FakeVocab())
    assert targets.write(plan, tmp_path / "m.bin", "ak42-v0") == [tmp_path / "m.bin", tmp_path / "tokenizer.bin"]
    assert (tmp_path / "tokenizer.bin").read_bytes() == plan.vocab.to_tokenizer_bin()
    rope = 2 * CONFIG.seq_len * CONFIG.head_dim // 2 * 4
    assert (tmp_path / "m.bin").stat().st_size == 28 + plan.nbytes + rope


def test_v0_leaves_an_equal_tokenizer_and_refuses_another(tmp_path: Path) -> None:
    plan = make_plan(CONFIG, vocab=FakeVocab())
    sidecar = tmp_path / "tokenizer.bin"
    sidecar.write_bytes(plan.vocab.to_tokenizer_bin())
    before = sidecar.stat().st_ino
    targets.write(plan, tmp_path / "a.bin", "ak42-v0")
    assert sidecar.stat().st_ino == before
    sidecar.write_bytes(b"mine")
    with pytest.raises(RefusedError, match="tokenizer.bin"):
        targets.write(plan, tmp_path / "b.bin", "ak42-v0")
    assert sidecar.read_bytes() == b"mine" and not (tmp_path / "b.bin").exists()
    targets.write(plan, tmp_path / "b.bin", "ak42-v0", force=True)
    assert sidecar.read_bytes() == plan.vocab.to_tokenizer_bin()


def test_v0_without_a_sentencepiece_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="SentencePiece"):
        targets.write(make_plan(CONFIG, vocab=FakeVocab(kind="bpe")), tmp_path / "m.bin", "ak42-v0")
    assert targets.write(make_plan(CONFIG), tmp_path / "m.bin", "ak42-v0") == [tmp_path / "m.bin"]
    assert "tokenizer.bin" in targets.target_warnings(make_plan(CONFIG), tmp_path / "m.bin", "ak42-v0")[0]
    with pytest.raises(RefusedError, match="tokenizer.bin"):
        targets.write(make_plan(CONFIG, vocab=FakeVocab()), tmp_path / "tokenizer.bin", "ak42-v0")


# ---- v3, read by a reader of its own ----


def slow_crc32c(data: bytes, value: int = 0) -> int:
    state = value ^ 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def read_v3(data: bytes) -> tuple[dict[str, dict], dict[bytes, bytes]]:
    """Entries by name and sections by tag, with everything checked that a header says of the file."""
    u32 = lambda at: struct.unpack_from("<I", data, at)[0]           # noqa: E731
    u64 = lambda at: struct.unpack_from("<Q", data, at)[0]           # noqa: E731
    assert (u32(0), u32(4)) == (0x616B3432, 3) and data[64:68] == b"AKX1" and u32(252) == slow_crc32c(data[:252])
    directory, n_tensors, data_offset, data_bytes = u64(176), u32(184), u64(192), u64(200)
    assert directory == 256 and data_offset % 4096 == 0 and data_offset >= 256 + 128 * n_tensors
    assert u32(188) == slow_crc32c(data[256:256 + 128 * n_tensors])
    entries, end = {}, data_offset
    for i in range(n_tensors):
        at = directory + 128 * i
        name = data[at:at + 64].rstrip(b"\0").decode()
        kind, layout, n_dims, zero = struct.unpack_from("<4I", data, at + 64)
        dims, (offset, nbytes, crc, zero2) = struct.unpack_from("<3Q", data, at + 80), struct.unpack_from("<2Q2I", data, at + 104)
        assert zero == zero2 == 0 and offset % 64 == 0 and 0 <= offset - end < 64 and not any(data[end:offset])
        end = offset + nbytes
        assert crc == crc32c(data[offset:end]) and dims[n_dims:] == (0,) * (3 - n_dims)
        entries[name] = {"type": kind, "layout": layout, "shape": dims[:n_dims], "bytes": data[offset:end]}
    assert end == data_offset + data_bytes
    at = u64(208)
    assert at == (end + 7) // 8 * 8 and not any(data[end:at]) and u64(224) == len(data) == at + u64(216)
    assert u32(248) == crc32c(data[at:])
    sections = {}
    while at < len(data):
        tag, zero, size = struct.unpack_from("<4sIQ", data, at)
        assert zero == 0 and tag not in sections
        sections[tag] = data[at + 16:at + 16 + size]
        assert not any(data[at + 16 + size:at + 16 + (size + 7) // 8 * 8])
        at += 16 + (size + 7) // 8 * 8
    assert at == len(data)
    return entries, sections


@pytest.mark.parametrize("layout", ["panel16", "rows"])
@pytest.mark.parametrize("type_name", SHORT_TYPES)
def test_v3_holds_the_plan(tmp_path: Path, type_name: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "CHUNK_BYTES", 1 << 12)    # several chunks a tensor
    config = replace(SCALED, hidden_dim=160, vocab_size=37)
    plan = make_plan(config, type_name)
    entries, sections = read_v3(write(plan, tmp_path / "m.bin", "ak42-v3", layout=layout))
    assert list(entries) == [tensor.name for tensor in plan.tensors]
    for tensor in plan.tensors:
        entry, rows = entries[tensor.name], encoded(plan, tensor.name)
        assert (entry["type"], entry["shape"]) == (tensor.type.id, tensor.shape)
        assert entry["layout"] == (panel.layout_of(type_name) if layout == "panel16" and len(tensor.shape) == 2 else panel.ROWS)
        found = np.frombuffer(entry["bytes"], dtype=np.uint8)
        if entry["layout"]:
            found = panel.unpack(type_name, found, *tensor.shape, tensor.group_size)
        elif tensor.type.name == "int8":                 # codes of the whole matrix, then the scales
            n_rows, columns = tensor.shape
            codes, scales = found[:n_rows * columns], found[n_rows * columns:]
            found = np.concatenate((codes.reshape(n_rows, -1), scales.reshape(n_rows, -1)), axis=1)
        assert np.array_equal(found.reshape(rows.shape), rows)
    assert json.loads(sections[b"CONF"])["model_type"] == "llama"


def test_v3_sections(tmp_path: Path) -> None:
    plan = make_plan(SCALED, "f16", vocab=FakeVocab(), chat_template=CHATML, generation_config={"temperature": 0.5})
    _, sections = read_v3(write(plan, tmp_path / "m.bin", "ak42-v3"))
    assert list(sections) == [b"TOKN", b"CONF", b"GENC", b"TMPL", b"CHAT", b"MANI"]
    assert sections[b"TOKN"] == b"tokn!" and sections[b"TMPL"] == CHATML.encode()
    assert json.loads(sections[b"GENC"]) == {"temperature": 0.5} and json.loads(sections[b"CONF"]) == plan.hf_config
    assert ChatFormat.from_bytes(sections[b"CHAT"]).user_prefix == "<|im_start|>user\n"


@pytest.mark.parametrize(("changes", "bits"), [
    ({}, ()), ({"rope_theta": 5e5}, (0,)), ({"rope_scaling": "linear", "rope_factor": 4.0}, (1,)), ({"norm_eps": 1e-6}, (2,)),
    ({"head_dim": 16, "rotary_dim": 16}, (3,)), ({"sliding_window": 4}, (6,)), ({"rotary_dim": 4}, (12,))])
def test_v3_says_what_a_reader_must_know(tmp_path: Path, changes: dict, bits: tuple[int, ...]) -> None:
    data = write(make_plan(replace(CONFIG, **changes), "f16"), tmp_path / "m.bin", "ak42-v3")
    assert struct.unpack_from("<2I", data, 72) == (0, sum(1 << bit for bit in (*bits, 15)))


def test_rope_factors_need_v3(tmp_path: Path) -> None:
    weights = {"token_embd.weight": random_weights(CONFIG)["token_embd.weight"], "rope_freqs.weight": np.ones(4, np.float32),
               **random_weights(CONFIG)}
    plan = make_plan(CONFIG, "f32", weights)
    with pytest.raises(UnsupportedError, match="rope_freqs"):
        targets.write(plan, tmp_path / "m.bin", "ak42-v1")
    data = write(plan, tmp_path / "m.bin", "ak42-v3")
    assert struct.unpack_from("<I", data, 76)[0] == 1 << 1 | 1 << 15


def test_int8_groups_of_two_sizes_are_refused(tmp_path: Path) -> None:
    plan = make_plan(CONFIG, "int8")
    mixed = replace(plan, tensors=tuple(replace(tensor, group_size=8) if tensor.name == "blk.0.attn_q.weight" else tensor
                                        for tensor in plan.tensors))
    with pytest.raises(UnsupportedError, match="one size"):
        targets.write(mixed, tmp_path / "m.bin", "ak42-v3")
    with pytest.raises(UnsupportedError, match="attn_q.*groups of 32, found 8"):
        targets.write(mixed, tmp_path / "m.bin", "ak42-v2")


# ---- panel16 and crc32c against their definitions ----


def panel_straight(type_name: str, rows: np.ndarray, columns: int, group: int) -> bytes:
    """docs/format.md's table, read cell by cell."""
    n = len(rows)
    head = {"q8_0": 2, "q4_0": 2, "q4_1": 4}.get(type_name, 0)
    block = {"q8_0": 34, "q4_0": 18, "q4_1": 20}.get(type_name, 0)

    def cell(row: int, at: int, size: int, inside: bool) -> bytes:
        return rows[row, at:at + size].tobytes() if row < n and inside else bytes(size)

    def code(row: int, k: int) -> int:
        if row >= n or k >= columns:
            return {"q8_0": 128, "int8": 128, "q4_0": 8, "q4_1": 0}[type_name]
        if type_name == "int8":
            return int(rows[row, k]) ^ 128
        place = k // 32 * block + head
        if type_name == "q8_0":
            return int(rows[row, place + k % 32]) ^ 128
        both = int(rows[row, place + k % 16])
        return both >> 4 if k % 32 >= 16 else both & 15

    out = bytearray()
    for first in range(0, n, 16):
        lanes = range(first, first + 16)
        for k0 in range(0, columns, 64):
            if type_name in ("f32", "f16", "bf16"):
                size, step = (4, 1) if type_name == "f32" else (2, 2)
                for k in range(k0, k0 + 64, step):
                    for row in lanes:
                        for i in range(step):
                            out += cell(row, (k + i) * size, size, k + i < columns)
                continue
            if type_name == "int8":
                for k in range(k0, k0 + 64, group):
                    for row in lanes:
                        out += cell(row, columns + k // group * 4, 4, k < columns)
            else:
                for part in range(0, head, 2):
                    for k in (k0, k0 + 32):
                        for row in lanes:
                            out += cell(row, k // 32 * block + part, 2, k < columns)
            for j in range(8 if type_name.startswith("q4") else 16):
                for row in lanes:
                    for k in range(k0 + 4 * j, k0 + 4 * j + 4):
                        out.append(code(row, k) | (code(row, k + 32) << 4 if type_name.startswith("q4") else 0))
    return bytes(out)


@pytest.mark.parametrize("type_name", [name for name in panel.TYPES if name not in panel.WORD_TYPES])
@pytest.mark.parametrize(("n", "columns"), [(1, 32), (16, 64), (17, 96), (33, 160)])
def test_panel16_is_its_table(type_name: str, n: int, columns: int) -> None:
    for group in (4, 8, 16, 32) if type_name == "int8" else (0,):
        rng = np.random.default_rng([n, columns, group])
        rows = rng.integers(0, 256, (n, panel.row_bytes(type_name, columns, group)), dtype=np.uint8)
        packed = panel.pack(type_name, rows, n, columns, group)
        assert packed.tobytes() == panel_straight(type_name, rows, columns, group)
        assert np.array_equal(panel.unpack(type_name, packed, n, columns, group), rows)
        pieces = [panel.pack(type_name, rows[i:i + 16], len(rows[i:i + 16]), columns, group) for i in range(0, n, 16)]
        assert np.array_equal(np.concatenate(pieces), packed)


def test_panel16_refuses_what_it_has_no_row_for() -> None:
    for call in (lambda: panel.super_bytes("nf4-dq"), lambda: panel.super_bytes("int8", 24), lambda: panel.row_bytes("q8_0", 40),
                 lambda: panel.pack("f32", np.zeros((2, 8), np.uint8), 2, 3),
                 lambda: panel.unpack("f32", np.zeros(5, np.uint8), 1, 1),
                 lambda: panel.pack("q4_k", np.zeros((1, 144), np.uint8), 1, 256, layout=panel.STREAM16),
                 lambda: panel.unpack("q6_k", np.zeros(3392, np.uint8), 1, 256, layout=panel.ROWS)):
        with pytest.raises(ValueError, match="panel16: .*expected"):
            call()


@pytest.mark.parametrize("size", [0, 1, 7, 8, 63, 64, 65, 71, 4099, 45_488, 60_001])
def test_crc32c_is_the_bitwise_one(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == slow_crc32c(data) and crc32c(data, 0x1234) == slow_crc32c(data, 0x1234)
    assert crc32c(np.frombuffer(data, np.uint8)) == crc32c(memoryview(data)) == crc32c(data)


def test_crc32c_goes_on() -> None:
    data = np.random.default_rng(0).bytes((1 << 22) + 12345)
    assert crc32c(data[1000:], crc32c(data[:1000])) == crc32c(data)


@pytest.mark.parametrize("type_name", panel.WORD_TYPES)
@pytest.mark.parametrize("n", [1, 16, 17, 33])
def test_panel16_of_words_comes_back(type_name: str, n: int) -> None:
    length = TYPES[type_name].block_len
    for columns in (length, 2 * length, 3 * length, 5 * length):
        rng = np.random.default_rng([n, columns])
        rows = rng.integers(0, 256, (n, panel.row_bytes(type_name, columns)), dtype=np.uint8)
        assert rows.shape[1] == TYPES[type_name].row_bytes(columns)
        lines = []
        for layout in {panel.PANEL16, panel.layout_of(type_name)}:
            packed = panel.pack(type_name, rows, n, columns, layout=layout)
            assert len(packed) == panel.packed_bytes(type_name, n, columns)
            assert np.array_equal(panel.unpack(type_name, packed, n, columns, layout=layout), rows)
            pieces = [panel.pack(type_name, rows[i:i + 16], len(rows[i:i + 16]), columns, layout=layout) for i in range(0, n, 16)]
            assert np.array_equal(np.concatenate(pieces), packed)
            lines.append(sorted(packed.reshape(-1, 64).tolist()))
        assert lines[0] == lines[-1]             # stream16 has panel16's lines, in another order


@pytest.mark.parametrize("type_name", ["nf4", "nf4-dq"])
def test_v3_holds_nf4(tmp_path: Path, type_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 64; nested, they stand in rows, their tables behind them."""
    monkeypatch.setattr(base, "CHUNK_BYTES", 1 << 12)
    plan = make_plan(replace(CONFIG, dim=128, hidden_dim=192, head_dim=64, rotary_dim=64, n_heads=2, n_kv_heads=1), type_name)
    path = write(plan, tmp_path / "m.bin", "ak42-v3")
    entries, _ = read_v3(path)
    for tensor in plan.tensors:
        if len(tensor.shape) == 1:
            continue
        entry, rows = entries[tensor.name], encoded(plan, tensor.name)
        found = np.frombuffer(entry["bytes"], dtype=np.uint8)
        assert (entry["type"], entry["layout"]) == (TYPES[type_name].id, type_name == "nf4")
        if type_name == "nf4":
            assert np.array_equal(panel.unpack("nf4", found, *tensor.shape), rows)
            continue
        parts = NestedRows.of(rows, tensor.columns)
        n_blocks = tensor.n_rows * tensor.columns // 64
        assert np.array_equal(found[:33 * n_blocks].reshape(tensor.n_rows, -1), parts.packed())
        tables = found[33 * n_blocks:].view("<f4")
        assert tables[0] == parts.offset[0, 0] and np.array_equal(tables[1:], parts.nested.reshape(-1)[::256])


# ---- GGUF ----


FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0",
              "q4_1": "MOSTLY_Q4_1", "q5_0": "MOSTLY_Q5_0", "q5_1": "MOSTLY_Q5_1", "mxfp4": "MOSTLY_MXFP4_MOE"}


@pytest.mark.parametrize("type_name", list(FILE_TYPES))
def test_gguf_py_reads_it_back(tmp_path: Path, type_name: str) -> None:
    gguf = pytest.importorskip("gguf")
    config = replace(SCALED, vocab_size=3)
    plan = make_plan(config, type_name, vocab=FakeVocab(), chat_template=CHATML, generation_config={"top_k": 5})
    targets.write(plan, tmp_path / "m.gguf", "gguf")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    keys = {name: field.contents() for name, field in reader.fields.items()}
    assert keys["general.file_type"] == int(gguf.LlamaFileType[FILE_TYPES[type_name]])
    assert keys["general.architecture"] == "llama" and keys["llama.context_length"] == 64 and keys["llama.vocab_size"] == 3
    assert math.isclose(keys["llama.rope.freq_base"], 5e5) and "llama.rope.scaling.type" not in keys
    assert keys["llama.attention.key_length"] == keys["llama.attention.value_length"] == keys["llama.rope.dimension_count"] == 16
    assert keys["tokenizer.ggml.tokens"] == ["<unk>", "<s>", "</s>"] and keys["tokenizer.ggml.add_bos_token"] is True
    assert keys["tokenizer.chat_template"] == CHATML and json.loads(keys["ak42.config"]) == plan.hf_config
    assert json.loads(keys["ak42.generation_config"]) == {"top_k": 5}
    assert bytes(keys["ak42.chat"]) == derive_chat(CHATML, FakeVocab())
    assert [tensor.name for tensor in reader.tensors] == [tensor.name for tensor in plan.tensors]
    for found, tensor in zip(reader.tensors, plan.tensors, strict=True):
        assert found.tensor_type.name == tensor.type.name.upper() and tuple(found.shape) == tensor.shape[::-1]
        assert np.array_equal(np.ascontiguousarray(found.data).view(np.uint8).reshape(-1), encoded(plan, tensor.name).reshape(-1))


def test_gguf_keys_of_a_mistral(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    config = replace(CONFIG, hf_model_type="mistral", sliding_window=8, rope_scaling="linear", rope_factor=4.0)
    plan = make_plan(config, "f16")
    targets.write(plan, tmp_path / "m.gguf", "gguf")
    keys = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "m.gguf").fields.items()}
    assert keys["general.architecture"] == "llama" and keys["llama.attention.sliding_window"] == 8
    assert (keys["llama.rope.scaling.type"], keys["llama.rope.scaling.factor"]) == ("linear", 4.0)
    assert "sliding window" in targets.target_warnings(plan, tmp_path / "m.gguf", "gguf")[0]


def test_gguf_file_type_follows_the_layers(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    layers, head = make_plan(CONFIG, "q4_1"), make_plan(CONFIG, "q8_0")
    mixed = replace(layers, tensors=(head.tensors[0], *layers.tensors[1:]))
    targets.write(mixed, tmp_path / "m.gguf", "gguf")
    assert gguf.GGUFReader(tmp_path / "m.gguf").fields["general.file_type"].contents() == int(gguf.LlamaFileType.MOSTLY_Q4_1)


# ---- a Hugging Face folder ----


def test_transformers_opens_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = replace(SCALED, bos_id=1)
    plan = make_plan(config, "f32", vocab=FakeVocab(), chat_template="T", generation_config={"temperature": 0.5, "do_sample": True})
    targets.write(plan, tmp_path / "m", "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert model.dtype == torch.float32 and model.config.eos_token_id == [2, 5] and model.generation_config.temperature == 0.5
    state, names = model.state_dict(), hf_names(config)
    for tensor in plan.tensors:
        if tensor.name == "rope_freqs.weight":
            continue
        found = state[names[tensor.name]].numpy()
        assert np.array_equal(found.view(np.uint8).reshape(-1), encoded(plan, tensor.name).reshape(-1))
    rope = model.config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("llama3", 8.0, 500000.0)
    settings = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == (tmp_path / "m" / "chat_template.jinja").read_text() == "T"


@pytest.mark.parametrize(("type_name", "dtype"), [("f16", "float16"), ("bf16", "bfloat16")])
def test_hf_says_its_dtype(tmp_path: Path, type_name: str, dtype: str) -> None:
    plan = make_plan(CONFIG, type_name, hf_config={**CONFIG.to_hf("float32"), "my_key": [1]})
    paths = targets.write(plan, tmp_path / "m", "hf")
    assert [path.name for path in paths] == ["config.json", "model.safetensors"]
    written = json.loads((tmp_path / "m" / "config.json").read_text())
    assert written["dtype"] == written["torch_dtype"] == dtype and written["my_key"] == [1]


def test_hf_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    monkeypatch.setattr(hf, "SHARD_BYTES", 20_000)
    plan = make_plan(CONFIG)
    names = [path.name for path in targets.write(plan, tmp_path / "m", "hf")]
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))] and len(shards) > 3
    assert names == sorted(["config.json", "model.safetensors.index.json", *shards])
    assert index["metadata"]["total_size"] == plan.nbytes
    for shard in shards:
        tensors = safetensors.load_file(tmp_path / "m" / shard)
        assert set(tensors) == {name for name, place in index["weight_map"].items() if place == shard}
        assert sum(value.nbytes for value in tensors.values()) <= 20_000


def test_hf_drops_factors_that_its_config_explains_and_refuses_others(tmp_path: Path) -> None:
    weights = {**random_weights(SCALED), "rope_freqs.weight": SCALED.rope_freqs()}
    plan = make_plan(SCALED, "f32", weights)
    targets.write(plan, tmp_path / "m", "hf")
    assert b"rope_freqs" not in (tmp_path / "m" / "model.safetensors").read_bytes()
    with pytest.raises(UnsupportedError, match="rope_freqs"):
        targets.write(replace(plan, foreign_rope_freqs=True), tmp_path / "n", "hf")


# ---- all of them ----

FORMATS = [("ak42-v0", "f32"), ("ak42-v1", "f32"), ("ak42-v2", "int8"), ("ak42-v3", "q4_0"), ("ak42-v3", "int8"), ("gguf", "q8_0"),
           ("hf", "bf16")]


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.mark.parametrize(("format", "type_name"), FORMATS)
def test_two_runs_give_the_same_bytes(tmp_path: Path, format: str, type_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(CONFIG, type_name, vocab=FakeVocab(), chat_template=CHATML)
    for name, size in (("a", 1 << 22), ("b", 1 << 11)):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(base, "CHUNK_BYTES", size)
        targets.write(plan, tmp_path / name / "out", format)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != {}


@pytest.mark.parametrize(("format", "type_name"), FORMATS)
def test_progress_reaches_the_end(tmp_path: Path, format: str, type_name: str) -> None:
    seen: list[tuple[int, int, str]] = []
    plan = make_plan(CONFIG, type_name)
    targets.write(plan, tmp_path / "out", format, progress=lambda *step: seen.append(step))
    done = [step[0] for step in seen]
    assert done == sorted(done) and done[-1] == plan.nbytes and {step[1] for step in seen} == {plan.nbytes}
    names = hf_names(CONFIG).values() if format == "hf" else [tensor.name for tensor in plan.tensors]
    assert {step[2] for step in seen} == set(names)


@pytest.mark.parametrize(("format", "type_name"), FORMATS)
def test_weights_that_are_refused_leave_nothing(tmp_path: Path, format: str, type_name: str) -> None:
    def bad(_begin: int, _end: int) -> np.ndarray:
        raise RefusedError("model.safetensors: blk.1.ffn_up.weight: 1 NaN")

    plan = make_plan(CONFIG, type_name)
    plan = replace(plan, tensors=tuple(replace(tensor, reader=bad) if tensor.name == "blk.1.ffn_up.weight" else tensor
                                       for tensor in plan.tensors))
    with pytest.raises(RefusedError, match="blk.1.ffn_up"):
        targets.write(plan, tmp_path / "out", format)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("format", "type_name"), FORMATS)
def test_out_that_exists_is_refused_before_a_weight_is_read(tmp_path: Path, format: str, type_name: str) -> None:
    def unread(_begin: int, _end: int) -> np.ndarray:
        raise AssertionError("a weight was read")

    out = tmp_path / "out"
    out.write_bytes(b"old") if format != "hf" else (out.mkdir(), (out / "config.json").write_text("{}"))
    plan = make_plan(CONFIG, type_name)
    plan = replace(plan, tensors=tuple(replace(tensor, reader=unread) for tensor in plan.tensors))
    before = contents(tmp_path)
    with pytest.raises(RefusedError) as caught:
        targets.write(plan, out, format)
    assert caught.value.code == 3 and "--force" in str(caught.value) and contents(tmp_path) == before


def test_a_checksum_may_be_handed_in(tmp_path: Path) -> None:
    asked: list[int] = []

    def counting(data: memoryview, value: int) -> int:
        asked.append(len(data))
        return crc32c(data, value)

    plan = make_plan(CONFIG, "f16")
    assert write(plan, tmp_path / "a", "ak42-v3", checksum=counting) == write(plan, tmp_path / "b", "ak42-v3")
    assert len(asked) > len(plan.tensors)


def test_the_manifest_names_files_and_no_place(tmp_path: Path) -> None:
    source = tmp_path / "secret place" / "model.safetensors"
    source.parent.mkdir()
    source.write_bytes(b"weights")
    plan = make_plan(CONFIG, "q8_0", source=source, options={"type": "q8_0", "tokenizer": tmp_path / "tokenizer.json"},
                     tensor_errors={"token_embd.weight": {"max_abs": 0.123456, "rms": float("inf")}})
    _, sections = read_v3(write(plan, tmp_path / "m.bin", "ak42-v3"))
    text = sections[b"MANI"].decode()
    found = json.loads(text)
    assert found["source"] == {"format": "hf", "files": {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}}
    assert found["options"] == {"type": "q8_0", "tokenizer": "tokenizer.json"} and found["target"]["layout"] == "panel16"
    assert found["tensor_errors"] == {"token_embd.weight": {"max_abs": 0.1235, "rms": None}}
    assert "secret" not in text and str(tmp_path) not in text and os.uname().nodename not in text
    assert list(found) == sorted(found)


def test_out_must_not_be_the_source(tmp_path: Path) -> None:
    source = tmp_path / "model.bin"
    source.write_bytes(b"weights")
    for out in (source, tmp_path / "also.bin"):
        if out != source:
            os.link(source, out)
        with pytest.raises(ConvertError, match="input") as caught:
            targets.write(make_plan(CONFIG, source=source), out, "ak42-v1", force=True)
        assert caught.value.code == 3 and source.read_bytes() == b"weights"


def test_writing_needs_no_torch() -> None:
    script = "import converter.targets, sys; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'jinja2')))"
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(targets.__file__).parents[2], check=False).returncode == 0


# ---- docs/format.md ----


@pytest.mark.parametrize("type_name", ["f32", "q8_0"])
def test_the_reader_of_the_format_page(tmp_path: Path, type_name: str) -> None:
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    door: dict = {}
    exec(page.split("```python\n")[1].split("```")[0], door)
    plan = make_plan(replace(SCALED, hidden_dim=160, vocab_size=37), type_name)
    tensors, sections = door["read_v3"](write(plan, tmp_path / "m.bin", "ak42-v3"))
    assert json.loads(sections["CONF"]) == plan.hf_config
    for tensor in plan.tensors:
        expected = tensor.type.decode(encoded(plan, tensor.name), tensor.columns, tensor.group_size)
        assert np.array_equal(tensors[tensor.name].reshape(expected.shape), expected)


def test_the_format_page_has_the_writers_fields() -> None:
    page = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    seen = set()
    for bit, name in enumerate(ak42_header.INCOMPAT):
        assert f"{bit} {name}" in page.replace("\n", " ")
    for line in page.splitlines():
        if line.startswith("| ") and line.split("|")[1].strip() in ("F32", "F16, BF16", "Q8_0", "Q4_0", "Q4_1"):
            name = line.split("|")[1].split(",")[0].strip().lower()
            assert int(line.split("|")[2]) == panel.super_bytes(name)
        if line.startswith("| ") and line.split("|")[1].strip().lower() in panel.WORD_TYPES:
            name, columns, size = (cell.strip() for cell in line.split("|")[1:4])
            if columns.isdigit() and size.isdigit():
                assert (int(columns), int(size)) == (panel.super_columns(name.lower()), panel.super_bytes(name.lower()))
                seen.add(name.lower())
    assert seen == set(panel.WORD_TYPES)
