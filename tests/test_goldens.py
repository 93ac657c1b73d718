"""Byte goldens: what every released format looks like for a model small enough to write down, and panel16 for every type.

A line here never changes once a file of that kind is in the world. Checks of what the bytes mean, and other models, are in
test_targets.py.
"""
from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plans import GOLDEN_CONFIG, FakeVocab, counting_weights, make_plan

from converter import manifest, panel, targets
from converter.crc32c import crc32c

HF_CONFIG = {"model_type": "llama"}


def spell(text: str) -> bytes:
    """Hex words; 00*56 is a byte and how often."""
    data = b""
    for word in text.split():
        byte, _, count = word.partition("*")
        data += bytes.fromhex(byte) * int(count or 1)
    return data


@pytest.fixture(autouse=True)
def _version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "tool_version", lambda: "0.0")


def written(path: Path, format: str, config=GOLDEN_CONFIG, type_name: str = "f32", strict: bool = False, **changes) -> bytes:
    plan = make_plan(config, type_name, counting_weights(config), hf_config=HF_CONFIG, **changes)
    targets.write(plan, path / "out", format, strict=strict)
    return (path / "out").read_bytes()


# ---- v0, v1, v2: dim 8, hidden_dim 4, 1 layer, 2 heads over 1, vocabulary 3, context 2, tied ----

F32 = {
    "token_embd.weight": (
        "0000c8bf 0000d0be 0000403f 0000a0bf 0000c0bd 0000883f 000070bf 0000603e 0000b03f 000020bf 0000083f "
        "0000bcbf 0000a0be 0000583f 000094bf 00000000 0000943f 000058bf 0000a03e 0000bc3f 000008bf 0000203f "
        "0000b0bf 000060be"),
    "blk.0.attn_norm.weight": (
        "0000703f 000088bf 0000c03d 0000a03f 000040bf 0000d03e 0000c83f 0000e0be"),
    "blk.0.attn_q.weight": (
        "0000383f 0000a4bf 000000be 0000843f 000078bf 0000403e 0000ac3f 000028bf 0000003f 0000c0bf 0000b0be "
        "0000503f 000098bf 000000bd 0000903f 000060bf 0000903e 0000b83f 000010bf 0000183f 0000b4bf 000080be "
        "0000683f 00008cbf 0000803d 00009c3f 000048bf 0000c03e 0000c43f 0000f0be 0000303f 0000a8bf 000020be "
        "0000803f 000080bf 0000203e 0000a83f 000030bf 0000f03e 0000c4bf 0000c0be 0000483f 00009cbf 000080bd "
        "00008c3f 000068bf 0000803e 0000b43f 000018bf 0000103f 0000b8bf 000090be 0000603f 000090bf 0000003d "
        "0000983f 000050bf 0000b03e 0000c03f 000000bf 0000283f 0000acbf 000040be 0000783f"),
    "blk.0.attn_k.weight": (
        "000084bf 0000003e 0000a43f 000038bf 0000e03e 0000c8bf 0000d0be 0000403f 0000a0bf 0000c0bd 0000883f "
        "000070bf 0000603e 0000b03f 000020bf 0000083f 0000bcbf 0000a0be 0000583f 000094bf 00000000 0000943f "
        "000058bf 0000a03e 0000bc3f 000008bf 0000203f 0000b0bf 000060be 0000703f 000088bf 0000c03d"),
    "blk.0.attn_v.weight": (
        "0000a03f 000040bf 0000d03e 0000c83f 0000e0be 0000383f 0000a4bf 000000be 0000843f 000078bf 0000403e "
        "0000ac3f 000028bf 0000003f 0000c0bf 0000b0be 0000503f 000098bf 000000bd 0000903f 000060bf 0000903e "
        "0000b83f 000010bf 0000183f 0000b4bf 000080be 0000683f 00008cbf 0000803d 00009c3f 000048bf"),
    "blk.0.attn_output.weight": (
        "0000c03e 0000c43f 0000f0be 0000303f 0000a8bf 000020be 0000803f 000080bf 0000203e 0000a83f 000030bf "
        "0000f03e 0000c4bf 0000c0be 0000483f 00009cbf 000080bd 00008c3f 000068bf 0000803e 0000b43f 000018bf "
        "0000103f 0000b8bf 000090be 0000603f 000090bf 0000003d 0000983f 000050bf 0000b03e 0000c03f 000000bf "
        "0000283f 0000acbf 000040be 0000783f 000084bf 0000003e 0000a43f 000038bf 0000e03e 0000c8bf 0000d0be "
        "0000403f 0000a0bf 0000c0bd 0000883f 000070bf 0000603e 0000b03f 000020bf 0000083f 0000bcbf 0000a0be "
        "0000583f 000094bf 00000000 0000943f 000058bf 0000a03e 0000bc3f 000008bf 0000203f"),
    "blk.0.ffn_norm.weight": (
        "0000b0bf 000060be 0000703f 000088bf 0000c03d 0000a03f 000040bf 0000d03e"),
    "blk.0.ffn_gate.weight": (
        "0000c83f 0000e0be 0000383f 0000a4bf 000000be 0000843f 000078bf 0000403e 0000ac3f 000028bf 0000003f "
        "0000c0bf 0000b0be 0000503f 000098bf 000000bd 0000903f 000060bf 0000903e 0000b83f 000010bf 0000183f "
        "0000b4bf 000080be 0000683f 00008cbf 0000803d 00009c3f 000048bf 0000c03e 0000c43f 0000f0be"),
    "blk.0.ffn_up.weight": (
        "0000303f 0000a8bf 000020be 0000803f 000080bf 0000203e 0000a83f 000030bf 0000f03e 0000c4bf 0000c0be "
        "0000483f 00009cbf 000080bd 00008c3f 000068bf 0000803e 0000b43f 000018bf 0000103f 0000b8bf 000090be "
        "0000603f 000090bf 0000003d 0000983f 000050bf 0000b03e 0000c03f 000000bf 0000283f 0000acbf"),
    "blk.0.ffn_down.weight": (
        "000040be 0000783f 000084bf 0000003e 0000a43f 000038bf 0000e03e 0000c8bf 0000d0be 0000403f 0000a0bf "
        "0000c0bd 0000883f 000070bf 0000603e 0000b03f 000020bf 0000083f 0000bcbf 0000a0be 0000583f 000094bf "
        "00000000 0000943f 000058bf 0000a03e 0000bc3f 000008bf 0000203f 0000b0bf 000060be 0000703f"),
    "output_norm.weight": (
        "000088bf 0000c03d 0000a03f 000040bf 0000d03e 0000c83f 0000e0be 0000383f"),
}

