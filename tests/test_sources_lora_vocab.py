"""--lora with an adapter that changes the vocabulary: other rows of the embedding and the head, with the tokenizer that lies beside
it, and single rows (trainable_token_indices). The weights are those of PEFT's merge_and_unload over a base model whose embedding
transformers has resized; header, tokenizer, special ids and chat template of what is written have to say the same.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import torch
from models import CHATML, ModelSpec
from safetensors.torch import load_file, save_file
from source_checks import values_of
from test_sources_lora import changed, check_merged, merged_values, meta_folder, opened, refused_by, trained

import converter
import pyllama
from converter.errors import ConvertError, FormatError, UnsupportedError
from converter.sources import open_source
from converter.sources.lora import LoraSource

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

SPEC = ModelSpec(dim=64, hidden_dim=96, vocab_size=303, n_kv_heads=2, max_positions=64, tokenizer="bpe", bos_id=None, eos_ids=(0,))
NEW = ("<|user|>", "<|bot|>", "<|end|>")
ROWS = SPEC.vocab_size + len(NEW)
END = ROWS - 1
BOTH = ["embed_tokens", "lm_head"]
TEMPLATE = CHATML.replace("<|im_start|>", "<|user|>").replace("<|im_end|>", "<|end|>")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make_hf_model_numpy(tmp_path_factory.mktemp("vocab") / "base", SPEC)


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.make_hf_model_numpy(tmp_path_factory.mktemp("vocab") / "tied", SPEC, tie=True)


def add_tokenizer(base: Path, out: Path, new: tuple[str, ...] = NEW) -> None:
    """As a trainer leaves it beside the adapter: new special tokens, of which the last ends a text, and a chat template."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": list(new)})
    tokenizer.eos_token = new[-1]
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(out)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    folder = tmp_path_factory.mktemp("vocab") / "adapter"
    trained(base, folder, rows=ROWS, modules_to_save=BOTH, target_modules=["q_proj"])
    add_tokenizer(base, folder)
    return folder


# ---- the weights ----


@pytest.mark.parametrize(
    "settings",
    [
        {"modules_to_save": BOTH},
        {},                                                    # PEFT saves both, because the base model has fewer rows
        {"modules_to_save": ["embed_tokens"]},
        {"target_modules": ["embed_tokens", "lm_head", "v_proj"]},
        {"target_modules": ["embed_tokens", "lm_head", "v_proj"], "use_dora": True},
        {"trainable_token_indices": [5, ROWS - 2, ROWS - 1]},
        {"trainable_token_indices": {"embed_tokens": [ROWS - 1, 5], "lm_head": [ROWS - 2]}},
    ],
    ids=str,
)
def test_it_is_what_peft_merges(tmp_path: Path, base: Path, settings: dict[str, Any]) -> None:
    expected = merged_values(trained(base, tmp_path / "adapter", rows=ROWS, **{"target_modules": ["q_proj"], **settings}))
    add_tokenizer(base, tmp_path / "adapter")
    source = opened(base, tmp_path / "adapter")
    assert source.config.vocab_size == ROWS == len(source.vocab.tokens) == len(expected["lm_head.weight"])
    assert source.tensor("token_embd.weight")[1] == source.tensor("output.weight")[1] == (ROWS, SPEC.dim)
    check_merged(source, expected)
    whole = source.read("token_embd.weight", 0, ROWS)
    assert np.allclose(source.read("token_embd.weight", 300, ROWS).view("<f4"), whole[300:].view("<f4"), rtol=0, atol=1e-6)
    source.close()


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_16_bits(tmp_path: Path, dtype: str) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "base", SPEC, dtype=dtype)
    expected = merged_values(trained(folder, tmp_path / "adapter", dtype, rows=ROWS, modules_to_save=["embed_tokens"],
                                     target_modules=["lm_head", "q_proj"]))
    add_tokenizer(folder, tmp_path / "adapter")
    source = opened(folder, tmp_path / "adapter")
    assert source.tensor("token_embd.weight")[0].name == source.tensor("output.weight")[0].name == dtype
    check_merged(source, expected, dtype)
    source.close()


