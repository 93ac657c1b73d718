"""llama.cpp's own converter beside ours: what it makes of every family's folder runs here with transformers' logits, and says what
our GGUF of the same folder says.

Run by hand: AK42_LLAMA_CPP names a folder with llama.cpp's convert_hf_to_gguf.py, conversion/ and gguf-py/ (the source package of
llama-cpp-python holds them under vendor/). It knows tokenizers by the hash of what they make of one text, which no tiny one is
among, so that it is told a name.
"""
from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import families
import models
import numpy as np
import pytest
from families import FAMILIES, WRAPPED

import converter
import pyllama

LLAMA_CPP = Path(os.environ.get("AK42_LLAMA_CPP", ""))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (LLAMA_CPP / "convert_hf_to_gguf.py").is_file(),
                                                   reason="AK42_LLAMA_CPP names no folder with llama.cpp's convert_hf_to_gguf.py")]

VOCAB_SIZE, PROMPT = 384, 73
CONVERT = """
import sys
sys.path[:0] = [sys.argv[1] + "/gguf-py", sys.argv[1]]
import conversion.base, convert_hf_to_gguf
for one in vars(conversion.base).values():
    if isinstance(one, type) and hasattr(one, "get_vocab_base_pre"):
        one.get_vocab_base_pre = lambda self, tokenizer: "smollm"
sys.argv = ["", *sys.argv[2:]]
convert_hf_to_gguf.main()
"""
# What its files leave out, so that nobody can read it from them: windows of these families, a theta that grows with the text, experts'
# weights that do not add up to 1, an attention scale that is not the head's. And what it does not convert.
SILENT = {"qwen2-window", "smollm3-listed", "mistral", "llama-dynamic", "qwen3-moe-bias", "gemma2"}
NOT_CONVERTED = {"qwen3-moe-mixed"}
REFUSED = {"llama-longrope": "original_context_length"}
# Keys that only one of the two has: sizes that follow from others, what is the architecture's own, the same in another word, the token
# that it takes for a Gemma's end of turn.
OURS = ("general.alignment", ".vocab_size", ".rope.dimension_count", ".rope.freq_base", ".key_length", ".value_length",
        "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.add_space_prefix", "tokenizer.ggml.merges",
        ".expert_feed_forward_length", ".rope.scaling.type", ".rope.scaling.attn_factor", ".yarn_beta_fast", ".yarn_beta_slow",
        ".attention.sliding_window")
THEIRS = ("tokenizer.ggml.add_sep_token", "tokenizer.ggml.eot_token_id", ".rope.freq_base_swa", ".embedding_scale", ".yarn_attn_factor")
# And of which they say different things: it names a model after its folder, and has one file's scores for another's merges.
DIFFERENT = {"general.architecture", "general.name", "tokenizer.ggml.scores", "tokenizer.ggml.token_type",
             "tokenizer.ggml.add_space_prefix", "phi3.rope.scaling.original_context_length"}


@dataclass
class Case:
    folder: Path
    theirs: Path
    ids: list[int]
    expected: np.ndarray


def made(tmp_path: Path, name: str, *flags: str) -> Case:
    spec = (FAMILIES | WRAPPED)[name]
    model = families.build(spec, vocab_size=VOCAB_SIZE)
    folder, out = tmp_path / "hf", tmp_path / "theirs.gguf"
    model.save_pretrained(folder)
    spm = spec.gguf in ("gemma", "gemma2", "gemma3", "phi3") or name.startswith("mixtral")
    models.write_tokenizer(folder, models.ModelSpec(tokenizer="spm" if spm else "bpe", vocab_size=VOCAB_SIZE, schema=4))
    done = subprocess.run([sys.executable, "-c", CONVERT, str(LLAMA_CPP), str(folder), "--outtype", "f32", "--outfile", str(out), *flags],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    ids = models.random_ids(spec.seed, PROMPT, VOCAB_SIZE - bool(spec.wrapper))           # a vision model's last id is an image's
    return Case(folder, out, ids, models.transformers_logits(model, ids))


def evaluate(path: Path, ids: list[int]) -> np.ndarray:
    with pyllama.Model(path) as model, model.session(n_ctx=len(ids)) as session:
        return session.eval(ids, all_logits=True)


def assert_runs(case: Case, folder: Path) -> None:
    found = evaluate(case.theirs, case.ids)
    assert np.abs(found - case.expected).max() <= 1e-3
    for out in (folder / "again.bin", folder / "again.gguf"):
        converter.convert(case.theirs, out)
        assert np.array_equal(evaluate(out, case.ids), found)


@pytest.mark.parametrize("name", [name for name in (*FAMILIES, *WRAPPED) if name not in SILENT | NOT_CONVERTED | set(REFUSED)])
def test_its_file_runs_here(tmp_path: Path, name: str) -> None:
    case = made(tmp_path, name)
    assert_runs(case, tmp_path)
    converter.convert(case.folder, tmp_path / "ours.gguf", type="f32")
    theirs, ours = converter.inspect(case.theirs), converter.inspect(tmp_path / "ours.gguf")
    assert shapes(theirs) == shapes(ours)
    assert_same_keys(theirs["metadata"], ours["metadata"])


def shapes(inspected: dict[str, Any]) -> dict[str, Any]:
    return {tensor["name"]: tensor["shape"] for tensor in inspected["tensors"]}


def assert_same_keys(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """But for the architecture that Mistral 3 has of its own."""
    theirs = {key.replace("mistral3.", "llama.", 1): value for key, value in theirs.items()}
    ours = {key: value for key, value in ours.items() if not key.startswith("ak42.")}
    assert not [key for key in theirs if key not in ours and not key.endswith(THEIRS)]
    assert not [key for key in ours if key not in theirs and not key.endswith(OURS)]
    assert not {key for key in theirs if key in ours and theirs[key] != ours[key]} - DIFFERENT


@pytest.mark.parametrize("name", ["llama3", "qwen2", "qwen3-bias", "granite-bias", "gemma3", "smollm3-bias", "olmo2", "mistral3"])
def test_its_file_with_joined_attention_runs_here(tmp_path: Path, name: str) -> None:
    assert_runs(made(tmp_path, name, "--fuse-qkv"), tmp_path)


@pytest.mark.parametrize("name", REFUSED)
def test_its_file_that_says_too_little_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(pyllama.FormatError, match=REFUSED[name]):
        pyllama.Model(made(tmp_path, name).theirs)
