"""Every family against transformers' own class: logits in f32 from a folder, from our model.bin and from our GGUF, prefill and
decode; the same bits whatever the threads and chunks; folders that come back.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import families
import models
import numpy as np
import pytest
from families import FAMILIES, NO_GGUF, WRAPPED, FamilySpec

import converter
import pyllama

PROMPT = 73                            # tokens: past the windows and the original contexts
MAX_DIFF, MEAN_DIFF = 1e-3, 1e-4       # of f32 logits


@dataclass
class Case:
    """A family's tiny model: its folder, a prompt, transformers' logits, and the files made of it so far."""

    spec: FamilySpec
    folder: Path
    ids: list[int]
    expected: np.ndarray
    files: dict[tuple[str, ...], Path] = field(default_factory=dict)

    def file(self, format_name: str, type_name: str = "keep", layout: str = "panel16") -> Path:
        key = format_name, type_name, layout
        if key not in self.files:
            out = self.folder.parent / ("-".join(key) + (".gguf" if format_name == "gguf" else ".bin"))
            converter.convert(self.folder, out, format=format_name, type=type_name, layout=layout)
            self.files[key] = out
        return self.files[key]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Case]]:
    cases: dict[str, Case] = {}

    def get(name: str) -> Case:
        if name not in cases:
            spec = (FAMILIES | WRAPPED)[name]
            model = families.build(spec)
            folder = tmp_path_factory.mktemp(name) / "hf"
            model.save_pretrained(folder)
            ids = models.random_ids(spec.seed, PROMPT, model.config.get_text_config().vocab_size)
            cases[name] = Case(spec, folder, ids, models.transformers_logits(model, ids))
        return cases[name]

    yield get


def evaluate(path: Path, ids: list[int], chunks: int | None = None, n_ctx: int | None = None, **options: Any) -> np.ndarray:
    """(len(ids), vocab_size) logits of a fresh session, the prompt cut into pieces of `chunks` tokens."""
    with pyllama.Model(path, **options) as model, model.session(n_ctx=n_ctx or len(ids)) as session:
        step = chunks or len(ids)
        return np.concatenate([session.eval(ids[at:at + step], all_logits=True) for at in range(0, len(ids), step)])


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.float32 and found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.max() <= MAX_DIFF and difference.mean() <= MEAN_DIFF, (difference.max(), difference.mean())


@pytest.mark.parametrize("name", [*FAMILIES, *WRAPPED])
def test_logits_are_those_of_transformers(case: Callable[[str], Case], name: str) -> None:
    made = case(name)
    assert made.expected.std() > 0.5                               # a model that says nothing would agree with anything
    path = made.file("ak42-v3")
    prefill = evaluate(path, made.ids)
    assert_close(prefill, made.expected)
    assert np.array_equal(evaluate(path, made.ids, chunks=1), prefill)                  # decode


@pytest.mark.parametrize("name", [name for name in (*FAMILIES, *WRAPPED) if name not in NO_GGUF])
def test_a_gguf_gives_the_same_bits(case: Callable[[str], Case], name: str) -> None:
    made = case(name)
    path = made.file("gguf")
    found = evaluate(path, made.ids)
    assert_close(found, made.expected)
    assert np.array_equal(found, evaluate(made.file("ak42-v3"), made.ids))
    with pyllama.Model(path) as model:
        assert model.info.architecture == made.spec.gguf


# ---- the same bits ----

SHAPED = ("llama-bias", "qwen2-window", "olmo2", "olmo3", "gemma3", "phi4-mini", "qwen3-moe", "granite")       # every new op among them


@pytest.mark.parametrize("name", SHAPED)
def test_bits_do_not_depend_on_chunks_threads_or_isa_s_tiles(case: Callable[[str], Case], name: str) -> None:
    made = case(name)
    path = made.file("ak42-v3")
    for isa in ("generic", "auto"):
        whole = evaluate(path, made.ids, n_threads=1, isa=isa)
        with pyllama.Model(path, n_threads=2, isa=isa) as model, model.session(n_ctx=len(made.ids)) as session:
            assert np.array_equal(session.eval(made.ids), whole[-1])       # the only row behind the last attention
        for chunks, n_threads in ((1, 1), (7, 1), (16, 2), (None, 2), (13, 3), (1, 3)):
            assert np.array_equal(evaluate(path, made.ids, chunks, n_threads=n_threads, isa=isa), whole), (isa, chunks, n_threads)


@pytest.mark.parametrize("name", ["qwen3-moe", "mixtral", "gemma2"])
@pytest.mark.parametrize("type_name", ["int8", "bf16"])
def test_bits_of_other_types(case: Callable[[str], Case], name: str, type_name: str) -> None:
    """Rows or panels, mapped or packed, in chunks or whole."""
    made = case(name)
    whole = evaluate(made.file("ak42-v3", type_name), made.ids, n_threads=1)
    assert np.array_equal(evaluate(made.file("ak42-v3", type_name, layout="rows"), made.ids), whole)
    assert np.array_equal(evaluate(made.file("ak42-v3", type_name), made.ids, chunks=5, n_threads=3), whole)
    assert np.abs(whole - made.expected).mean() < 0.1 * made.expected.std()


@pytest.mark.parametrize("name", ["qwen3-moe", "gemma3"])
def test_bits_of_a_batch(case: Callable[[str], Case], name: str) -> None:
    """Rows of other texts in the same pass change nothing, though they may go to the same experts."""
    made = case(name)
    path = made.file("ak42-v3")
    prompts = [made.ids[:11], made.ids[20:26], made.ids[30:51]]
    with pyllama.Model(path) as model:
        alone = [model.generate(ids, max_new_tokens=9, temperature=0).token_ids for ids in prompts]
        together = model.generate_batch(prompts, max_new_tokens=9, temperature=0)
    assert [generation.token_ids for generation in together] == alone


# ---- there and back ----


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_comes_back(case: Callable[[str], Case], name: str, tmp_path: Path) -> None:
    """From model.bin to a folder, which transformers opens as the family's own class: the same weights, the same logits."""
    made = case(name)
    converter.convert(made.file("ak42-v3"), tmp_path / "back")
    before, after = models.read_safetensors(made.folder), models.read_safetensors(tmp_path / "back")
    assert before == after
    model = models.transformers_model(tmp_path / "back")
    assert type(model).__name__ == f"{made.spec.hf_class}ForCausalLM"
    assert np.array_equal(models.transformers_logits(model, made.ids), made.expected)