INT8 = {
    "token_embd.weight": (
        "81df3d9a f57f901a 77ca2e81 de5d8100 64b71b7f cf3a81ec "
        "2693493c 2412093c f67a3d3c 552a153c f67a3d3c c662313c"),
    "blk.0.attn_q.weight": (
        "4781f466 a4127fc2 2a81e345 81fd78a2 197fce34 81e9529d 077faf27 7fd93993 ec7f8114 6dc72781 d95181f9 "
        "63ae177f cc3281e7 5e88037f bb1d7fd6 3e81ee5c "
        "954a253c b55a2d3c 0683413c 6532193c e672393c d66a353c 753a1d3c 168b453c 0402013c 168b453c 753a1d3c "
        "d66a353c e672393c 6532193c 0683413c b55a2d3c"),
    "blk.0.attn_k.weight": (
        "9a0c7fb9 2481df3d 81f66ca1 147fc631 81e5499c 007fa322 7fd23689 e670810b "
        "954a253c 2693493c 8542213c c662313c f67a3d3c 552a153c f67a3d3c 2412093c"),
    "blk.0.attn_v.weight": (
        "66c3217f d54781f4 61a4127f c82a81e3 5781fd78 b3197fce 3681e952 8e077faf "
        "2693493c 954a253c b55a2d3c 0683413c 6532193c e672393c d66a353c 753a1d3c"),
    "blk.0.attn_output.weight": (
        "1f7fd939 81f1619f 0f7fbd2d 81e1419b f97f971d 7ccc3281 e0638104 65bb1d7f d13e81ee 609a0c7f c62481df "
        "4c81f66c a9147fc6 2e81e549 81007fa3 1b7fd236 "
        "168b453c a552293c a552293c 168b453c 341a0d3c e672393c 4522113c 0683413c b55a2d3c 954a253c 2693493c "
        "8542213c c662313c f67a3d3c 552a153c f67a3d3c"),
    "blk.0.ffn_gate.weight": (
        "7fdc3a98 f17f8917 72c82a81 db5781fd 63b3197f cd3681e9 5e8e077f bf1f7fd9 "
        "2693493c 140a053c 0683413c 6532193c e672393c d66a353c 753a1d3c 168b453c"),
    "blk.0.ffn_up.weight": (
        "4381f161 9f0f7fbd 2781e141 81f972a2 177fca33 81e74d9d 037fa925 7fd6388e "
        "a552293c a552293c 168b453c 753a1d3c d66a353c e672393c 6532193c 0683413c"),
    "blk.0.ffn_down.weight": (
        "e977810f 68c62481 d74c81f6 62a9147f ca2e81e5 5d81007f b71b7fd2 3a81ec57 "
        "140a053c 2693493c 8542213c c662313c f67a3d3c 552a153c f67a3d3c c662313c"),
}


