"""The real model, SmolLM2-135M-Instruct, end to end: logits, greedy text and conversations are transformers'.

Its GGUF file has Q4_1 matrices; "fp32" is what gguf-py's decoders make of them, in a transformers LlamaForCausalLM on one side
and through our converter in an F32 file on the other. Tiny models and every other shape are in test_parity.py.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import texts
from gguf_reference import GgufReference

import pyllama

MAX_DIFF, MEAN_DIFF = 1e-3, 1e-4       # fp32 logits against transformers
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def reference(smollm2_gguf: Path) -> GgufReference:
    return GgufReference(smollm2_gguf)


@pytest.fixture(scope="module")
def transformers_smollm2(reference: GgufReference) -> Any:
    return reference.model()


@pytest.fixture(scope="module")
def hf_tokenizer(reference: GgufReference) -> Any:
    return reference.tokenizer()


@pytest.fixture(scope="module")
def model(smollm2_as: Callable[[str, str], Path]) -> Iterator[pyllama.Model]:
    with pyllama.Model(smollm2_as("f32", "ak42"), n_ctx=2304) as opened:
        yield opened


@pytest.fixture(scope="module")
def english_ids(hf_tokenizer: Any) -> list[int]:
    return hf_tokenizer(texts.english()).input_ids


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(found - expected)
    assert difference.max() <= MAX_DIFF and difference.mean() <= MEAN_DIFF, (difference.max(), difference.mean())


def test_facts(model: pyllama.Model) -> None:
    info = model.info
    assert (info.format, info.architecture, info.weight_type) == ("ak42 v3", "llama", "f32")
    assert (info.dim, info.hidden_dim, info.n_layers, info.n_heads, info.n_kv_heads) == (576, 1536, 30, 9, 3)
    assert (info.head_dim, info.vocab_size, info.trained_ctx) == (64, 49152, 8192)
    assert info.shared_classifier and info.rope_theta == 100000.0 and info.eos_ids == (2,)
    assert info.n_params == 134_515_008


def test_token_ids(model: pyllama.Model, hf_tokenizer: Any) -> None:
    for text in (*texts.PROMPTS, *texts.TRAINING_TEXTS, texts.english()):
        assert model.encode(text) == hf_tokenizer(text, split_special_tokens=True).input_ids
        assert model.decode(model.encode(text)) == text


def test_logits_of_a_200_token_prompt(model: pyllama.Model, transformers_smollm2: Any, english_ids: list[int]) -> None:
    ids = english_ids[:200]
    expected = models.transformers_logits(transformers_smollm2, ids)
    with model.session() as session:
        assert_close(session.eval(ids, all_logits=True), expected)
    assert expected.std() > 1


@pytest.mark.parametrize("format_name", ["gguf", "source"])
def test_logits_through_gguf(smollm2_as: Callable[[str, str], Path], smollm2_gguf: Path, transformers_smollm2: Any,
                             english_ids: list[int], format_name: str) -> None:
    """Our own F32 GGUF file, and the Q4_1 file itself with the kernels that round nothing."""
    ids = english_ids[200:400] if format_name == "gguf" else english_ids[200:224]
    expected = models.transformers_logits(transformers_smollm2, ids)
    path, isa = (smollm2_as("f32", "gguf"), None) if format_name == "gguf" else (smollm2_gguf, "reference")
    with pyllama.Model(path, isa=isa, kv_type="f32") as opened, opened.session() as session:
        assert_close(session.eval(ids, all_logits=True), expected)


@pytest.mark.slow
def test_logits_past_position_2048(model: pyllama.Model, transformers_smollm2: Any, english_ids: list[int]) -> None:
    """Every position of 2,112 tokens, with the full attention span behind the last of them."""
    import torch

    ids = english_ids[:2112]
    with torch.inference_mode():
        cached = transformers_smollm2(torch.tensor([ids[:2048]]), use_cache=True, logits_to_keep=64)
        rest = transformers_smollm2(torch.tensor([ids[2048:]]), past_key_values=cached.past_key_values).logits[0].numpy()
    with model.session() as session:
        for at in range(0, 1984, 64):
            session.eval(ids[at:at + 64])
        assert_close(session.eval(ids[1984:2048], all_logits=True), cached.logits[0].numpy())
        assert_close(session.eval(ids[2048:], all_logits=True), rest)


def test_logits_at_positions_past_2048(model: pyllama.Model, transformers_smollm2: Any, english_ids: list[int]) -> None:
    """Rotary positions far out, the everyday way: 96 tokens that are said to stand at 2,200 and on, after 32 at the start."""
    import torch

    ids = english_ids[:128]
    positions = [*range(32), *range(2200, 2296)]
    with torch.inference_mode():
        expected = transformers_smollm2(torch.tensor([ids]), position_ids=torch.tensor([positions]),
                                        attention_mask=_causal(len(ids)), use_cache=False).logits[0].numpy()
    with model.session() as session:
        assert_close(session.eval(ids, positions=positions, all_logits=True), expected)


def _causal(n: int) -> Any:
    """An explicit mask, so that positions with gaps are not taken for packed sequences."""
    import torch

    return torch.full((n, n), float("-inf")).triu(1)[None, None]


def test_greedy_text_is_what_the_logits_of_transformers_choose(model: pyllama.Model, transformers_smollm2: Any,
                                                               hf_tokenizer: Any) -> None:
    """64 tokens on 20 prompts: transformers reads prompt and continuation at once, and at every step its own largest logit is our
    next token. That is what its generate would have chosen, told in a tenth of the time. Our side goes through the weights with 16
    prompts at once; the first prompt alone shows that this is the same."""
    generations = model.generate_batch(texts.PROMPTS, max_new_tokens=NEW_TOKENS, temperature=0)
    assert generations[0].token_ids == model.generate(texts.PROMPTS[0], max_new_tokens=NEW_TOKENS, temperature=0).token_ids
    for prompt, found in zip(texts.PROMPTS, generations, strict=True):
        ids = hf_tokenizer(prompt).input_ids
        assert found.prompt_tokens == len(ids)
        assert len(found.token_ids) == NEW_TOKENS or found.finish_reason == "stop"
        logits = models.transformers_logits(transformers_smollm2, ids + found.token_ids)[len(ids) - 1:-1]
        assert logits.argmax(axis=1).tolist() == found.token_ids, prompt


def generate(transformers_model: Any, hf_tokenizer: Any, prompt: str) -> list[int]:
    """New ids of transformers' own greedy generate."""
    inputs = hf_tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    out = transformers_model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=2)
    return out[0, inputs.input_ids.shape[1]:].tolist()