@pytest.mark.parametrize("name", [name for name in (*FAMILIES, *WRAPPED) if name not in NO_GGUF])
def test_a_gguf_without_our_keys_comes_back(case: Callable[[str], Case], name: str, tmp_path: Path) -> None:
    """As llama.cpp's converter writes it, without the config.json that ours carries along: the same model from the keys alone."""
    made = case(name)
    found = bare(made.file("gguf"), tmp_path / "bare.gguf")
    assert np.array_equal(evaluate(found, made.ids), evaluate(made.file("gguf"), made.ids))
    converter.convert(found, tmp_path / "back.bin", format="ak42-v3")
    assert_close(evaluate(tmp_path / "back.bin", made.ids), made.expected)
    converter.convert(found, tmp_path / "back")
    assert_close(models.transformers_logits(models.transformers_model(tmp_path / "back"), made.ids), made.expected)


@pytest.mark.parametrize(("name", "keys"), [
    ("olmo3", {"attention.sliding_window": 11, "attention.sliding_window_pattern": [True, True, True, False, True],
               "rope.scaling.type": "yarn", "rope.freq_base_swa": None}),
    ("olmo3-listed", {"attention.sliding_window": 17, "attention.sliding_window_pattern": [False, True, True, False],
                      "rope.scaling.type": "linear", "rope.freq_base_swa": None}),
    ("olmo3-bias", {"attention.sliding_window": 13, "attention.sliding_window_pattern": [True, True, True, False],
                    "rope.scaling.type": None, "rope.freq_base_swa": 3000.0}),
    ("olmo2", {"attention.sliding_window": None, "attention.sliding_window_pattern": None, "rope.freq_base_swa": None})])
