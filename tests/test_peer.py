"""llama.cpp, through llama-cpp-python, opens the GGUF files that we write and says what we say; its quantiser beside our encoders.

Its KV cache is f16, so that one close choice in a text may fall otherwise: a first difference counts as equal reading only where
our two best logits lie closer than 1e-2, and at least 18 of 20 texts are equal. Of quantised types both programs round activations
to 8 bits, each in blocks of its own. Skipped where llama-cpp-python is not installed: it takes a long build and is not in the test
extra. A package that is only unpacked serves too, beside a llama.cpp that is built: PYTHONPATH names the one and LLAMA_CPP_LIB_PATH
the other's libraries.
"""
from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path

import families
import gguf
import models
import numpy as np
import pytest
import texts

import converter
import pyllama
from converter.quant import TYPES
from pyllama.quantize import encode

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
             "olmo3-bias", "qwen3-bias", "qwen3-moe-bias", "gemma3-bias", *families.NO_GGUF)


@pytest.mark.parametrize("name", [name for name in families.FAMILIES | families.WRAPPED if name not in NOT_THERE])
def test_llama_cpp_gives_the_logits_of_every_family(name: str, tmp_path: Path) -> None:
    """f32 weights and cache: 1e-3, but for its table of GELU values in f16."""
    spec = (families.FAMILIES | families.WRAPPED)[name]
    folder = families.make(tmp_path / "hf", spec, vocab_size=403)
    models.write_tokenizer(folder, models.ModelSpec(vocab_size=403, tokenizer="spm"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": "tiny"}))     # a name of phi3 has it look for Phi's tokens
    report = converter.convert(folder, tmp_path / "m.gguf")
    assert not any("llama.cpp" in warning for warning in report.warnings)
    assert_llama_cpp_s_logits(tmp_path / "m.gguf", models.random_ids(spec.seed, 61, 403), 1e-2 if spec.gguf.startswith("gemma") else 1e-3)


def assert_llama_cpp_s_logits(path: Path, ids: list[int], off: float) -> None:
    with pyllama.Model(path) as model, model.session(n_ctx=len(ids)) as session:
        ours = session.eval(ids, all_logits=True)
    llama = llama_cpp.Llama(str(path), n_ctx=len(ids), n_threads=2, n_threads_batch=2, n_gpu_layers=0, verbose=False, logits_all=True,
                            type_k=0, type_v=0, flash_attn=False)
    llama.eval(ids)
    theirs = np.array(llama.scores[:len(ids)])
    llama.close()
    assert np.abs(ours - theirs).max() <= off


@pytest.mark.parametrize("layers", ["SFSF", "FFFF", "SSFS", "SSSS", "FSSF"])
@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_llama_cpp_takes_our_word_for_the_layers_with_a_window(name: str, layers: str, tmp_path: Path) -> None:
    """S: with a window, which the prompt is longer than; as a period, or as a list where none fits."""
    kinds = [{"S": "sliding_attention", "F": "full_attention"}[one] for one in layers]
    changes = {"num_hidden_layers": 4, "layer_types": kinds, "query_pre_attn_scalar": 16, "sliding_window": 11, "vocab_size": 403}
    folder = families.make(tmp_path / "hf", families.FAMILIES[name], **changes)
    models.write_tokenizer(folder, models.ModelSpec(vocab_size=403, tokenizer="spm"))
    report = converter.convert(folder, tmp_path / "m.gguf")
    assert not any("llama.cpp" in warning for warning in report.warnings)
    assert_llama_cpp_s_logits(tmp_path / "m.gguf", models.random_ids(5, 61, 403), 1e-2)


@pytest.mark.parametrize("name", families.UNOPENED)
def test_llama_cpp_does_not_open_what_convert_says(name: str, tmp_path: Path) -> None:
    folder = families.make(tmp_path / "hf", families.UNOPENED[name], vocab_size=403)
    models.write_tokenizer(folder, models.ModelSpec(vocab_size=403, tokenizer="spm"))
    report = converter.convert(folder, tmp_path / "m.gguf")
    assert any("llama.cpp" in warning and "will not open the file" in warning for warning in report.warnings)
    with pytest.raises(ValueError, match="Failed to load model"):
        llama_cpp.Llama(str(tmp_path / "m.gguf"), n_ctx=61, n_gpu_layers=0, verbose=False)


# ---- every type and mix ----

PLAIN = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs", "mxfp4")
MIXED = ("q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k")
FITTING = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "mxfp4", *MIXED)          # SmolLM2's rows of 576
# What llama-quantize calls the type of a whole file.
FILE_TYPES = {"f32": "ALL_F32", "q2_k": "MOSTLY_Q2_K", "q3_k": "MOSTLY_Q3_K_S", "q4_k": "MOSTLY_Q4_K_S", "q5_k": "MOSTLY_Q5_K_S",
              "mxfp4": "MOSTLY_MXFP4_MOE"}
SAME_BYTES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "mxfp4")
NEW = 48                   # tokens of a text


