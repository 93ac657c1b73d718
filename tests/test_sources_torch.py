"""Checkpoints that torch.save wrote: Hugging Face's pytorch_model.bin, Meta's consolidated.*.pth, llama2.c's ckpt.pt.

What is read is compared with torch's own reading and with the seeded weights; what is refused is built here, and a file that would
leave a mark if anything in it ran shows that nothing did. torch makes the fixtures; the reader has none.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from models import ModelSpec
from source_checks import check_weights, refused, values_of

import converter
from converter.arch import HALF_SPLIT, INTERLEAVED, reorder
from converter.errors import FormatError, UnsupportedError
from converter.sources import Source
from converter.sources.input_file import InputFile
from converter.sources.torch_file import read_torch, tensors_of

SPEC = ModelSpec(head_dim=16)
DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}

pytest_plugins = ["source_fixtures"]


def state_dict(spec: ModelSpec) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(values).to(DTYPES[spec.dtype]) for name, values in models.random_tensors(spec).items()}


def torch_folder(folder: Path, spec: ModelSpec, shards: int = 1, legacy: bool = False) -> Path:
    """A Hugging Face folder with pytorch_model.bin in place of the safetensors."""
    models.make_hf_model_numpy(folder, spec)
    (folder / "model.safetensors").unlink()
    tensors = state_dict(spec)
    names = list(tensors)
    if shards == 1:
        torch.save(OrderedDict(tensors), folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
        return folder
    weight_map = {}
    for shard in range(shards):
        file = f"pytorch_model-{shard + 1:05d}-of-{shards:05d}.bin"
        chosen = names[len(names) * shard // shards : len(names) * (shard + 1) // shards]
        torch.save({name: tensors[name] for name in chosen}, folder / file)
        weight_map |= dict.fromkeys(chosen, file)
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


# ---- Hugging Face folders ----


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(("shards", "legacy"), [(1, False), (3, False), (1, True)])
def test_pytorch_model_bin_is_read(tmp_path: Path, opened: Callable[..., Source], dtype: str, shards: int, legacy: bool) -> None:
    spec = ModelSpec(head_dim=16, dtype=dtype)
    source = opened(torch_folder(tmp_path / "hf", spec, shards, legacy))
    assert (source.format, source.rope_layout, source.warnings) == ("hf", HALF_SPLIT, [])
    assert {source.tensor(name)[0].name for name in source.names()} == {dtype}
    check_weights(source, spec)
    assert any(path.name.startswith("pytorch_model") for path in source.files)


def test_it_converts_to_the_same_bytes_as_safetensors(tmp_path: Path) -> None:
    spec = ModelSpec(dim=64, hidden_dim=96, dtype="bf16", tokenizer="bpe", vocab_size=403)
    ours = converter.convert(torch_folder(tmp_path / "torch", spec, 2), tmp_path / "torch.gguf", type="q8_0")
    theirs = converter.convert(models.make_hf_model_numpy(tmp_path / "hf", spec), tmp_path / "hf.gguf", type="q8_0")
    one, other = (report.out.read_bytes() for report in (ours, theirs))
    assert one == other
    assert converter.inspect(tmp_path / "torch")["parameters"] == converter.inspect(tmp_path / "hf")["parameters"]
    assert converter.verify(tmp_path / "torch")["tensors"] == ours.tensors


def test_a_tied_head_shares_its_storage(tmp_path: Path, opened: Callable[..., Source]) -> None:
    spec = ModelSpec(head_dim=16, tie=True)
    folder = torch_folder(tmp_path / "hf", spec)
    tensors = state_dict(spec)
    torch.save(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, folder / "pytorch_model.bin")
    check_weights(opened(folder), spec)


def test_views_and_transposed_matrices_are_read(tmp_path: Path, opened: Callable[..., Source]) -> None:
    """A slice of a larger storage, a transposed matrix, a column slice: rows come out as torch's contiguous() has them."""
    folder = torch_folder(tmp_path / "hf", SPEC)
    tensors = state_dict(SPEC)
    layer = "model.layers.0."
    wide = torch.cat([tensors[layer + "mlp.gate_proj.weight"], tensors[layer + "mlp.up_proj.weight"]], dim=1)
    both = torch.cat([tensors[layer + "self_attn.k_proj.weight"], tensors[layer + "self_attn.v_proj.weight"]])
    tensors |= {
        layer + "mlp.gate_proj.weight": wide[:, :48], layer + "mlp.up_proj.weight": wide[:, 48:],
        layer + "self_attn.k_proj.weight": both[:32], layer + "self_attn.v_proj.weight": both[32:],
        layer + "mlp.down_proj.weight": tensors[layer + "mlp.down_proj.weight"].t().contiguous().t(),
        "model.norm.weight": torch.nn.Parameter(tensors["model.norm.weight"]),
    }
    assert not tensors[layer + "mlp.down_proj.weight"].is_contiguous()
    torch.save(tensors, folder / "pytorch_model.bin")
    source = opened(folder)
    check_weights(source, SPEC)
    whole = source.read("blk.0.ffn_down.weight", 0, 48)
    assert np.array_equal(source.read("blk.0.ffn_down.weight", 7, 30), whole[7:30])
    torch.save(tensors | {"model.norm.weight": torch.ones(96)[::2]}, folder / "pytorch_model.bin")
    assert "model.norm.weight: a tensor with strides (2,) is not supported" in refused(folder, UnsupportedError)


