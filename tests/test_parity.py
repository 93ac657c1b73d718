"""The numbers: logits of tiny random models through every file format, kernel set and weight type, against transformers and
against the float64 oracle; and the bits, which no chunking, thread count or container may change.

The models are odd (models.py) and their weights random; the real model has test_smollm2.py.
"""
from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
import numpy as np
import oracle
import pytest
from models import ModelSpec

import converter
import pyllama

SHAPES: dict[str, ModelSpec] = {
    "mha": ModelSpec(n_kv_heads=4, vocab_size=131),
    "gqa": ModelSpec(seed=1, dim=60, hidden_dim=100, n_heads=6, n_kv_heads=2, vocab_size=301),
    "mqa": ModelSpec(seed=2, dim=72, hidden_dim=52, n_heads=6, n_kv_heads=1, vocab_size=77),
    "tied": ModelSpec(seed=3, dim=36, hidden_dim=132, n_kv_heads=2, n_heads=6, tie=True, vocab_size=259),
    "head-dim-over": ModelSpec(seed=4, dim=40, hidden_dim=68, head_dim=16, vocab_size=203),
    "head-dim-under": ModelSpec(seed=5, dim=96, hidden_dim=148, head_dim=6, n_kv_heads=4, tie=True),
    "odd-sizes": ModelSpec(seed=6, dim=33, hidden_dim=57, n_heads=3, n_kv_heads=3, head_dim=10, vocab_size=113, n_layers=3),
    "smollm2-like": ModelSpec(seed=7, dim=72, hidden_dim=192, n_heads=9, n_kv_heads=3, tie=True, rope_theta=100000.0, n_layers=5),
    "theta-1e6": ModelSpec(seed=8, rope_theta=1e6, norm_eps=1e-6, n_layers=1),
    "eps-large": ModelSpec(seed=9, norm_eps=1e-2, schema=4),
    "llama3": ModelSpec(seed=10, head_dim=16, rope_theta=500000.0, rope=models.LLAMA3),
    "llama3-tied-schema4": ModelSpec(seed=11, head_dim=32, dim=88, rope_theta=10000.0, rope=models.LLAMA3, schema=4, tie=True),
    "linear": ModelSpec(seed=12, rope={"rope_type": "linear", "factor": 4.0}, max_positions=128),
    "linear-schema4-old-key": ModelSpec(seed=13, rope={"type": "linear", "factor": 2.5}, schema=4, n_kv_heads=1),
    "no-theta-schema4": ModelSpec(seed=14, rope_theta=None, schema=4, n_kv_heads=4),
    "mistral": ModelSpec(seed=15, family="mistral", dim=60, n_heads=6, n_kv_heads=3, head_dim=16, rope_theta=1e6),
    "mistral-window": ModelSpec(seed=16, family="mistral", sliding_window=17),
    "mistral-window-schema4": ModelSpec(seed=17, family="mistral", sliding_window=5, schema=4, tie=True),
    "wide": ModelSpec(seed=18, dim=256, hidden_dim=360, n_heads=8, n_kv_heads=2, vocab_size=1003, head_dim=64),
    "three-shards": ModelSpec(seed=19, shards=3, n_layers=3),
}
PROMPT = 97            # tokens: past the scaled models' original contexts (32) and the windows, an odd number

MAX_DIFF, MEAN_DIFF = 1e-3, 1e-4       # fp32 logits against transformers

TYPES = ("f32", "f16", "bf16", "int8", "q8_0", "q4_0", "q4_1")
ISAS = ("reference", "generic", "avx2", "avx2_vnni", "avx512", "avx512_vnni", "avx512_vbmi", "avx512_vnni_bf16", "neon",
        "neon_dot", "neon_i8mm")

# ---- the models, each made once ----