NORMS = ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight")
MATRICES = ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight", "blk.0.attn_output.weight",
            "blk.0.ffn_gate.weight", "blk.0.ffn_down.weight", "blk.0.ffn_up.weight")

HEADER_V0 = "08000000 04000000 01000000 02000000 01000000 03000000 02000000"
ROPE_TABLES = ("0000803f 0000803f 40510a3f b9fc7f3f "        # cos of 0, 0, 1, 0.01
               "00000000 00000000 a46a573f 57d6233c")        # sin
HEADER_V1 = "32346b61 01000000 08000000 04000000 01000000 02000000 01000000 03000000 02000000 01 00000000 00*23"
HEADER_V2 = "32346b61 02000000 08000000 04000000 01000000 02000000 01000000 03000000 02000000 01 04000000 00*23"
EXTENSION = (
    "414b5831 c000 0000 00000000 00000000 "                  # AKX1, 192 bytes, minor 0, compat, incompat
    "00401c46 acc52737 04000000 04000000 00000000 "          # theta 10000, eps 1e-5, head_dim, rotary_dim, window
    "00 00 00 00 0000803f 00000000 00000000 00000000 0000803f "        # rope
    "01000000 02000000 ffffffff ffffffff ffffffff ffffffff "           # bos, eos[4], pad
    "00000000 00000000 00000000 00000000 00000000 00000000 02000000 "  # experts, caps, scales, trained_ctx
    "00*8 00000000 00000000 ")                               # no directory
END_V1 = (
    "0001000000000000 4005000000000000 4006000000000000 c800000000000000 0807000000000000 "       # data, trailer, file
    "00000000 00000000 00000000 f71036a8 2861a1d8 6fc88a65")
END_V2 = (
    "0001000000000000 d002000000000000 d003000000000000 c800000000000000 9804000000000000 "
    "00000000 00000000 00000000 3c05df1e 66f1b1f5 f997d3f4")
TRAILER_V1 = (
    b'CONF\0\0\0\0\x16\0\0\0\0\0\0\0{"model_type":"llama"}\0\0'
    b'MANI\0\0\0\0\x8d\0\0\0\0\0\0\0{"options":{"type":"f32"},"source":{"files":{},"format":"hf"},"target":{"format":"ak42-v1"},'
    b'"tensor_errors":{},"tool":"ak42","version":"0.0"}\0\0\0')
TRAILER_V2 = (
    b'CONF\0\0\0\0\x16\0\0\0\0\0\0\0{"model_type":"llama"}\0\0'
    b'MANI\0\0\0\0\x8e\0\0\0\0\0\0\0{"options":{"type":"int8"},"source":{"files":{},"format":"hf"},"target":{"format":"ak42-v2"},'
    b'"tensor_errors":{},"tool":"ak42","version":"0.0"}\0\0')

PAYLOAD_V1 = b"".join(spell(F32[name]) for name in NORMS + MATRICES)
PAYLOAD_V2 = b"".join(spell(F32[name]) for name in NORMS) + b"".join(spell(INT8[name]) for name in MATRICES)


def test_v0(tmp_path: Path) -> None:
    order = (MATRICES[0], NORMS[0], *MATRICES[1:5], NORMS[1], *MATRICES[5:], NORMS[2])
    expected = spell(HEADER_V0) + b"".join(spell(F32[name]) for name in order) + spell(ROPE_TABLES)
    assert written(tmp_path, "ak42-v0") == expected


def test_v0_untied_says_so_with_the_sign_of_vocab_size(tmp_path: Path) -> None:
    data = written(tmp_path, "ak42-v0", replace(GOLDEN_CONFIG, shared_classifier=False))
    assert data[20:24] == spell("fdffffff")
    assert len(data) == 28 + (336 + 3 * 8) * 4 + 32
    head = counting_weights(replace(GOLDEN_CONFIG, shared_classifier=False))["output.weight"]
    assert data[-96:] == head.tobytes() and data[-96 - 32:-96] == spell(ROPE_TABLES)


