"""What goes through the formats and comes back: every tensor's bytes, config, tokenizer and chat template.

Bytes are compared with what the test wrote, with gguf-py's encoders and with format.md's layouts (ak42_layout.py), never with the
project's own idea of them. Logits of what came back are transformers'.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import ak42_layout
import gguf_reference
import models
import numpy as np
import oracle
import pytest
import texts
from models import ModelSpec

import converter

SPECS: dict[str, ModelSpec] = {
    "llama": ModelSpec(vocab_size=403, tokenizer="bpe", chat_template=models.CHATML, eos_ids=(2, 0), pad_id=2),
    "tied-spm": ModelSpec(seed=1, vocab_size=411, tie=True, tokenizer="spm", chat_template=models.INSTRUCT, schema=4,
                          norm_eps=1e-6),
    "llama3": ModelSpec(seed=2, head_dim=16, rope_theta=500000.0, vocab_size=403, tokenizer="bpe", rope=models.LLAMA3),
    "linear-schema4": ModelSpec(seed=3, rope={"type": "linear", "factor": 4.0}, schema=4, n_kv_heads=1, tie=True, vocab_size=301),
    "mistral": ModelSpec(seed=4, family="mistral", sliding_window=19, head_dim=16, vocab_size=410, tokenizer="spm",
                         chat_template=models.INSTRUCT),
    "three-shards": ModelSpec(seed=5, shards=3, n_layers=3, dim=60, n_heads=6, n_kv_heads=3),
}
DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}      # safetensors' words


def convert(source: Path, out: Path, **options: Any) -> Path:
    converter.convert(source, out, **options)
    return out


# ---- HF -> ak42 -> GGUF -> HF ----

@pytest.fixture(scope="module")
def there_and_back(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, Path]]:
    """there_and_back("llama", "bf16"): (the folder, what it became through ak42 and GGUF)."""
    done: dict[tuple[str, str], tuple[Path, Path]] = {}

    def get(name: str, dtype: str) -> tuple[Path, Path]:
        if (name, dtype) not in done:
            work = tmp_path_factory.mktemp(f"{name}-{dtype}")
            folder = models.make_hf_model(work / "hf", SPECS[name], dtype=dtype)
            gguf = convert(convert(folder, work / "model.bin"), work / "model.gguf")
            done[name, dtype] = folder, convert(gguf, work / "back")
        return done[name, dtype]

    return get


@pytest.mark.parametrize("name,dtype", [*product(SPECS, DTYPES)])
def test_every_tensor_comes_back_byte_equal(there_and_back: Callable, name: str, dtype: str) -> None:
    folder, back = there_and_back(name, dtype)
    before, after = models.read_safetensors(folder), models.read_safetensors(back)
    assert before.keys() == after.keys()
    for tensor, (kind, shape, raw) in before.items():
        assert (kind, shape) == (DTYPES[dtype], after[tensor][1])
        assert after[tensor] == (kind, shape, raw), tensor


@pytest.mark.parametrize("name", SPECS)
def test_what_comes_back_is_the_same_model_to_transformers(there_and_back: Callable, name: str) -> None:
    from transformers import AutoConfig

    folder, back = there_and_back(name, "f32")
    configs = [AutoConfig.from_pretrained(path).to_dict() for path in (folder, back)]
    for config in configs:
        for key in ("_name_or_path", "transformers_version", "dtype"):
            config.pop(key, None)
        config["rope_parameters"].pop("type", None)        # the old word for rope_type, which transformers carries along
    assert configs[0] == configs[1]
    ids = models.random_ids(1, 60, SPECS[name].vocab_size)
    logits = [models.transformers_logits(models.transformers_model(path), ids) for path in (folder, back)]
    assert np.array_equal(*logits)
    generation = [json.loads((path / "generation_config.json").read_text()) for path in (folder, back)]
    for key in ("bos_token_id", "eos_token_id"):
        assert generation[0].get(key) == generation[1].get(key)


@pytest.mark.parametrize("name", SPECS)
def test_both_generations_of_transformers_read_the_config(there_and_back: Callable, name: str) -> None:
    spec = SPECS[name]
    config = json.loads((there_and_back(name, "f32")[1] / "config.json").read_text())
    parameters = config["rope_parameters"]
    assert parameters["rope_theta"] == config["rope_theta"] == spec.rope_theta
    kind = (spec.rope or {}).get("rope_type", (spec.rope or {}).get("type", "default"))
    assert parameters["rope_type"] == kind
    if spec.rope:
        assert {**config["rope_scaling"], "type": kind, "rope_type": kind} == {**spec.rope, "type": kind, "rope_type": kind}
    assert config["architectures"] == ["MistralForCausalLM" if spec.family == "mistral" else "LlamaForCausalLM"]


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.tokenizer])
def test_the_tokenizer_comes_back(there_and_back: Callable, name: str) -> None:
    from transformers import AutoTokenizer

    folder, back = there_and_back(name, "f32")
    before, after = (AutoTokenizer.from_pretrained(path) for path in (folder, back))
    assert len(after) == len(before)
    for text in (*texts.TRAINING_TEXTS, *texts.PROMPTS, "", " ", "  a", "<|im_start|>x</s>", "\u2581"):
        ids = before(text).input_ids
        assert after(text).input_ids == ids, text
        assert after.decode(ids) == before.decode(ids)
    assert (after.bos_token, after.eos_token) == (before.bos_token, before.eos_token)
    assert after.chat_template == before.chat_template
    if SPECS[name].chat_template:
        messages = list(texts.CHATS[2])
        assert after.apply_chat_template(messages, tokenize=False) == before.apply_chat_template(messages, tokenize=False)


# ---- every source reaches every target ----

FILES = ("hf", "gguf", "ak42-v0", "ak42-v1", "ak42-v3", "ak42-v3-rows")


def out_name(target: str) -> str:
    return {"hf": "folder", "gguf": "model.gguf"}.get(target, "model.bin")


def options_of(target: str) -> dict[str, str]:
    return {"format": target.removesuffix("-rows"), "layout": "rows" if target.endswith("-rows") else "panel16"}


@pytest.mark.parametrize("first,second", [*product(FILES, FILES)])
def test_every_source_reaches_every_target(tiny_spm: Path, tmp_path: Path, first: str, second: str) -> None:
    """A model that every format can hold, through two of them and back to a folder."""
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    one = convert(tiny_spm, tmp_path / "1" / out_name(first), **options_of(first))
    two = convert(one, tmp_path / "2" / out_name(second), **options_of(second))
    back = convert(two, tmp_path / "back", format="hf")
    assert models.read_safetensors(back) == models.read_safetensors(tiny_spm)


@pytest.mark.parametrize("target", ["ak42-v3", "ak42-v3-rows", "gguf", "hf"])
def test_int8_comes_out_of_version_2(tiny_spm: Path, tmp_path: Path, target: str) -> None:
    """Version 2's codes and scales go into version 3 unchanged, and elsewhere by value."""
    v2 = convert(tiny_spm, tmp_path / "v2.bin", format="ak42-v2", type="int8")
    spec = ModelSpec()      # tiny_spm's sizes
    group = oracle.int8_group_size(spec.dim, spec.n_heads * spec.size_head, spec.hidden_dim)
    options = options_of(target) if "v3" in target else {"format": target, "type": "f32"}
    back = convert(convert(v2, tmp_path / out_name(target), **options), tmp_path / "back", format="hf", type="f32")
    for name, (_, shape, raw) in models.read_safetensors(back).items():
        values = np.frombuffer(models.read_safetensors(tiny_spm)[name][2], "<f4").reshape(shape)
        if len(shape) == 2:
            values = oracle.dequantise_int8(*oracle.quantise_int8(values, group)).astype(np.float32)
        assert raw == values.tobytes(), name