@pytest.mark.parametrize("rows", [ROWS, 320, 297], ids=["as many", "padded", "fewer"])
@pytest.mark.parametrize("kind", ["hf", "gguf", "bin", "meta", "q8_0"])
def test_every_kind_of_source(tmp_path: Path, base: Path, kind: str, rows: int) -> None:
    expected = merged_values(trained(base, tmp_path / "adapter", rows=rows, modules_to_save=BOTH, target_modules=["v_proj"]))
    if rows > SPEC.vocab_size:
        add_tokenizer(base, tmp_path / "adapter")
    else:
        (tmp_path / "adapter" / "tokenizer.json").write_text(models.bpe_tokenizer_json(rows))
    path = base
    if kind == "meta":
        path = meta_folder(tmp_path / "meta", SPEC)
    elif kind != "hf":
        path = tmp_path / f"base.{'gguf' if kind == 'q8_0' else kind}"
        converter.convert(base, path, type="q8_0" if kind == "q8_0" else "keep")
    source = opened(path, tmp_path / "adapter")
    assert source.config.vocab_size == rows and source.tensor("token_embd.weight")[0].name == "f32"
    for name, wanted in (("token_embd.weight", "model.embed_tokens.weight"), ("output.weight", "lm_head.weight")):
        assert np.array_equal(values_of(source, name), expected[wanted])
    if kind != "q8_0":
        check_merged(source, expected)
    source.close()
    converter.convert(path, tmp_path / "out.bin", lora=tmp_path / "adapter", type="q8_0" if kind == "q8_0" else "keep")
    out = open_source(tmp_path / "out.bin")
    assert out.config.vocab_size == rows == len(out.vocab.tokens)
    out.close()


def test_over_bitsandbytes(tmp_path: Path) -> None:
    """Its blocks decoded, with the new rows beside them."""
    pytest.importorskip("bitsandbytes")
    from test_sources_bitsandbytes import SPEC as PACKED
    from test_sources_bitsandbytes import folder_of

    folder, full = folder_of(tmp_path / "base", PACKED, "nf4", True)
    plain = models.make_hf_model_numpy(tmp_path / "plain", PACKED)
    save_file({name: value.contiguous().clone() for name, value in full.items()}, plain / "model.safetensors")
    expected = merged_values(trained(plain, tmp_path / "adapter", "bf16", rows=ROWS, modules_to_save=BOTH, target_modules=["q_proj"]))
    (tmp_path / "adapter" / "tokenizer.json").write_text(models.bpe_tokenizer_json(ROWS))
    source = opened(folder, tmp_path / "adapter")
    check_merged(source, expected, "bf16")
    source.close()
    converter.convert(folder, tmp_path / "out", lora=tmp_path / "adapter")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == ROWS and "quantization_config" not in config


# ---- what is written ----


@pytest.mark.parametrize("out", ["out.bin", "out.gguf", "out"])
def test_all_of_it_says_the_same(tmp_path: Path, base: Path, good: Path, out: str) -> None:
    """The tokenizer is the adapter's, and header, keys and texts follow it; the base model's end of a text still is one."""
    report = converter.convert(base, tmp_path / out, lora=good)
    assert report.warnings == ()
    converter.verify(tmp_path / out)
    source = open_source(tmp_path / out)
    assert (source.config.vocab_size, source.config.eos_ids, source.config.shared_classifier) == (ROWS, (END, 0), False)
    assert source.vocab.tokens[-3:] == tuple(token.encode() for token in NEW) and source.vocab.eos_ids[0] == END
    assert (source.config.bos_id, source.vocab.bos_id) == (1, 1) and source.chat_template == TEMPLATE
    assert source.hf_config["vocab_size"] == ROWS and source.hf_config["eos_token_id"] == [END, 0]
    assert source.generation_config["eos_token_id"] == [END, 0] and source.generation_config["bos_token_id"] == 1
    source.close()
    if out == "out":
        assert transformers.AutoConfig.from_pretrained(tmp_path / out).vocab_size == ROWS
        theirs, ours = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (good, tmp_path / out))
        text = "<|user|>one two<|end|>"
        assert ours.encode(text) == theirs.encode(text) and ours.eos_token == theirs.eos_token == "<|end|>"
        assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / out).get_output_embeddings().weight.shape[0] == ROWS
        return
    with pyllama.Model(tmp_path / out, n_threads=1) as model:
        assert model.encode("<|user|>", parse_special=True)[-1] == SPEC.vocab_size