@pytest.mark.parametrize(("format", "type_name", "header", "payload"), [
    ("ak42-v1", "f32", HEADER_V1, PAYLOAD_V1), ("ak42-v2", "int8", HEADER_V2, PAYLOAD_V2)])
def test_v1_and_v2_strict(tmp_path: Path, format: str, type_name: str, header: str, payload: bytes) -> None:
    assert written(tmp_path, format, type_name=type_name, strict=True) == spell(header) + bytes(192) + payload


@pytest.mark.parametrize(("format", "type_name", "header", "payload", "trailer"), [
    ("ak42-v1", "f32", f"{HEADER_V1} {EXTENSION} {END_V1}", PAYLOAD_V1, TRAILER_V1),
    ("ak42-v2", "int8", f"{HEADER_V2} {EXTENSION} {END_V2}", PAYLOAD_V2, TRAILER_V2)])
def test_v1_and_v2_extended(tmp_path: Path, format: str, type_name: str, header: str, payload: bytes, trailer: bytes) -> None:
    assert written(tmp_path, format, type_name=type_name) == spell(header) + payload + trailer


# ---- v3: everything that a header can say differs from llama2.c's constants ----

CONFIG_V3 = replace(GOLDEN_CONFIG, rope_theta=500000.0, norm_eps=1e-6, head_dim=6, rotary_dim=6, sliding_window=5, seq_len=9,
                    trained_ctx=131072, rope_scaling="llama3", rope_factor=8.0, rope_low_freq=1.0, rope_high_freq=4.0,
                    rope_original_ctx=8192, bos_id=0, eos_ids=(1, 2), shared_classifier=False)
HEADER_V3 = (
    "32346b61 03000000 08000000 04000000 01000000 02000000 01000000 03000000 09000000 00 00000000 00*23 "
    "414b5831 c000 0000 00000000 4f800000 "                  # THETA, SCALING, EPS, HEAD_DIM, WINDOW, DIRECTORY
    "0024f448 bd378635 06000000 06000000 05000000 "
    "04 00 00 00 00000041 0000803f 00008040 00200000 0000803f "
    "00000000 01000000 02000000 ffffffff ffffffff ffffffff "
    "00000000 00000000 00000000 00000000 00000000 00000000 00000200 "
    "0001000000000000 0c000000 8013ebd9 "                    # directory at 256, 12 entries, its crc
    "0010000000000000 c048000000000000 c058000000000000 d800000000000000 9859000000000000 "
    "00000000 00000000 00000000 00000000 374910f5 5eb64aed")
ENTRIES_V3 = (
    "746f6b65 6e5f656d 62642e77 65696768 74 00*47 "          # token_embd.weight
    "01000000 01000000 02000000 00000000 0300000000000000 0800000000000000 00*8 "        # f16, panel16, 2 dims: 3 x 8
    "0010000000000000 0008000000000000 43d51c3e 00000000 "   # at 4096, 2048 bytes: one panel
    "626c6b2e 302e6174 746e5f6e 6f726d2e 77656967 6874 00*42 "          # blk.0.attn_norm.weight
    "00000000 00000000 01000000 00000000 0800000000000000 00*16 "       # f32, rows, 1 dim
    "0018000000000000 2000000000000000 9f136108 00000000")
TRAILER_V3 = (
    b'CONF\0\0\0\0\x16\0\0\0\0\0\0\0{"model_type":"llama"}\0\0'
    b'MANI\0\0\0\0\xa0\0\0\0\0\0\0\0{"options":{"type":"f16"},"source":{"files":{},"format":"hf"},"target":{"format":"ak42-v3",'
    b'"layout":"panel16"},"tensor_errors":{},"tool":"ak42","version":"0.0"}')


def test_v3(tmp_path: Path) -> None:
    data = written(tmp_path, "ak42-v3", CONFIG_V3, "f16")
    assert data[:256] == spell(HEADER_V3)
    assert data[256:512] == spell(ENTRIES_V3)
    assert data[256 + 12 * 128:4096] == bytes(4096 - 256 - 12 * 128)
    # token_embd, 3 x 8 f16, the counting numbers: k-pairs 0 to 3 of rows 0 to 2, then nothing
    assert data[4096:4096 + 2048] == spell(
        "40be80b6 803d00b9 a03cc0ba 00*52 003a00bd 4038e0bd 0035e03d 00*52 00ae403c 00b5c03a 40b80039 00*52 "
        "80bb0033 a0bc0000 80bd00b3 00*52 00*1792")
    assert data.endswith(TRAILER_V3) and len(data) == 0x5998