@pytest.mark.parametrize("target", ["ak42-v1", "ak42-v3", "gguf", "hf"])
def test_converting_twice_gives_the_same_bytes(tiny_spm: Path, tmp_path: Path, target: str) -> None:
    """No clock, no path and no chance in a file: what decides is the model."""
    outs = []
    for number in ("1", "2"):
        (tmp_path / number).mkdir()
        out = convert(tiny_spm, tmp_path / number / out_name(target), **options_of(target))
        files = sorted(out.iterdir()) if out.is_dir() else [out]
        outs.append([(path.name, path.read_bytes()) for path in files])
    assert outs[0] == outs[1]


# ---- blocks ----

BLOCK_SPEC = ModelSpec(seed=9, dim=96, hidden_dim=160, n_heads=6, n_kv_heads=2, vocab_size=301)


def hf_tensors() -> dict[str, np.ndarray]:
    """BLOCK_SPEC's weights, with rows that quantisers trip over: zeros, one value, ties, tiny and huge."""
    tensors = models.random_tensors(BLOCK_SPEC)
    matrix = tensors["model.layers.0.mlp.gate_proj.weight"]
    matrix[0] = 0
    matrix[1] = -3.5
    matrix[2] = np.resize([1.0, -1.0], 96)
    matrix[3] = np.arange(96) - 48
    matrix[4] *= np.float32(1e-7)
    matrix[5] *= np.float32(3e4)
    matrix[6, 5:] = 0
    matrix[7] = -np.abs(matrix[7])
    matrix[8] = np.abs(matrix[8])
    return tensors


@pytest.fixture(scope="module")
def block_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = models.make_hf_model_numpy(tmp_path_factory.mktemp("blocks") / "hf", BLOCK_SPEC)
    models.write_safetensors(folder / "model.safetensors", hf_tensors())
    return folder


