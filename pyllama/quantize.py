"""Encodes weights with the C library, many times faster than numpy: what the converter is handed as its encoder. The bytes are
those of converter/quant.py; the K types', iq4_nl's and iq4_xs's encoders are here alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._native import check, ffi, lib, new_error

if TYPE_CHECKING:
    import numpy as np

# Type ids of ak42.h: GGUF's, and ak42's own from 0x1000.
TYPE_IDS = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q2_k": 10, "q3_k": 11, "q4_k": 12, "q5_k": 13,
    "q6_k": 14, "iq4_nl": 20, "iq4_xs": 23, "bf16": 30, "mxfp4": 39, "int8": 0x1000, "nf4": 0x1001,
}
# Weights and bytes of a block.
BLOCKS = {
    "q4_0": (32, 18), "q4_1": (32, 20), "q5_0": (32, 22), "q5_1": (32, 24), "q8_0": (32, 34), "q2_k": (256, 84), "q3_k": (256, 110),
    "q4_k": (256, 144), "q5_k": (256, 176), "q6_k": (256, 210), "iq4_nl": (32, 18), "iq4_xs": (256, 136), "mxfp4": (32, 17),
    "nf4": (64, 36),
}


def encode(type_name: str, rows: np.ndarray, group_size: int = 0) -> np.ndarray | None:
    """float32 (n, columns) to uint8 (n, row_bytes); None for a type that numpy encodes as fast."""
    import numpy as np

    n, columns = rows.shape
    if type_name == "int8" and group_size:
        row_bytes = columns + columns // group_size * 4
    elif type_name in BLOCKS:
        length, size = BLOCKS[type_name]
        row_bytes = columns // length * size
    else:
        return None
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    out = np.empty((n, row_bytes), dtype=np.uint8)
    error = new_error()
    status = lib.ak42_quantize(
        TYPE_IDS[type_name],
        group_size if type_name == "int8" else 0,
        ffi.from_buffer("float[]", rows),
        n,
        columns,
        ffi.from_buffer("uint8_t[]", out, require_writable=True),
        out.nbytes,
        0,
        error,
    )
    check(status, error)
    if type_name == "int8":
        # C writes all codes and then all scales, as files have them; the converter's rows carry their own scales.
        flat = out.reshape(-1)
        codes, scales = flat[: n * columns].reshape(n, columns), flat[n * columns :].reshape(n, row_bytes - columns)
        out = np.concatenate([codes, scales], axis=1)
    return out