def test_a_file_without_checksums_is_read(tmp_path: Path, opened: Callable[..., Source]) -> None:
    """torch writes zeros in their place where it is told to compute none."""
    torch.serialization.set_crc32_options(False)
    try:
        folder = torch_folder(tmp_path / "hf", SPEC)
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(folder / "pytorch_model.bin") as file:
        assert {member.CRC for member in file.infolist()} == {0}
    check_weights(opened(folder), SPEC)


def test_safetensors_win(tmp_path: Path, opened: Callable[..., Source]) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "hf", SPEC)
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    check_weights(opened(folder), SPEC)


def test_shards_and_index_agree(tmp_path: Path) -> None:
    folder = torch_folder(tmp_path / "hf", SPEC, 3)
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    assert refused(folder, FormatError) == ("hf: pytorch_model.bin.index.json names 3 files, 1 of them missing: "
                                            "pytorch_model-00002-of-00003.bin")


def test_nothing_needs_torch(tmp_path: Path) -> None:
    folder = torch_folder(tmp_path / "hf", SPEC)
    script = ("import sys; sys.modules['torch'] = None; import converter; "
              f"print(converter.convert({str(folder)!r}, {str(tmp_path / 'out.bin')!r}).tensors)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert (done.stdout.strip(), done.returncode) == ("21", 0), done.stderr


# ---- memory ----

LARGE = ModelSpec(dim=512, hidden_dim=1408, n_layers=3, n_heads=8, n_kv_heads=8, vocab_size=16000)
PEAK = """
import resource, sys, converter, converter.targets, converter.sources.lora, zipfile
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
converter.convert(sys.argv[1], sys.argv[2], type="q8_0")
print(peak() - before)
"""


@pytest.mark.parametrize("kind", ["hf", "transposed", "meta"])
def test_a_model_is_never_whole_in_memory(tmp_path: Path, kind: str) -> None:
    """100 MB of weights through 60 MB: what a conversion takes does not depend on the model."""
    if kind == "meta":
        path = meta_folder(tmp_path / "m", LARGE, 2, 1, dim=512, n_layers=3, multiple_of=128, max_seq_len=256)
    else:
        path = tmp_path / "m"
        models.make_hf_model_numpy(path, models.dataclasses.replace(LARGE, vocab_size=8)).joinpath("model.safetensors").unlink()
        (path / "config.json").write_text(json.dumps(models.config_json(LARGE)))
        tensors = state_dict(LARGE)
        if kind == "transposed":
            tensors = {name: tensor.t().contiguous().t() if tensor.ndim == 2 else tensor for name, tensor in tensors.items()}
        torch.save(tensors, path / "pytorch_model.bin")
    size = sum(file.stat().st_size for file in path.iterdir())
    done = subprocess.run([sys.executable, "-c", PEAK, str(path), str(tmp_path / "out.bin")], capture_output=True, text=True,
                          cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    assert size > 100e6 and int(done.stdout) < 60


# ---- Meta's files ----

ROWS = ("wq", "wk", "wv", "w1", "w3", "output")        # matrices whose rows are dealt out to the shards
META = {"self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
        "model.embed_tokens": "tok_embeddings", "model.norm": "norm", "lm_head": "output", "model.layers": "layers"}
# Sizes that 8 shards divide; the feed-forward length is Meta's rule: 2/3 of 4 x 64 is 170, up to a multiple of 16.
META_SPEC = ModelSpec(dim=64, hidden_dim=176, n_heads=8, n_kv_heads=8, vocab_size=304)
PARAMS = {"dim": 64, "n_layers": 2, "n_heads": 8, "multiple_of": 16, "norm_eps": 1e-5, "vocab_size": -1}


def meta_tensors(spec: ModelSpec) -> dict[str, torch.Tensor]:
    """The spec's weights under Meta's names, rotary pairs next to each other."""
    tensors = {}
    for name, values in models.random_tensors(spec).items():
        if "q_proj" in name or "k_proj" in name:
            values = values[reorder(0, len(values), spec.size_head, HALF_SPLIT, INTERLEAVED)]
        for theirs, ours in META.items():
            name = name.replace(theirs, ours)
        tensors[name] = torch.from_numpy(values).to(DTYPES[spec.dtype])
    return tensors


def meta_folder(folder: Path, spec: ModelSpec, shards: int, embedding_axis: int, **params: Any) -> Path:
    folder.mkdir()
    parts: list[dict[str, torch.Tensor]] = [{} for _ in range(shards)]
    for name, tensor in meta_tensors(spec).items():
        axis = embedding_axis if "tok_embeddings" in name else 0 if any(f"{key}.weight" in name for key in ROWS) else 1
        pieces = [tensor] * shards if tensor.ndim == 1 else list(tensor.chunk(shards, dim=axis))
        for part, piece in zip(parts, pieces, strict=True):
            part[name] = piece.clone()
    for number, part in enumerate(parts):
        part["rope.freqs"] = torch.ones(spec.size_head // 2)
        torch.save(part, folder / f"consolidated.{number:02d}.pth")
    (folder / "params.json").write_text(json.dumps(PARAMS | params))
    return folder


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(("shards", "axis"), [(1, 0), (2, 0), (2, 1), (8, 0), (8, 1)])
def test_shards_are_put_together(tmp_path: Path, opened: Callable[..., Source], dtype: str, shards: int, axis: int) -> None:
    """Llama 1 and 2 cut the embedding's columns, Llama 3 its rows."""
    spec = models.dataclasses.replace(META_SPEC, dtype=dtype)
    source = opened(meta_folder(tmp_path / "meta", spec, shards, axis))
    assert (source.format, source.rope_layout) == ("meta", INTERLEAVED)
    assert source.config.hidden_dim == 176 and not source.config.shared_classifier
    check_weights(source, spec)
    for name in ("token_embd.weight", "blk.1.ffn_down.weight", "blk.0.attn_q.weight"):
        whole = source.read(name, 0, source.tensor(name)[1][0])
        assert np.array_equal(source.read(name, 5, 47), whole[5:47]) and source.read(name, 9, 9).shape == (0, whole.shape[1])


def test_logits_of_meta_shards_are_those_of_the_hf_folder(tmp_path: Path) -> None:
    import pyllama

    spec = models.dataclasses.replace(META_SPEC, n_kv_heads=2)
    folder = meta_folder(tmp_path / "meta", spec, 2, 1, n_kv_heads=2, max_seq_len=256)
    converter.convert(folder, tmp_path / "meta.bin")
    converter.convert(models.make_hf_model_numpy(tmp_path / "hf", spec), tmp_path / "hf.bin")
    logits = []
    for name in ("meta.bin", "hf.bin"):
        with pyllama.Model(tmp_path / name, n_threads=1) as model, model.session() as session:
            logits.append(session.eval([1, 5, 9, 200, 3]))
    assert np.array_equal(*logits)


def test_a_tied_meta_checkpoint_is_told_by_its_bytes(tmp_path: Path, opened: Callable[..., Source]) -> None:
    spec = models.dataclasses.replace(META_SPEC, tie=True)
    folder = meta_folder(tmp_path / "meta", spec, 1, 0)
    tensors = meta_tensors(spec)
    torch.save(tensors | {"output.weight": tensors["tok_embeddings.weight"].clone()}, folder / "consolidated.00.pth")
    source = opened(folder)
    assert source.config.shared_classifier and "output.weight" not in source.names()
    check_weights(source, spec)


@pytest.mark.parametrize(
    ("params", "fields", "warning"),
    [
        ({}, {"trained_ctx": 4096, "rope_theta": 10000.0, "rope_scaling": "none"}, "max_seq_len is absent, 4096 taken, the default of Llama 2"),
        ({"norm_eps": 1e-6}, {"trained_ctx": 2048}, "the default of Llama 1"),
        ({"rope_theta": 1e6}, {"trained_ctx": 16384, "rope_theta": 1e6}, "the default of Code Llama"),
        ({"use_scaled_rope": True, "rope_theta": 500000.0},
         {"trained_ctx": 131072, "rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_ctx": 8192}, "rope_scaling_factor is absent, 8"),
        ({"use_scaled_rope": True, "rope_scaling_factor": 32.0}, {"rope_factor": 32.0, "rope_high_freq": 4.0}, "131072"),
        ({"max_seq_len": 64}, {"trained_ctx": 64}, None),
        ({"multiple_of": 88, "ffn_dim_multiplier": 0.7}, {"hidden_dim": 176}, "max_seq_len"),
    ],
)
def test_params_json(tmp_path: Path, opened: Callable[..., Source], params: dict[str, Any], fields: dict[str, Any], warning: str | None) -> None:
    source = opened(meta_folder(tmp_path / "meta", META_SPEC, 1, 0, **params))
    assert {key: getattr(source.config, key) for key in fields} == fields
    assert (not source.warnings) if warning is None else any(warning in text for text in source.warnings), source.warnings


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"dim": "64"}, "params.json: dim: expected an integer"),
        ({"moe": {"num_experts": 8}}, "params.json: moe: an object is not supported"),
        ({"window": 3}, "params.json: window: 3 is not supported, the key is not known"),
        ({"win\ndow": 3}, r"params.json: win\x0adow: 3 is not supported, the key is not known"),
        ({"multiple_of": 256}, "shapes not as the config says"),
        ({"n_layers": 3}, "9 tensors missing: blk.2.attn_norm.weight"),
        ({"vocab_size": 305}, "tok_embeddings.weight expected 305x64, found 304x64"),
        ({"n_heads": 0}, "params.json: n_heads: expected an integer from 1"),
    ],
)
def test_wrong_params_are_refused(tmp_path: Path, params: dict[str, Any], text: str) -> None:
    assert text in refused(meta_folder(tmp_path / "meta", META_SPEC, 2, 1, **params))


