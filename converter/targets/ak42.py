"""ak42 files, v0 to v3, and which of them can hold a model.

Everything streams: tensors go out in file order in chunks, checksums grow along, and the header is written last. Knows nothing of
sources; what a tensor's rows are is the plan's affair. Called by targets/__init__.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..chat import derive_chat
from ..errors import RefusedError, UnsupportedError, UsageError
from ..manifest import json_bytes, manifest
from ..output import OutputFile, Stream, check_output
from ..panel import LAYOUT_CHOICES, PANEL16, ROWS, has_layout, layout_of, pack, packed_bytes
from ..quant import NF4_DQ, NF4_NESTED, NestedRows, group_size_for
from .ak42_header import (
    HEADER_BYTES,
    MAX_EOS,
    OLD_NORM_EPS,
    OLD_ROPE_THETA,
    Placed,
    features,
    header_bytes,
    incompat_flags,
    write_trailer,
)
from .base import Job, Meter, chat_warnings, chunks, matrices

if TYPE_CHECKING:
    from ..config import ModelConfig
    from ..plan import Plan, TensorPlan
    from ..quant import WeightType

ENTRY_BYTES = 128
NAME_BYTES = 64
TENSOR_ALIGNMENT = 64
DATA_ALIGNMENT = 4096
INT_LIMIT = 1 << 31              # llama2.c multiplies in int
ROPE_FACTORS = "rope_freqs.weight"

_LAYER_NORMS = ("attn_norm", "ffn_norm")
_LAYER_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down", "ffn_up")        # wq wk wv wo w1 w2 w3


# -- which version -----------------------------------------------------------------------------------------------------------


def choose_ak42_version(config: ModelConfig, weight_type: WeightType | str) -> int:
    """1 for f32 and 2 for int8 where llama2.c's constants hold, else 3."""
    name = weight_type if isinstance(weight_type, str) else weight_type.name
    version = {"f32": 1, "int8": 2}.get(name, 3)
    return 3 if fits(config, version) else version


def fits(config: ModelConfig, version: int) -> list[str]:
    """Why a model cannot be an ak42 file of that version, a field and a reason each; empty where it can."""
    if version == 3:
        return []
    problems = [f"{feature}: expected none, found it" for feature in features(config) if feature not in _CHECKED]
    if config.mlp_bias:
        problems.append("mlp_bias: expected none, found it")

    def expect(field: str, expected: object, found: object) -> None:
        if expected != found:
            problems.append(f"{field}: expected {expected}, found {found}")

    def expect_small(field: str, found: int) -> None:
        if found >= INT_LIMIT:
            problems.append(f"{field}: expected less than 2^31, found {found}")

    expect("rope_theta", OLD_ROPE_THETA, float(np.float32(config.rope_theta)))
    if np.float32(config.norm_eps) != np.float32(OLD_NORM_EPS):
        problems.append(f"norm_eps: expected {OLD_NORM_EPS}, found {config.norm_eps}")
    expect("head_dim", f"{config.dim / config.n_heads:g}", f"{config.head_dim}")
    expect("rotary_dim", config.head_dim, config.rotary_dim)
    expect("rope_scaling", "none", config.rope_scaling)
    expect_small("n_layers * n_kv_heads * head_dim", _cache_row(config))
    expect_small("vocab_size * dim", config.vocab_size * config.dim)
    if 0 < config.sliding_window < old_seq_len(config):
        problems.append(f"sliding_window: expected none below seq_len {old_seq_len(config)}, found {config.sliding_window}")
    if version == 2 and not _old_group(config):
        problems.append("dim, n_heads * head_dim, hidden_dim: expected multiples of 4, found "
                        f"{config.dim}, {config.n_heads * config.head_dim}, {config.hidden_dim}")
    return problems


# What `fits` tells field by field.
_CHECKED = ("ROPE_THETA", "ROPE_SCALING", "NORM_EPS", "HEAD_DIM", "SLIDING_WINDOW", "PARTIAL_ROTARY", "DIRECTORY")


