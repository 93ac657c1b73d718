"""Where things lie in an ak42 or GGUF file, and what panel16 means, read from the format's pages and from nothing else.

The tests cut files at these places and compare tensors by these bytes. It checks nothing: damaged files are for the project's own
readers. GGUF files of known-good make only.
"""
from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TYPE_NAMES = {0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 8: "q8_0", 30: "bf16", 0x1000: "int8"}
ROWS, PANEL16 = 0, 1


@dataclass(frozen=True)
class Entry:
    """One tensor of a version 3 directory."""

    name: str
    type: str
    layout: int
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def read_directory(raw: bytes) -> list[Entry]:
    """The directory of a version 3 file: 128 bytes an entry."""
    at, count = struct.unpack_from("<Q", raw, 176)[0], struct.unpack_from("<I", raw, 184)[0]
    entries = []
    for i in range(count):
        entry = raw[at + 128 * i:at + 128 * (i + 1)]
        type_id, layout, n_dims, _, *dims, offset, nbytes = struct.unpack_from("<4I3Q2Q", entry, 64)
        # outermost first; where there are fewer than three, the first n_dims count
        entries.append(Entry(entry[:64].rstrip(b"\0").decode(), TYPE_NAMES[type_id], layout, tuple(dims[:n_dims]), offset, nbytes))
    return entries


def trailer_sections(raw: bytes) -> list[tuple[str, int, int]]:
    """(tag, offset of the content, its bytes) of every section of a version 1 to 3 file."""
    at, size = struct.unpack_from("<QQ", raw, 208)
    end, sections = at + size, []
    while at and at < end:
        tag, _, nbytes = struct.unpack_from("<4sIQ", raw, at)
        sections.append((tag.decode(), at + 16, nbytes))
        at += 16 + nbytes + -nbytes % 8
    return sections


def boundaries(path: Path) -> list[int]:
    """Every offset where something ends and something else begins, the file's end excluded."""
    raw = path.read_bytes()
    cuts = {0, 4, len(raw) - 1}
    if raw[:4] == b"24ka":
        version = struct.unpack_from("<i", raw, 4)[0]
        cuts |= {8, 36, 41, 64, 256}
        data, data_bytes = struct.unpack_from("<QQ", raw, 192)
        cuts |= {data, data + data_bytes}
        for _, at, size in trailer_sections(raw):
            cuts |= {at - 16, at, at + size}
        if version == 3:
            directory, count = struct.unpack_from("<Q", raw, 176)[0], struct.unpack_from("<I", raw, 184)[0]
            cuts |= {directory, directory + 128 * count}
            for entry in read_directory(raw):
                cuts |= {entry.offset, entry.offset + entry.nbytes}
        else:
            cuts |= set(_payload_boundaries(raw, 256, version == 2))
    elif raw[:4] == b"GGUF":
        from gguf import GGUFReader

        reader = GGUFReader(path)
        cuts |= {8, 16, 24, reader.data_offset}
        for field in reader.fields.values():
            if field.name.startswith("GGUF."):
                continue
            cuts |= {field.offset, field.offset + sum(int(part.nbytes) for part in field.parts)}
        for tensor in reader.tensors:
            cuts |= {tensor.field.offset, tensor.data_offset, tensor.data_offset + int(tensor.n_bytes)}
    elif raw[8:9] == b"{":
        import json

        size = struct.unpack_from("<Q", raw)[0]
        cuts |= {8, 9, 8 + size}
        cuts |= {8 + size + at for name, entry in json.loads(raw[8:8 + size]).items() if name != "__metadata__"
                 for at in entry["data_offsets"]}
    else:
        cuts |= {28, *_payload_boundaries(raw, 0, False)}
    return sorted(int(cut) for cut in cuts if 0 <= cut < len(raw))


