"""What a file is, from its headers alone: a GGUF (one without tensors too), an ak42, .safetensors or torch file, a folder.

Describes any container, whatever model is in it; where it is one that is supported, also its config, its number of parameters and
the memory that it takes. Reads no weights. Strings come out as Unicode text without lone surrogates, so that they are valid JSON;
escaping them for a terminal is the printer's business. Called by users and by the `inspect` command.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import strict_json
from .config import ROPE_SCALING_FIELDS, ModelConfig, config_from_hf, differences
from .config_family import text_alone
from .config_files import config_from_gguf
from .errors import ConvertError
from .panel import LAYOUTS, packed_bytes
from .panel import TYPES as PANEL_TYPES
from .quant import BY_ID, TYPES
from .sources import bitsandbytes
from .sources.ak42_header import Ak42File, is_ak42, read_ak42, read_v0
from .sources.gguf_parts import GgufParts, open_gguf
from .sources.hf import strip_prefixes
from .sources.hf_folder import HfFolder
from .sources.input_file import InputFile
from .sources.meta import MetaSource, is_meta_folder
from .sources.safetensors_file import SafetensorsEntry, SafetensorsHeader, read_header
from .sources.torch_file import is_torch, read_torch
from .sources.wrapped import part_left_out

DEFAULT_CONTEXT = 4096             # or what the model was trained for, where that is less: the runtime's default
SAFETENSORS_TYPES = {"F32": TYPES["f32"], "F16": TYPES["f16"], "BF16": TYPES["bf16"]}


def inspect(path: str | Path, *, context: int | None = None) -> dict[str, Any]:
    """{"format", "version", "metadata", "tensors": [{"name", "type", "shape", "offset", "bytes"}]}, ready for JSON.

    A model has "config" (this project's words), "parameters" and "memory" (bytes at `context` positions) too, a model that is not
    supported "problem" instead. Raises ConvertError for a file that is damaged or of no kind that is read.
    """
    path = Path(path)
    if path.is_dir():
        return _clean(_meta(path, context) if is_meta_folder(path) else _folder(path, context))
    with InputFile(path) as file:
        head = file.read(0, min(8, file.size))
        if head.startswith(b"GGUF"):
            with closing(open_gguf(path, unknown_types=True)) as gguf:
                return _clean(_gguf(gguf, file.name, context))
        if is_torch(file.read(0, min(64, file.size))):
            return _clean(_torch(file))
        if not is_ak42(head) and (path.suffix == ".safetensors" or _may_be_safetensors(file)):
            return _clean(_safetensors(read_header(file)))
        return _clean(_ak42(read_ak42(file) if is_ak42(head) else read_v0(file), context))


# -- one container each --------------------------------------------------------------------------------------------------------


def _gguf(gguf: GgufParts, name: str, context: int | None) -> dict[str, Any]:
    tensors = [_tensor(tensor.name, tensor.type_name, tensor.shape, tensor.offset, tensor.nbytes if tensor.nbytes >= 0 else None)
               for tensor in gguf.tensors]
    described = {"format": "gguf", "version": gguf.version, "metadata": gguf.metadata, "tensors": tensors}
    if len(gguf.files) > 1:
        described["files"] = [file.name for file in gguf.files]
        for line, tensor in zip(tensors, gguf.tensors, strict=True):
            line["file"] = gguf.where[tensor.name].name
    if not gguf.tensors:
        return described
    shapes = {tensor.name: tensor.shape for tensor in gguf.tensors}
    rows = shapes.get("token_embd.weight", (None,))[0]
    try:
        config, _warnings = config_from_gguf(gguf.metadata, name, embedding_rows=rows,
                                             shared_classifier="output.weight" not in shapes, shapes=shapes)
    except ConvertError as error:
        return {**described, "problem": str(error)}
    config = _as_carried(config, gguf.metadata.get("ak42.config"), gguf.metadata.get("ak42.generation_config"))
    sizes = [_in_memory(BY_ID[tensor.type_id].name, tensor.shape) if tensor.type_id in BY_ID else max(tensor.nbytes, 0)
             for tensor in gguf.tensors]
    types = {tensor.type_name.lower() for tensor in gguf.tensors if len(tensor.shape) > 1}
    return described | _model(config, shapes, sum(sizes), types, context)


def _as_carried(stated: ModelConfig, config: Any, generation: Any) -> ModelConfig:
    """The config that a file of ours carries along, which says more (rope scaling, ids), where it is of the same model."""
    try:
        texts = [strict_json.load_object(text.encode(), "") if isinstance(text, str) else None for text in (config, generation)]
        carried = stated if texts[0] is None else config_from_hf(texts[0], "", texts[1])[0]
    except (ConvertError, UnicodeEncodeError):
        return stated
    return stated if differences(stated, carried, ROPE_SCALING_FIELDS) else carried


def _ak42(ak42: Ak42File, context: int | None) -> dict[str, Any]:
    metadata = {**ak42.fields, "sections": {tag: len(data) for tag, data in ak42.sections.items()}}
    tensors = []
    for tensor in ak42.tensors:
        line = _tensor(tensor.name, tensor.type.name.upper(), tensor.shape, tensor.offset, tensor.nbytes)
        line["layout"] = LAYOUTS[tensor.layout]
        if tensor.group_size:
            line["group_size"] = tensor.group_size
        tensors.append(line)
    shapes = {tensor.name: tensor.shape for tensor in ak42.tensors}
    size = sum(_in_memory(tensor.type.name, tensor.shape, tensor.group_size) for tensor in ak42.tensors)
    types = {tensor.type.name for tensor in ak42.tensors if len(tensor.shape) > 1}
    return {"format": "ak42", "version": ak42.version, "metadata": metadata, "tensors": tensors,
            **_model(ak42.config, shapes, size, types, context)}


def _safetensors(header: SafetensorsHeader) -> dict[str, Any]:
    return {"format": "safetensors", "version": None, "metadata": dict(header.metadata),
            "tensors": [_safetensors_line(name, entry) for name, entry in header.tensors.items()]}


def _folder(path: Path, context: int | None) -> dict[str, Any]:
    folder = HfFolder(path)
    described: dict[str, Any] | None = None
    try:
        metadata = folder.required_json("config.json")
        generation = folder.optional_json("generation_config.json")
        entries, where = folder.tensors()
        lines = [_safetensors_line(name, entry) | {"file": where[name].name} for name, entry in entries.items()]
        described = {"format": "hf", "version": None, "metadata": metadata, "files": [file.name for file in folder.opened],
                     "tensors": lines}
        plain, packed = bitsandbytes.plain_config(metadata, "config.json")
        config, _warnings = config_from_hf(plain, "config.json", generation)
        _alone, wrapper = text_alone(plain, "config.json")
        if packed:
            entries = bitsandbytes.unpacked(entries, where)
    except ConvertError as error:
        if described is None:
            raise
        return {**described, "problem": str(error)}
    finally:
        folder.close()
    shapes = {name: entry.shape for name, entry in entries.items() if not name.endswith("rotary_emb.inv_freq")
              and not (wrapper is not None and part_left_out(strip_prefixes(name), wrapper))
              and not (config.shared_classifier and name.endswith("lm_head.weight"))}
    size = sum(_in_memory(SAFETENSORS_TYPES[entry.dtype].name, entry.shape) if entry.dtype in SAFETENSORS_TYPES else entry.nbytes
               for name, entry in entries.items() if name in shapes)
    types = {entry.dtype.lower() for name, entry in entries.items() if name in shapes and len(entry.shape) > 1}
    return described | _model(config, shapes, size, types, context)


def _torch(file: InputFile) -> dict[str, Any]:
    """Tensors of the first two levels; what else was saved is metadata, but for an optimiser's state."""
    saved = read_torch(file)
    saved = saved if isinstance(saved, dict) else {"": saved}
    flat = {f"{key}.{inner}" if isinstance(value, dict) else str(key): leaf
            for key, value in saved.items() if key != "optimizer"
            for inner, leaf in (value.items() if isinstance(value, dict) else [("", value)])}
    return {"format": "torch", "version": None,
            "metadata": {key: value for key, value in flat.items() if isinstance(value, (str, int, float))},
            "tensors": [_safetensors_line(key, value) for key, value in flat.items() if isinstance(value, SafetensorsEntry)]}


def _meta(path: Path, context: int | None) -> dict[str, Any]:
    """Meta's folder: every shard's own tensors, and the model that they are together."""
    source = MetaSource(path)
    try:
        lines = [_safetensors_line(label, entry) | {"file": file.name} for file, label, entry in source.slices()]
        shapes = {name: source.tensor(name)[1] for name in source.names()}
        types = {source.tensor(name)[0].name for name, shape in shapes.items() if len(shape) > 1}
        size = sum(_in_memory(source.tensor(name)[0].name, shape) for name, shape in shapes.items())
        return {"format": "meta", "version": None, "metadata": dict(source.params), "files": [file.name for file in source.files],
                "tensors": lines, **_model(source.config, shapes, size, types, context)}
    finally:
        source.close()


def _safetensors_line(name: str, entry: SafetensorsEntry) -> dict[str, Any]:
    return _tensor(name, entry.dtype, entry.shape, entry.offset, entry.nbytes)


def _tensor(name: str, type_name: str, shape: Iterable[int], offset: int, nbytes: int | None) -> dict[str, Any]:
    return {"name": name, "type": type_name, "shape": list(shape), "offset": offset, "bytes": nbytes}


def _may_be_safetensors(file: InputFile) -> bool:
    """A header length that fits the file, with an object behind it."""
    if file.size < 10:
        return False
    length = int.from_bytes(file.read(0, 8), "little")
    return 2 <= length <= file.size - 8 and file.read(8, 1) == b"{"


# -- models --------------------------------------------------------------------------------------------------------------------


def _model(config: ModelConfig, shapes: Mapping[str, tuple[int, ...]], weight_bytes: int, types: set[str],
           context: int | None) -> dict[str, Any]:
    parameters = sum(math.prod(shape) for name, shape in shapes.items() if not name.startswith("rope_"))
    n_ctx = min(config.trained_ctx, DEFAULT_CONTEXT) if context is None else context
    kv_type, kv_bytes = ("f32", 4) if types == {"f32"} else ("f16", 2)          # the runtime's defaults
    cache = 2 * config.n_layers * n_ctx * config.n_kv_heads * config.head_dim * kv_bytes
    return {"config": asdict(config), "parameters": parameters,
            "memory": {"context": n_ctx, "weights": weight_bytes, "kv_cache": cache, "kv_type": kv_type,
                       "total": weight_bytes + cache}}


def _in_memory(type_name: str, shape: tuple[int, ...], group_size: int = 0) -> int:
    """Bytes of a tensor while the model runs: matrices as panels of 16 rows, vectors as f32."""
    if len(shape) < 2:
        return 4 * math.prod(shape)
    type_name = "nf4" if type_name == "nf4-dq" else type_name            # whose absmax are f32 in memory
    kind = TYPES[type_name]
    if type_name in PANEL_TYPES and kind.divides(shape[-1], group_size):
        return math.prod(shape[:-2]) * packed_bytes(type_name, shape[-2], shape[-1], group_size)
    return math.prod(shape[:-1]) * kind.row_bytes(shape[-1], group_size)


def _clean(value: Any) -> Any:
    """The same for JSON: no lone surrogates, no NaN, no tuples."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value