def test_an_olmo_s_keys_are_those_of_olmo2(case: Callable[[str], Case], name: str, keys: dict[str, Any]) -> None:
    found = converter.inspect(case(name).file("gguf"))["metadata"]
    assert {key: found.get(f"olmo2.{key}") for key in keys} == keys


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "olmo3"])
def test_a_family_with_windows_may_have_none(name: str, tmp_path: Path) -> None:
    """Every layer one of full attention: also past the trained context, as a GGUF with our keys and without, and as a folder."""
    n_layers = FAMILIES[name].config.get("num_hidden_layers", families.SIZES["num_hidden_layers"])
    model = families.build(FAMILIES[name], layer_types=["full_attention"] * n_layers, max_position_embeddings=32)
    model.save_pretrained(tmp_path / "hf")
    ids = models.random_ids(3, PROMPT, model.config.vocab_size)
    expected = models.transformers_logits(model, ids)
    assert np.abs(expected - models.transformers_logits(families.build(FAMILIES[name]), ids)).max() > 0.1
    for suffix in (".bin", ".gguf"):
        converter.convert(tmp_path / "hf", tmp_path / f"m{suffix}")
        assert_close(evaluate(tmp_path / f"m{suffix}", ids), expected)
    without = bare(tmp_path / "m.gguf", tmp_path / "bare.gguf")
    for source in (tmp_path / "m.bin", tmp_path / "m.gguf", without):
        converter.convert(source, tmp_path / "back.bin", force=True)
        assert_close(evaluate(tmp_path / "back.bin", ids), expected)
    for source in (tmp_path / "m.bin", tmp_path / "m.gguf"):
        converter.convert(source, tmp_path / "back", force=True)
        assert_close(models.transformers_logits(models.transformers_model(tmp_path / "back"), ids), expected)


def test_a_factor_that_f32_cannot_hold_is_refused(case: Callable[[str], Case], tmp_path: Path) -> None:
    """yarn's, which two keys make."""
    path = bare(case("llama-yarn").file("gguf"), tmp_path / "m.gguf", (), {"llama.rope.scaling.attn_factor": (converter.targets.gguf.F32, 3.4e38)})
    with pytest.raises(converter.FormatError, match="rope_attn_factor: expected a number that f32 holds, found 3.87"):
        converter.convert(path, tmp_path / "m.bin")
    with pytest.raises(pyllama.FormatError, match="rope_attn_factor"):
        pyllama.Model(path)


