"""llama.cpp, through llama-cpp-python, opens the GGUF files that we write and says what we say.

Its KV cache is f16, so that one close choice in a text may fall otherwise: a first difference counts as equal reading only where
our two best logits lie closer than 1e-2, and at least 18 of 20 texts are equal. Skipped where llama-cpp-python is not installed:
it takes a long build and is not in the test extra.
"""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import families
import models
import numpy as np
import pytest
import texts

import converter
import pyllama

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed; pip install llama-cpp-python")

NEW_TOKENS = 32
EQUAL_TEXTS = 18       # of the 20 prompts
CLOSE = 1e-2           # gap of the two best logits that an f16 cache may turn round


def peer_greedy(llama: object, ids: list[int]) -> list[int]:
    """New ids of llama.cpp, greedy, from an empty cache; EOS included."""
    llama.reset()
    out = []
    for token in llama.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0, reset=True):
        out.append(token)
        if len(out) == NEW_TOKENS or token == llama.token_eos():
            return out
    return out


@pytest.mark.parametrize("type_name", ["f32", "f16"])
def test_llama_cpp_continues_as_we_do(smollm2_as: Callable[[str, str], Path], type_name: str) -> None:
    path = smollm2_as(type_name, "gguf")
    llama = llama_cpp.Llama(str(path), n_ctx=256, n_threads=2, n_threads_batch=2, n_gpu_layers=0, verbose=False)
    equal = 0
    with pyllama.Model(path) as model:
        for prompt in texts.PROMPTS:
            ids = model.encode(prompt)
            assert llama.tokenize(prompt.encode(), add_bos=False, special=False) == ids
            ours = model.generate(ids, max_new_tokens=NEW_TOKENS, temperature=0).token_ids
            theirs = peer_greedy(llama, ids)
            if ours == theirs:
                equal += 1
                continue
            first = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
            with model.session() as session:
                best = np.sort(session.eval(ids + ours[:first]))[-2:]
            assert best[1] - best[0] < CLOSE, (prompt, first, best)
    llama.close()
    assert equal >= EQUAL_TEXTS


def test_llama_cpp_reads_tokenizer_and_facts(smollm2_as: Callable[[str, str], Path]) -> None:
    path = smollm2_as("f16", "gguf")
    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    with pyllama.Model(path) as model:
        assert (llama.n_vocab(), llama.metadata["llama.context_length"]) == (49152, "8192")
        assert llama.token_eos() == model.info.eos_ids[0]
        for text in texts.TRAINING_TEXTS:
            assert llama.tokenize(text.encode(), add_bos=False, special=False) == model.encode(text)
        assert llama.metadata["tokenizer.chat_template"] == model.chat_template.source
    llama.close()


# ---- every family ----

# What llama.cpp has no key or no code for, which convert says (test_families.py has what it says of each).
NOT_THERE = ("mistral", "qwen2-window", "smollm3-listed", "gemma2", "phi3", "qwen3-moe-mixed", "qwen2-yarn", "smollm3-bias", "olmo2-bias",
             "qwen3-bias", "qwen3-moe-bias", "gemma3-bias", *families.NO_GGUF)


@pytest.mark.parametrize("name", [name for name in families.FAMILIES if name not in NOT_THERE])
def test_llama_cpp_gives_the_logits_of_every_family(name: str, tmp_path: Path) -> None:
    """f32 weights and cache: 1e-3, but for its table of GELU values in f16."""
    spec = families.FAMILIES[name]
    folder = families.make(tmp_path / "hf", spec, vocab_size=403)
    models.write_tokenizer(folder, models.ModelSpec(vocab_size=403, tokenizer="spm"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": "tiny"}))     # a name of phi3 has it look for Phi's tokens
    report = converter.convert(folder, tmp_path / "m.gguf")
    assert not any("llama.cpp" in warning for warning in report.warnings)
    ids = models.random_ids(spec.seed, 61, 403)
    with pyllama.Model(tmp_path / "m.gguf") as model, model.session(n_ctx=len(ids)) as session:
        ours = session.eval(ids, all_logits=True)
    llama = llama_cpp.Llama(str(tmp_path / "m.gguf"), n_ctx=len(ids), n_threads=2, n_threads_batch=2, n_gpu_layers=0, verbose=False,
                            logits_all=True, type_k=0, type_v=0, flash_attn=False)
    llama.eval(ids)
    theirs = np.array(llama.scores[:len(ids)])
    llama.close()
    assert np.abs(ours - theirs).max() <= (1e-2 if spec.gguf.startswith("gemma") else 1e-3)
