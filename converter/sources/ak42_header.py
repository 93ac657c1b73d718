"""The frame of an ak42 file, v0 to v3: header, extension, directory, extents and trailer, each field by its offset and checked.

What it returns may be trusted: every range lies in the file, every checksum but those over weights holds. The weights' own
checksums and their meaning are ak42.py's. Called by ak42.py and inspect.py.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .. import strict_json
from ..config import MAX_DIM, MAX_HEADS, MAX_INT32, MAX_LAYERS, MAX_VOCAB, ModelConfig
from ..config_files import INCOMPAT, complete_ak42, config_from_ak42
from ..crc32c import crc32c
from ..errors import FormatError, UnsupportedError, escape
from ..families import EXPERTS, NO_ROPE, WINDOW
from ..panel import ROWS, has_layout, packed_bytes
from ..quant import BY_ID, INT8_GROUPS, TYPES, WeightType
from .input_file import InputFile, looks_like

MAGIC = (0x616B3432).to_bytes(4, "little")
HEADER_BYTES, V0_HEADER_BYTES = 256, 28
EXTENSION_AT, EXTENSION_BYTES = 64, 192
ENTRY_BYTES, NAME_BYTES = 128, 64
MAX_TENSORS = 65536
DATA_ALIGNMENT, TENSOR_ALIGNMENT = 4096, 64

SIZES = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
DIRECTORY, HALF_SPLIT, LAYER_FLAGS = INCOMPAT["DIRECTORY"], INCOMPAT["ROPE_HALF_SPLIT"], INCOMPAT["LAYER_FLAGS"]

# offset and struct code of the extension's fields that config.py reads
_MODEL_FIELDS = {
    "rope_theta": (80, "f"), "norm_eps": (84, "f"), "head_dim": (88, "i"), "rotary_dim": (92, "i"), "sliding_window": (96, "i"),
    "rope_scaling": (100, "B"), "rope_layout": (101, "B"), "activation": (102, "B"), "model_flags": (103, "B"),
    "rope_factor": (104, "f"), "rope_low_freq": (108, "f"), "rope_high_freq": (112, "f"), "rope_original_ctx": (116, "i"),
    "rope_attn_factor": (120, "f"), "bos_id": (124, "i"), "pad_id": (144, "i"), "n_experts": (148, "i"),
    "n_experts_used": (152, "i"), "attn_softcap": (156, "f"), "final_softcap": (160, "f"), "embedding_scale": (164, "f"),
    "residual_scale": (168, "f"), "trained_ctx": (172, "i"), "attention_scale": (232, "f"), "logit_scale": (236, "f"),
    "rope_theta_local": (240, "f"),
}
# and of those that say where things are
_FRAME_FIELDS = {
    "ext_bytes": (68, "H"), "ext_minor": (70, "H"), "compat_flags": (72, "I"), "incompat_flags": (76, "I"),
    "directory_offset": (176, "Q"), "n_tensors": (184, "I"), "crc_directory": (188, "I"), "data_offset": (192, "Q"),
    "data_bytes": (200, "Q"), "trailer_offset": (208, "Q"), "trailer_bytes": (216, "Q"), "file_bytes": (224, "Q"),
    "crc_payload": (244, "I"), "crc_trailer": (248, "I"), "crc_header": (252, "I"),
}


@dataclass(frozen=True)
class Ak42Tensor:
    """One tensor's place. shape is outermost first, offset counts from the file's start; crc is None where there is none."""

    name: str                      # GGUF's
    type: WeightType
    layout: int                    # ROWS, PANEL16 or STREAM16
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    group_size: int = 0
    crc: int | None = None


@dataclass(frozen=True)
class Ak42File:
    """Everything but the weights."""

    version: int
    config: ModelConfig            # as the header states it
    rope_half_split: bool
    tensors: tuple[Ak42Tensor, ...]
    sections: Mapping[str, bytes]  # trailer tag -> bytes
    data_offset: int
    data_bytes: int
    crc_payload: int | None        # of v1, v2 with an extension
    fields: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def is_ak42(head: bytes) -> bool:
    return head.startswith(MAGIC)


def read_ak42(file: InputFile) -> Ak42File:
    """The checked frame of a file with the ak42 magic: v1, v2 or v3."""
    name = file.name
    if file.size < HEADER_BYTES:
        raise FormatError(f"{name}: expected a header of {HEADER_BYTES} bytes, found a file of {file.size}")
    header = file.read(0, HEADER_BYTES)
    version = _unpack(header, 4, "i")
    if not 1 <= version <= 3:
        kind = FormatError if version < 1 else UnsupportedError
        raise kind(f"{name}: header: version at byte 4: expected 1, 2 or 3, found {version}")
    extended = header[EXTENSION_AT : EXTENSION_AT + 4] == b"AKX1"
    if version == 3 and not extended:
        raise FormatError(f"{name}: header: expected AKX1 at byte 64 of version 3, found "
                          f"'{escape(header[EXTENSION_AT:EXTENSION_AT + 4])}'")
    _check_zero(name, header, 41, EXTENSION_AT if extended else HEADER_BYTES)
    values: dict[str, Any] = {key: _unpack(header, 8 + 4 * i, "i") for i, key in enumerate(SIZES)}
    if header[36] > 1:
        raise FormatError(f"{name}: header: shared_classifier at byte 36: expected 0 or 1, found {header[36]}")
    values["shared_classifier"] = header[36]
    frame: dict[str, int] = {}
    if extended:
        frame = {key: _unpack(header, *place) for key, place in _FRAME_FIELDS.items()}
        _check_extension(name, file.size, header, frame)
        values |= {key: _unpack(header, *place) for key, place in _MODEL_FIELDS.items()}
        values["eos_ids"] = struct.unpack_from("<4i", header, 128)
    config, warnings = config_from_ak42(values, f"{name}: header")
    group = _group_size(name, _unpack(header, 37, "i"), version, config)
    if extended:
        _check_features(name, version, frame["incompat_flags"], values, config)
    if version == 3:
        tensors = _directory(file, frame, group)
        data_offset, data_bytes = _data_section(file, frame, tensors)
    else:
        tensors = _old_tensors(config, version, group)
        data_offset, data_bytes = _payload(file, frame, tensors)
    sections = _trailer(file, frame, data_offset + data_bytes) if extended else {}
    layers = _layers(name, sections, frame.get("incompat_flags", 0), config)
    model_type = _model_type(name, sections) if version == 3 else None
    if model_type is not None:
        config = complete_ak42(config, model_type, values | {"incompat_flags": frame["incompat_flags"]}, layers,
                               {tensor.name: tensor.shape for tensor in tensors}, name)
    return Ak42File(version, config, bool(values.get("rope_layout")), tensors, sections, data_offset, data_bytes,
                    frame["crc_payload"] if extended and version < 3 else None, values, tuple(warnings))


def _model_type(name: str, sections: Mapping[str, bytes]) -> str | None:
    """What CONF names; None where there is no such section, which ak42.py refuses."""
    if "CONF" not in sections:
        return None
    found = strict_json.load_object(sections["CONF"], f"{name}: section CONF").get("model_type")
    if not isinstance(found, str):
        raise FormatError(f"{name}: section CONF: expected a model_type, found {strict_json.type_name(found)}")
    return found


def _layers(name: str, sections: Mapping[str, bytes], flags: int, config: ModelConfig) -> tuple[int, ...]:
    """LAYR says where layers differ; it and the feature bit come together."""
    data = sections.get("LAYR")
    if (data is not None) != bool(flags & LAYER_FLAGS):
        raise FormatError(f"{name}: section LAYR and the feature LAYER_FLAGS: expected both or none, found "
                          f"{'LAYER_FLAGS' if data is None else 'LAYR'} alone")
    if data is None:
        return ()
    if len(data) != 4 * config.n_layers:
        raise FormatError(f"{name}: section LAYR: expected {4 * config.n_layers} bytes, found {len(data)}")
    layers = struct.unpack(f"<{config.n_layers}I", data)
    known = WINDOW | NO_ROPE | EXPERTS
    if any(layer & ~known for layer in layers):
        raise UnsupportedError(f"{name}: section LAYR: layers with flags beside {known} are not supported")
    return layers


def read_v0(file: InputFile) -> Ak42File:
    """A file of llama2.c's headerless format: nothing but seven sizes says so, so the file's size has to be exact."""
    name = file.name
    head = file.read(0, min(64, file.size))
    seen = looks_like(head, file.size)
    if seen is not None:
        raise FormatError(f"{name}: expected an ak42 or GGUF file, found {seen}")
    none = f"{name}: expected an ak42 or GGUF file, found no magic"
    if file.size < V0_HEADER_BYTES:
        raise FormatError(f"{none} and {file.size} bytes, too few for llama2.c's headerless format")
    values = dict(zip(SIZES, struct.unpack_from("<7i", head), strict=True))
    shared = values["vocab_size"] > 0
    limits = {"dim": MAX_DIM, "hidden_dim": MAX_DIM, "n_layers": MAX_LAYERS, "n_heads": MAX_HEADS, "n_kv_heads": MAX_HEADS,
              "vocab_size": MAX_VOCAB, "seq_len": MAX_INT32}
    values["vocab_size"] = abs(values["vocab_size"])
    wrong = next((key for key in SIZES if not 1 <= values[key] <= limits[key]), None)
    if wrong is not None:
        raise FormatError(f"{none}; as llama2.c's headerless format: {wrong}: expected 1 to {limits[wrong]}, found {values[wrong]}")
    config, warnings = config_from_ak42({**values, "shared_classifier": shared}, f"{none}; as llama2.c's headerless format")
    tensors = _old_tensors(config, 0, 0)
    end = tensors[-1].offset + tensors[-1].nbytes
    if shared:                                   # behind the final norm lie only the tables of cosines and sines
        end += config.seq_len * config.head_dim * 4
    if end != file.size:
        raise FormatError(f"{none}; as llama2.c's headerless format: expected exactly {end} bytes for its sizes, found {file.size}")
    return Ak42File(0, config, False, tensors, {}, V0_HEADER_BYTES, end - V0_HEADER_BYTES, None, values, tuple(warnings))


# -- header ------------------------------------------------------------------------------------------------------------------


def _unpack(header: bytes, offset: int, code: str) -> Any:
    return struct.unpack_from("<" + code, header, offset)[0]


def _check_zero(name: str, header: bytes, begin: int, end: int) -> None:
    at = next((at for at in range(begin, end) if header[at]), None)
    if at is not None:
        raise FormatError(f"{name}: header: reserved byte {at}: expected 0, found {header[at]}")


def _check_extension(name: str, size: int, header: bytes, frame: Mapping[str, int]) -> None:
    found = crc32c(header[:252])
    if found != frame["crc_header"]:
        raise FormatError(f"{name}: header checksum at byte 252: expected 0x{frame['crc_header']:08x}, found 0x{found:08x}; "
                          "the file is damaged")
    if (frame["ext_bytes"], frame["ext_minor"]) != (EXTENSION_BYTES, 0):
        raise UnsupportedError(f"{name}: header: extension {frame['ext_bytes']}.{frame['ext_minor']} is not supported, "
                               f"{EXTENSION_BYTES}.0 is; a newer version may read it")
    if frame["file_bytes"] != size:
        raise FormatError(f"{name}: expected a file of {frame['file_bytes']} bytes, as its header says at byte 224, found {size}")


def _check_features(name: str, version: int, flags: int, values: Mapping[str, Any], config: ModelConfig) -> None:
    unknown = flags >> len(INCOMPAT)
    if unknown:
        raise UnsupportedError(f"{name}: header: incompat_flags at byte 76: 0x{flags:08x} has bits that are not known; "
                               "a newer version may read it")
    named = [feature for feature, bit in INCOMPAT.items() if flags & bit]
    if version < 3 and named:
        raise FormatError(f"{name}: header: incompat_flags at byte 76: expected none in version {version}, found {named[0]}")
    if version == 3 and not flags & DIRECTORY:
        raise FormatError(f"{name}: header: incompat_flags at byte 76: expected DIRECTORY in version 3, found 0x{flags:08x}")
    layout = values["rope_layout"]
    if layout > 1:
        raise UnsupportedError(f"{name}: header: rope_layout at byte 101: {layout} is not supported; 0 and 1 are")
    if layout and not flags & HALF_SPLIT:
        raise FormatError(f"{name}: header: rope_layout at byte 101: expected 0 without the feature ROPE_HALF_SPLIT, found 1")
    if version < 3 and not _is_llama2c(config):
        raise FormatError(f"{name}: header: expected llama2.c's constants in version {version}, found others")


def _is_llama2c(config: ModelConfig) -> bool:
    rope = (config.rope_theta, config.rope_scaling, config.rope_theta_local, config.rope_attn_factor, config.rotary_dim)
    scales = (config.attn_softcap, config.final_softcap, config.embedding_scale, config.residual_scale, config.attention_scale,
              config.logit_scale)
    return (rope == (10000.0, "none", 0.0, 1.0, config.head_dim) and config.norm_eps == 1e-5 and scales == (0, 0, 1, 1, 0, 1)
            and not config.n_experts and config.head_dim * config.n_heads == config.dim
            and not 0 < config.sliding_window < config.seq_len)


def _group_size(name: str, group: int, version: int, config: ModelConfig) -> int:
    where = f"{name}: header: group_size at byte 37"
    if group == 0 and version != 2:
        return 0
    if version == 1:
        raise FormatError(f"{where}: expected 0 in version 1, found {group}")
    if group < 1 or group & (group - 1) or group > config.dim:
        raise FormatError(f"{where}: expected a power of two up to dim ({config.dim}), found {group}")
    if group not in INT8_GROUPS:
        raise UnsupportedError(f"{where}: {group} is not supported; {INT8_GROUPS[-1]} to {INT8_GROUPS[0]} are; "
                               "convert the original weights")
    if version == 2:
        for what, length in (("dim", config.dim), ("n_heads * head_dim", config.n_heads * config.head_dim),
                             ("hidden_dim", config.hidden_dim)):
            if length % group:
                raise FormatError(f"{where}: expected a divisor of {what} ({length}), found {group}")
    return group


# -- v0, v1, v2: tensors by position ------------------------------------------------------------------------------------------


def _old_tensors(config: ModelConfig, version: int, group: int) -> tuple[Ak42Tensor, ...]:
    """Every tensor of the payload, in the payload's order."""
    queries, keys = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    dim, hidden = config.dim, config.hidden_dim
    shapes = {"attn_norm": (dim,), "ffn_norm": (dim,), "attn_q": (queries, dim), "attn_k": (keys, dim), "attn_v": (keys, dim),
              "attn_output": (dim, queries), "ffn_gate": (hidden, dim), "ffn_down": (dim, hidden), "ffn_up": (hidden, dim)}
    attention, feed_forward = ("attn_q", "attn_k", "attn_v", "attn_output"), ("ffn_gate", "ffn_down", "ffn_up")
    embedding, norm = ("token_embd", (config.vocab_size, dim)), ("output_norm", (dim,))

    def layers(*parts: str) -> list[tuple[str, tuple[int, ...]]]:
        return [(f"blk.{layer}.{part}", shapes[part]) for part in parts for layer in range(config.n_layers)]

    if version == 0:
        ordered = [embedding, *layers("attn_norm", *attention, "ffn_norm", *feed_forward), norm]
        offset = V0_HEADER_BYTES
    else:
        ordered = [*layers("attn_norm", "ffn_norm"), norm, embedding, *layers(*attention, *feed_forward)]
        offset = HEADER_BYTES
    if not config.shared_classifier:
        ordered.append(("output", (config.vocab_size, dim)))
    tensors = []
    for part, shape in ordered:
        if version == 0 and part == "output":
            offset += config.seq_len * config.head_dim * 4         # freq_cos and freq_sin, which nobody reads
        int8 = version == 2 and len(shape) == 2
        kind = TYPES["int8" if int8 else "f32"]
        nbytes = (shape[0] if len(shape) == 2 else 1) * kind.row_bytes(shape[-1], group if int8 else 0)
        tensors.append(Ak42Tensor(f"{part}.weight", kind, ROWS, shape, offset, nbytes, group if int8 else 0))
        offset += nbytes
    return tuple(tensors)