@pytest.mark.parametrize("prompt", [
    *(pytest.param(prompt, id=f"prompt-{i}") for i, prompt in enumerate(texts.PROMPTS[:2])),
    *(pytest.param(prompt, id=f"prompt-{i}", marks=pytest.mark.slow) for i, prompt in enumerate(texts.PROMPTS) if i >= 2),
])
def test_greedy_ids_are_those_of_generate(model: pyllama.Model, transformers_smollm2: Any, hf_tokenizer: Any, prompt: str) -> None:
    found = model.generate(prompt, max_new_tokens=NEW_TOKENS, temperature=0)
    expected = generate(transformers_smollm2, hf_tokenizer, prompt)
    assert found.token_ids == expected
    assert found.text == hf_tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("chat", range(len(texts.CHATS)))
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_chat_strings_are_those_of_apply_chat_template(model: pyllama.Model, hf_tokenizer: Any, chat: int,
                                                       add_generation_prompt: bool) -> None:
    messages = list(texts.CHATS[chat])
    expected = hf_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)
    assert model.apply_chat_template(messages, add_generation_prompt=add_generation_prompt) == expected
    ids = model.encode_chat(messages, add_generation_prompt=add_generation_prompt)
    assert model.decode(ids) == expected
    if not any("<|" in message["content"] for message in messages):
        assert ids == hf_tokenizer(expected).input_ids


def test_control_tokens_in_a_message_stay_text(model: pyllama.Model, hf_tokenizer: Any) -> None:
    begin, end = hf_tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    ids = model.encode_chat(list(texts.CHATS[-1]))
    assert (ids.count(begin), ids.count(end)) == (3, 2)        # system, user, assistant; the last is open


def test_chat_reply_is_that_of_transformers(model: pyllama.Model, transformers_smollm2: Any, hf_tokenizer: Any) -> None:
    messages = list(texts.CHATS[1])
    ids = hf_tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    found = model.chat(messages, max_new_tokens=48, temperature=0)
    logits = models.transformers_logits(transformers_smollm2, ids + found.token_ids)[len(ids) - 1:-1]
    assert logits.argmax(axis=1).tolist() == found.token_ids
    assert found.finish_reason in ("stop", "length")
    pieces = list(model.stream_chat(messages, max_new_tokens=48, temperature=0))
    assert "".join(pieces) == found.text
