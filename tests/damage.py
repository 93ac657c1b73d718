"""Kinds of damage, as tables: what is done to a good Hugging Face folder, what files are that are no models, and what must be said.

The tests that do it are in test_damage.py. A row's `says` are patterns that the one line of the error must match: file, what was
expected, what was found.
"""
from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
import numpy as np
from models import ModelSpec

BAD, USAGE, REFUSED, IO_ERROR = 1, 2, 3, 74        # exit codes
LAYER0 = "model.layers.0."

# ---- what damage is made of ----

def change_config(folder: Path, **changes: Any) -> None:
    """Sets keys of config.json; ... removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is ...:
            config.pop(key, None)
        else:
            config[key] = value
    path.write_text(json.dumps(config))


def change_tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> None:
    """Rewrites the folder's one safetensors file after change(tensors)."""
    tensors = {name: np.frombuffer(raw, "<f4").reshape(shape).copy()
               for name, (_, shape, raw) in models.read_safetensors(folder).items()}
    change(tensors)
    models.write_safetensors(folder / "model.safetensors", tensors)


def set_value(name: str, index: tuple[int, ...], value: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        change_tensors(folder, lambda tensors: tensors[name].__setitem__(index, value))
    return damage


def cut(path: Path, size: int) -> None:
    with open(path, "r+b") as file:
        file.truncate(size)


# ---- Hugging Face folders ----

@dataclass(frozen=True)
class Row:
    """One kind of damage: what it does to a copy of a good folder, what the line says, how the command ends."""

    damage: Callable[[Path], object]
    says: tuple[str, ...]
    code: int = BAD
    spec: ModelSpec = field(default_factory=ModelSpec)
    args: tuple[str, ...] = ()
    out: str = "model.bin"


def replace_tensor(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        change_tensors(folder, lambda tensors: tensors.update({name: change(tensors[name])}))
    return damage


SHARDED = ModelSpec(shards=3)
SPEAKING = ModelSpec(tokenizer="bpe", vocab_size=403)
HTML = "<!DOCTYPE html><html><title>404</title></html>"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
LLAMA3 = ModelSpec(rope=models.LLAMA3)


def rope(**changes: Any) -> Callable[[Path], None]:
    """Changes the rope block; ... removes a key."""
    def damage(folder: Path) -> None:
        block = json.loads((folder / "config.json").read_text())["rope_parameters"]
        block.update(changes)
        change_config(folder, rope_parameters={key: value for key, value in block.items() if value is not ...})
    return damage


def change_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def lists(tensor: str, shard: str) -> Callable[[Path], None]:
    """The index says that the tensor is in that file."""
    return lambda folder: change_index(folder, lambda weight_map: weight_map.update({tensor: shard}))


FOLDERS: dict[str, Row] = {
    # files
    "missing shard": Row(lambda f: (f / "model-00002-of-00003.safetensors").unlink(), ("model-00002-of-00003.safetensors",),
                         spec=SHARDED),
    "shard outside the folder": Row(
        lists("model.norm.weight", "../x.safetensors"), (r"\.\./x\.safetensors",), spec=SHARDED),
    "index names a tensor that its shard lacks": Row(
        lists("model.norm.weight", "model-00001-of-00003.safetensors"),
        ("model.norm.weight", "model-0000[13]-of-00003.safetensors"), spec=SHARDED),
    "no config.json": Row(lambda f: (f / "config.json").unlink(), ("config.json",)),
    "no weights": Row(lambda f: (f / "model.safetensors").unlink(), ("hf", "safetensors")),
    "config.json is no JSON": Row(lambda f: (f / "config.json").write_text('{"dim": '), ("config.json", "JSON")),
    "config.json is a list": Row(lambda f: (f / "config.json").write_text("[1, 2]"), ("config.json", "object")),
    "safetensors is HTML": Row(
        lambda f: (f / "model.safetensors").write_text(HTML), ("model.safetensors", "HTML")),
    "safetensors is a git-lfs pointer": Row(
        lambda f: (f / "model.safetensors").write_text(LFS), ("model.safetensors", "git-lfs|git lfs")),
    "safetensors is empty": Row(lambda f: cut(f / "model.safetensors", 0), ("model.safetensors", "0 bytes|empty")),
    "safetensors header is longer than the file": Row(
        lambda f: (f / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}"), ("model.safetensors", str(1 << 40))),
    # what the config asks for
    "unknown architecture": Row(lambda f: change_config(f, architectures=["GPT2LMHeadModel"], model_type="gpt2"),
                                ("config.json", "architecture", "GPT2LMHeadModel", "LlamaForCausalLM")),
    "unknown rope type": Row(rope(rope_type="spiral"), ("config.json", "rope_type", "spiral", "llama3")),
    "unsupported rope type": Row(rope(rope_type="mrope", factor=4.0), ("config.json", "mrope")),
    "incomplete rope": Row(rope(high_freq_factor=...), ("config.json", "high_freq_factor"), spec=LLAMA3),
    "rope factor zero": Row(rope(rope_type="linear", factor=0.0), ("config.json", "factor", "0")),
    "bias": Row(lambda f: change_config(f, lm_head_bias=True), ("config.json", "lm_head_bias")),
    "another activation": Row(lambda f: change_config(f, hidden_act="gelu"), ("config.json", "hidden_act", "gelu", "silu")),
    "missing size": Row(lambda f: change_config(f, hidden_size=...), ("config.json", "hidden_size")),
    "size is text": Row(lambda f: change_config(f, num_hidden_layers="two"), ("config.json", "num_hidden_layers", "two")),
    "size is zero": Row(lambda f: change_config(f, num_attention_heads=0), ("config.json", "num_attention_heads", "0")),
    "heads do not divide": Row(lambda f: change_config(f, num_key_value_heads=3), ("config.json", "num_key_value_heads", "3")),
    "eps is negative": Row(lambda f: change_config(f, rms_norm_eps=-1e-5), ("config.json", "rms_norm_eps")),
    "two things at once": Row(lambda f: change_config(f, hidden_act="gelu", lm_head_bias=True), ("hidden_act", "lm_head_bias")),
    # tensors against the config
    "another dim": Row(lambda f: change_config(f, hidden_size=52, head_dim=12), ("52", "48")),
    "another vocabulary": Row(lambda f: change_config(f, vocab_size=300), ("embed_tokens", "300", "301")),
    "another hidden size": Row(lambda f: change_config(f, intermediate_size=96), (r"mlp\.", "96", "84")),
    "another head count": Row(lambda f: change_config(f, num_key_value_heads=4), ("k_proj", "48", "24")),
    "a layer too many": Row(lambda f: change_config(f, num_hidden_layers=3), (r"layers\.2\.",)),
    "a layer too few": Row(lambda f: change_config(f, num_hidden_layers=1), (r"layers\.1\.",)),
    "missing tensor": Row(lambda f: change_tensors(f, lambda t: t.pop(LAYER0 + "mlp.up_proj.weight")),
                          (r"layers\.0\.mlp\.up_proj",)),
    "left-over tensor": Row(lambda f: change_tensors(f, lambda t: t.update({"model.extra.weight": np.zeros(3, np.float32)})),
                            (r"model\.extra\.weight",)),
    "transposed tensor": Row(
        replace_tensor(LAYER0 + "mlp.down_proj.weight", lambda matrix: matrix.T.copy()),
        ("down_proj", r"48\D+84", r"84\D+48")),
    "tied and yet a head": Row(lambda f: change_config(f, tie_word_embeddings=True), ("tie_word_embeddings", "lm_head")),
    "not tied and no head": Row(lambda f: change_tensors(f, lambda t: t.pop("lm_head.weight")), ("lm_head",)),
    # values
    "NaN": Row(set_value(LAYER0 + "self_attn.v_proj.weight", (3, 5), np.nan), (r"attn_v|v_proj", "NaN", str(3 * 48 + 5)), REFUSED),
    "infinity": Row(set_value("model.embed_tokens.weight", (7, 1), -np.inf),
                    ("token_embd|embed_tokens", "(?i)inf", str(7 * 48 + 1)), REFUSED),
    "NaN in a norm": Row(set_value("model.norm.weight", (2,), np.nan), ("norm", "NaN"), REFUSED),
    "NaN while quantising": Row(set_value("lm_head.weight", (0, 0), np.nan), ("output|lm_head", "NaN"), REFUSED,
                                spec=ModelSpec(dim=96, hidden_dim=160), args=("--type", "q8_0")),
    "too large for f16": Row(set_value("lm_head.weight", (1, 1), 1e6), ("output|lm_head", "f16", "1000000|1e\\+?06"), REFUSED,
                             args=("--type", "f16")),
    # the tokenizer
    "tokenizer.json is no JSON": Row(lambda f: (f / "tokenizer.json").write_text("{"), ("tokenizer.json",),
                                     spec=SPEAKING),
    "more tokens than rows": Row(
        lambda f: shutil.copy(models.make_hf_model_numpy(f.parent / "other", SPEAKING, vocab_size=450) / "tokenizer.json", f),
        ("450", "403"), spec=SPEAKING),
    # what was asked for
    "unknown type": Row(lambda f: None, ("q9_k", "q4_0"), USAGE, args=("--type", "q9_k")),
    "unknown format": Row(lambda f: None, ("onnx", "gguf"), USAGE, args=("--format", "onnx")),
    "blocks do not divide": Row(lambda f: None, ("token_embd|embed_tokens", "48", "32", "--type"), args=("--type", "q8_0")),
    "version 1 does not fit": Row(lambda f: None, ("v1", "rope_theta", "500000", "ak42-v3"), spec=ModelSpec(rope_theta=5e5),
                                  args=("--format", "ak42-v1")),
    "version 2 without a group": Row(lambda f: None, ("(?i)group", "--type"), spec=ModelSpec(hidden_dim=82),
                                     args=("--format", "ak42-v2")),
    "folder holds no int8": Row(lambda f: None, ("int8", "f16"), USAGE, args=("--type", "int8"), out="folder"),
}


# ---- files that are no model ----

OTHERS: dict[str, tuple[bytes, str]] = {       # what a file begins with, what the line calls it
    "empty": (b"", "(?i)empty|0 bytes"),
    "three bytes": (b"24k", "(?i)bytes"),
    "zeros": (bytes(5000), "(?i)expected"),
    "ones": (b"\xff" * 5000, "(?i)expected"),
    "text": (b"Once upon a time there was a file.\n" * 40, "(?i)expected"),
    "html": (b"<!DOCTYPE html>\n<html><head><title>Not found</title></head></html>", "HTML"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git[- ]lfs"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "(?i)png|expected"),
    "elf": (b"\x7fELF\x02\x01\x01" + bytes(100), "(?i)elf|expected"),
    "zip": (b"PK\x03\x04" + bytes(100), "(?i)zip|torch|pickle|expected"),
    "baby-llm": (struct.pack("<I", 0x62616279) + bytes(400), "baby-llm"),
    "qwen3.c": (struct.pack("<I", 0x616A6331) + bytes(400), r"qwen3\.c"),
    "distributed-llama": (struct.pack("<I", 0x0A00ABCD) + bytes(400), "distributed-llama"),
    "ggml": (struct.pack("<I", 0x67676D6C) + bytes(400), "(?i)ggml|expected"),
    "ggjt": (struct.pack("<II", 0x67676A74, 3) + bytes(400), "(?i)ggjt|ggml|expected"),
    "gguf version 1": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version"),
    "gguf version 9": (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "version.*9|9.*version"),
    "gguf big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "(?i)endian"),
    "ak42 version 9": (struct.pack("<Ii", 0x616B3432, 9) + bytes(400), "version.*9|9.*version"),
    "ak42 backwards": (struct.pack(">Ii", 0x616B3432, 1) + bytes(400), "(?i)expected|endian|magic"),
}