def test_shards_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = meta_folder(tmp_path / "meta", META_SPEC, 4, 1)
    last = folder / "consolidated.03.pth"
    whole = torch.load(last)
    torch.save(whole | {"norm.weight": torch.zeros(64)}, last)
    assert refused(folder) == "consolidated.03.pth: norm.weight: expected the same values as in consolidated.00.pth, found others"
    torch.save({name: tensor for name, tensor in whole.items() if name != "output.weight"}, last)
    assert refused(folder) == "consolidated.03.pth: expected the tensor output.weight, which consolidated.00.pth has, found none"
    torch.save(whole | {"output.weight": whole["output.weight"].half()}, last)
    assert "consolidated.03.pth: output.weight: expected 76x64 of F32, as in consolidated.00.pth, found 76x64 of F16" == refused(folder)
    (folder / "consolidated.01.pth").unlink()
    assert "found none of the name consolidated.01.pth" in refused(folder)


def test_a_tokenizer_above_the_weights_is_found(tmp_path: Path, opened: Callable[..., Source]) -> None:
    """Meta's downloads of Llama 1 and 2 hold one tokenizer.model for all sizes."""
    spec = models.dataclasses.replace(META_SPEC, vocab_size=403)
    (tmp_path / "tokenizer.model").write_bytes(models.spm_model(403))
    source = opened(meta_folder(tmp_path / "7B", spec, 1, 0))
    assert source.vocab is not None and len(source.vocab.tokens) == 403
    assert tmp_path.resolve() / "tokenizer.model" in [path.resolve() for path in source.files]