def wide_model(folder: Path, n_layers: int) -> Path:
    """A Llama of transformers' own whose rows every block divides; GGUF, f32."""
    spec = models.ModelSpec(seed=21, dim=256, hidden_dim=512, n_layers=n_layers, n_heads=8, n_kv_heads=2, vocab_size=403,
                            tokenizer="spm", max_positions=512)
    converter.convert(models.make_hf_model(folder / "hf", spec), folder / "f32.gguf", type="f32")
    return folder / "f32.gguf"


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers enough for the mixes' rules."""
    return wide_model(tmp_path_factory.mktemp("deep"), 16)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Layers of random weights make each other's rounding larger: two."""
    return wide_model(tmp_path_factory.mktemp("wide"), 2)


def as_type(source: Path, out: Path, name: str) -> Path:
    converter.convert(source, out, type=name, encoder=encode)
    return out


def llama_quantize(source: Path, out: Path, name: str, pure: bool = False) -> Path:
    """`name` as llama-quantize writes it; pure: every matrix in that type."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = 2
    params.ftype = int(gguf.LlamaFileType[FILE_TYPES.get(name, f"MOSTLY_{name.upper()}")])
    params.pure = pure
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) == 0
    return out


def tensors_of(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("name", dict.fromkeys((*PLAIN, *MIXED)))
def test_a_file_is_what_llama_quantize_writes(deep: Path, name: str, tmp_path: Path) -> None:
    """The same keys of the file, the same type of each tensor; the same bytes where an encoder has no choice."""
    ours = as_type(deep, tmp_path / "ours.gguf", name)
    theirs = llama_quantize(deep, tmp_path / "theirs.gguf", name, pure=name not in MIXED and name != "mxfp4")
    keys = [converter.inspect(path)["metadata"] for path in (ours, theirs)]
    for key in ("general.file_type", "general.quantization_version", "general.alignment", "general.architecture"):
        assert keys[0][key] == keys[1][key], key
    assert keys[0].keys() == keys[1].keys()
    if name == "mxfp4":
        return                                  # which llama-quantize gives to experts alone
    found, expected = tensors_of(ours), tensors_of(theirs)
    assert found.keys() == expected.keys()
    for tensor, wanted in ((found[key], expected[key]) for key in found):
        assert (tensor.name, tensor.tensor_type, tensor.data.shape) == (wanted.name, wanted.tensor_type, wanted.data.shape)
        if name in SAME_BYTES:
            assert np.array_equal(tensor.data, wanted.data), tensor.name


@pytest.mark.parametrize("mix", MIXED)
def test_the_mixes_fall_back_as_llama_quantize_s(smollm2_as: Callable[[str, str], Path], mix: str, tmp_path: Path) -> None:
    source = smollm2_as("f32", "gguf")
    ours = tensors_of(as_type(source, tmp_path / "ours.gguf", mix))
    theirs = tensors_of(llama_quantize(source, tmp_path / "theirs.gguf", mix))
    assert {name: tensor.tensor_type for name, tensor in ours.items()} == {name: tensor.tensor_type for name, tensor in theirs.items()}


# Sizes that every block divides, and layers enough for the mixes' rules; a family's own lists of layers are left out.
WIDE = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 10, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32}
WIDER = {"mixtral": {"num_local_experts": 8}, "qwen3-moe": {"num_experts": 16, "moe_intermediate_size": 256}}


@pytest.mark.parametrize("name", ["llama-bias", "qwen2", "qwen3", "granite", "olmo2", "smollm3", "gemma", "gemma2", "gemma3", "phi3", "mixtral",
                                  "qwen3-moe", "mistral-nemo"])
def test_the_mixes_of_a_family_are_llama_quantize_s(name: str, tmp_path: Path) -> None:
    folder = families.make(tmp_path / "hf", families.FAMILIES[name], **WIDE, **WIDER.get(name, {}), vocab_size=512)
    models.write_tokenizer(folder, models.ModelSpec(tokenizer="bpe", vocab_size=512, schema=4))
    converter.convert(folder, tmp_path / "f32.gguf", type="f32")
    for mix in MIXED:
        theirs, ours = (tensors_of(path) for path in (llama_quantize(tmp_path / "f32.gguf", tmp_path / f"theirs-{mix}.gguf", mix),
                                                      as_type(folder, tmp_path / f"ours-{mix}.gguf", mix)))
        assert {key: tensor.tensor_type for key, tensor in ours.items()} == {key: tensor.tensor_type for key, tensor in theirs.items()}


def check_text(path: Path, prompts: list[list[int]], off: float) -> None:
    """The greedy text: llama.cpp, reading it, chooses each next token too, unless our two best logits lie closer together than the
    two programs' logits lie apart, there or in the whole text, six times the root of their mean square; and that is at most `off`
    of a logit's own spread."""
    llama = llama_cpp.Llama(str(path), n_ctx=256, n_batch=256, n_threads=2, n_threads_batch=2, n_gpu_layers=0, verbose=False,
                            logits_all=True, type_k=0, type_v=0, flash_attn=False)
    n_other = n_tokens = 0
    with pyllama.Model(path) as model, model.session(n_ctx=256) as session:
        for ids in prompts:
            new = np.array(model.generate(ids, max_new_tokens=NEW, temperature=0).token_ids)
            session.truncate(0)
            ours = session.eval([*ids, *new.tolist()], all_logits=True)[len(ids) - 1:-1]
            assert np.array_equal(ours.argmax(axis=1), new)
            llama.reset()
            llama.eval([*ids, *new.tolist()])
            theirs = np.array(llama.scores[len(ids) - 1:len(ids) + len(new) - 1])
            difference = ours - theirs
            difference -= difference.mean(axis=1, keepdims=True)         # what is added to every logit chooses nothing
            apart = np.sqrt(np.square(difference).mean(axis=1))
            assert np.sqrt(np.square(apart).mean()) <= off * ours.std(), (apart, ours.std())
            apart = np.maximum(apart, np.sqrt(np.square(apart).mean()))
            best = np.sort(ours, axis=1)[:, -2:]
            other = theirs.argmax(axis=1) != new
            assert (best[other, 1] - best[other, 0] <= 6 * apart[other]).all(), (best[other], apart[other])
            n_other += int(other.sum())
            n_tokens += len(new)
    llama.close()
    print(f"{path.name}: {n_other} of {n_tokens} tokens are other ones, the last text's logits {apart.mean() / ours.std():.2%} apart")
    assert n_other <= n_tokens // 5            # of a random model, many of whose choices are close