@dataclass
class Case:
    """One shape: its folder, prompt and transformers' logits, and the files made of it so far."""

    spec: ModelSpec
    folder: Path
    ids: list[int]
    expected: np.ndarray
    files: dict[tuple[str, str, str], Path] = field(default_factory=dict)

    def file(self, format_name: str = "auto", type_name: str = "keep", layout: str = "panel16") -> Path:
        """The model converted; auto is a .bin of the version that fits."""
        key = format_name, type_name, layout
        if key not in self.files:
            suffix = ".gguf" if format_name == "gguf" else ".bin"
            out = self.folder.parent / ("-".join(key) + suffix)
            converter.convert(self.folder, out, type=type_name, format=format_name, layout=layout)
            self.files[key] = out
        return self.files[key]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Case]]:
    cases: dict[str, Case] = {}

    def get(name: str) -> Case:
        if name not in cases:
            spec = SHAPES.get(name) or TYPE_SHAPES[name]
            folder = models.make_hf_model(tmp_path_factory.mktemp(name) / "hf", spec)
            ids = models.random_ids(spec.seed, PROMPT, spec.vocab_size)
            cases[name] = Case(spec, folder, ids, models.transformers_logits(models.transformers_model(folder), ids))
        return cases[name]

    yield get


def evaluate(path: Path, ids: list[int], chunks: int | None = None, **options: Any) -> np.ndarray:
    """(len(ids), vocab_size) logits of a fresh session, the prompt cut into pieces of `chunks` tokens."""
    with pyllama.Model(path, **options) as model, model.session(n_ctx=max(len(ids), 64)) as session:
        step = chunks or len(ids)
        rows = [session.eval(ids[at:at + step], all_logits=True) for at in range(0, len(ids), step)]
        assert session.position == len(ids)
        return np.concatenate(rows)


def usable_isas(path: Path) -> list[str]:
    """The kernel sets that this build has and this machine can run."""
    found = []
    for isa in ISAS:
        try:
            pyllama.Model(path, isa=isa).close()
        except (pyllama.DeviceError, pyllama.ArgumentError):
            continue
        found.append(isa)
    return found


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32 and found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.max() <= MAX_DIFF and difference.mean() <= MEAN_DIFF, (difference.max(), difference.mean())


# ---- fp32 against transformers ----

@pytest.mark.parametrize("name", SHAPES)
def test_fp32_logits_are_those_of_transformers(case: Callable[[str], Case], name: str) -> None:
    made = case(name)
    assert made.expected.std() > 1                                 # a model that says nothing would agree with anything
    assert_close(evaluate(made.file(), made.ids), made.expected)


@pytest.mark.parametrize("name", SHAPES)
def test_every_container_gives_the_same_bits(case: Callable[[str], Case], name: str) -> None:
    made = case(name)
    first = evaluate(made.file("ak42-v3"), made.ids)
    assert_close(first, made.expected)
    files = [made.file(), made.file("ak42-v3", layout="rows"), made.file("gguf")]
    for path in files:
        assert np.array_equal(evaluate(path, made.ids), first), path.name
    assert np.array_equal(evaluate(files[0], made.ids, use_mmap=False), first)


@pytest.mark.parametrize("format_name", ["ak42-v0", "ak42-v1"])
@pytest.mark.parametrize("name", ["mha", "gqa", "mqa", "tied", "no-theta-schema4"])
def test_old_formats_give_the_same_logits(case: Callable[[str], Case], name: str, format_name: str) -> None:
    made = case(name)
    path = made.file(format_name)
    with pyllama.Model(path) as model:
        assert model.info.format == format_name.replace("-", " ")
    assert_close(evaluate(path, made.ids), made.expected)


@pytest.mark.parametrize("name", ["theta-1e6", "eps-large", "llama3", "linear", "head-dim-over", "mistral-window"])
def test_auto_takes_version_3_where_old_readers_would_be_wrong(case: Callable[[str], Case], name: str) -> None:
    with pyllama.Model(case(name).file()) as model:
        assert model.info.format == "ak42 v3"


@pytest.mark.parametrize("name", ["mha", "tied", "gqa"])
def test_auto_takes_version_1_where_it_fits(case: Callable[[str], Case], name: str) -> None:
    with pyllama.Model(case(name).file()) as model:
        assert model.info.format == "ak42 v1"