def test_the_original_folder_of_a_hugging_face_checkpoint(tmp_path: Path, opened: Callable[..., Source]) -> None:
    """Llama 3's: a tiktoken file beside the weights, the tokenizer.json and the template one above."""
    spec = models.dataclasses.replace(META_SPEC, vocab_size=403)
    models.write_tokenizer(tmp_path, models.dataclasses.replace(spec, tokenizer="bpe", chat_template=models.CHATML))
    folder = meta_folder(tmp_path / "original", spec, 1, 0)
    (folder / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    source = opened(folder)
    assert source.vocab is not None and source.vocab.kind == "bpe" and source.chat_template == models.CHATML
    assert [path.name for path in source.files][-1] == "tokenizer.json"
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedError, match="a tiktoken vocabulary .* give a tokenizer.json"):
        converter.convert(folder, tmp_path / "out.bin")


@pytest.mark.parametrize("scaled", [False, True])
def test_llama_3_s_tokenizer_model_beside_the_weights(tmp_path: Path, opened: Callable[..., Source], scaled: bool) -> None:
    """Beside the weights or above them: params.json says whose special tokens they are."""
    from test_tokenizer_tiktoken import file_of, odd

    import pyllama

    spec = models.dataclasses.replace(META_SPEC, vocab_size=len(odd()) + 256)
    folder = meta_folder(tmp_path / "meta", spec, 1, 0, **({"use_scaled_rope": True} if scaled else {}))
    for where in (tmp_path, folder):
        (where / "tokenizer.model").write_bytes(file_of(odd()))
        source = opened(folder)
        assert source.vocab.kind == "bpe" and len(source.vocab.tokens) == spec.vocab_size
        assert (b"<|eom_id|>" in source.vocab.tokens) == scaled and source.files[-1].name == "tokenizer.model"
    converter.convert(folder, tmp_path / "model.bin")
    with pyllama.Model(tmp_path / "model.bin") as model:
        assert model.encode("abc", add_bos=True) == [len(odd()), odd().index(b"abc")]
        assert set(model.info.eos_ids) == {len(odd()) + at for at in ((1, 8, 9) if scaled else (1, 9))}


# ---- llama2.c's ckpt.pt ----