@pytest.mark.parametrize("name", dict.fromkeys((*PLAIN, *MIXED)))
def test_the_text_of_every_type(wide: Path, name: str, tmp_path: Path) -> None:
    path = as_type(wide, tmp_path / f"{name}.gguf", name)
    check_text(path, [models.random_ids(seed, 24, 403) for seed in range(6)], 0.1)


@pytest.mark.parametrize("name", FITTING)
def test_the_text_of_a_real_model(smollm2_as: Callable[[str, str], Path], name: str, tmp_path: Path) -> None:
    path = as_type(smollm2_as("f32", "gguf"), tmp_path / f"{name}.gguf", name)
    with pyllama.Model(path) as model:
        prompts = [model.encode(prompt) for prompt in texts.PROMPTS[:6]]
    check_text(path, prompts, 0.1)


# ---- encoders ----

SEARCHED = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs")
NO_MORE = 1.02             # of what llama.cpp's quantiser loses


def llama_encode(name: str, values: np.ndarray) -> np.ndarray:
    """Blocks of llama.cpp's own quantiser, without an importance matrix; values is (rows, columns), f32."""
    ggml = ctypes.CDLL(str(Path(llama_cpp.llama_cpp._lib._name).with_name("libggml-base.so")))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    out = np.empty((len(values), TYPES[name].row_bytes(values.shape[1])), np.uint8)
    assert ggml.ggml_quantize_chunk(TYPES[name].id, values.ctypes.data, out.ctypes.data, 0, *values.shape, None) == out.size
    return out


