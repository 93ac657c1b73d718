"""The weight types in numpy: bytes equal to gguf-py's, int8 as ak42 v2 defines it, and what each type must survive."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from converter.blocks import NF4_NESTED_VALUES, NF4_VALUES, nest_absmax
from converter.errors import UnsupportedError, UsageError
from converter.quant import BY_ID, TYPES, NestedRows, group_size_for, nest_rows, nf4_absmax

GGUF_TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
    "q4_1": gguf.GGMLQuantizationType.Q4_1,
    "q5_0": gguf.GGMLQuantizationType.Q5_0,
    "q5_1": gguf.GGMLQuantizationType.Q5_1,
    "mxfp4": gguf.GGMLQuantizationType.MXFP4,
}
# Types that only the C library encodes; numpy decodes them.
READ_TYPES = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")
WRITTEN = tuple(name for name in TYPES if name not in READ_TYPES)
GROUPS = {name: 32 if name == "int8" else 0 for name in TYPES}


def samples(columns: int = 256) -> dict[str, np.ndarray]:
    """Rows that an encoder can get wrong: f32 (n, columns)."""
    rng = np.random.default_rng(7)
    normal = rng.standard_normal((48, columns)).astype(np.float32)
    spiked = normal.copy()
    spiked[:, ::37] *= 100
    ties = (rng.integers(-254, 255, (48, columns)) / 2).astype(np.float32)
    ties[:, ::32] = 127
    signs = np.where(rng.random((48, columns)) < 0.5, -1, 1).astype(np.float32)
    return {
        "normal": normal,
        "small": normal * np.float32(1e-4),
        "large": normal * np.float32(1e4),
        "spiked": spiked,
        "ties": ties,
        "zeros": np.zeros((3, columns), np.float32),
        "negative zeros": np.full((3, columns), -0.0, np.float32),
        "signs": signs,
        "positive": np.abs(normal),
        "constant": np.full((3, columns), 0.375, np.float32),
        "some zero blocks": np.where(np.arange(columns) // 32 % 2, normal, 0).astype(np.float32),
        "tiny": normal * np.float32(1e-6),
    }


# ---- against gguf-py ----


@pytest.mark.parametrize("name", sorted(GGUF_TYPES))
@pytest.mark.parametrize("kind", sorted(samples(32)))
def test_encode_is_byte_equal_to_gguf_py(name: str, kind: str) -> None:
    values = samples()[kind]
    expected = gguf.quants.quantize(values, GGUF_TYPES[name])
    assert np.array_equal(TYPES[name].encode(values), np.ascontiguousarray(expected).view(np.uint8).reshape(len(values), -1))


@pytest.mark.parametrize("name", sorted(GGUF_TYPES))
def test_decode_is_equal_to_gguf_py(name: str) -> None:
    kind = TYPES[name]
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 256, (64, kind.row_bytes(256)), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(rows.view({"f32": np.float32, "f16": np.float16}.get(name, np.uint8)), GGUF_TYPES[name])
    assert np.array_equal(kind.decode(rows, 256), expected, equal_nan=True)


@pytest.mark.parametrize("name", sorted(GGUF_TYPES))
def test_geometry_is_gguf_py_s(name: str) -> None:
    kind = TYPES[name]
    assert (kind.block_len, kind.block_bytes) == gguf.GGML_QUANT_SIZES[GGUF_TYPES[name]]
    assert kind.id == int(GGUF_TYPES[name])
    assert BY_ID[kind.id] is kind


# ---- int8 ----


def int8_literally(row: np.ndarray, group: int) -> bytes:
    """format.md's rule for one row, weight by weight."""
    codes, scales = b"", b""
    for begin in range(0, len(row), group):
        weights = row[begin : begin + group]
        scale = np.float32(np.max(np.abs(weights)) / np.float32(127))
        quotients = weights / scale if scale else np.zeros(group, np.float32)
        codes += b"".join(int(np.rint(quotient)).to_bytes(1, "little", signed=True) for quotient in quotients)
        scales += scale.tobytes()
    return codes + scales