def _payload(file: InputFile, frame: Mapping[str, int], tensors: tuple[Ak42Tensor, ...]) -> tuple[int, int]:
    """Where v1's and v2's weights lie: the sizes say it, an extension repeats it."""
    size = tensors[-1].offset + tensors[-1].nbytes - HEADER_BYTES
    if not frame:
        if HEADER_BYTES + size != file.size:
            raise FormatError(f"{file.name}: expected exactly {HEADER_BYTES + size} bytes for its sizes, found {file.size}")
        return HEADER_BYTES, size
    if (frame["data_offset"], frame["data_bytes"]) != (HEADER_BYTES, size):
        raise FormatError(f"{file.name}: header: data at byte 192: expected {size} bytes at {HEADER_BYTES} for its sizes, "
                          f"found {frame['data_bytes']} at {frame['data_offset']}")
    if frame["directory_offset"] or frame["n_tensors"]:
        raise FormatError(f"{file.name}: header: directory at byte 176: expected none before version 3, "
                          f"found {frame['n_tensors']} tensors")
    return HEADER_BYTES, size


# -- v3: the directory --------------------------------------------------------------------------------------------------------


def _directory(file: InputFile, frame: Mapping[str, int], group: int) -> tuple[Ak42Tensor, ...]:
    name, count, offset = file.name, frame["n_tensors"], frame["directory_offset"]
    if not 1 <= count <= MAX_TENSORS:
        raise FormatError(f"{name}: header: n_tensors at byte 184: expected 1 to {MAX_TENSORS}, found {count}")
    if offset < HEADER_BYTES or offset + count * ENTRY_BYTES > file.size:
        raise FormatError(f"{name}: header: directory_offset at byte 176: expected {count} entries from {HEADER_BYTES} on inside "
                          f"{file.size} bytes, found {offset}")
    data = file.read(offset, count * ENTRY_BYTES)
    found = crc32c(data)
    if found != frame["crc_directory"]:
        raise FormatError(f"{name}: directory checksum at byte 188: expected 0x{frame['crc_directory']:08x}, found 0x{found:08x}; "
                          "the file is damaged")
    tensors = tuple(_entry(name, data[at : at + ENTRY_BYTES], group) for at in range(0, len(data), ENTRY_BYTES))
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen:
            raise FormatError(f"{name}: directory: the tensor '{escape(tensor.name)}' stands twice")
        seen.add(tensor.name)
    return tensors