# ---- v3 of a family that asks for more than Llama does: every field of the extension that the model above leaves alone ----

CONFIG_FAMILY = replace(
    GOLDEN_CONFIG, architecture="gemma3", hf_model_type="gemma3_text", n_layers=2, head_dim=6, rotary_dim=4, rope_theta=1e6, norm_eps=1e-6,
    sliding_window=5, trained_ctx=64, seq_len=64, rope_scaling="yarn", rope_factor=4.0, rope_low_freq=1.0, rope_high_freq=32.0,
    rope_original_ctx=16, rope_attn_factor=1.25, rope_theta_local=10000.0, layer_flags=(1, 6), attn_softcap=50.0, final_softcap=30.0,
    embedding_scale=2.5, residual_scale=0.5, attention_scale=0.25, logit_scale=0.125, n_experts=3, n_experts_used=2, expert_dim=4,
    experts_norm=True)
HEADER_FAMILY = (
    "32346b61 03000000 08000000 04000000 02000000 02000000 01000000 03000000 40000000 01 00000000 00*23 "
    "414b5831 c000 0000 00000000 efff0000 "                  # every bit but QKV_BIAS
    "00247449 bd378635 06000000 04000000 05000000 "          # 2 of 3 pairs turn, a window of 5
    "03 01 02 06 00008040 0000803f 00000042 10000000 0000a03f "        # yarn, half-split, gelu_tanh, norms on both sides and experts' sum
    "01000000 02000000 ffffffff ffffffff ffffffff ffffffff "
    "03000000 02000000 00004842 0000f041 00002040 0000003f 40000000 "  # experts, caps, scales
    "0001000000000000 02000000 d475382d "
    "0010000000000000 0040000000000000 0050000000000000 f800000000000000 f850000000000000 "
    "0000803e 0000003e 00401c46 00000000 cf6eebb9 3ee4a0d6")           # attention, logits, theta of layers with a window
ENTRY_EXPERTS = (
    "626c6b2e 312e6666 6e5f6761 74655f65 7870732e 77656967 6874 00*38 "       # blk.1.ffn_gate_exps.weight
    "00000000 01000000 03000000 00000000 0300000000000000 0400000000000000 0800000000000000 "       # f32, panel16: 3 of 4 x 8
    "0020000000000000 0030000000000000 834f0f00 00000000")
LAYERS_FAMILY = b"LAYR\0\0\0\0\x08\0\0\0\0\0\0\0\x01\0\0\0\x06\0\0\0"        # a window; no rope and experts


def test_v3_of_a_family(tmp_path: Path) -> None:
    weights = {"token_embd.weight": np.arange(24, dtype=np.float32).reshape(3, 8),
               "blk.1.ffn_gate_exps.weight": np.arange(96, dtype=np.float32).reshape(3, 4, 8)}
    plan = make_plan(CONFIG_FAMILY, "f32", weights, hf_config={"model_type": "gemma3_text"})
    targets.write(plan, tmp_path / "out", "ak42-v3")
    data = (tmp_path / "out").read_bytes()
    assert data[:256] == spell(HEADER_FAMILY)
    assert data[384:512] == spell(ENTRY_EXPERTS)
    assert data[0x2000:0x2000 + 16] == spell("00000000 00000041 00008041 0000c041")         # column 0 of rows 0 to 3: 0, 8, 16, 24
    assert data[0x3000:0x3000 + 8] == spell("00000042 00002042")                             # the second expert's: 32, 40
    assert LAYERS_FAMILY in data[0x5000:]


# ---- NF4: rows of two blocks, and the tables behind the nested ones ----