def test_scaled_rope_past_its_original_context(case: Callable[[str], Case]) -> None:
    """llama3's frequencies differ from plain ones by little at first; at 200 tokens, six times the original context, a mistake
    is plain to see."""
    made = case("llama3")
    ids = models.random_ids(99, 200, made.spec.vocab_size)
    expected = models.transformers_logits(models.transformers_model(made.folder), ids)
    assert_close(evaluate(made.file(), ids), expected)
    config = models.oracle_config(made.spec)
    plain = oracle.forward(dataclasses.replace(config, rope=None), models.random_tensors(made.spec), ids)
    assert np.abs(plain - expected)[100:].mean() > 100 * MEAN_DIFF         # the test would see an ignored scaling


def test_sliding_window_is_seen(case: Callable[[str], Case]) -> None:
    made = case("mistral-window")
    config = models.oracle_config(made.spec)
    full = oracle.forward(dataclasses.replace(config, sliding_window=None), models.random_tensors(made.spec), made.ids)
    assert np.abs(full - made.expected)[:made.spec.sliding_window].max() < MAX_DIFF
    for window in (made.spec.sliding_window - 1, made.spec.sliding_window + 1, None):
        other = oracle.forward(dataclasses.replace(config, sliding_window=window), models.random_tensors(made.spec), made.ids)
        assert np.abs(other - made.expected)[20:].mean() > 100 * MEAN_DIFF  # off by one would be seen


@pytest.mark.parametrize("name", ["gqa", "smollm2-like", "llama3", "mistral-window"])
def test_greedy_ids_are_those_of_generate(case: Callable[[str], Case], name: str, tmp_path: Path) -> None:
    """64 tokens on 20 prompts, against transformers' own generate, in a batch of equal lengths."""
    import torch

    spec = dataclasses.replace(SHAPES[name], eos_ids=())
    folder = models.make_hf_model(tmp_path / "hf", spec)
    prompts = np.random.default_rng(20).integers(3, spec.vocab_size, (20, 11))
    reference = models.transformers_model(folder)
    expected = reference.generate(torch.from_numpy(prompts), attention_mask=torch.ones(prompts.shape, dtype=torch.long),
                                  max_new_tokens=64, do_sample=False, pad_token_id=0)[:, 11:].tolist()
    converter.convert(folder, tmp_path / "model.bin")
    with pyllama.Model(tmp_path / "model.bin") as model:
        found = [model.generate(prompt.tolist(), max_new_tokens=64, temperature=0) for prompt in prompts]
    assert [generation.token_ids for generation in found] == expected
    assert {generation.finish_reason for generation in found} == {"length"}


# ---- the same bits ----

@pytest.mark.parametrize("type_name", TYPES)
def test_bits_do_not_depend_on_chunks_or_threads(case: Callable[[str], Case], type_name: str) -> None:
    made = case("blocks")
    path = made.file("ak42-v3", type_name)
    for isa in usable_isas(path):
        whole = evaluate(path, made.ids, n_threads=1, isa=isa)
        with pyllama.Model(path, n_threads=2, isa=isa) as model, model.session(n_ctx=len(made.ids)) as session:
            assert np.array_equal(session.eval(made.ids), whole[-1]), isa      # the only row behind the last attention
        for chunks in (1, 2, 7, 16, 32, 96):
            assert np.array_equal(evaluate(path, made.ids, chunks, n_threads=1, isa=isa), whole), (isa, chunks)
        # eight threads meet for every token, which takes long where there are two cores: five tokens at a time
        for n_threads, every in ((2, 1), (3, 1), (8, 5)):
            for chunks in (None, every, 13):
                assert np.array_equal(evaluate(path, made.ids, chunks, n_threads=n_threads, isa=isa), whole), (
                    isa, n_threads, chunks)


@pytest.mark.parametrize("name", ["mha", "odd-sizes", "mistral-window", "wide", "llama3"])
def test_bits_do_not_depend_on_chunks_or_threads_in_odd_shapes(case: Callable[[str], Case], name: str) -> None:
    made = case(name)
    whole = evaluate(made.file(), made.ids, n_threads=1)
    for chunks, n_threads in ((1, 1), (5, 1), (64, 1), (None, 2), (None, 3), (None, 8), (1, 2), (31, 3), (3, 8)):
        assert np.array_equal(evaluate(made.file(), made.ids, chunks, n_threads=n_threads), whole), (chunks, n_threads)


