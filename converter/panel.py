"""The layouts panel16 and stream16 (docs/format.md): row-major blocks to panels of 16 rows, and back, as numpy permutations.

It moves bytes and never computes a weight: unpack(pack(x)) is x. The ak42 writer packs with it, the ak42 source unpacks; both go
by whole panels, so a matrix is never held twice.
"""

from __future__ import annotations

import numpy as np

PANEL_ROWS = 16
SUPER_COLUMNS = 64
_GROUPS = (4, 8, 16, 32, 64)
_BLOCK = 32                                      # weights of a q8_0, q4_0 or q4_1 block
_FLOATS = {"f32": "<u4", "f16": "<u2", "bf16": "<u2"}
_SCALES = {"q8_0": 1, "q4_0": 1, "q4_1": 2}      # f16 values at the head of a block
_FILL_Q4 = {"q4_0": 0x88, "q4_1": 0}             # two quants past the end of a row or matrix
_WORD = np.dtype("<u4")

# Types whose superblock is words of 16 rows side by side, each row's words holding its blocks: weights and bytes of a block,
# columns and words of a superblock.
_WORDS = {"q5_0": (32, 22, 64, 11), "q5_1": (32, 24, 64, 12), "q2_k": (256, 84, 256, 21), "q3_k": (256, 110, 256, 28),
          "q4_k": (256, 144, 256, 36), "q5_k": (256, 176, 256, 44), "q6_k": (256, 210, 256, 53), "iq4_nl": (32, 18, 64, 9),
          "iq4_xs": (256, 136, 256, 34), "mxfp4": (32, 17, 128, 17), "nf4": (64, 36, 64, 9)}

WORD_TYPES = tuple(_WORDS)
TYPES = (*_FLOATS, "int8", *_SCALES, *WORD_TYPES)

LAYOUTS = ("rows", "panel16", "stream16")        # by their ids in a file's directory
ROWS, PANEL16, STREAM16 = range(3)
LAYOUT_CHOICES = ("panel16", "rows")             # of a whole file: each type's panels, or rows

# stream16's words of a superblock in its order, as panel16 numbers them (core/stream16.h has the reverse).
_STREAM = {
    "q5_k": [*range(4), *(w for j in range(8) for w in (4 + j, 12 + j)), *range(20, 44)],
    "q6_k": [52, *range(48, 52), *(w for h in range(2) for j in range(8) for w in (16 * h + j, 16 * h + 8 + j, 32 + 8 * h + j))],
    "iq4_xs": [0, 1, *(2 + 8 * u + 4 * b + j for u in range(4) for j in range(4) for b in range(2))],
}


def layout_of(type_name: str) -> int:
    """The layout of a type's panels in memory, which a file should have."""
    return STREAM16 if type_name in _STREAM else PANEL16


def has_layout(type_name: str, layout: int) -> bool:
    """Whether a matrix of the type may have it."""
    return layout == ROWS or (layout == PANEL16 and type_name in TYPES) or (layout == STREAM16 and type_name in _STREAM)