NF4_ROWS = {
    "nf4": ("01100000 00000000 02000000 00000000 0200000000000000 4000000000000000 00*8 0010000000000000 4800000000000000 e0cd37c5",
            "00004840 04c16e29 f3b05d17 e29f3c05 d18e2af4 c16e18e3 b05d17e2 9f3b05d1 8e2af4c1 "       # 3.125, and 64 codes
            "00004841 6d18e3b0 4c17e29f 3b05d17e 2af4c06d 18e2a04c 16e29f3b 05d17e29 f3c05d18"),      # 12.5
    "nf4-dq": ("02100000 00000000 02000000 00000000 0200000000000000 4000000000000000 00*8 0010000000000000 4a00000000000000 1aaa08db",
               "00 04c16e29 f3b05d17 e29f3c05 d18e2af4 c16e18e3 b05d17e2 9f3b05d1 8e2af4c1 "         # the least code
               "ff 6d18e3b0 4c17e29f 3b05d17e 2af4c06d 18e2a04c 16e29f3b 05d17e29 f3c05d18 "         # the largest
               "0000fa40 00009640"),                                                                 # the mean, 7.8125; 4.6875
}


@pytest.mark.parametrize("type_name", sorted(NF4_ROWS))
def test_rows_of_nf4(tmp_path: Path, type_name: str) -> None:
    values = (np.arange(128, dtype=np.float32).reshape(2, 64) * 37 % 101 - 50) / np.float32(16) * np.array([[1], [4]], np.float32)
    plan = make_plan(GOLDEN_CONFIG, type_name, {"token_embd.weight": values}, hf_config=HF_CONFIG)
    targets.write(plan, tmp_path / "out", "ak42-v3", layout="rows")
    data = (tmp_path / "out").read_bytes()
    entry, blocks = NF4_ROWS[type_name]
    assert data[320:380] == spell(entry)
    expected = spell(blocks)
    assert data[4096:4096 + len(expected)] == expected and int.from_bytes(data[368:376], "little") == len(expected)


# ---- panel16 ----

PANELS = {
    "f32": (2, 3, 0,
        ("00000011 01000011 02000011 00000022 01000022 02000022"),
        ("00000011 00000022 00*56 01000011 01000022 00*56 02000011 02000022 00*3960")),
    "f16": (2, 3, 0,
        ("00100110 02100020 01200220"),
        ("00100110 00200120 00*56 02100000 0220 00*1978")),
    "int8": (2, 96, 32,
        ("fbfcfdfe ff000102 03040506 0708090a 0b0c0d0e 0f101112 13141516 1718191a 1b1c1d1e 1f202122 23242526 "
        "2728292a 2b2c2d2e 2f303132 33343536 3738393a 3b3c3d3e 3f404142 43444546 4748494a 4b4c4d4e 4f505152 "
        "53545556 5758595a 0000803f 0000a03f 0000c03f 5b5c5d5e 5f606162 63646566 6768696a 6b6c6d6e 6f707172 "
        "73747576 7778797a 7b7c7d7e 7f808182 83848586 8788898a 8b8c8d8e 8f909192 93949596 9798999a 9b9c9d9e "
        "9fa0a1a2 a3a4a5a6 a7a8a9aa abacadae afb0b1b2 b3b4b5b6 b7b8b9ba 00000040 00001040 00002040"),
        ("0000803f 00000040 00*58 a03f0000 1040 00*56 7b7c7d7e dbdcddde 80*56 7f808182 dfe0e1e2 80*56 83848586 "
        "e3e4e5e6 80*56 8788898a e7e8e9ea 80*56 8b8c8d8e ebecedee 80*56 8f909192 eff0f1f2 80*56 93949596 f3f4f5f6 "
        "80*56 9798999a f7f8f9fa 80*56 9b9c9d9e fbfcfdfe 80*56 9fa0a1a2 ff000102 80*56 a3a4a5a6 03040506 80*56 "
        "a7a8a9aa 0708090a 80*56 abacadae 0b0c0d0e 80*56 afb0b1b2 0f101112 80*56 b3b4b5b6 13141516 80*56 b7b8b9ba "
        "1718191a 80*56 0000c03f 00002040 00*120 bbbcbdbe 1b1c1d1e 80*56 bfc0c1c2 1f202122 80*56 c3c4c5c6 "
        "23242526 80*56 c7c8c9ca 2728292a 80*56 cbcccdce 2b2c2d2e 80*56 cfd0d1d2 2f303132 80*56 d3d4d5d6 33343536 "
        "80*56 d7d8d9da 3738393a 80*568")),
    "q8_0": (2, 32, 0,
        ("003cfbfc fdfeff00 01020304 05060708 090a0b0c 0d0e0f10 11121314 15161718 191a013c 1b1c1d1e 1f202122 "
        "23242526 2728292a 2b2c2d2e 2f303132 33343536 3738393a"),
        ("003c013c 00*60 7b7c7d7e 9b9c9d9e 80*56 7f808182 9fa0a1a2 80*56 83848586 a3a4a5a6 80*56 8788898a a7a8a9aa "
        "80*56 8b8c8d8e abacadae 80*56 8f909192 afb0b1b2 80*56 93949596 b3b4b5b6 80*56 9798999a b7b8b9ba 80*568")),
    "q4_0": (2, 64, 0,
        ("003c000b 16212c37 424d5863 6e79848f 9aa5013c 05101b26 313c4752 5d68737e 89949faa 103c0712 1d28333e "
        "49545f6a 75808b96 a1ac113c 0c17222d 38434e59 646f7a85 909ba6b1"),
        ("003c103c 00*28 013c113c 00*28 500bb661 c7722dd8 88*56 1cc7722d 833ee994 88*56 d8833ee9 4ffaa550 88*56 "
        "944ffaa5 0bb6611c 88*56 00101122 00112122 88*56 32334454 33434455 88*56 55667677 656677 88*58 9899aa98 "
        "99aaba 88*56")),
    "q4_1": (2, 32, 0,
        ("003c0040 000b1621 2c37424d 58636e79 848f9aa5 103c1040 07121d28 333e4954 5f6a7580 8b96a1ac"),
        ("003c103c 00*61 401040 00*61 0b060107 020d08 00*56 0c07020d 030e0904 00*56 08030e09 0f0a05 00*57 040f0a05 "
        "0b06010c 00*58 01020001 0102 00*56 02030404 03030405 00*56 05060607 05060708 00*56 0808090a 08090a0a "
        "00*56")),
}
PANELS["bf16"] = PANELS["f16"]