def checkpoint(path: Path, spec: ModelSpec, prefix: str = "", **changes: Any) -> Path:
    """What llama2.c's train.py saves, an optimiser's state with it."""
    tensors = {prefix + name: tensor for name, tensor in meta_tensors(spec).items()}
    if spec.tie:
        tensors[prefix + "output.weight"] = tensors[prefix + "tok_embeddings.weight"]
    weights = [torch.nn.Parameter(tensor.clone()) for tensor in tensors.values()]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    args = {"dim": spec.dim, "n_layers": spec.n_layers, "n_heads": spec.n_heads, "n_kv_heads": spec.n_kv_heads,
            "vocab_size": spec.vocab_size, "multiple_of": 16, "max_seq_len": 256, "dropout": 0.0}
    saved = {"model": tensors, "optimizer": optimizer.state_dict(), "model_args": args, "iter_num": 7,
             "best_val_loss": torch.tensor(1.5), "config": {"device": "cpu", "learning_rate": 5e-4, "compile": True, "betas": (0.9, 0.95)}}
    torch.save(saved | changes, path)
    return path


@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("tie", [True, False])
def test_a_llama2c_checkpoint_is_read(tmp_path: Path, opened: Callable[..., Source], prefix: str, tie: bool) -> None:
    spec = models.dataclasses.replace(META_SPEC, tie=tie, n_kv_heads=2)
    source = opened(checkpoint(tmp_path / "ckpt.pt", spec, prefix))
    assert (source.format, source.rope_layout, source.warnings) == ("llama2.c", INTERLEAVED, [])
    assert (source.config.trained_ctx, source.config.shared_classifier, source.config.hidden_dim) == (256, tie, 176)
    check_weights(source, spec)


def test_a_checkpoint_converts_to_llama2cs_own_file(tmp_path: Path) -> None:
    """v0 by hand, from the layout that llama2.c's reader has: the sizes, then the tensors as train.py holds them."""
    spec = models.dataclasses.replace(META_SPEC, tie=True)
    path = checkpoint(tmp_path / "ckpt.pt", spec, "_orig_mod.")
    converter.convert(path, tmp_path / "model.bin", format="ak42-v0", tokenizer=_spm_bin(tmp_path, 304))
    data = (tmp_path / "model.bin").read_bytes()
    tensors = meta_tensors(spec)
    assert struct.unpack_from("<7i", data) == (64, 176, 2, 8, 8, 304, 256)
    at = 28
    for name in ("tok_embeddings.weight", "attention_norm.weight", "attention.wq.weight", "attention.wk.weight", "attention.wv.weight",
                 "attention.wo.weight", "ffn_norm.weight", "feed_forward.w1.weight", "feed_forward.w2.weight", "feed_forward.w3.weight",
                 "norm.weight"):
        for key in [name] if name in tensors else [f"layers.{layer}.{name}" for layer in range(2)]:
            values = tensors[key].numpy().tobytes()
            assert data[at : at + len(values)] == values, key
            at += len(values)


def _spm_bin(folder: Path, vocab_size: int) -> Path:
    """A tokenizer.bin of unknown, BOS, EOS, the bytes and letters."""
    tokens = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % i for i in range(256))]
    tokens += [bytes([65 + i]) for i in range(vocab_size - len(tokens))]
    data = struct.pack("<I", max(map(len, tokens))) + b"".join(struct.pack("<fI", -float(i), len(token)) + token
                                                              for i, token in enumerate(tokens))
    (folder / "tokenizer.bin").write_bytes(data)
    return folder / "tokenizer.bin"