def test_its_logits_are_the_merged_models(tmp_path: Path, base: Path) -> None:
    model = trained(base, tmp_path / "adapter", rows=ROWS, modules_to_save=BOTH, target_modules=["q_proj"]).merge_and_unload()
    add_tokenizer(base, tmp_path / "adapter")
    converter.convert(base, tmp_path / "ours.bin", lora=tmp_path / "adapter")
    ids = [1, 7, SPEC.vocab_size, 200, END]
    with pyllama.Model(tmp_path / "ours.bin", n_threads=1) as ours, ours.session() as session:
        found = session.eval(ids)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0, -1].numpy()
    assert found.shape == (ROWS,) and np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    source = open_source(tmp_path / "ours.bin")
    files = json.loads(bytes(source._ak42.sections["MANI"]))["source"]["files"]
    source.close()
    assert {"tokenizer.json", "tokenizer_config.json", "adapter_config.json"} <= set(files)


def test_a_tokenizer_that_is_given_wins(tmp_path: Path, base: Path, good: Path) -> None:
    adapter = changed(good, tmp_path / "a")
    add_tokenizer(base, tmp_path / "given", ("<|a|>", "<|b|>", "<|c|>"))
    converter.convert(base, tmp_path / "out.gguf", lora=adapter, tokenizer=tmp_path / "given" / "tokenizer.json")
    source = open_source(tmp_path / "out.gguf")
    assert source.vocab.tokens[-3:] == (b"<|a|>", b"<|b|>", b"<|c|>") and source.config.eos_ids == (END, 0)
    source.close()


def test_the_command(tmp_path: Path, base: Path, good: Path, pyllama_command: Callable[..., Any]) -> None:
    done = pyllama_command("convert", base, "-o", tmp_path / "out.gguf", "--lora", good, "--type", "q8_0")
    assert done.code == 0 and "warning" not in done.err, done.err
    done = pyllama_command("convert", base, "-o", tmp_path / "bad.gguf", "--lora", changed(good, tmp_path / "a"))
    assert done.code == 1 and "expected the tokenizer of the adapter's 306 embedding rows beside it, found none" in done.err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("bad")]


# ---- tied embeddings ----