def super_bytes(type_name: str, group_size: int = 0) -> int:
    """Bytes of one superblock: 16 rows x 64, 128 or 256 columns."""
    if type_name in _WORDS:
        return _WORDS[type_name][3] * PANEL_ROWS * 4
    if type_name in _FLOATS:
        return PANEL_ROWS * SUPER_COLUMNS * np.dtype(_FLOATS[type_name]).itemsize
    if type_name == "int8":
        if group_size not in _GROUPS:
            raise ValueError(f"panel16: group_size: expected one of {_GROUPS}, found {group_size}")
        return SUPER_COLUMNS // group_size * PANEL_ROWS * 4 + PANEL_ROWS * SUPER_COLUMNS
    if type_name not in _SCALES:
        raise ValueError(f"panel16: type: expected one of {', '.join(TYPES)}, found {type_name}")
    quants = PANEL_ROWS * SUPER_COLUMNS // (1 if type_name == "q8_0" else 2)
    return _SCALES[type_name] * (SUPER_COLUMNS // _BLOCK) * PANEL_ROWS * 2 + quants


def panel_bytes(type_name: str, columns: int, group_size: int = 0) -> int:
    """Bytes of one panel: 16 rows of `columns`."""
    return _ceil(columns, super_columns(type_name)) * super_bytes(type_name, group_size)


def super_columns(type_name: str) -> int:
    """Columns of one superblock."""
    return _WORDS[type_name][2] if type_name in _WORDS else SUPER_COLUMNS


def packed_bytes(type_name: str, rows: int, columns: int, group_size: int = 0) -> int:
    """Bytes of a whole matrix."""
    return _ceil(rows, PANEL_ROWS) * panel_bytes(type_name, columns, group_size)


def row_bytes(type_name: str, columns: int, group_size: int = 0) -> int:
    """Bytes of one row-major row: blocks; int8: `columns` codes, then columns/group_size f32 scales."""
    if type_name in _FLOATS:
        return columns * np.dtype(_FLOATS[type_name]).itemsize
    step = group_size if type_name == "int8" else _WORDS[type_name][0] if type_name in _WORDS else _BLOCK
    super_bytes(type_name, group_size)           # refuses unknown types and groups
    if columns % step:
        raise ValueError(f"panel16: columns: expected a multiple of {step} for {type_name}, found {columns}")
    if type_name in _WORDS:
        return columns // step * _WORDS[type_name][1]
    if type_name == "int8":
        return columns + columns // group_size * 4
    return columns // _BLOCK * (_SCALES[type_name] * 2 + (_BLOCK if type_name == "q8_0" else _BLOCK // 2))


def pack(type_name: str, rows_uint8: np.ndarray, rows: int, columns: int, group_size: int = 0, layout: int = PANEL16) -> np.ndarray:
    """(rows, row_bytes) uint8 row-major -> uint8, 1-D, whole panels of a layout that the type has. To stream, hand in 16, 32, .. rows
    at a time; only a matrix's last piece may have a number of rows that is no multiple of 16 (it is filled up)."""
    data = np.ascontiguousarray(rows_uint8, dtype=np.uint8)
    expected = (rows, row_bytes(type_name, columns, group_size))
    if data.shape != expected:
        raise ValueError(f"panel16: rows of {type_name}: expected {expected} bytes, found {data.shape}")
    _check_layout(type_name, layout)
    n_supers = _ceil(columns, super_columns(type_name))
    parts = _to_parts(type_name, data, columns, group_size)
    lanes = [_lanes(part, part.shape[1] // n_supers) for part in parts]
    if layout == STREAM16:
        lanes = [lanes[0][:, :, _STREAM[type_name]]]
    return np.concatenate([lane.reshape(*lane.shape[:2], -1).view(np.uint8) for lane in lanes], axis=2).reshape(-1)


def unpack(type_name: str, panels_uint8: np.ndarray, rows: int, columns: int, group_size: int = 0,
           layout: int = PANEL16) -> np.ndarray:
    """The reverse of pack: uint8 panels -> (rows, row_bytes) uint8 row-major. To stream, hand in whole panels."""
    data = np.ascontiguousarray(panels_uint8, dtype=np.uint8).reshape(-1)
    expected = packed_bytes(type_name, rows, columns, group_size)
    row_bytes(type_name, columns, group_size)                # refuses columns that no block divides
    if data.size != expected:
        raise ValueError(f"panel16: {rows}x{columns} of {type_name}: expected {expected} bytes, found {data.size}")
    _check_layout(type_name, layout)
    supers = data.reshape(_ceil(rows, PANEL_ROWS), _ceil(columns, super_columns(type_name)), -1)
    parts, begin = [], 0
    for count, kind in _geometry(type_name, group_size):
        size = count * PANEL_ROWS * kind.itemsize
        lanes = np.ascontiguousarray(supers[:, :, begin:begin + size]).view(kind).reshape(*supers.shape[:2], count, PANEL_ROWS)
        if layout == STREAM16:
            lanes = lanes[:, :, np.argsort(_STREAM[type_name])]
        parts.append(_rows(lanes)[:rows])
        begin += size
    return _from_parts(type_name, parts, columns, group_size)


def _check_layout(type_name: str, layout: int) -> None:
    if layout == ROWS or not has_layout(type_name, layout):
        raise ValueError(f"panel16: layout of {type_name}: expected {layout_of(type_name)}, found {layout}")


# A part is what a superblock keeps together: the scales, the mins, the quants. Row-major it is (rows, superblocks * count) items,
# where count items of a row fall into one superblock: scales by themselves, quants and narrow floats as 32-bit words.


def _geometry(type_name: str, group_size: int) -> list[tuple[int, np.dtype]]:
    """Each part's count and item, in the order of a superblock."""
    if type_name in _FLOATS:
        return [(SUPER_COLUMNS * np.dtype(_FLOATS[type_name]).itemsize // 4, _WORD)]
    if type_name == "int8":
        return [(SUPER_COLUMNS // group_size, _WORD), (SUPER_COLUMNS // 4, _WORD)]
    if type_name in _WORDS:
        return [(_WORDS[type_name][3], _WORD)]
    per_word = 4 if type_name == "q8_0" else 8
    return [(SUPER_COLUMNS // _BLOCK, np.dtype("<u2"))] * _SCALES[type_name] + [(SUPER_COLUMNS // per_word, _WORD)]


def _to_parts(type_name: str, data: np.ndarray, columns: int, group_size: int) -> list[np.ndarray]:
    """Row-major bytes -> parts, filled up to whole panels and superblocks."""
    if type_name in _FLOATS:
        return [_padded(data.view(_FLOATS[type_name]), SUPER_COLUMNS, 0).view(_WORD)]
    if type_name == "int8":
        scales = _padded(np.ascontiguousarray(data[:, columns:]).view(_WORD), SUPER_COLUMNS // group_size, 0)
        return [scales, _padded(data[:, :columns] ^ 128, SUPER_COLUMNS, 128).view(_WORD)]        # q + 128 of the signed code
    if type_name in _WORDS:
        return [_padded(_to_words(type_name, data, columns), 1, 0)]
    n_scales = _SCALES[type_name]
    blocks = data.reshape(len(data), columns // _BLOCK, -1)
    heads = [_padded(np.ascontiguousarray(blocks[:, :, 2 * i:2 * i + 2]).view("<u2")[:, :, 0], 2, 0) for i in range(n_scales)]
    quants = blocks[:, :, 2 * n_scales:]
    if type_name == "q8_0":
        return [*heads, _padded(quants.reshape(len(data), columns) ^ 128, SUPER_COLUMNS, 128).view(_WORD)]
    # A block's byte i holds columns i and i + 16; a superblock's holds k of its first block and k of its second.
    pairs = _padded(quants.reshape(len(data), -1), _BLOCK, _FILL_Q4[type_name]).reshape(-1, 2, _BLOCK // 2)
    first, second = pairs[:, 0], pairs[:, 1]
    nibbles = np.concatenate((first & 15 | second << 4, first >> 4 | second & 240), axis=1)
    return [*heads, nibbles.reshape(len(heads[0]), -1).view(_WORD)]


def _from_parts(type_name: str, parts: list[np.ndarray], columns: int, group_size: int) -> np.ndarray:
    """The reverse of _to_parts, of rows that are all real."""
    rows = len(parts[0])
    octets = parts[-1].view(np.uint8).reshape(rows, -1)
    if type_name in _FLOATS:
        return np.ascontiguousarray(octets[:, :row_bytes(type_name, columns)])
    if type_name == "int8":
        scales = np.ascontiguousarray(parts[0][:, :columns // group_size]).view(np.uint8)
        return np.concatenate((octets[:, :columns] ^ 128, scales), axis=1)
    if type_name in _WORDS:
        return _from_words(type_name, parts[0], columns)
    n_blocks = columns // _BLOCK
    if type_name == "q8_0":
        quants = (octets[:, :columns] ^ 128).reshape(rows, n_blocks, _BLOCK)
    else:
        low, high = octets.reshape(-1, 2, _BLOCK // 2)[:, 0], octets.reshape(-1, 2, _BLOCK // 2)[:, 1]
        pairs = np.stack((low & 15 | high << 4, low >> 4 | high & 240), axis=1)
        quants = pairs.reshape(rows, -1, _BLOCK // 2)[:, :n_blocks]
    heads = [np.ascontiguousarray(head[:, :n_blocks]).view(np.uint8).reshape(rows, n_blocks, 2) for head in parts[:-1]]
    return np.concatenate((*heads, quants), axis=2).reshape(rows, -1)


# -- rows as words -----------------------------------------------------------------------------------------------------------


def _to_words(type_name: str, data: np.ndarray, columns: int) -> np.ndarray:
    """Rows of blocks -> u32 (rows, superblocks * words of one); what is missing of the last superblock is zero."""
    length, size, wide, n_words = _WORDS[type_name]
    n_supers, per_super = _ceil(columns, wide), wide // length
    blocks = np.zeros((len(data), n_supers * per_super, size), np.uint8)
    blocks[:, :columns // length] = data.reshape(len(data), -1, size)
    if length == 256:
        words = np.zeros((*blocks.shape[:2], n_words * 4), np.uint8)
        words[:, :, :size] = blocks
        return words.view(_WORD).reshape(len(data), -1)
    blocks = blocks.reshape(len(data), n_supers, per_super, size)
    if type_name == "nf4":
        codes = np.stack((blocks[..., 4:] >> 4, blocks[..., 4:] & 15), axis=-1).reshape(len(data), n_supers, 2, 32)
        parts = [blocks[:, :, 0, :4], codes[:, :, 0] | codes[:, :, 1] << 4]
    else:
        head = size - 16
        codes = np.concatenate((blocks[..., head:] & 15, blocks[..., head:] >> 4), axis=-1)      # of blocks of 32
        nibbles = (codes[:, :, ::2] | codes[:, :, 1::2] << 4).reshape(len(data), n_supers, -1)
        if type_name == "mxfp4":
            parts = [blocks[..., 0], nibbles]
        elif type_name == "iq4_nl":
            parts = [blocks[..., :2].reshape(len(data), n_supers, -1), nibbles]
        else:
            halves = [blocks[..., at:at + 2].reshape(len(data), n_supers, -1) for at in range(0, head - 4, 2)]
            parts = [*halves, _spread_bits(blocks[..., head - 4:head]).reshape(len(data), n_supers, -1), nibbles]
    return np.ascontiguousarray(np.concatenate(parts, axis=2)).view(_WORD).reshape(len(data), -1)


def _from_words(type_name: str, words: np.ndarray, columns: int) -> np.ndarray:
    """The reverse of _to_words."""
    length, size, wide, n_words = _WORDS[type_name]
    octets = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1, n_words * 4)
    if length == 256:
        return np.ascontiguousarray(octets[:, :, :size]).reshape(len(words), -1)
    n_supers, per_super = octets.shape[1], wide // length
    if type_name == "nf4":
        codes = np.concatenate((octets[:, :, 4:] & 15, octets[:, :, 4:] >> 4), axis=2)
        blocks = np.concatenate((octets[:, :, :4], codes[:, :, ::2] << 4 | codes[:, :, 1::2]), axis=2)
        return blocks.reshape(len(words), -1)[:, :columns // length * size]
    head = size - 16
    nibbles = octets[:, :, per_super * head:].reshape(len(words), n_supers, -1, 1, 32)
    codes = np.concatenate((nibbles & 15, nibbles >> 4), axis=3).reshape(len(words), n_supers, per_super, 32)
    packed = codes[..., :16] | codes[..., 16:] << 4
    if type_name in ("mxfp4", "iq4_nl"):
        heads = [octets[:, :, :per_super * head].reshape(len(words), n_supers, per_super, head)]
    else:
        ends = range(0, (head - 4) * per_super, 4)
        heads = [octets[:, :, at:at + 4].reshape(len(words), n_supers, per_super, 2) for at in ends]
        high = octets[:, :, (head - 4) * per_super:head * per_super].reshape(len(words), n_supers, per_super, 4)
        heads.append(_gather_bits(high))
    blocks = np.concatenate((*heads, packed), axis=3)
    return blocks.reshape(len(words), -1)[:, :columns // length * size]


def _spread_bits(packed: np.ndarray) -> np.ndarray:
    """(.., 4) bytes: bit 4j + i of the 32 becomes bit j of byte i."""
    bits = np.unpackbits(packed, axis=-1, bitorder="little").reshape(*packed.shape[:-1], 8, 4)
    return np.packbits(np.swapaxes(bits, -1, -2), axis=-1, bitorder="little")[..., 0]


def _gather_bits(packed: np.ndarray) -> np.ndarray:
    """The reverse of _spread_bits."""
    bits = np.unpackbits(np.ascontiguousarray(packed), axis=-1, bitorder="little").reshape(*packed.shape[:-1], 4, 8)
    return np.packbits(np.swapaxes(bits, -1, -2).reshape(*packed.shape[:-1], 32), axis=-1, bitorder="little")


def _ceil(value: int, step: int) -> int:
    return -(-value // step)


def _padded(values: np.ndarray, step: int, fill: int) -> np.ndarray:
    """(n, m) -> (whole panels of rows, multiple of step), contiguous, the new places holding `fill`."""
    n, m = values.shape
    if n % PANEL_ROWS == 0 and m % step == 0:
        return np.ascontiguousarray(values)
    out = np.full((_ceil(n, PANEL_ROWS) * PANEL_ROWS, _ceil(m, step) * step), fill, dtype=values.dtype)
    out[:n, :m] = values
    return out


def _lanes(part: np.ndarray, count: int) -> np.ndarray:
    """(16 p, s count) -> (p, s, count, 16), contiguous: 16 rows side by side."""
    split = part.reshape(len(part) // PANEL_ROWS, PANEL_ROWS, -1, count)
    return np.ascontiguousarray(split.transpose(0, 2, 3, 1))


def _rows(lanes: np.ndarray) -> np.ndarray:
    """The reverse of _lanes: (p, s, count, 16) -> (16 p, s count)."""
    return np.ascontiguousarray(lanes.transpose(0, 3, 1, 2)).reshape(len(lanes) * PANEL_ROWS, -1)