def test_what_is_no_such_checkpoint_is_told(tmp_path: Path) -> None:
    torch.save(state_dict(SPEC), tmp_path / "x.pt")
    assert "expected llama2.c's checkpoint with the keys model and model_args, found model.embed_tokens.weight" in refused(tmp_path / "x.pt")
    torch.save([1], tmp_path / "x.pt")
    assert "found list" in refused(tmp_path / "x.pt")
    checkpoint(tmp_path / "x.pt", META_SPEC, model_args=3)
    assert refused(tmp_path / "x.pt") == "x.pt: model_args: expected a dict, found something else"
    checkpoint(tmp_path / "x.pt", META_SPEC, model={"a": 3})
    assert refused(tmp_path / "x.pt") == "x.pt: a: expected a tensor, found a int"
    for name in ("consolidated.00.pth", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin"):
        checkpoint(tmp_path / name, META_SPEC)
        assert "found a part of one; give the folder" in refused(tmp_path / name)


def test_inspect_lists_what_was_saved(tmp_path: Path) -> None:
    found = converter.inspect(checkpoint(tmp_path / "ckpt.pt", META_SPEC))
    assert (found["format"], found["metadata"]["model_args.dim"], found["metadata"]["iter_num"]) == ("torch", 64, 7)
    lines = {line["name"]: line for line in found["tensors"]}
    assert lines["model.norm.weight"] | {"offset": 0} == {"name": "model.norm.weight", "type": "F32", "shape": [64], "offset": 0, "bytes": 256}
    assert not any("optimizer" in name for name in lines)
    found = converter.inspect(meta_folder(tmp_path / "meta", META_SPEC, 2, 1))
    assert (found["format"], found["metadata"]["dim"], found["config"]["dim"]) == ("meta", 64, 64)
    assert {line["file"] for line in found["tensors"]} == {"consolidated.00.pth", "consolidated.01.pth"}
    assert found["parameters"] == sum(values.size for values in models.random_tensors(META_SPEC).values())
    json.dumps(found, allow_nan=False)


HARMLESS = {"set": {1, "a"}, "frozenset": frozenset({1}), "long": -(1 << 200), "longer": 1 << 4000, "bytes": b"x" * 300, "bytearray": bytearray(b"x"),
            "complex": 1 + 2j, "counter": Counter("abca"), "keys": {(1, 2): 3, 1.5: 2, None: 1, "s": 4}, "text": "\u00e9" * 300,
            "strided": torch.arange(24).reshape(2, 3, 4).transpose(0, 2), "slice": torch.arange(9.0)[::2],
            "deep": [({"set": {1}}, torch.ones(3))]}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_is_not_read_may_be_anything_harmless(tmp_path: Path, opened: Callable[..., Source], protocol: int, legacy: bool) -> None:
    """In the config and beside it: the weights are those of a checkpoint without it, in either form of every protocol."""
    path = checkpoint(tmp_path / "ckpt.pt", META_SPEC, config=HARMLESS, best_val_loss=torch.arange(6.0)[::3], iter_num=1 << 300,
                      optimizer={"state": HARMLESS})
    saved = torch.load(path, weights_only=False)
    torch.save(saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    source = opened(path)
    check_weights(source, META_SPEC)
    found = converter.inspect(path)
    assert "config.strided" in {line["name"] for line in found["tensors"]} and found["metadata"]["model_args.dim"] == 64
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(("key", "value", "found"), [("dim", {64}, "a set"), ("dim", b"64", "bytes"), ("n_layers", 1 << 4000, "a long integer")])
def test_but_not_among_the_sizes(tmp_path: Path, key: str, value: Any, found: str) -> None:
    args = torch.load(checkpoint(tmp_path / "ckpt.pt", META_SPEC), weights_only=False)["model_args"]
    path = checkpoint(tmp_path / "ckpt.pt", META_SPEC, model_args=args | {key: value})
    assert refused(path) == f"ckpt.pt: model_args: {key}: expected a text or a number, found {found}"
    path = checkpoint(tmp_path / "ckpt.pt", META_SPEC, model={"norm.weight": {1, 2}})
    assert refused(path) == "ckpt.pt: norm.weight: expected a tensor, found a set"


# ---- pickles that would run code ----


class Evil:
    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._reduced = call, arguments

    def __reduce__(self) -> Any:
        return self._reduced


def saved_with(tmp_path: Path, value: Any, protocol: int = 2) -> Path:
    torch.save(value, tmp_path / "ckpt.pt", pickle_protocol=protocol)
    return tmp_path / "ckpt.pt"


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("call", "name"),
    [(os.system, "posix.system"), (eval, "builtins.eval"), (exec, "builtins.exec"), (os.popen, "os.popen"), (getattr, "builtins.getattr"),
     (torch.load, "torch.serialization.load"), (np.frombuffer, "numpy.frombuffer"), (io.open, "io.open")],
)
def test_a_pickle_that_would_run_code_is_refused_by_name(tmp_path: Path, call: Callable[..., Any], name: str, protocol: int) -> None:
    canary = tmp_path / "canary"
    path = saved_with(tmp_path, {"model": {"a": Evil(call, f"touch {canary}")}, "model_args": {}}, protocol)
    name = name.replace("builtins", "__builtin__" if protocol == 2 else "builtins")       # as Python 2 called it
    text = refused(path, UnsupportedError)
    assert text == (f"ckpt.pt: pickle: {name} would be called while loading; only tensors, texts, numbers and containers are read, "
                    "and nothing was run")
    assert not canary.exists()


class Whole(torch.nn.Module):
    pass


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_whole_modules_and_scripts_are_refused(tmp_path: Path) -> None:
    torch.save(Whole(), tmp_path / "m.pt")
    assert "Whole would be called" in refused(tmp_path / "m.pt", UnsupportedError)
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "s.pt"))
    assert "a TorchScript archive is not supported" in refused(tmp_path / "s.pt", UnsupportedError)


OPCODES = [b"i", b"o", b"\x81", b"\x92", b"\x82", b"P", b"I", b"S", b"V", b"L", b"\x97", b"\x98", b"0", b"2"]