def test_what_a_foreign_gguf_of_gemma2_leaves_unsaid(tmp_path: Path) -> None:
    """The first files had neither the window nor the caps: llama.cpp takes those of the published models. Ours leave out what is none."""
    stated = {"sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    model = families.build(FAMILIES["gemma2"], **stated, max_position_embeddings=5000)
    ids = models.random_ids(3, PROMPT, model.config.vocab_size)
    expected = models.transformers_logits(model, ids)
    model.save_pretrained(tmp_path / "hf")
    converter.convert(tmp_path / "hf", tmp_path / "m.gguf")
    keys = ("gemma2.attention.sliding_window", "gemma2.attn_logit_softcapping", "gemma2.final_logit_softcapping")
    old = bare(tmp_path / "m.gguf", tmp_path / "old.gguf", keys)
    assert not set(keys) & set(converter.inspect(old)["metadata"])
    assert np.array_equal(evaluate(old, ids), evaluate(tmp_path / "m.gguf", ids))
    report = converter.convert(old, tmp_path / "back.bin", format="ak42-v3")
    assert sum("the default of GGUF's reference reader" in warning for warning in report.warnings) == 3
    assert_close(evaluate(tmp_path / "back.bin", ids), expected)
    config = converter.sources.open_source(tmp_path / "back.bin").config
    assert (config.sliding_window, config.attn_softcap, config.final_softcap) == (4096, 50.0, 30.0)
    with pyllama.Model(old) as opened:
        assert opened.info.sliding_window == 4096

    zero = bare(tmp_path / "m.gguf", tmp_path / "zero.gguf", keys[:1], {key: (converter.targets.gguf.F32, 0.0) for key in keys[1:]})
    converter.convert(zero, tmp_path / "zero.bin", format="ak42-v3")
    assert np.array_equal(evaluate(zero, ids), evaluate(tmp_path / "zero.bin", ids))         # stated, though as none

    plain = families.build(FAMILIES["gemma2"], attn_logit_softcapping=None, final_logit_softcapping=None)
    uncapped = models.transformers_logits(plain, ids)
    plain.save_pretrained(tmp_path / "plain")
    report = converter.convert(tmp_path / "plain", tmp_path / "plain.gguf")
    assert sum("llama.cpp takes" in warning and "softcapping to be" in warning for warning in report.warnings) == 2
    assert_close(evaluate(tmp_path / "plain.gguf", ids), uncapped)
    converter.convert(tmp_path / "plain.gguf", tmp_path / "plain.bin")
    assert_close(evaluate(tmp_path / "plain.bin", ids), uncapped)


@pytest.mark.parametrize(("layers", "pattern"), [
    ("SFSF", None), ("FFFF", None), ("SSFS", 3), ("SSSS", 0), ("FSSF", [False, True, True, False])])
def test_a_gguf_says_which_layers_have_the_window(layers: str, pattern: Any, tmp_path: Path) -> None:
    """As a period where one fits, else as a list; llama.cpp takes either."""
    kinds = [{"S": "sliding_attention", "F": "full_attention"}[one] for one in layers]
    model = families.build(FAMILIES["gemma2"], layer_types=kinds)
    model.save_pretrained(tmp_path / "hf")
    report = converter.convert(tmp_path / "hf", tmp_path / "m.gguf")
    assert converter.inspect(tmp_path / "m.gguf")["metadata"].get("gemma2.attention.sliding_window_pattern") == pattern
    assert not any("window" in warning for warning in report.warnings)
    ids = models.random_ids(3, PROMPT, model.config.vocab_size)
    assert_close(evaluate(tmp_path / "m.gguf", ids), models.transformers_logits(model, ids))


def bare(path: Path, out: Path, less: tuple[str, ...] = (), more: dict[str, Any] | None = None) -> Path:
    """A copy of a GGUF without the keys that begin with ak42., and these; with others."""
    source = converter.sources.open_source(path)
    plan = converter.build_plan(source, converter.Request(container="gguf"))
    keep = converter.targets.gguf.metadata

    def fewer(plan: Any) -> dict[str, Any]:
        return {key: value for key, value in keep(plan).items() if not key.startswith("ak42.") and key not in less} | (more or {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converter.targets.gguf, "metadata", fewer)
        converter.targets.write(plan, out, "gguf")
    source.close()
    return out


# ---- the length of the text ----


def test_longrope_is_chosen_by_the_context_of_the_session(case: Callable[[str], Case], tmp_path: Path) -> None:
    """Short factors in a context that the model was first trained for, long ones in a longer: from the first position on."""
    made = case("phi4-mini")
    path = made.file("ak42-v3")
    ids = made.ids[:30]
    short = models.transformers_logits(models.transformers_model(made.folder), ids)          # 30 < 40
    assert_close(evaluate(path, ids, n_ctx=40), short)
    in_a_long_one = evaluate(path, ids, n_ctx=41)
    assert np.abs(in_a_long_one - short).max() > 0.05
    assert np.array_equal(evaluate(path, made.ids, n_ctx=73)[:30], in_a_long_one)
    assert_close(evaluate(path, made.ids, n_ctx=200), made.expected)


def test_dynamic_rope_grows_with_the_context_of_the_session(case: Callable[[str], Case]) -> None:
    made = case("llama-dynamic")
    ids = made.ids[:20]
    plain = models.transformers_logits(models.transformers_model(made.folder), ids)          # 20 < 32: no scaling
    assert_close(evaluate(made.file("ak42-v3"), ids, n_ctx=32), plain)
    assert np.abs(evaluate(made.file("ak42-v3"), ids, n_ctx=73) - plain).max() > 0.05


# ---- what a GGUF cannot say to llama.cpp ----


@pytest.mark.parametrize(("name", "said"), [
    ("qwen2-window", "sliding window of 13"), ("smollm3-listed", "every fourth layer"), ("gemma2", "attention scale"),
    ("phi3", "sliding window of 21"), ("qwen3-moe-mixed", "experts in every layer"), ("qwen2-yarn", "beta_fast and beta_slow"),
    ("smollm3-bias", "no biases of attn_output"),
    ("olmo3-bias", "the rope_theta of 10000 in the layers with a window too, where this model has 3000")])
def test_what_llama_cpp_will_not_do_is_said(name: str, said: str, tmp_path: Path) -> None:
    report = converter.convert(families.make(tmp_path / "hf", families.FAMILIES[name]), tmp_path / "m.gguf")
    assert any(said in warning and "llama.cpp" in warning for warning in report.warnings), report.warnings


@pytest.mark.parametrize("name", families.UNOPENED)
def test_what_llama_cpp_will_not_open_is_said(name: str, tmp_path: Path) -> None:
    made = families.make(tmp_path / "hf", families.UNOPENED[name])
    said = "no rope_freqs.weight" if name.endswith("llama3") else "wants an output.weight"
    report = converter.convert(made, tmp_path / "m.gguf")
    assert [warning for warning in report.warnings if "will not open the file" in warning and said in warning]


def test_a_gguf_of_dynamic_rope_is_refused(case: Callable[[str], Case], tmp_path: Path) -> None:
    with pytest.raises(converter.UnsupportedError, match="GGUF has no key for a rope scaled by the length of the text"):
        converter.convert(case("llama-dynamic").folder, tmp_path / "m.gguf")


def test_a_saved_session_is_of_its_frequencies(case: Callable[[str], Case]) -> None:
    """Keys that were turned by a long context's frequencies are of no use in a short one."""
    made = case("phi4-mini")
    with pyllama.Model(made.file("ak42-v3")) as model:
        with model.session(n_ctx=40) as session:
            session.eval(made.ids[:9])
            saved = session.save()
        with model.session(n_ctx=32) as session:
            session.load(saved)
            assert session.position == 9
        with model.session(n_ctx=64) as session, pytest.raises(pyllama.FormatError, match="session blob: not of this model"):
            session.load(saved)


def test_a_saved_session_is_of_its_experts(case: Callable[[str], Case], tmp_path: Path) -> None:
    """One expert's matrix changed, in a GGUF, which has no checksums: the session is of another model."""
    import gguf

    path = case("mixtral").file("gguf")
    with pyllama.Model(path) as model, model.session() as session:
        session.eval([1, 2, 3])
        saved = session.save()
        session.load(saved)
    changed = tmp_path / "changed.gguf"
    changed.write_bytes(path.read_bytes())
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "blk.1.ffn_up_exps.weight")
    with open(changed, "r+b") as file:
        file.seek(tensor.data_offset + 3 * tensor.n_bytes // 5)        # the fourth expert of five
        file.write(b"\0" * 64)
    with pyllama.Model(changed) as model, model.session() as session, pytest.raises(pyllama.FormatError, match="not of this model"):
        session.load(saved)


# ---- experts as transformers 5 has them in memory ----


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe", "qwen3-moe-mixed"])
@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_experts_in_one_tensor_a_layer(case: Callable[[str], Case], name: str, form: str, tmp_path: Path) -> None:
    """save_pretrained(save_original_format=False), and a state dict as it is: the bytes of the usual layout's."""
    import torch

    made, model = case(name), families.build(FAMILIES[name])
    model.save_pretrained(tmp_path / "hf", save_original_format=False)
    assert any(key.endswith("mlp.experts.gate_up_proj") for key in models.read_safetensors(tmp_path / "hf"))
    if form == "torch":
        (tmp_path / "hf" / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "hf" / "pytorch_model.bin")
    converter.convert(tmp_path / "hf", tmp_path / "m.bin", format="ak42-v3")
    assert np.array_equal(evaluate(tmp_path / "m.bin", made.ids), evaluate(made.file("ak42-v3"), made.ids))
    converter.convert(tmp_path / "hf", tmp_path / "back")
    assert models.read_safetensors(tmp_path / "back") == models.read_safetensors(made.folder)


def reshaped(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values.swapaxes(1, 2))


@pytest.mark.parametrize(("layer", "change", "says"), [
    ("model.layers.1.mlp.experts.gate_up_proj", reshaped, r"gate_up_proj expected 5x152x48, found 5x48x152"),
    ("model.layers.1.mlp.experts.down_proj", lambda values: values[:4], r"down_proj expected 5x48x76, found 4x48x76"),
    ("model.layers.1.mlp.experts.gate_up_proj", None, r"missing: model.layers.1.block_sparse_moe.experts.0.w1.weight"),
    ("model.layers.1.mlp.gate.weight", None, r"1 tensor missing: model.layers.1.block_sparse_moe.gate.weight"),
    ("model.layers.1.block_sparse_moe.experts.0.w2.weight", lambda _values: np.zeros((48, 76), np.float32),
     r"1 tensor left over: model.layers.1.block_sparse_moe.experts.0.w2.weight"),
], ids=["turned", "fewer", "no experts", "no router", "twice"])
def test_stacked_experts_that_do_not_fit_are_refused(layer: str, change: Any, says: str, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    families.build(FAMILIES["mixtral"]).save_pretrained(tmp_path / "hf", save_original_format=False)
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    values = tensors.pop(layer, None)
    save_file(tensors | ({layer: change(values)} if change else {}), tmp_path / "hf" / "model.safetensors")
    with pytest.raises(converter.FormatError, match=says):
        converter.convert(tmp_path / "hf", tmp_path / "m.bin")


# ---- GGUF files as other converters write them ----

Tensors = list[tuple[str, np.ndarray, int]]                        # name, its bytes in gguf-py's shape, type


def rewritten(path: Path, out: Path, change: Callable[[Tensors], Tensors], architecture: str = "", **added: float) -> Path:
    """A copy of a GGUF, by gguf-py, without our keys, with changed tensors in no order that would help, and with the keys of an
    architecture of another name and others beside them."""
    import gguf

    reader = gguf.GGUFReader(path)
    before = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, architecture or before)
    for key, entry in reader.fields.items():
        if not key.startswith(("GGUF.", "ak42.", "general.architecture")):
            kind = entry.types[0]
            sub = entry.types[1] if kind == gguf.GGUFValueType.ARRAY else None
            name = key.replace(f"{before}.", f"{architecture}.", 1) if architecture and key.startswith(f"{before}.") else key
            writer.add_key_value(name, entry.contents(), kind, sub_type=sub)
    for key, value in added.items():
        (writer.add_bool if isinstance(value, bool) else writer.add_float32)(f"{architecture or before}.{key}", value)
    for name, values, kind in change([(t.name, np.array(t.data), t.tensor_type) for t in reader.tensors])[::-1]:
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def assert_all_readers_give(path: Path, ids: list[int], wanted: np.ndarray, folder: Path) -> None:
    """The runtime from the file, and from what the converter makes of it."""
    assert np.array_equal(evaluate(path, ids), wanted)
    for suffix in (".bin", ".gguf"):
        converter.convert(path, folder / f"new{suffix}")
        assert np.array_equal(evaluate(folder / f"new{suffix}", ids), wanted)


def joined_attention(tensors: Tensors) -> Tensors:
    """q, k and v as one, matrices and biases: what llama.cpp's converter does with --fuse-qkv."""
    by_name = {name: (values, kind) for name, values, kind in tensors}
    out = []
    for name, values, kind in tensors:
        parts = [by_name[name.replace("attn_q.", f"attn_{letter}.")][0] for letter in "qkv"] if ".attn_q." in name else []
        if parts:
            out.append((name.replace("attn_q.", "attn_qkv."), np.concatenate(parts), kind))
        elif ".attn_k." not in name and ".attn_v." not in name:
            out.append((name, values, kind))
    return out


@pytest.mark.parametrize("type_name", ["keep", "f16", "bf16"])
@pytest.mark.parametrize("name", ["llama3", "qwen2", "qwen3-bias", "granite-bias", "gemma3"])
def test_q_k_and_v_as_one(case: Callable[[str], Case], tmp_path: Path, name: str, type_name: str) -> None:
    made = case(name)
    path = made.file("gguf", type_name)
    assert_all_readers_give(rewritten(path, tmp_path / "joined.gguf", joined_attention), made.ids, evaluate(path, made.ids), tmp_path)


@pytest.mark.parametrize("cut", ["blk.1.attn_qkv.weight", "blk.0.attn_qkv.bias"])
def test_q_k_and_v_as_one_of_other_rows_are_refused(case: Callable[[str], Case], tmp_path: Path, cut: str) -> None:
    path = rewritten(case("qwen2").file("gguf"), tmp_path / "joined.gguf",
                     lambda tensors: [(name, values[:-1] if name == cut else values, kind)
                                      for name, values, kind in joined_attention(tensors)])
    with pytest.raises(pyllama.FormatError, match=cut):
        pyllama.Model(path)
    with pytest.raises(converter.FormatError, match=cut):
        converter.convert(path, tmp_path / "new.bin")


@pytest.mark.parametrize(("name", "architecture"), [("mistral3", "mistral3"), ("mistral-nemo", "mistral")])
def test_architectures_that_are_llama_s(case: Callable[[str], Case], tmp_path: Path, name: str, architecture: str) -> None:
    """llama.cpp's converter gives Mistral Small 3.1 an architecture of its own, which is llama's with yarn."""
    made = case(name)
    path = rewritten(made.file("gguf"), tmp_path / "own.gguf", lambda tensors: tensors, architecture)
    assert_all_readers_give(path, made.ids, evaluate(made.file("gguf"), made.ids), tmp_path)


@pytest.mark.parametrize(("key", "value"), [("attention.temperature_scale", 0.1), ("rope.scaling.yarn_log_multiplier", 1.0)])
def test_a_ministral_3_is_refused(case: Callable[[str], Case], tmp_path: Path, key: str, value: float) -> None:
    """It has mistral3's architecture, and queries that grow with their position."""
    path = rewritten(case("mistral3").file("gguf"), tmp_path / "own.gguf", lambda tensors: tensors, "mistral3", **{key: value})
    with pytest.raises(pyllama.UnsupportedError, match=key):
        pyllama.Model(path)
    with pytest.raises(converter.UnsupportedError, match=key):
        converter.convert(path, tmp_path / "new.bin")


def test_a_granite_without_rope_is_refused(case: Callable[[str], Case], tmp_path: Path) -> None:
    """There the key says whether layers have rope; in other architectures it is a remark."""
    for name, value in (("granite", True), ("llama3", False)):
        path = case(name).file("gguf")
        said = rewritten(path, tmp_path / f"{name}.gguf", lambda tensors: tensors, **{"rope.scaling.finetuned": value})
        assert np.array_equal(evaluate(said, case(name).ids), evaluate(path, case(name).ids))
    path = rewritten(case("granite").file("gguf"), tmp_path / "own.gguf", lambda tensors: tensors, **{"rope.scaling.finetuned": False})
    with pytest.raises(pyllama.UnsupportedError, match="granite.rope.scaling.finetuned"):
        pyllama.Model(path)
    with pytest.raises(converter.UnsupportedError, match="granite.rope.scaling.finetuned"):
        converter.convert(path, tmp_path / "new.bin")


def with_single_experts(path: Path, out: Path, change: Callable[[str, np.ndarray], tuple[str, np.ndarray] | None]) -> Path:
    """A Mixtral of the first days, in which each expert's matrix is a tensor of its own; change may rename, alter or drop one."""

    def separate(tensors: Tensors) -> Tensors:
        single = [(name.replace("_exps", f".{e}"), one, kind) for name, values, kind in tensors
                  for e, one in (enumerate(values) if "_exps" in name else [("", values)])]
        return [(*made, kind) for name, values, kind in single if (made := change(name, values)) is not None]

    return rewritten(path, out, separate)


@pytest.mark.parametrize("type_name", ["keep", "f16"])
def test_experts_that_are_tensors_of_their_own(case: Callable[[str], Case], tmp_path: Path, type_name: str) -> None:
    made = case("mixtral")
    whole = made.file("gguf", type_name)
    old = with_single_experts(whole, tmp_path / "old.gguf", lambda name, values: (name, values))
    assert_all_readers_give(old, made.ids, evaluate(whole, made.ids), tmp_path)


@pytest.mark.parametrize(("change", "says"), [
    (lambda name, values: None if name == "blk.1.ffn_up.2.weight" else (name, values), r"blk\.1\.ffn_up"),
    (lambda name, values: None if name == "blk.1.ffn_up.0.weight" else (name, values), r"blk\.1\.ffn_up"),
    (lambda name, values: (name.replace("down.4", "down.7"), values), r"blk\.\d\.ffn_down"),
    (lambda name, values: (name, values[:-1] if name == "blk.0.ffn_gate.3.weight" else values), r"blk\.0\.ffn_gate\.3\.weight"),
], ids=["one less", "no first", "another number", "another shape"])
def test_experts_that_are_not_alike_are_refused(case: Callable[[str], Case], tmp_path: Path, change: Any, says: str) -> None:
    old = with_single_experts(case("mixtral").file("gguf"), tmp_path / "old.gguf", change)
    with pytest.raises(pyllama.FormatError, match=says):
        pyllama.Model(old)
    with pytest.raises(converter.FormatError, match=says):
        converter.convert(old, tmp_path / "new.bin")