def _payload_boundaries(raw: bytes, start: int, int8: bool) -> list[int]:
    """Ends of the per-layer tensors of versions 0 to 2, in file order. Version 0 has no header word before its sizes."""
    sizes = struct.unpack_from("<7i", raw, 8 if start else 0)
    dim, hidden, layers, heads, kv_heads, vocab, seq_len = sizes
    shared = raw[36] == 1 if start else vocab > 0
    vocab, head, group = abs(vocab), dim // heads, struct.unpack_from("<i", raw, 37)[0] if int8 else 0
    norms = [dim] * layers
    embedding, head_matrix = [vocab * dim], [] if shared else [vocab * dim]
    q, kv, o = [dim * heads * head] * layers, [dim * kv_heads * head] * layers, [dim * heads * head] * layers
    gate, down = [dim * hidden] * layers, [dim * hidden] * layers
    if start:
        at, floats, matrices = start, [*norms, *norms, dim], [*embedding, *q, *kv, *kv, *o, *gate, *down, *gate, *head_matrix]
    else:
        tables = [seq_len * head // 2] * 2
        at, matrices = 28, []
        floats = [*embedding, *norms, *q, *kv, *kv, *o, *norms, *gate, *down, *gate, dim, *tables, *head_matrix]
    ends = [at]
    for size in floats:
        ends.append(ends[-1] + 4 * size)
    for size in matrices:
        if int8:
            ends.append(ends[-1] + size)
            ends.append(ends[-1] + size // group * 4)
        else:
            ends.append(ends[-1] + 4 * size)
    return ends


# ---- panel16 ----

def unpack_panel16(data: bytes, kind: str, rows: int, columns: int, group: int = 0) -> bytes:
    """A panel16 matrix as row-major bytes: GGUF's blocks, or for int8 all codes and then all scales."""
    panels, supers = -(-rows // 16), -(-columns // 64)
    raw = np.frombuffer(data, np.uint8).reshape(panels, supers, -1)
    if kind == "f32":       # k, row
        values = raw.view("<u4").reshape(panels, supers, 64, 16).transpose(0, 3, 1, 2).reshape(panels * 16, supers * 64)
        return values[:rows, :columns].tobytes()
    if kind in ("f16", "bf16"):     # k-pair, row, k
        values = raw.view("<u2").reshape(panels, supers, 32, 16, 2).transpose(0, 3, 1, 2, 4).reshape(panels * 16, supers * 64)
        return values[:rows, :columns].tobytes()
    if kind == "int8":
        scales = raw[:, :, :64 // group * 64].copy().view("<f4").reshape(panels, supers, 64 // group, 16)
        scales = scales.transpose(0, 3, 1, 2).reshape(panels * 16, -1)[:rows, :columns // group]
        return (_bytes_by_row(raw[:, :, 64 // group * 64:]) - 128).astype(np.uint8)[:rows, :columns].tobytes() + scales.tobytes()
    header = {"q8_0": 64, "q4_0": 64, "q4_1": 128}[kind]
    # (panel, super, array, block, row) -> (row, block, array)
    halves = raw[:, :, :header].copy().view("<u2").reshape(panels, supers, header // 64, 2, 16)
    halves = halves.transpose(0, 4, 1, 3, 2).reshape(panels * 16, supers * 2, header // 64)
    quants = raw[:, :, header:]
    if kind == "q8_0":
        codes = (_bytes_by_row(quants) - 128).astype(np.uint8).reshape(panels * 16, supers * 2, 32)
    else:                   # low nibble: the superblock's first 32 k, high nibble: its last 32
        values = np.concatenate([_bytes_by_row(quants & 15, 8), _bytes_by_row(quants >> 4, 8)], axis=2).reshape(panels * 16, -1, 32)
        codes = (values[:, :, :16] | values[:, :, 16:] << 4).astype(np.uint8)
    blocks = np.concatenate([np.ascontiguousarray(halves).view(np.uint8), codes], axis=2)
    return blocks[:rows, :columns // 32].tobytes()


def _bytes_by_row(quants: np.ndarray, groups: int = 16) -> np.ndarray:
    """(panel, super, groups x 16 rows x 4 k) -> (rows, k); with 8 groups (rows, super, 32), for nibbles."""
    panels, supers, _ = quants.shape
    values = quants.reshape(panels, supers, groups, 16, 4).transpose(0, 3, 1, 2, 4).astype(np.int16)
    return values.reshape(panels * 16, supers * 64) if groups == 16 else values.reshape(panels * 16, supers, 32)