@pytest.mark.parametrize(
    ("settings", "rows", "one"),
    [
        ({}, ROWS, True),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, ROWS, True),
        ({"target_modules": ["embed_tokens", "q_proj"]}, ROWS, True),
        ({"trainable_token_indices": [4, ROWS - 1]}, ROWS, True),
        ({"trainable_token_indices": {"embed_tokens": [4, ROWS - 1], "lm_head": [4, ROWS - 1]}}, ROWS, True),
        ({"trainable_token_indices": [4, 9]}, 0, True),
        ({"modules_to_save": BOTH}, ROWS, False),
        ({"modules_to_save": ["embed_tokens"]}, ROWS, False),      # the head is saved as it was
        ({"modules_to_save": ["lm_head"]}, ROWS, False),
        ({"modules_to_save": BOTH}, 0, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_tied_embeddings(tmp_path: Path, tied: Path, kind: str, settings: dict[str, Any], rows: int, one: bool) -> None:
    """What PEFT has merged says whether the head still is the embedding; where it is not, it is written beside it."""
    expected = merged_values(trained(tied, tmp_path / "adapter", rows=rows, **{"target_modules": ["q_proj"], **settings}))
    assert np.array_equal(expected["lm_head.weight"], expected["model.embed_tokens.weight"]) == one
    if rows:
        add_tokenizer(tied, tmp_path / "adapter")
    path = tied
    if kind != "hf":
        path = tmp_path / "base.gguf"
        converter.convert(tied, path)
    source = opened(path, tmp_path / "adapter")
    assert source.config.shared_classifier == one and ("output.weight" in source.names()) != one
    assert [text for text in source.warnings if "lm_head" in text] == ([] if one else [
        f"adapter: lm_head.weight differs from model.embed_tokens.weight, which are one in {source.name}: both are kept"])
    check_merged(source, expected)
    source.close()
    for out in ("out.bin", "out.gguf", "out"):
        converter.convert(path, tmp_path / out, lora=tmp_path / "adapter", keep_head="f16" if out == "out.gguf" else None)
        again = open_source(tmp_path / out)
        assert again.config.shared_classifier == again.hf_config["tie_word_embeddings"] == one
        assert again.config.vocab_size == (rows or SPEC.vocab_size)
        again.close()


def test_a_quantised_base_that_is_no_longer_tied(tmp_path: Path, tied: Path) -> None:
    trained(tied, tmp_path / "adapter", modules_to_save=BOTH, target_modules=["q_proj"])
    converter.convert(tied, tmp_path / "base.gguf", type="q8_0")
    with pytest.raises(converter.UsageError, match="merges into weights of q8_0, which --type keep cannot keep"):
        converter.convert(tmp_path / "base.gguf", tmp_path / "out.gguf", lora=tmp_path / "adapter")
    report = converter.convert(tmp_path / "base.gguf", tmp_path / "out.gguf", lora=tmp_path / "adapter", type="q8_0")
    assert report.tensor_types["output.weight"] == report.tensor_types["token_embd.weight"] == "q8_0"


# ---- single rows ----


@pytest.mark.parametrize("tokens", [[7, 3], {"embed_tokens": [302, 0, 9], "lm_head": [5]}, {"lm_head": [5]}], ids=str)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_trainable_tokens(tmp_path: Path, dtype: str, tokens: Any) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "base", SPEC, dtype=dtype)
    expected = merged_values(trained(folder, tmp_path / "adapter", dtype, trainable_token_indices=tokens, target_modules=["q_proj"]))
    source, plain = opened(folder, tmp_path / "adapter"), open_source(folder)
    check_merged(source, expected, dtype)
    for name, wanted in (("token_embd.weight", "model.embed_tokens.weight"), ("output.weight", "lm_head.weight")):
        values = values_of(source, name)
        assert np.array_equal(values, expected[wanted])
        listed = tokens if isinstance(tokens, list) else tokens.get(wanted.split(".")[-2], [])
        listed = [] if isinstance(tokens, list) and name == "output.weight" else listed
        assert sorted(np.nonzero((values != values_of(plain, name)).any(axis=1))[0]) == sorted(listed)
        part = plain.tensor(name)[0].decode(source.read(name, 2, 9), SPEC.dim)
        assert np.array_equal(part, values[2:9])
    source.close(), plain.close()


DELTA = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


@pytest.mark.parametrize(
    ("config", "change", "text"),
    [
        ({"trainable_token_indices": [1, 2]}, {}, "expected rows for embed_tokens, which trainable_token_indices names, found none"),
        ({"trainable_token_indices": [1, 1]}, {}, "trainable_token_indices: expected different token ids, found an array of 2"),
        ({"trainable_token_indices": [-1]}, {}, "trainable_token_indices: expected different token ids"),
        ({"trainable_token_indices": [True]}, {}, "trainable_token_indices: expected different token ids"),
        ({"trainable_token_indices": {"embed_tokens": "x"}}, {}, "trainable_token_indices.embed_tokens: expected different token ids"),
        ({"trainable_token_indices": 7}, {}, "trainable_token_indices: expected different token ids, found 7"),
        ({"trainable_token_indices": [1, 2]}, {DELTA: (3, 64)}, "expected 2 rows, as trainable_token_indices says, found 3x64"),
        ({"trainable_token_indices": [1, 2]}, {DELTA: (64,)}, "expected 2 rows, as trainable_token_indices says, found 64"),
        ({"trainable_token_indices": [1, 303]}, {DELTA: (2, 64)}, "model.embed_tokens.weight: expected 303x64, as base has it, found 304x64"),
        ({"trainable_token_indices": [1, 10**30]}, {DELTA: (2, 64)}, "model.embed_tokens.weight: expected 303x64, as base has it"),
        ({"trainable_token_indices": [1, 2]}, {DELTA: (2, 63)}, "model.embed_tokens.weight: expected 303x64, as base has it, found 3x63"),
        ({}, {DELTA: (2, 64)}, "model.embed_tokens: expected a module of trainable_token_indices, found another"),
        ({"trainable_token_indices": {"embed_tokens": [1], "lm_head": [2]}}, {DELTA: (1, 64)}, "expected rows for lm_head"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(tmp_path: Path, base: Path, config: dict[str, Any], change: dict[str, Any], text: str) -> None:
    trained(base, tmp_path / "good", target_modules=["q_proj"])
    adapter = changed(tmp_path / "good", tmp_path / "a", config,
                      lambda tensors: tensors | {name: torch.zeros(shape) for name, shape in change.items()})
    assert text in refused_by(base, adapter)


# ---- what is refused ----


def with_tokenizer(adapter: Path, text: str | None) -> Path:
    if text is not None:
        (adapter / "tokenizer.json").write_text(text)
    return adapter


E, H = "base_model.model.model.embed_tokens", "base_model.model.lm_head"
OTHERS = ("modules_to_save", "original_module")


def without(tensors: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in tensors.items() if not key.startswith(name)}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda tensors: without(tensors, H), "expected as many rows of model.embed_tokens.weight as of lm_head.weight, found 306 and 303"),
        (lambda tensors: without(tensors, E), "expected as many rows of model.embed_tokens.weight as of lm_head.weight, found 303 and 306"),
        (lambda tensors: tensors | {f"{H}.weight": torch.zeros(305, 64)}, "found 306 and 305; an adapter with another vocabulary"),
        (lambda tensors: tensors | {f"{H}.weight": torch.zeros(306, 63)}, "lm_head.weight: expected 306x64, as base has it, found 306x63"),
        (lambda tensors: tensors | {f"{E}.weight": torch.zeros(306)}, "found 303 and 306"),
        (lambda tensors: without(without(tensors, H), E) | {f"{name}.weight": torch.zeros(0, 64) for name in (H, E)}, "model.embed_tokens.weight: expected 1 to 16777216 rows, found 0"),
        (lambda tensors: without(without(tensors, H), E) | {f"{name}.weight": torch.zeros(1 << 25, 0) for name in (H, E)}, "expected 1 to 16777216 rows, found 33554432"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, base: Path, good: Path, change: Callable[..., Any], text: str) -> None:
    adapter = with_tokenizer(changed(good, tmp_path / "a", weights=change), (good / "tokenizer.json").read_text())
    found = refused_by(base, adapter)
    assert text in found and "\n" not in found


def test_tokenizers_that_do_not_fit_are_refused(tmp_path: Path, base: Path, good: Path) -> None:
    remedy = "; put the one there that it was trained with, or give it with --tokenizer"
    adapter = changed(good, tmp_path / "a")
    before = set(tmp_path.iterdir())
    assert refused_by(base, adapter, FormatError) == (
        f"a: tokenizer.json: expected the tokenizer of the adapter's {ROWS} embedding rows beside it, found none{remedy}")
    for rows in (SPEC.vocab_size, ROWS + 1):
        found = refused_by(base, with_tokenizer(adapter, models.bpe_tokenizer_json(rows)), FormatError)
        assert found == f"a: tokenizer.json: expected {ROWS} tokens, the rows of the adapter's embedding, found {rows}{remedy}"
    for text, says in (("{}", "a: tokenizer.json: .model: expected an object, found nothing"),
                       ("[]", "a: tokenizer.json: expected a JSON object, found an array"),
                       ("GGUF", "a: tokenizer.json: expected JSON, found "), ("", "a: tokenizer.json: expected JSON, found ")):
        assert refused_by(base, with_tokenizer(adapter, text)).startswith(says)
    with pytest.raises(ConvertError, match="expected a tokenizer of at most 306 tokens, the rows of the embedding, found one of 307"):
        with_tokenizer(tmp_path, models.bpe_tokenizer_json(ROWS + 1))
        converter.convert(base, tmp_path / "out.bin", lora=adapter, tokenizer=tmp_path / "tokenizer.json")
    assert set(tmp_path.iterdir()) == {*before, tmp_path / "tokenizer.json"}


@pytest.mark.parametrize(("rows", "right"), [(1288, True), (1328, False)])
def test_rows_that_stand_for_no_token_are_padding(tmp_path: Path, base: Path, rows: int, right: bool) -> None:
    """And not so many that the tokenizer is of another model."""
    adapter = tmp_path / "a"
    trained(base, adapter, rows=rows, modules_to_save=BOTH, target_modules=["q_proj"])
    with_tokenizer(adapter, models.bpe_tokenizer_json(SPEC.vocab_size))
    if right:
        opened(base, adapter).close()
        return
    assert "expected 1328 tokens, the rows of the adapter's embedding, found 303; put the one there" in refused_by(base, adapter)
    LoraSource(open_source(base), adapter, adapter / "tokenizer.json").close()


@pytest.mark.parametrize("name", ["tied", "base"])
def test_rows_of_no_width_are_not_compared(tmp_path: Path, base: Path, tied: Path, good: Path, name: str) -> None:
    """Of which a file of no size may have 2^60."""
    adapter = tmp_path / "a"
    shutil.copytree(good, adapter)
    entry = {"dtype": "F32", "shape": [1 << 60, 0], "data_offsets": [0, 0]}
    header = json.dumps({f"{module}.weight": entry for module in (E, H)}).encode()
    (adapter / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    found = refused_by(tied if name == "tied" else base, adapter, FormatError)
    assert found == f"a: model.embed_tokens.weight: expected 1 to 16777216 rows, found {1 << 60}"


def test_half_of_what_is_tied_is_refused(tmp_path: Path, tied: Path) -> None:
    """Where the other half would be the base model's: PEFT makes two of them, which hangs on its release."""
    text = "the base model's head is its embedding; an adapter that changes one of them alone is not supported"
    for name in BOTH:
        trained(tied, tmp_path / name, modules_to_save=[name], target_modules=["q_proj"])
        assert text in refused_by(tied, tmp_path / name, UnsupportedError)


# ---- a tokenizer beside an adapter that leaves the rows alone ----


def test_an_unused_tokenizer_is_a_warning(tmp_path: Path, base: Path) -> None:
    """The base model's is kept, and said so where the other is another one."""
    trained(base, tmp_path / "adapter", target_modules=["q_proj"])
    shutil.copy(base / "tokenizer.json", tmp_path / "adapter")
    shutil.copy(base / "tokenizer_config.json", tmp_path / "adapter")
    converted = lambda **more: converter.convert(base, tmp_path / "out.bin", lora=tmp_path / "adapter", force=True, **more)  # noqa: E731
    assert converted().warnings == ()
    (tmp_path / "adapter" / "chat_template.jinja").write_text(TEMPLATE)
    assert converted().warnings == ("adapter: beside it is a tokenizer with another chat template; that of base is kept",)
    add_tokenizer(base, tmp_path / "adapter")
    assert converted().warnings == ("adapter: beside it is a tokenizer with other tokens, another end of a text, another chat template; "
                                    "that of base is kept; --tokenizer takes another",)
    source = open_source(tmp_path / "out.bin")
    assert (source.config.vocab_size, source.chat_template, len(source.vocab.tokens)) == (SPEC.vocab_size, None, SPEC.vocab_size)
    source.close()
    assert converted(tokenizer=base / "tokenizer.json").warnings == ()
    (tmp_path / "adapter" / "tokenizer.json").write_text("{")              # what is not read need not be readable
    LoraSource(open_source(base), tmp_path / "adapter").close()


@pytest.mark.parametrize("tokenizer", ["bpe", "spm"])
@pytest.mark.parametrize("kind", ["gguf", "bin"])
def test_the_same_tokenizer_is_none(tmp_path: Path, kind: str, tokenizer: str) -> None:
    """The base model's file says in its own words what the adapter's tokenizer.json says."""
    eos = (0,) if tokenizer == "bpe" else (2,)
    base = models.make_hf_model_numpy(tmp_path / "base", SPEC, vocab_size=400, tokenizer=tokenizer, chat_template=CHATML, eos_ids=eos)
    trained(base, tmp_path / "adapter", target_modules=["q_proj"])
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(base / name, tmp_path / "adapter")
    converter.convert(base, tmp_path / f"base.{kind}")
    source = opened(tmp_path / f"base.{kind}", tmp_path / "adapter")
    assert source.warnings == ([] if tokenizer == "spm" else
                               ["adapter: beside it is a tokenizer with another end of a text; that of base." + kind + " is kept"])
    source.close()


def test_a_wrapper_and_its_weight(tmp_path: Path, base: Path, good: Path) -> None:
    """Of the names under which PEFT saves a weight that has grown, the plain one counts, as PEFT loads it; old releases had but
    the wrapper's."""
    tensors = load_file(good / "adapter_model.safetensors")
    assert {f"{E}.weight", f"{E}.modules_to_save.weight", f"{E}.original_module.weight"} <= set(tensors)
    plain = opened(base, good)
    for number, names in enumerate((("modules_to_save", "original_module"), ("modules_to_save",), ("modules_to_save.default",), ())):
        adapter = tmp_path / f"a{number}"
        shutil.copytree(good, adapter)
        kept = {key: value for key, value in tensors.items() if E not in key and H not in key}
        for module in (E, H):
            for name in names:
                kept[f"{module}.{name}.weight"] = tensors[f"{module}.weight"] if "save" in name else torch.zeros(ROWS, 64)
            if not names:
                kept |= {f"{module}.weight": tensors[f"{module}.weight"], f"{module}.modules_to_save.weight": torch.zeros(ROWS, 64)}
        save_file({key: value.clone() for key, value in kept.items()}, adapter / "adapter_model.safetensors")
        source = opened(base, adapter)
        assert np.array_equal(source.read("token_embd.weight", 0, ROWS), plain.read("token_embd.weight", 0, ROWS))
        source.close()
    plain.close()