@pytest.mark.parametrize("type_name", sorted(PANELS))
def test_panel16(type_name: str) -> None:
    rows, columns, group_size, flat, panels = PANELS[type_name]
    source = np.frombuffer(spell(flat), dtype=np.uint8).reshape(rows, -1)
    packed = panel.pack(type_name, source, rows, columns, group_size)
    assert packed.tobytes() == spell(panels)
    assert len(packed) == panel.packed_bytes(type_name, rows, columns, group_size)
    assert np.array_equal(panel.unpack(type_name, packed, rows, columns, group_size), source)


# Of a matrix of 18 rows whose bytes count up from 0 by 7: columns, CRC-32C of its rows, of its panels. The C tests spell the layout out.
WORD_PANELS = {
    "q5_0": (96, 0x7d4f88d7, 0xcfd271fe),
    "q5_1": (96, 0x7ad0c52b, 0xfd6afd63),
    "q2_k": (256, 0x233e4d1c, 0x92e4923b),
    "q3_k": (256, 0x71430d95, 0xcd26df75),
    "q4_k": (256, 0x0863e171, 0x3952804f),
    "q5_k": (256, 0x2c91c993, 0x5eb3c2fd),
    "q6_k": (256, 0x4f25cc5a, 0xbbd09545),
    "iq4_nl": (96, 0xa3018b61, 0xb8a2c25c),
    "iq4_xs": (256, 0xba38b6e2, 0x848d4350),
    "mxfp4": (160, 0x91c25d0d, 0x9e05f899),
    "nf4": (128, 0x7ad0c52b, 0x01f7e975),
}
STREAMS = {"q5_k": 0xf5aee621, "q6_k": 0xeeb64df7, "iq4_xs": 0x0ae2aa04}          # CRC-32C of the same rows in stream16


@pytest.mark.parametrize("type_name", panel.WORD_TYPES)
def test_panel16_of_words(type_name: str) -> None:
    columns, crc_rows, crc_panels = WORD_PANELS[type_name]
    size = panel.row_bytes(type_name, columns)
    rows = (np.arange(18 * size) * 7 % 256).astype(np.uint8).reshape(18, size)
    packed = panel.pack(type_name, rows, 18, columns)
    assert (crc32c(rows.tobytes()), crc32c(packed.tobytes())) == (crc_rows, crc_panels)
    assert len(packed) == panel.packed_bytes(type_name, 18, columns)
    assert np.array_equal(panel.unpack(type_name, packed, 18, columns), rows)


