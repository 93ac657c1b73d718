"""llama.cpp, through llama-cpp-python, opens the GGUF files that we write and says what we say.

Its KV cache is f16, so that one close choice in a text may fall otherwise: a first difference counts as equal reading only where
our two best logits lie closer than 1e-2, and at least 18 of 20 texts are equal. Skipped where llama-cpp-python is not installed:
it takes a long build and is not in the test extra.
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pyllama
import texts

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