@pytest.mark.parametrize("group", [4, 8, 16, 32, 64])
@pytest.mark.parametrize("kind", sorted(samples(64)))
def test_int8_is_the_rule_of_v2(group: int, kind: str) -> None:
    values = samples(192)[kind][:5]
    rows = TYPES["int8"].encode(values, group)
    assert rows.shape == (len(values), 192 + 192 // group * 4)
    assert [bytes(row) for row in rows] == [int8_literally(row, group) for row in values]


def test_int8_of_a_zero_group_is_zero() -> None:
    rows = TYPES["int8"].encode(np.zeros((1, 8), np.float32), 4)
    assert bytes(rows[0]) == bytes(16)


def test_int8_stays_in_range_where_the_scale_is_denormal() -> None:
    values = np.full((1, 4), 1.4e-45, np.float32)
    codes = TYPES["int8"].encode(values, 4)[:, :4].view(np.int8)
    assert np.abs(codes.astype(int)).max() <= 127


@pytest.mark.parametrize(
    ("lengths", "group"),
    [
        ((64, 128, 192), 64),
        ((64, 96), 32),
        ((48, 86), 0),
        ((288, 768), 32),
        ((20, 64), 4),
        ((64, 64, 172), 4),
        ((4096, 11008), 64),
        ((6,), 0),
    ],
)
def test_group_size_is_the_largest_that_divides_every_row(lengths: tuple[int, ...], group: int) -> None:
    assert group_size_for(lengths) == group


# ---- every type ----


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_encoding_what_was_decoded_changes_nothing(name: str) -> None:
    kind, group = TYPES[name], GROUPS[name]
    once = kind.decode(kind.encode(samples()["normal"], group), 256, group)
    if name in ("q4_1", "q5_1"):  # its two f16 numbers do not come back from their own grid
        assert np.abs(kind.decode(kind.encode(once, group), 256, group) - once).max() < 0.02
    else:
        again = kind.decode(kind.encode(once, group), 256, group)
        assert np.abs(again - once).max() <= 2e-3 * np.abs(once).max()
    if not kind.quantised:
        assert np.array_equal(kind.encode(once), kind.encode(samples()["normal"]))


@pytest.mark.parametrize(
    ("name", "worst"),
    [("f32", 0), ("f16", 5e-4), ("bf16", 4e-3), ("int8", 4e-3), ("q8_0", 4e-3 + 5e-4), ("q4_0", 0.13), ("q4_1", 0.07),
     ("q5_0", 0.065), ("q5_1", 0.035), ("mxfp4", 0.26)],
)
def test_a_weight_is_off_by_a_fraction_of_its_block_s_largest(name: str, worst: float) -> None:
    kind, group, values = TYPES[name], GROUPS[name], samples()["spiked"]
    decoded = kind.decode(kind.encode(values, group), values.shape[1], group)
    blocks = np.abs(values).reshape(-1, 32).max(axis=1)
    off = np.abs(decoded - values).reshape(-1, 32).max(axis=1)
    assert (off <= worst * blocks).all()


@pytest.mark.parametrize("name", sorted(WRITTEN))
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_seen(name: str, value: float) -> None:
    kind, group = TYPES[name], GROUPS[name]
    rows = kind.encode(samples()["normal"][:4], group)
    assert kind.all_finite(rows, 256, group)
    number = np.array([value], {"f32": "<f4", "int8": "<f4", "nf4": "<f4", "nf4-dq": "<f4"}.get(name, "<f2")).view(np.uint8)
    if name == "mxfp4":
        return  # has no code for it
    if name == "bf16":
        number = np.array([value], "<f4").view(np.uint8)[2:]
    place = {"int8": 256 + 8, "q8_0": 34, "q4_0": 18, "q4_1": 22, "q5_0": 22, "q5_1": 26, "nf4": 36, "nf4-dq": 4 * 33}.get(name, 16)  # a scale, or a weight
    rows[2, place : place + len(number)] = number
    assert not kind.all_finite(rows, 256, group)


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_rows_do_not_know_of_each_other(name: str) -> None:
    if name == "nf4-dq":
        return  # they share the mean of their absmax
    kind, group, values = TYPES[name], GROUPS[name], samples()["normal"]
    whole = kind.encode(values, group)
    assert np.array_equal(whole, np.concatenate([kind.encode(values[:5], group), kind.encode(values[5:], group)]))


@pytest.mark.parametrize(
    ("name", "columns", "group", "found"),
    [("q8_0", 48, 0, "48"), ("q4_0", 31, 0, "31"), ("q4_1", 33, 0, "33"), ("int8", 48, 32, "48"), ("int8", 48, 0, "48")],
)
def test_a_row_of_broken_blocks_is_an_error(name: str, columns: int, group: int, found: str) -> None:
    with pytest.raises(UsageError, match=f"{name}: a row of {found} weights"):
        TYPES[name].encode(np.zeros((1, columns), np.float32), group)
    assert not TYPES[name].divides(columns, group)


def test_f16_overflow_becomes_infinite_and_is_seen() -> None:
    rows = TYPES["f16"].encode(np.array([[70000.0, 1.0]], np.float32))
    assert not TYPES["f16"].all_finite(rows, 2)


# ---- the types that are only read here ----


@pytest.mark.parametrize("name", READ_TYPES)
def test_any_bytes_decode_as_gguf_py_decodes_them(name: str) -> None:
    kind, known = TYPES[name], gguf.GGMLQuantizationType[name.upper()]
    assert (kind.block_len, kind.block_bytes) == gguf.GGML_QUANT_SIZES[known] and kind.id == int(known)
    rows = np.random.default_rng(5).integers(0, 256, (64, 3 * kind.block_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(rows, known)
    found = kind.decode(rows, 3 * kind.block_len)
    assert np.array_equal(found, expected, equal_nan=True)
    numbers = ~np.isnan(expected)
    assert np.array_equal(np.signbit(found[numbers]), np.signbit(expected[numbers]))
    finite = kind.all_finite(rows[:1], 3 * kind.block_len)
    assert finite or not np.isfinite(expected[0]).all()


@pytest.mark.parametrize("name", READ_TYPES)
def test_numpy_says_that_it_cannot_encode(name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{name}: its encoder is in the C library"):
        TYPES[name].encode(samples()["normal"])


# ---- nf4, with and without its absmax nested, against bitsandbytes ----


def quantised_by_bitsandbytes(values: np.ndarray, nested: bool):      # noqa: ANN201  a tensor and its state
    functional = pytest.importorskip("bitsandbytes").functional
    torch = pytest.importorskip("torch")
    codes, state = functional.quantize_4bit(torch.from_numpy(values), blocksize=64, quant_type="nf4", compress_statistics=nested)
    return codes.numpy().reshape(-1), state, functional.dequantize_4bit(codes, state).numpy()


@pytest.mark.parametrize("kind", sorted(set(samples(64)) - {"zeros", "negative zeros"}))
def test_nf4_is_bitsandbytes_nf4(kind: str) -> None:
    values = samples()[kind]
    codes, state, decoded = quantised_by_bitsandbytes(values, nested=False)
    rows = TYPES["nf4"].encode(values)
    blocks = rows.reshape(-1, 36)
    assert np.array_equal(blocks[:, 4:].reshape(-1), codes)
    assert np.array_equal(nf4_absmax(rows), state.absmax.numpy())
    assert np.array_equal(TYPES["nf4"].decode(rows, values.shape[1]), decoded)


@pytest.mark.parametrize("kind", ["normal", "large", "spiked", "tiny"])
def test_nf4_dq_is_bitsandbytes_nested_nf4(kind: str) -> None:
    values = np.tile(samples()[kind], (12, 1)) * np.linspace(0.5, 1.5, 12 * 48, dtype=np.float32)[:, None]
    codes, state, decoded = quantised_by_bitsandbytes(values, nested=True)
    offset = state.offset.numpy()
    absmax = nf4_absmax(TYPES["nf4"].encode(values))
    own = nest_absmax(absmax)
    assert abs(own[2] - offset) <= np.spacing(offset)          # torch adds in another order
    found, nested, _ = nest_absmax(absmax, offset)
    assert np.array_equal(found, state.absmax.numpy()) and np.array_equal(nested, state.state2.absmax.numpy())
    rows = nest_rows(TYPES["nf4"].encode(values), found, nested, offset)
    parts = NestedRows.of(rows, values.shape[1])
    assert np.array_equal(parts.codes.reshape(-1), codes)
    assert np.array_equal(TYPES["nf4-dq"].decode(rows, values.shape[1]), decoded)
    assert np.array_equal(TYPES["nf4"].decode(parts.to_nf4(), values.shape[1]), decoded)
    assert np.array_equal(parts.to_bytes(), rows)
    assert np.array_equal(NestedRows.of(TYPES["nf4-dq"].encode(values), values.shape[1]).absmax.reshape(-1), own[0])


def test_the_nested_values_are_bitsandbytes_own() -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    assert np.array_equal(NF4_NESTED_VALUES, functional.create_dynamic_map().numpy())
    assert np.array_equal(NF4_VALUES, functional.get_4bit_type("nf4", device="cpu").numpy())