def _entry(name: str, data: bytes, group: int) -> Ak42Tensor:
    raw = data[:NAME_BYTES].rstrip(b"\0")
    label = raw.decode("ascii", "replace")
    where = f"{name}: directory: {escape(label)}"
    if not raw or b"\0" in raw or not raw.isascii():
        raise FormatError(f"{where}: expected a name of 1 to {NAME_BYTES} ASCII characters, found '{escape(raw)}'")
    type_id, layout, n_dims, zero = struct.unpack_from("<4I", data, 64)
    dims = struct.unpack_from("<3Q", data, 80)
    offset, nbytes, crc, last = struct.unpack_from("<2Q2I", data, 104)
    if type_id not in BY_ID:
        raise UnsupportedError(f"{where}: type 0x{type_id:x} is not supported")
    kind = BY_ID[type_id]
    if zero or last:
        raise FormatError(f"{where}: expected reserved fields of 0, found {zero or last}")
    if not 1 <= n_dims <= 3 or any(dims[n_dims:]):
        raise FormatError(f"{where}: expected 1 to 3 dimensions, found {n_dims} of {dims}")
    shape = tuple(dims[:n_dims])
    if not all(1 <= size <= 1 << 32 for size in shape):
        raise FormatError(f"{where}: expected sizes of 1 to 2^32, found {shape}")
    group = group if kind.name == "int8" else 0
    if not kind.divides(shape[-1], group):
        raise FormatError(f"{where}: expected a row of whole {kind.name} blocks, found {shape[-1]} weights")
    if not has_layout(kind.name, layout) or (layout != ROWS and n_dims == 1):
        raise UnsupportedError(f"{where}: layout {layout} of {kind.name} is not supported")
    experts, rows = (1, *shape[:-1])[-2:] if n_dims > 1 else (1, 1)
    size = experts * (packed_bytes(kind.name, rows, shape[-1], group) if layout != ROWS
                      else kind.file_bytes(rows, shape[-1], group))
    if nbytes != size:
        raise FormatError(f"{where}: expected {size} bytes for its shape, found {nbytes}")
    return Ak42Tensor(label, kind, layout, shape, offset, nbytes, group, crc)