@pytest.mark.parametrize("type_name", panel.TYPES)
def test_stream16(type_name: str) -> None:
    """The layout of what files of today hold; who has no line in its table stays in panel16."""
    assert panel.layout_of(type_name) == (panel.STREAM16 if type_name in STREAMS else panel.PANEL16)
    assert panel.has_layout(type_name, panel.STREAM16) == (type_name in STREAMS)
    if type_name not in STREAMS:
        return
    size = panel.row_bytes(type_name, 256)
    rows = (np.arange(18 * size) * 7 % 256).astype(np.uint8).reshape(18, size)
    packed = panel.pack(type_name, rows, 18, 256, layout=panel.STREAM16)
    assert crc32c(packed.tobytes()) == STREAMS[type_name]
    assert np.array_equal(panel.unpack(type_name, packed, 18, 256, layout=panel.STREAM16), rows)


# ---- GGUF ----


def _key(name: str, kind: int, value: bytes) -> bytes:
    return _string(name) + struct.pack("<I", kind) + value


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _keys() -> Iterator[bytes]:
    u32, f32, text = "04000000", "06000000", "08000000"
    for name, kind, value in (
            ("general.architecture", text, "0500000000000000 6c6c616d61"),
            ("general.type", text, "0500000000000000 6d6f64656c"),
            ("general.name", text, "0b00000000000000 6d69737472616c20387831"),
            ("general.size_label", text, "0500000000000000 302e34364b"),
            ("general.alignment", u32, "20000000"), ("general.quantization_version", u32, "02000000"),
            ("general.file_type", u32, "01000000"), ("llama.vocab_size", u32, "03000000"),
            ("llama.context_length", u32, "00000200"),
            ("llama.embedding_length", u32, "08000000"), ("llama.block_count", u32, "01000000"),
            ("llama.feed_forward_length", u32, "04000000"), ("llama.attention.head_count", u32, "02000000"),
            ("llama.attention.head_count_kv", u32, "01000000"), ("llama.attention.key_length", u32, "06000000"),
            ("llama.attention.value_length", u32, "06000000"), ("llama.attention.layer_norm_rms_epsilon", f32, "bd378635"),
            ("llama.rope.dimension_count", u32, "06000000"), ("llama.rope.freq_base", f32, "0024f448"),
            ("llama.attention.sliding_window", u32, "05000000"), ("llama.rope.scaling.type", text, "0600000000000000 6c696e656172"),
            ("llama.rope.scaling.factor", f32, "00000040"), ("tokenizer.ggml.model", text, "0500000000000000 6c6c616d61"),
            ("tokenizer.ggml.tokens", "09000000", "08000000 0300000000000000 0500000000000000 3c756e6b3e 0300000000000000 3c733e "
                                                  "0400000000000000 3c2f733e"),
            ("tokenizer.ggml.scores", "09000000", "06000000 0300000000000000 00000000 00000000 0000c0bf"),
            ("tokenizer.ggml.token_type", "09000000", "05000000 0300000000000000 02000000 03000000 03000000"),
            ("tokenizer.ggml.bos_token_id", u32, "01000000"), ("tokenizer.ggml.add_bos_token", "07000000", "01"),
            ("tokenizer.chat_template", text, "0100000000000000 54")):
        yield _key(name, struct.unpack("<I", bytes.fromhex(kind))[0], spell(value))
    yield _key("ak42.config", 8, _string('{"model_type":"llama"}'))
    yield _key("ak42.generation_config", 8, _string('{"a":1}'))


def test_gguf(tmp_path: Path) -> None:
    config = replace(CONFIG_V3, rope_scaling="linear", rope_factor=2.0, hf_model_type="mistral")
    data = written(tmp_path, "gguf", config, "f16", vocab=FakeVocab(), chat_template="T", generation_config={"a": 1})
    head = spell("47475546 03000000 0c00000000000000 1f00000000000000") + b"".join(_keys())
    head += _string("token_embd.weight") + spell("02000000 0800000000000000 0300000000000000 01000000 0000000000000000")
    head += _string("blk.0.attn_norm.weight") + spell("01000000 0800000000000000 00000000 4000000000000000")
    head += _string("blk.0.attn_q.weight") + spell("02000000 0800000000000000 0c00000000000000 01000000 6000000000000000")
    assert data[:len(head)] == head
    assert len(data) == 3104 and data[-16:] == bytes(16)      # output.weight, 48 bytes at a multiple of 32, is filled up
    assert data[-64:-16] == counting_weights(config)["output.weight"].astype("<f2").tobytes()


def test_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(b"") == 0 and crc32c(bytes(32)) == 0x8A9136AA and crc32c(b"\xff" * 32) == 0x62A8AB43