@pytest.mark.parametrize("opcode", OPCODES)
def test_opcodes_that_torch_does_not_write_are_refused(tmp_path: Path, opcode: bytes) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + opcode + b"posix\nsystem\n.")
    assert f"opcode 0x{opcode[0]:02x} at byte 2 is not read" in refused(path, UnsupportedError)


def archive_of(path: Path, data: bytes, more: dict[str, bytes] | None = None, **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("x/data.pkl", data)
        for name, content in (more or {}).items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "expected 1 bytes, found the end"), (b".", "expected a value on the stack, found none"), (b"N", "found the end"),
        (b"NN.", "expected one value, found more"), (b"N.N", "expected one pickle, found 1 bytes behind it"),
        (b"(t", "found the end"), (b"t.", "expected a mark on the stack"), (b"Nh\x07.", "expected a value remembered as 7"),
        (b"]K\x01s.", "on the stack"), (b"}K\x01K\x02e.", "expected a mark"), (b"}(K\x01u.", "an odd one"), (b"}NNs.", "found a NoneType"),
        (b"\x8a\xff" + bytes(255), "found the end"), (b"\x8b\xff\xff\xff\xffab", "found the end"), (b"N(N\x90.", "expected a set on the stack"),
        (b"c__builtin__\nset\nNR.", "a call of __builtin__.set is not read"), (b"X\xff\xff\xff\xffab", "found the end"),
        (b"X\x02\0\0\0\xff\xfe.", "a text in UTF-8"), (b"NQ.", "the description of a storage"), (b"Nb.", "on the stack"),
        (b"ccollections\nOrderedDict\nNR.", "a call of collections.OrderedDict is not read"), (b"NNR.", "a call of NoneType is not read"),
        (b"ctorch\nSize\n(K\x01K\x02tR.", "expected the arguments that torch writes"), (b"ctorch\nfloat32\n)R.", "a call of torch.float32"),
        (b"c" + b"a" * 400, "expected a name, found none"), (b"(" * 300_000, "found the end"), (b"K\x01\x85" + b"\x85" * 100_000 + b".", "found tuple"),
        (b"\x93.", "expected a value"), (b"K\x01K\x02\x93.", "expected the name of a class"),
    ],
)
def test_damaged_pickles_are_refused(tmp_path: Path, data: bytes, text: str) -> None:
    assert text in refused(archive_of(tmp_path / "x.pt", data))


def test_a_small_pickle_cannot_become_large(tmp_path: Path) -> None:
    """A list that is remembered, and handed to call after call; a text that is twice as long after each."""
    pairs = b"".join(b"M" + struct.pack("<H", i) + b"N\x86" for i in range(2000))
    for name in (b"collections\nOrderedDict", b"torch\nSize"):
        calls = (b"c" + name + b"\nh\0\x85R") * 4000
        assert "expected at most 4000000 values, found more" in refused(archive_of(tmp_path / "x.pt", b"]q\0(" + (
            pairs if b"Dict" in name else b"K\x01" * 2000) + b"e(" + calls + b"t."))
    doubled = b"(X\x40\0\0\0" + b"a" * 64 + b"q\0" + b"ctorch\ndevice\nh\0h\0\x86Rq\0" * 60 + b"t."
    assert "expected llama2.c's checkpoint" in refused(archive_of(tmp_path / "x.pt", doubled))


def tensor_pickle(storage: str = "ctorch\nFloatStorage\n", numel: int = 4, offset: int = 0, shape: str = "K\x02K\x02\x86",
                  strides: str = "K\x02K\x01\x86", flags: str = "\x89") -> bytes:
    rebuilt = f"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storage{storage}X\x01\0\0\x000X\x03\0\0\0cpuK{chr(numel)}tQ"
    return (f"}}X\x01\0\0\0a{rebuilt}K{chr(offset)}{shape}{strides}{flags})tRs.").encode("latin-1")


@pytest.mark.parametrize(
    ("changes", "data", "text"),
    [
        ({}, bytes(16), None),
        ({}, bytes(12), "expected a storage of 16 bytes, found 12"),
        ({}, None, "expected the storage 0 in the file, found none"),
        ({"offset": 1}, bytes(16), "inside its storage of 16 bytes, found one that ends at 20"),
        ({"shape": "K\x02K\x03\x86"}, bytes(16), "inside its storage"),
        ({"shape": "K\x02\x85"}, bytes(16), "expected the arguments that torch writes"),
        ({"strides": "K\x02J\xff\xff\xff\xff\x86"}, bytes(16), "expected the arguments that torch writes"),
        ({"shape": "\x8a\x08\0\0\0\0\0\0\0\x20K\x08\x86", "strides": "K\0K\0\x86"}, bytes(16), "below 2^63 bytes"),
        ({"storage": "ctorch\nComplexFloatStorage\n"}, bytes(16), "torch.ComplexFloatStorage would be called"),
        ({"storage": "N"}, bytes(16), "a storage of a known class"),
        ({"flags": "\x89N}X\x03\0\0\0neg\x88s"}, bytes(16), "expected the arguments that torch writes"),
    ],
)
def test_tensors_lie_inside_their_storages(tmp_path: Path, changes: dict[str, Any], data: bytes | None, text: str | None) -> None:
    path = archive_of(tmp_path / "x.pt", tensor_pickle(**changes), {} if data is None else {"x/data/0": data})
    if text is not None:
        assert text in refused(path)
        return
    with InputFile(path) as file:
        assert read_torch(file)["a"].shape == (2, 2)