def old_seq_len(config: ModelConfig) -> int:
    """seq_len in a header of v0 to v2: lowered so far that llama2.c's sizes stay below 2^31."""
    return min(config.seq_len, (INT_LIMIT - 1) // max(_cache_row(config), config.n_heads))


def _cache_row(config: ModelConfig) -> int:
    return config.n_layers * config.n_kv_heads * config.head_dim


def _old_group(config: ModelConfig) -> int:
    """v2's group_size; 0 where there is none."""
    return group_size_for((config.dim, config.n_heads * config.head_dim, config.hidden_dim))


# -- the doors ---------------------------------------------------------------------------------------------------------------


def write_ak42(plan: Plan, job: Job, version: int) -> list[Path]:
    """Writes job.out, for v0 a tokenizer.bin beside it too; the paths."""
    _check(plan, job, version)
    check_output(job.out, job.force, plan.source.paths)
    if version == 0:
        return _write_v0(plan, job)
    sections = [] if job.strict else _sections(plan)
    if version == 3:
        _write_v3(plan, job, sections)
    else:
        _write_old(plan, job, version, sections)
    return [job.out]


def warnings(plan: Plan, job: Job, version: int) -> list[str]:
    """What the file will not say, in a line each."""
    lines = []
    if version == 0 and plan.vocab is None:
        lines.append("there is no vocabulary, so no tokenizer.bin is written beside the model")
    if version < 3 and old_seq_len(plan.config) < plan.config.seq_len:
        lines.append(f"the header states a context of {old_seq_len(plan.config)}, as much as llama2.c can hold, "
                     f"instead of {plan.config.seq_len}")
    if version > 0 and not job.strict:
        if len(plan.config.eos_ids) > MAX_EOS:
            lines.append(f"the header holds the first {MAX_EOS} of {len(plan.config.eos_ids)} end-of-sequence ids")
        lines += chat_warnings(plan)
    return lines


def _check(plan: Plan, job: Job, version: int) -> None:
    """Raises where this file cannot be this version, before anything is written."""
    if job.layout not in LAYOUT_CHOICES:
        raise UsageError(f"--layout: expected one of {', '.join(LAYOUT_CHOICES)}, found {job.layout}")
    if version == 3:
        _check_v3(plan, job)
        return
    problems = fits(plan.config, version)
    if any(tensor.name == ROPE_FACTORS for tensor in plan.tensors):
        problems.append(f"{ROPE_FACTORS}: expected none, found rope factors")
    if problems:
        raise UnsupportedError(f"{job.shown}: ak42 v{version} cannot hold this model: {'; '.join(problems)}; use --format ak42-v3")
    wanted = "int8" if version == 2 else "f32"
    for tensor in plan.tensors:
        name = wanted if len(tensor.shape) == 2 else "f32"
        if tensor.type.name != name:
            raise UnsupportedError(f"{job.shown}: ak42 v{version} holds {wanted}: {tensor.name}: expected {name}, "
                                   f"found {tensor.type.name}; use --type {wanted} or --format ak42-v3")
        if name == "int8" and tensor.group_size != _old_group(plan.config):
            raise UnsupportedError(f"{job.shown}: {tensor.name}: expected int8 groups of {_old_group(plan.config)}, "
                                   f"found {tensor.group_size}; use --format ak42-v3")


def _check_v3(plan: Plan, job: Job) -> None:
    if job.strict:
        reasons = "; ".join(fits(plan.config, 1)) or f"weights of type {plan.weight_type}"
        raise UsageError(f"--strict: expected a model that ak42 v1 or v2 can hold, found {reasons}; leave --strict away")
    groups = sorted({tensor.group_size for tensor in plan.tensors if tensor.type.name == "int8"})
    if len(groups) > 1:
        raise UnsupportedError(f"{job.shown}: int8 groups: expected one size in a file, found {groups}")


# -- v0, v1, v2 --------------------------------------------------------------------------------------------------------------


def _old_order(plan: Plan, version: int) -> Iterator[TensorPlan]:
    """The tensors in the order of v0, where norms stand between the matrices, or of v1 and v2, where they come first."""
    tensors = {tensor.name: tensor for tensor in plan.tensors}

    def layers(name: str) -> Iterator[TensorPlan]:
        return (tensors[f"blk.{layer}.{name}.weight"] for layer in range(plan.config.n_layers))

    if version == 0:
        yield tensors["token_embd.weight"]
        for name in (_LAYER_NORMS[0], *_LAYER_MATRICES[:4], _LAYER_NORMS[1], *_LAYER_MATRICES[4:]):
            yield from layers(name)
        yield tensors["output_norm.weight"]
        return                                   # the rope tables and the head follow
    for name in _LAYER_NORMS:
        yield from layers(name)
    yield tensors["output_norm.weight"]
    yield tensors["token_embd.weight"]
    for name in _LAYER_MATRICES:
        yield from layers(name)
    if not plan.config.shared_classifier:
        yield tensors["output.weight"]


def _write_v0(plan: Plan, job: Job) -> list[Path]:
    """The headerless file of llama2.c's `run`, and the tokenizer.bin that it wants, which appears just before."""
    config = plan.config
    sidecar = job.out.with_name("tokenizer.bin")
    vocabulary = _sidecar_bytes(plan, job, sidecar)
    seq_len = old_seq_len(config)
    vocab_size = config.vocab_size if config.shared_classifier else -config.vocab_size
    header = struct.pack("<7i", config.dim, config.hidden_dim, config.n_layers, config.n_heads, config.n_kv_heads, vocab_size,
                         seq_len)
    meter = Meter(plan, job)
    size = len(header) + plan.nbytes + seq_len * config.head_dim * 4
    with OutputFile(job.out, job.force, plan.source.paths, size) as stream:
        stream.write(header)
        for tensor in _old_order(plan, 0):
            _write_rows(stream, tensor, job, meter)
        for piece in _rope_tables(config, seq_len):
            stream.write(piece)
        if not config.shared_classifier:
            _write_rows(stream, next(tensor for tensor in plan.tensors if tensor.name == "output.weight"), job, meter)
        if vocabulary is not None:
            with OutputFile(sidecar, job.force, plan.source.paths, len(vocabulary)) as beside:
                beside.write(vocabulary)
    return [job.out] if plan.vocab is None else [job.out, sidecar]


def _sidecar_bytes(plan: Plan, job: Job, sidecar: Path) -> bytes | None:
    """tokenizer.bin's bytes; None where there is no vocabulary, or where the file beside is just that already."""
    if plan.vocab is None:
        return None
    if plan.vocab.kind != "spm":
        raise UnsupportedError(f"{job.shown}: ak42 v0 comes with a tokenizer.bin: expected a SentencePiece vocabulary, "
                               f"found {plan.vocab.kind}; use --format ak42-v1")
    if sidecar.name == job.out.name:
        raise RefusedError(f"{job.shown}: expected another name, found that of the tokenizer.bin beside the model")
    data = plan.vocab.to_tokenizer_bin()
    with suppress(OSError):                      # what cannot be read is not equal
        if sidecar.stat().st_size == len(data) and sidecar.is_file() and sidecar.read_bytes() == data:
            return None
    check_output(sidecar, job.force, plan.source.paths)
    return data


def _rope_tables(config: ModelConfig, seq_len: int) -> Iterator[np.ndarray]:
    """freq_cos, then freq_sin, f32 (seq_len, head_dim / 2) each, in pieces. No reader looks at them."""
    frequencies = OLD_ROPE_THETA ** -(np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    for function in (np.cos, np.sin):
        for begin in range(0, seq_len, 4096):
            positions = np.arange(begin, min(begin + 4096, seq_len), dtype=np.float64)
            yield function(np.outer(positions, frequencies)).astype("<f4")


def _write_old(plan: Plan, job: Job, version: int, sections: list[tuple[str, bytes]]) -> None:
    """v1 and v2: header, payload in llama2.c's order, trailer."""
    meter = Meter(plan, job)
    end = HEADER_BYTES + plan.nbytes
    size = end if job.strict else end + _trailer_estimate(plan, sections)
    group = _old_group(plan.config) if version == 2 else 0
    with OutputFile(job.out, job.force, plan.source.paths, size) as stream:
        stream.write(bytes(HEADER_BYTES))
        crc = 0
        for tensor in _old_order(plan, version):
            crc = _write_rows(stream, tensor, job, meter, crc)
        placed = None
        if not job.strict:
            placed = Placed(data_offset=HEADER_BYTES, data_bytes=plan.nbytes, crc_payload=crc)
            note = manifest(plan, {"format": f"ak42-v{version}"})
            write_trailer(stream, [*sections, ("MANI", note)], placed, job.checksum)
        stream.patch(0, header_bytes(plan.config, version, old_seq_len(plan.config), group, placed))


def _write_rows(stream: Stream, tensor: TensorPlan, job: Job, meter: Meter, crc: int = 0) -> int:
    """A tensor in layout 0; the crc, carried on over it. int8: all codes of the matrix, then all scales."""
    if tensor.type.name == NF4_DQ:
        for begin, end in matrices(tensor):
            crc = _write_nested(stream, tensor, (begin, end), job, meter, crc)
        return crc
    for begin, end in matrices(tensor):
        scales = []
        for rows in chunks(tensor, begin, end):
            codes = rows
            if tensor.type.name == "int8":
                codes = np.ascontiguousarray(rows[:, :tensor.columns])
                scales.append(np.ascontiguousarray(rows[:, tensor.columns:]))
            stream.write(codes)
            crc = job.checksum(memoryview(codes), crc)
            meter.add(rows.nbytes, tensor.name)
        for part in scales:
            stream.write(part)
            crc = job.checksum(memoryview(part), crc)
    return crc


def _write_nested(stream: Stream, tensor: TensorPlan, matrix: tuple[int, int], job: Job, meter: Meter, crc: int) -> int:
    """A matrix of nf4-dq: its blocks, then what they share, the offset, and what 256 share, the nested absmax; the crc."""
    nested: list[np.ndarray] = []
    offsets: set[float] = set()
    for rows in chunks(tensor, *matrix):
        parts = NestedRows.of(rows, tensor.columns)
        packed = parts.packed()
        stream.write(packed)
        crc = job.checksum(memoryview(packed), crc)
        nested.append(parts.nested.reshape(-1))
        offsets.update(parts.offset[:, 0].tolist())
        meter.add(rows.nbytes, tensor.name)
    of_blocks = np.concatenate(nested)
    tables = of_blocks[::NF4_NESTED]
    if len(offsets) != 1 or not np.array_equal(np.repeat(tables, NF4_NESTED)[:len(of_blocks)], of_blocks):
        raise UnsupportedError(f"{job.shown}: {tensor.name}: nf4-dq: expected one nested absmax for every {NF4_NESTED} blocks in "
                               "the order of the file, found rows in another order; use --type nf4, which keeps every weight")
    table = np.concatenate((np.array([offsets.pop()], np.float32), tables)).astype("<f4").view(np.uint8)
    stream.write(table)
    return job.checksum(memoryview(table), crc)


# -- v3 ----------------------------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """One tensor's line in the directory."""

    tensor: TensorPlan
    layout: int
    offset: int
    nbytes: int
    crc: int = 0

    def to_bytes(self) -> bytes:
        dims = (*self.tensor.shape, 0, 0)[:3]
        return struct.pack(f"<{NAME_BYTES}s4I5Q2I", self.tensor.name.encode(), self.tensor.type.id, self.layout,
                           len(self.tensor.shape), 0, *dims, self.offset, self.nbytes, self.crc, 0)


def _write_v3(plan: Plan, job: Job, sections: list[tuple[str, bytes]]) -> None:
    """Header, directory, data, trailer."""
    entries = _entries(plan, job)
    data_offset = _data_offset(plan)
    end = entries[-1].offset + entries[-1].nbytes
    meter = Meter(plan, job)
    with OutputFile(job.out, job.force, plan.source.paths, end + _trailer_estimate(plan, sections)) as stream:
        stream.write(bytes(data_offset))
        for entry in entries:
            stream.pad_to(TENSOR_ALIGNMENT)
            write = _write_rows if entry.layout == ROWS else _write_panels
            entry.crc = write(stream, entry.tensor, job, meter)
        directory = b"".join(entry.to_bytes() for entry in entries)
        rope_factors = any(tensor.name == ROPE_FACTORS for tensor in plan.tensors)
        placed = Placed(data_offset=data_offset, data_bytes=end - data_offset, n_tensors=len(entries),
                        crc_directory=job.checksum(memoryview(directory), 0),
                        incompat_flags=incompat_flags(plan.config, rope_factors))
        note = manifest(plan, {"format": "ak42-v3", "layout": job.layout})
        write_trailer(stream, [*sections, ("MANI", note)], placed, job.checksum)
        stream.patch(HEADER_BYTES, directory)
        group = max(tensor.group_size for tensor in plan.tensors)
        stream.patch(0, header_bytes(plan.config, 3, plan.config.seq_len, group, placed))


def _entries(plan: Plan, job: Job) -> list[Entry]:
    """The directory, with everything but the checksums, which only writing tells."""
    entries = []
    offset = _data_offset(plan)
    for tensor in plan.tensors:
        if len(tensor.name.encode()) > NAME_BYTES:
            raise UnsupportedError(f"{job.shown}: {tensor.name}: expected a name of at most {NAME_BYTES} bytes")
        panels = job.layout == "panel16" and len(tensor.shape) > 1 and has_layout(tensor.type.name, PANEL16)
        nbytes = sum(tensor.type.file_bytes(end - begin, tensor.columns, tensor.group_size) for begin, end in matrices(tensor))
        if panels:
            nbytes = sum(packed_bytes(tensor.type.name, end - begin, tensor.columns, tensor.group_size)
                         for begin, end in matrices(tensor))
        offset = _aligned(offset, TENSOR_ALIGNMENT)
        entries.append(Entry(tensor, layout_of(tensor.type.name) if panels else ROWS, offset, nbytes))
        offset += nbytes
    return entries


def _data_offset(plan: Plan) -> int:
    return _aligned(HEADER_BYTES + len(plan.tensors) * ENTRY_BYTES, DATA_ALIGNMENT)


def _write_panels(stream: Stream, tensor: TensorPlan, job: Job, meter: Meter) -> int:
    """A matrix in its type's panels; its crc."""
    crc = 0
    for begin, end in matrices(tensor):
        for rows in chunks(tensor, begin, end):
            panels = pack(tensor.type.name, rows, len(rows), tensor.columns, tensor.group_size, layout_of(tensor.type.name))
            stream.write(panels)
            crc = job.checksum(memoryview(panels), crc)
            meter.add(rows.nbytes, tensor.name)
    return crc


# -- the trailer's sections --------------------------------------------------------------------------------------------------


def _sections(plan: Plan) -> list[tuple[str, bytes]]:
    """All but MANI, which is known last."""
    sections = []
    if plan.vocab is not None:
        sections.append(("TOKN", plan.vocab.to_tokn()))
    sections.append(("CONF", json_bytes(plan.hf_config or plan.config.to_hf("float32"))))
    if plan.config.layer_flags:
        sections.append(("LAYR", struct.pack(f"<{plan.config.n_layers}I", *plan.config.layer_flags)))
    if plan.generation_config is not None:
        sections.append(("GENC", json_bytes(plan.generation_config)))
    if plan.about:
        sections.append(("CARD", json_bytes(plan.about)))
    if plan.chat_template is not None:
        sections.append(("TMPL", plan.chat_template.encode()))
        chat = derive_chat(plan.chat_template, plan.vocab)
        if chat is not None:
            sections.append(("CHAT", chat))
    return sections


def _trailer_estimate(plan: Plan, sections: list[tuple[str, bytes]]) -> int:
    """At least about what the trailer takes, for reserving the file's size; the manifest's size is known only at its end."""
    note = 4096 + 512 * (len(plan.source.paths) + len(plan.tensors))
    return 8 + sum(24 + len(data) for _, data in sections) + note


def _aligned(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
