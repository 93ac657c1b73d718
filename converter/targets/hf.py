"""A Hugging Face folder: config.json, model.safetensors (in shards above 5 GB), the tokenizer's files, generation_config.json.

It holds f32, f16 and bf16 only. Tensors stream into safetensors files written here. Called by targets/__init__.py.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arch import hf_pieces
from ..errors import UnsupportedError, UsageError
from ..output import OutputFolder, check_output
from .base import Job, Meter, as_pieces, chunks, main_type

if TYPE_CHECKING:
    from ..plan import Plan, TensorPlan

SHARD_BYTES = 5 * 10**9
DTYPES = {"f32": ("F32", "float32"), "f16": ("F16", "float16"), "bf16": ("BF16", "bfloat16")}      # safetensors' word, torch's

_ROPE_FACTORS = "rope_freqs.weight"


def write_hf(plan: Plan, job: Job) -> list[Path]:
    """Writes the folder job.out; the paths of its files."""
    _check(plan, job)
    check_output(job.out, job.force, plan.source.paths, folder=True)
    tensors = as_pieces(plan.tensors, hf_pieces(plan.config), job.shown)
    texts = _texts(plan)
    shards = _shards(tensors, SHARD_BYTES)
    size = sum(tensor.nbytes for tensor in tensors) + sum(map(len, texts.values()))
    meter = Meter(plan, job)
    with OutputFolder(job.out, job.force, plan.source.paths, size) as folder:
        for name, data in texts.items():
            with folder.file(name, len(data)) as stream:
                stream.write(data)
        for name, shard in shards.items():
            head = _safetensors_head(shard)
            with folder.file(name, len(head) + sum(tensor.nbytes for tensor in shard)) as stream:
                stream.write(head)
                for tensor in shard:
                    for rows in chunks(tensor):
                        stream.write(rows)
                        meter.add(rows.nbytes, tensor.name)
        if len(shards) > 1:
            with folder.file("model.safetensors.index.json") as stream:
                stream.write(_json(_index(shards)))
        return [job.out / name for name in sorted(folder.names)]


def _check(plan: Plan, job: Job) -> None:
    foreign = next((tensor for tensor in plan.tensors if tensor.type.name not in DTYPES), None)
    if foreign is not None:
        raise UsageError(f"{job.shown}: a Hugging Face folder holds {', '.join(DTYPES)}: {foreign.name}: found "
                         f"{foreign.type.name}; say which with --type f32, f16 or bf16")
    if plan.foreign_rope_freqs:
        raise UnsupportedError(f"{job.shown}: {_ROPE_FACTORS}: expected factors that a config.json's llama3 scaling gives, "
                               "found others; a Hugging Face folder cannot hold them")


# -- the texts ---------------------------------------------------------------------------------------------------------------


def _texts(plan: Plan) -> dict[str, bytes]:
    """Every file but the weights' and their index, by name."""
    texts = {"config.json": _json(_config(plan), sort_keys=True)}
    if plan.generation_config is not None:
        texts["generation_config.json"] = _json(plan.generation_config, sort_keys=True)
    if plan.vocab is not None:
        tokenizer_config = dict(plan.vocab.to_tokenizer_config())
        if plan.chat_template is not None:
            tokenizer_config["chat_template"] = plan.chat_template
        texts["tokenizer.json"] = _json(plan.vocab.to_tokenizer_json())
        texts["tokenizer_config.json"] = _json(tokenizer_config)
    if plan.chat_template is not None:
        texts["chat_template.jinja"] = plan.chat_template.encode()
    return texts


def _config(plan: Plan) -> dict[str, Any]:
    """The source's own config.json, with what this project knows put right: dtype, shapes, rope in both spellings."""
    return {**(plan.hf_config or {}), **plan.config.to_hf(DTYPES[main_type(plan)][1])}


def _json(content: Any, sort_keys: bool = False) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, sort_keys=sort_keys) + "\n").encode()


# -- safetensors -------------------------------------------------------------------------------------------------------------


def _shards(tensors: list[TensorPlan], limit: int) -> dict[str, list[TensorPlan]]:
    """File name -> its tensors: in order, a new file where the next tensor would pass the limit."""
    shards: list[list[TensorPlan]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{i + 1:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards)}


def _safetensors_head(shard: list[TensorPlan]) -> bytes:
    """The length, and the JSON that names every tensor, filled up with spaces to a multiple of 8."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in shard:
        entries[tensor.name] = {"dtype": DTYPES[tensor.type.name][0], "shape": list(tensor.shape),
                                         "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _index(shards: dict[str, list[TensorPlan]]) -> dict[str, Any]:
    weight_map = {tensor.name: name for name, shard in shards.items() for tensor in shard}
    total = sum(tensor.nbytes for shard in shards.values() for tensor in shard)
    return {"metadata": {"total_size": total}, "weight_map": weight_map}