@pytest.mark.parametrize("kv_type", ["f32", "f16", "bf16", "int8"])
def test_bits_do_not_depend_on_chunks_or_threads_for_any_cache(case: Callable[[str], Case], kv_type: str) -> None:
    made = case("gqa")
    for isa in usable_isas(made.file()):
        whole = evaluate(made.file(), made.ids, n_threads=1, kv_type=kv_type, isa=isa)
        for chunks, n_threads in ((1, 1), (7, 2), (None, 3), (None, 8), (2, 8)):
            again = evaluate(made.file(), made.ids, chunks, n_threads=n_threads, kv_type=kv_type, isa=isa)
            assert np.array_equal(again, whole), (isa, chunks, n_threads)


def test_bits_in_a_context_of_many_chunks(case: Callable[[str], Case]) -> None:
    """1,100 positions: the attention's own chunks of positions, and prefills longer than one pass, keep the bits too."""
    made = case("gqa")
    ids = models.random_ids(7, 1100, made.spec.vocab_size)
    whole = evaluate(made.file(), ids, n_threads=1)
    for chunks, n_threads in ((1, 2), (255, 1), (512, 2), (513, 3), (600, 8)):
        assert np.array_equal(evaluate(made.file(), ids, chunks, n_threads=n_threads), whole), (chunks, n_threads)
    reference = models.transformers_model(made.folder)
    assert_close(whole, models.transformers_logits(reference, ids))


def test_last_logits_are_the_last_row(case: Callable[[str], Case]) -> None:
    made = case("gqa")
    whole = evaluate(made.file(), made.ids)
    with pyllama.Model(made.file()) as model, model.session() as session:
        last = session.eval(made.ids)
        assert last.shape == (made.spec.vocab_size,) and np.array_equal(last, whole[-1])
        last[:] = 0                                                # the caller's own
        session.truncate(40)
        assert session.position == 40
        assert np.array_equal(session.eval(made.ids[40:60], all_logits=True), whole[40:60])
        session.truncate(0)
        assert np.array_equal(session.eval(made.ids, all_logits=True), whole)


def test_sessions_do_not_disturb_each_other(case: Callable[[str], Case]) -> None:
    made = case("gqa")
    whole = evaluate(made.file(), made.ids)
    other = models.random_ids(8, PROMPT, made.spec.vocab_size)
    with pyllama.Model(made.file()) as model, model.session() as one, model.session() as two:
        rows = []
        for at in range(0, PROMPT, 10):
            rows.append(one.eval(made.ids[at:at + 10], all_logits=True))
            two.eval(other[at:at + 10])
        assert np.array_equal(np.concatenate(rows), whole)


def test_stated_positions(case: Callable[[str], Case]) -> None:
    """Rotary positions with gaps: what the oracle says, and distances are all that counts."""
    made = case("gqa")
    positions = [*range(5, 45), *range(60, 60 + PROMPT - 40)]
    expected = oracle.forward(models.oracle_config(made.spec), models.random_tensors(made.spec), made.ids, positions)
    with pyllama.Model(made.file()) as model, model.session(n_ctx=256) as session:
        assert_close(session.eval(made.ids, positions=positions, all_logits=True), expected)
        session.truncate(0)
        follow_on = session.eval(made.ids, positions=list(range(PROMPT)), all_logits=True)
    assert np.array_equal(follow_on, evaluate(made.file(), made.ids))


