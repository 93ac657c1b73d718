"""Many sequences in one pass: each gets the tokens, and the bits, that it would get alone."""

from __future__ import annotations

import numpy as np
import pytest

import converter
import pyllama
from models import make_hf_model_numpy
from pyllama.session import advance_together
from test_parity import usable_isas

PROMPTS = ([1, 5, 9, 2], [3], list(range(1, 40)), [7, 7, 7], *[[i, i + 1] for i in range(2, 20)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with odd shapes whose rows blocks of 32 divide."""
    return make_hf_model_numpy(
        tmp_path_factory.mktemp("batch") / "hf", seed=3, dim=64, hidden_dim=96, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=16, vocab_size=99
    )


@pytest.mark.parametrize("type_name", ["f32", "bf16", "int8", "q8_0", "q4_0", "q4_1"])
def test_a_sequence_in_a_batch_is_the_sequence_alone(folder, tmp_path, type_name):
    """Greedy and drawn tokens, with more prompts than one pass takes, so that sequences end and begin at different times."""
    out = tmp_path / "model.bin"
    converter.convert(folder, out, type=type_name, format="ak42-v3")
    with pyllama.Model(out) as model:
        for options in ({"temperature": 0}, {"temperature": 1.5, "seed": 11}):
            together = model.generate_batch(PROMPTS, max_new_tokens=9, **options)
            alone = [model.generate(prompt, max_new_tokens=9, **options) for prompt in PROMPTS]
            assert [g.token_ids for g in together] == [g.token_ids for g in alone]
            assert [g.finish_reason for g in together] == [g.finish_reason for g in alone]


@pytest.mark.parametrize("type_name", ["f32", "f16", "bf16", "int8", "q8_0", "q4_0", "q4_1"])
def test_the_cache_that_a_batch_leaves_has_the_bits_of_one_alone(folder, tmp_path, type_name):
    """Three sessions in one pass, prompts of different lengths, then a token each, on every ISA and 1, 2, 3 and 8 threads: what
    follows has the same logits as a sequence alone on one thread."""
    out = tmp_path / "model.bin"
    converter.convert(folder, out, type=type_name, format="ak42-v3")
    prompts = PROMPTS[:3]
    for isa in usable_isas(out):
        alone = []
        with pyllama.Model(out, isa=isa, n_threads=1) as model:
            for prompt in prompts:
                with model.session() as session:
                    session.eval(prompt)
                    session.eval([4])
                    alone.append(session.eval([6]))
        for n_threads in (1, 2, 3, 8):
            with pyllama.Model(out, isa=isa, n_threads=n_threads) as model:
                sessions = [model.session() for _ in prompts]
                advance_together(sessions, prompts)
                advance_together(sessions, [[4]] * len(prompts))
                for session, expected in zip(sessions, alone, strict=True):
                    assert np.array_equal(session.eval([6]), expected), (isa, n_threads)


def test_one_bad_prompt_leaves_the_others_as_they_were(folder, tmp_path):
    """An id out of range is an error for the whole pass, and no session moves."""
    out = tmp_path / "model.bin"
    converter.convert(folder, out, type="f32", format="ak42-v3")
    with pyllama.Model(out) as model:
        sessions = [model.session(), model.session()]
        with pytest.raises(ValueError, match="out of range"):
            advance_together(sessions, [[1, 2], [99]])
        assert [session.position for session in sessions] == [0, 0]
        assert model.generate_batch([], max_new_tokens=3) == []