def weightings(values: np.ndarray) -> dict[str, np.ndarray]:
    """What a squared error may be weighed by: nothing, a weight's own size, and what quantisers of K types take, the root mean square of
    its 32 neighbours added; and its square."""
    mean = np.sqrt(np.square(values.reshape(len(values), -1, 32)).mean(axis=2, keepdims=True)).repeat(32, 2).reshape(values.shape)
    return {"1": np.ones_like(values), "|w|": np.abs(values), "rms + |w|": mean + np.abs(values), "w^2": np.square(values)}


def losses_beside(name: str, matrices: list[np.ndarray]) -> dict[str, list[tuple[float, float]]]:
    """By weighting: for each matrix what our encoder loses and what llama.cpp's does, of the matrix' own weighted size."""
    found: dict[str, list[tuple[float, float]]] = {}
    for values in matrices:
        encoded = encode(name, values), llama_encode(name, values)
        decoded = [TYPES[name].decode(blocks, values.shape[1]).astype(np.float64) for blocks in encoded]
        for key, weights in weightings(values.astype(np.float64)).items():
            size = (weights * np.square(values.astype(np.float64))).sum()
            found.setdefault(key, []).append(tuple(float((weights * np.square(d - values)).sum() / size) for d in decoded))
    return found


def assert_loses_no_more(name: str, matrices: list[np.ndarray]) -> None:
    """Each matrix by each weighting."""
    for key, pairs in losses_beside(name, matrices).items():
        ours, theirs = np.array(pairs).T
        assert (ours <= NO_MORE * theirs).all(), (key, ours / theirs)


@pytest.mark.parametrize("name", SEARCHED)
def test_an_encoder_loses_no_more_on_random_weights(name: str) -> None:
    random = np.random.default_rng(1)
    shape = 256, 2048
    spread = random.standard_normal(shape)
    spread[:, ::97] *= 8
    matrices = [random.standard_normal(shape), random.laplace(size=shape), random.uniform(-1, 1, shape), random.standard_t(4, shape),
                spread, random.standard_normal(shape) + 1.5]
    assert_loses_no_more(name, [(matrix * 0.02).astype(np.float32) for matrix in matrices])


@pytest.mark.parametrize("name", SEARCHED)
def test_an_encoder_loses_no_more_on_a_real_model(smollm2_as: Callable[[str, str], Path], name: str) -> None:
    """Matrices of the first, a middle and the last layer, zeros behind each row up to a multiple of 256."""
    matrices = []
    for tensor in gguf.GGUFReader(smollm2_as("f32", "gguf")).tensors:
        if tensor.name.startswith(("blk.0.", "blk.13.", "blk.29.", "token_embd")) and len(tensor.shape) == 2:
            values = np.asarray(tensor.data, np.float32)[:1536]
            matrices.append(np.pad(values, ((0, 0), (0, -values.shape[1] % 256))))
    assert len(matrices) == 22
    assert_loses_no_more(name, matrices)