# ---- every kernel set and weight type against the oracle ----
#
# What a logit may be off by, as a share of the logits' standard deviation S.
#
# Weights are compared as the bytes say (the oracle gets the dequantised values), so only activations, cache and sums round.
# A product's inputs x are rounded with a relative error whose root mean square is e:
#   exact   f32 activations: a sum of n products is off by about sqrt(n) 2^-24; n of some hundreds gives e = 1e-6
#   bf16    8 bits of significand, half to even: at most 2^-9 of each value, so e <= 2^-9 = 2.0e-3
#   q8      32 values share a step of max|x| / 127, the error is uniform over a step: step / sqrt(12). For normal values the
#           largest of 32 is about 2.4 deviations, which gives 0.55 %; SwiGLU's products have longer tails, up to 5: e <= 1.1e-2
# and the cache's k and v by e_cache: f32 none, f16 2^-12, bf16 2^-9, int8 1e-2 (a step of max|x| / 127 over head_dim).
# Rounding errors are independent, so that those of one residual addition add in squares. Per layer these enter: v and o
# (attention output), q and k (through the scores: two of up to 1.5 times their size), gate, up, down; and the head once. With
# norms that do not amplify, the logits' relative error is below sqrt(1 + 8 n_layers) e. The test allows twice that as root mean
# square, and 6 times the root mean square for the largest of 30,000 (a normal distribution's is 4.2, but tails are longer).

E_EXACT, E_BF16, E_Q8 = 1e-6, 2.0 ** -9, 1.1e-2
E_CACHE = {"f32": 0.0, "f16": 2.0 ** -12, "bf16": 2.0 ** -9, "int8": 1e-2}


def activation_error(isa: str, type_name: str) -> float:
    """e of a kernel set's products with a weight type."""
    if isa == "reference" or type_name == "f32":
        return E_EXACT
    if type_name in ("f16", "bf16"):
        return E_BF16 if isa.endswith("bf16") else E_EXACT
    return E_Q8


def tolerance(e: float, n_layers: int) -> float:
    """Root mean square error allowed, as a share of the logits' standard deviation."""
    return 2 * e * math.sqrt(1 + 8 * n_layers)


def assert_within(found: np.ndarray, expected: np.ndarray, e: float, n_layers: int, what: object) -> None:
    error = (found - expected) / expected.std()
    rms, largest, allowed = float(np.sqrt(np.mean(error ** 2))), float(np.abs(error).max()), tolerance(e, n_layers)
    assert rms <= allowed and largest <= 6 * allowed, (what, rms, largest, allowed)


TYPE_SHAPES = {
    "blocks": ModelSpec(seed=30, dim=96, hidden_dim=160, n_heads=6, n_kv_heads=2, vocab_size=301, head_dim=16),
    "blocks-tied": ModelSpec(seed=31, dim=128, hidden_dim=224, n_heads=4, n_kv_heads=1, vocab_size=203, tie=True, n_layers=3,
                             rope_theta=100000.0),
    "groups-of-4": ModelSpec(seed=32, dim=52, hidden_dim=84, n_heads=4, n_kv_heads=2, head_dim=13 * 2, vocab_size=119),
    "groups-of-16": ModelSpec(seed=33, dim=48, hidden_dim=176, n_heads=3, n_kv_heads=3, vocab_size=131),
}


def quantised_tensors(spec: ModelSpec, type_name: str) -> dict[str, np.ndarray]:
    """The spec's weights as a type stores them: by gguf-py's encoders and the oracle's decoders, none of the project's."""
    import gguf

    decoders = {"q8_0": oracle.dequantise_q8_0, "q4_0": oracle.dequantise_q4_0, "q4_1": oracle.dequantise_q4_1}
    group = oracle.int8_group_size(spec.dim, spec.n_heads * spec.size_head, spec.hidden_dim)
    tensors = {}
    for name, values in models.random_tensors(spec).items():
        if values.ndim == 2:
            if type_name == "int8":
                values = oracle.dequantise_int8(*oracle.quantise_int8(values, group))
            elif type_name in decoders:
                # a block never leaves its row, so that the order of q's and k's rows does not matter
                blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType[type_name.upper()])
                values = decoders[type_name](blocks.tobytes(), values.shape[1])
            elif type_name != "f32":
                values = models.from_bits(models.to_bits(values, type_name), type_name)
        tensors[name] = values
    return tensors