def test_tensors_of_which_nothing_is_read_may_lie_as_they_like(tmp_path: Path) -> None:
    with InputFile(archive_of(tmp_path / "x.pt", tensor_pickle(strides="K\0K\0\x86"), {"x/data/0": bytes(16)})) as file:
        assert read_torch(file)["a"].strides == (0, 0)
        with pytest.raises(UnsupportedError, match="a: a tensor with strides .0, 0. is not supported; save it contiguous"):
            tensors_of(file.name, read_torch(file))


# ---- damaged archives ----


def whole_bytes(tmp_path: Path) -> bytes:
    return checkpoint(tmp_path / "whole.pt", META_SPEC).read_bytes()


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: archive_of(path, b"N.", compression=zipfile.ZIP_DEFLATED), "expected a member that is stored"),
        (lambda path: archive_of(path, b"N.", {"../x": b""}), "../x: expected plain names"),
        (lambda path: archive_of(path, b"N.", {"/etc/x": b""}), "/etc/x: expected plain names"),
        (lambda path: archive_of(path, b"N.", {"y/data.pkl": b""}), "with 2 members data.pkl"),
        (lambda path: archive_of(path, b"N.", {"x/byteorder": b"big"}), "a big-endian machine"),
        (lambda path: archive_of(path, b"N.", {"x/byteorder": b"little or not"}), "a big-endian machine"),
        (lambda path: archive_of(path, b"N.", {"x/code/a.py": b""}), "TorchScript"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(99)), "expected a whole zip archive"),
        (lambda path: path.write_bytes(b"PK\x03\x04junk" + archive_of(path, b"N.").read_bytes()), "expected its header at byte 0"),
    ],
)
def test_odd_archives_are_refused(tmp_path: Path, make: Callable[[Path], Any], text: str) -> None:
    make(tmp_path / "x.pt")
    assert text in refused(tmp_path / "x.pt")


def test_a_member_twice_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        archive_of(tmp_path / "x.pt", b"N.", {"x/data.pkl": b"N."})
    assert "expected plain names, each once" in refused(tmp_path / "x.pt")


def test_every_truncation_and_many_flips_are_errors_or_harmless(tmp_path: Path) -> None:
    """Of a file in which something is wrong, either nothing is read or what is read is of the right shapes."""
    data = whole_bytes(tmp_path)
    path = tmp_path / "x.pt"
    for size in range(0, len(data), len(data) // 37):
        path.write_bytes(data[:size])
        refused(path)
    rng = np.random.default_rng(5)
    places = [*rng.integers(0, len(data), 40), *(data.index(b"data.pkl") + np.arange(0, 4000, 61)), *(len(data) - np.arange(1, 2000, 43))]
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            converter.convert(path, tmp_path / "out.bin", force=True)
        except converter.ConvertError as error:
            assert str(error).isascii()


def test_a_legacy_file_that_lies_is_refused(tmp_path: Path) -> None:
    tensors = state_dict(SPEC)
    path = tmp_path / "model.pt"
    torch.save({"model": tensors, "model_args": {}}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    for cut in (10, 15, 20, 137, 500, len(data) - 1):
        path.write_bytes(data[:cut])
        refused(path)
    path.write_bytes(data + b"x")
    assert "expected a file of" in refused(path)
    first = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    evil = first + pickle.dumps(1001, protocol=2) + pickle.dumps({"little_endian": True}, protocol=2)
    path.write_bytes(evil + pickle.dumps(Evil(os.system, "false"), protocol=2))
    assert "posix.system would be called" in refused(path, UnsupportedError)
    path.write_bytes(first + pickle.dumps(1001, protocol=2) + pickle.dumps({"little_endian": False}, protocol=2))
    assert "big-endian" in refused(path, UnsupportedError)


def test_values_are_those_that_torch_reads(tmp_path: Path, opened: Callable[..., Source]) -> None:
    folder = torch_folder(tmp_path / "hf", ModelSpec(head_dim=16, dtype="f16"))
    source = opened(folder)
    loaded = torch.load(folder / "pytorch_model.bin", weights_only=True, mmap=True)
    for name in source.names():
        assert np.array_equal(values_of(source, name), loaded[source.label(name)].float().numpy())