def expected_rows(name: str, kind: str) -> bytes:
    """A tensor of BLOCK_SPEC under its GGUF name, as gguf-py writes it in this type; row-major."""
    import gguf

    values = hf_tensors()[gguf_reference.hf_name(name)]
    heads = {"attn_q": BLOCK_SPEC.n_heads, "attn_k": BLOCK_SPEC.n_kv_heads}.get(name.split(".")[-2])
    values = oracle.interleave_rows(values, heads) if heads else values
    if values.ndim == 1 or kind == "f32":
        return values.tobytes()
    if kind == "int8":
        codes, scales = oracle.quantise_int8(values, 32)
        return codes.tobytes() + scales.tobytes()
    if kind in ("f16", "bf16"):
        return models.to_bits(values, kind).tobytes()
    return gguf.quants.quantize(np.ascontiguousarray(values), gguf.GGMLQuantizationType[kind.upper()]).tobytes()


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"])
def test_gguf_blocks_are_those_of_gguf_py(block_folder: Path, tmp_path: Path, kind: str) -> None:
    from gguf import GGUFReader

    reader = GGUFReader(convert(block_folder, tmp_path / "model.gguf", type=kind))
    assert len(reader.tensors) == 9 * BLOCK_SPEC.n_layers + 3
    for tensor in reader.tensors:
        assert tensor.tensor_type.name.lower() == (kind if len(tensor.shape) == 2 else "f32")
        assert tensor.data.tobytes() == expected_rows(tensor.name, kind), tensor.name


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "int8", "q8_0", "q4_0", "q4_1"])
def test_panel16_is_a_permutation_of_the_same_blocks(block_folder: Path, tmp_path: Path, kind: str) -> None:
    """Both layouts hold the expected bytes, and each converts into the other's tensors, byte for byte."""
    panels = convert(block_folder, tmp_path / "panels.bin", type=kind, format="ak42-v3")
    rows = convert(block_folder, tmp_path / "rows.bin", type=kind, format="ak42-v3", layout="rows")
    files = {
        "panels": (panels, ak42_layout.PANEL16), "rows": (rows, ak42_layout.ROWS),
        "rows from panels": (convert(panels, tmp_path / "a.bin", layout="rows", format="ak42-v3"), ak42_layout.ROWS),
        "panels from rows": (convert(rows, tmp_path / "b.bin", format="ak42-v3"), ak42_layout.PANEL16),
    }
    for what, (path, layout) in files.items():
        raw = path.read_bytes()
        entries = ak42_layout.read_directory(raw)
        assert len(entries) == 9 * BLOCK_SPEC.n_layers + 3
        for entry in entries:
            data = raw[entry.offset:entry.offset + entry.nbytes]
            matrix = len(entry.shape) == 2
            assert (entry.type, entry.layout) == ((kind, layout) if matrix else ("f32", ak42_layout.ROWS)), (what, entry)
            assert entry.offset % 64 == 0
            if matrix and layout == ak42_layout.PANEL16:
                data = ak42_layout.unpack_panel16(data, kind, *entry.shape, group=32)
            assert data == expected_rows(entry.name, kind), (what, entry.name)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_1"])
def test_blocks_pass_between_gguf_and_ak42_untouched(block_folder: Path, tmp_path: Path, kind: str) -> None:
    """keep means keep: blocks are copied, not decoded and encoded again."""
    from gguf import GGUFReader

    first = convert(block_folder, tmp_path / "1.gguf", type=kind)
    second = convert(convert(first, tmp_path / "2.bin"), tmp_path / "3.gguf")
    before, after = ({tensor.name: tensor.data.tobytes() for tensor in GGUFReader(path).tensors} for path in (first, second))
    assert before == after


@pytest.mark.slow
def test_the_real_model_comes_back(smollm2_gguf: Path, tmp_path: Path) -> None:
    """Its Q4_1 and Q8_0 blocks through panel16 and back, every key of its tokenizer with them."""
    from gguf import GGUFReader

    back = convert(convert(smollm2_gguf, tmp_path / "model.bin"), tmp_path / "back.gguf")
    before, after = GGUFReader(smollm2_gguf), GGUFReader(back)
    blocks = [{tensor.name: (tensor.tensor_type, tensor.data.tobytes()) for tensor in reader.tensors} for reader in (before, after)]
    assert blocks[0] == blocks[1]
    for key, field in before.fields.items():
        # a byte-level vocabulary has no space prefix to add, whatever the key says
        if key.startswith(("tokenizer.", "llama.")) and key != "tokenizer.ggml.add_space_prefix":
            assert key in after.fields and after.fields[key].contents() == field.contents(), key


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    """transformers' progress bars have no place in a report."""
    from transformers.utils import logging

    logging.disable_progress_bar()