CASES = [(name, type_name) for name in TYPE_SHAPES for type_name in TYPES
         if name.startswith("blocks") or type_name in ("f32", "f16", "bf16", "int8")]


@pytest.mark.parametrize("name,type_name", CASES)
def test_every_type_and_isa_against_the_oracle(case: Callable[[str], Case], name: str, type_name: str) -> None:
    made = case(name)
    spec = made.spec
    expected = oracle.forward(models.oracle_config(spec), quantised_tensors(spec, type_name), made.ids)
    path = made.file("ak42-v3", type_name)
    isas = usable_isas(path)
    assert {"reference", "generic"} <= set(isas)
    for isa in isas:
        with pyllama.Model(path, isa=isa) as model:
            assert (model.info.isa, model.info.weight_type) == (isa, type_name)
            default_cache = model.info.kv_type
        for kv_type in dict.fromkeys(("f32", default_cache)):
            found = evaluate(path, made.ids, isa=isa, kv_type=kv_type)
            e = math.hypot(activation_error(isa, type_name), E_CACHE[kv_type])
            assert_within(found, expected, e, spec.n_layers, (isa, kv_type))


@pytest.mark.parametrize("type_name", TYPES)
def test_every_type_through_every_container(case: Callable[[str], Case], type_name: str) -> None:
    """Rows or panels, mapped or packed, ak42 or GGUF: the same weights, so the same bits."""
    made = case("blocks")
    panels = made.file("ak42-v3", type_name)
    first = evaluate(panels, made.ids)
    paths = [made.file("ak42-v3", type_name, layout="rows")]
    if type_name == "int8":
        paths.append(made.file("ak42-v2", type_name))
    else:
        paths.append(made.file("gguf", type_name))
    for path in paths:
        assert np.array_equal(evaluate(path, made.ids), first), path.name


@pytest.mark.parametrize("kv_type", E_CACHE)
def test_every_cache_type_against_the_oracle(case: Callable[[str], Case], kv_type: str) -> None:
    made = case("blocks")
    expected = oracle.forward(models.oracle_config(made.spec), models.random_tensors(made.spec), made.ids)
    path = made.file("ak42-v3", "f32")
    for isa in usable_isas(path):
        found = evaluate(path, made.ids, isa=isa, kv_type=kv_type)
        assert_within(found, expected, math.hypot(E_EXACT, E_CACHE[kv_type]), made.spec.n_layers, isa)


def test_fp32_kernel_sets_agree(case: Callable[[str], Case]) -> None:
    """Between kernel sets only the order of float sums may differ: 1e-4 of the largest logit, and the same greedy choices."""
    for name in ("gqa", "wide", "mistral-window"):
        made = case(name)
        isas = usable_isas(made.file())
        first = evaluate(made.file(), made.ids, isa=isas[0])
        for isa in isas[1:]:
            found = evaluate(made.file(), made.ids, isa=isa)
            assert np.abs(found - first).max() <= 1e-4 * np.abs(first).max(), (name, isa)
            assert np.array_equal(found.argmax(axis=1), first.argmax(axis=1)), (name, isa)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_16_bit_checkpoints_keep_their_values(case: Callable[[str], Case], dtype: str, tmp_path: Path) -> None:
    """An f16 or bf16 folder, kept as it is: transformers' f32 logits of those values, exactly with the reference kernels."""
    spec = ModelSpec(seed=40, dtype=dtype, n_kv_heads=1)
    folder = models.make_hf_model(tmp_path / "hf", spec)
    ids = models.random_ids(40, PROMPT, spec.vocab_size)
    expected = models.transformers_logits(models.transformers_model(folder), ids)
    for name in ("model.bin", "model.gguf"):
        converter.convert(folder, tmp_path / name)
        with pyllama.Model(tmp_path / name) as model:
            assert model.info.weight_type == dtype
        assert_close(evaluate(tmp_path / name, ids, isa="reference", kv_type="f32"), expected)
    converter.convert(folder, tmp_path / "f32.bin", type="f32")
    assert_close(evaluate(tmp_path / "f32.bin", ids), expected)