def _data_section(file: InputFile, frame: Mapping[str, int], tensors: tuple[Ak42Tensor, ...]) -> tuple[int, int]:
    name, begin, size = file.name, frame["data_offset"], frame["data_bytes"]
    directory_end = frame["directory_offset"] + frame["n_tensors"] * ENTRY_BYTES
    if begin % DATA_ALIGNMENT or begin < directory_end or begin + size > file.size:
        raise FormatError(f"{name}: header: data at byte 192: expected a multiple of {DATA_ALIGNMENT} behind the directory, inside "
                          f"{file.size} bytes, found {size} bytes at {begin}")
    end = begin
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        if tensor.offset % TENSOR_ALIGNMENT or tensor.offset < end or tensor.offset + tensor.nbytes > begin + size:
            raise FormatError(f"{name}: directory: {escape(tensor.name)}: expected a place of its own at a multiple of "
                              f"{TENSOR_ALIGNMENT} inside the data, found {tensor.nbytes} bytes at {tensor.offset}")
        end = tensor.offset + tensor.nbytes
    return begin, size


# -- trailer -------------------------------------------------------------------------------------------------------------------


def _trailer(file: InputFile, frame: Mapping[str, int], data_end: int) -> dict[str, bytes]:
    name, offset, size = file.name, frame["trailer_offset"], frame["trailer_bytes"]
    end = data_end
    if offset:
        begin = -(-data_end // 8) * 8
        if offset != begin:
            raise FormatError(f"{name}: header: trailer_offset at byte 208: expected {begin}, behind the data, found {offset}")
        end = offset + size
    elif size:
        raise FormatError(f"{name}: header: trailer_bytes at byte 216: expected 0 without a trailer, found {size}")
    if file.size != end:
        raise FormatError(f"{name}: header: expected data and trailer to end with the file at {file.size}, found {end}")
    if not offset:
        return {}
    if any(file.read(data_end, offset - data_end)):
        raise FormatError(f"{name}: expected zeros between data and trailer, found others at byte {data_end}")
    data = file.read(offset, size)
    found = crc32c(data)
    if found != frame["crc_trailer"]:
        raise FormatError(f"{name}: trailer checksum at byte 248: expected 0x{frame['crc_trailer']:08x}, found 0x{found:08x}; "
                          "the file is damaged")
    return _sections(name, data, offset)


def _sections(name: str, data: bytes, offset: int) -> dict[str, bytes]:
    sections: dict[str, bytes] = {}
    at = 0
    while at < len(data):
        where = f"{name}: trailer: the section at byte {offset + at}"
        if len(data) - at < 16:
            raise FormatError(f"{where}: expected a head of 16 bytes, found {len(data) - at}")
        tag = data[at : at + 4].decode("latin-1")
        zero, size = struct.unpack_from("<IQ", data, at + 4)
        end = at + 16 + size
        if zero or size > len(data) or -(-end // 8) * 8 > len(data):
            raise FormatError(f"{where}: expected '{escape(tag)}' inside the trailer, found {size} bytes")
        if any(data[end : -(-end // 8) * 8]):
            raise FormatError(f"{where}: expected zeros behind '{escape(tag)}', found others")
        if tag in sections:
            raise FormatError(f"{where}: expected '{escape(tag)}' once, found it again")
        sections[tag] = data[at + 16 : end]
        at = -(-end // 8) * 8
    return sections
