"""Which vocabulary and which chat template a source has: the file that wins, the one that is given, and what is said when none fits."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import models
import pytest
from models import ModelSpec

import converter
from converter.errors import ConvertError, FormatError
from converter.plan import Request, build_plan
from converter.sources import Source, open_source
from converter.sources.vocabulary import from_file
from converter.tokenizer import Vocab

SPM = ModelSpec(vocab_size=403, tokenizer="spm", chat_template=models.INSTRUCT)
BPE = ModelSpec(vocab_size=403, tokenizer="bpe", chat_template=models.CHATML)

pytest_plugins = ["source_fixtures"]


@pytest.fixture
def spm(tmp_path: Path) -> Path:
    return models.make_hf_model_numpy(tmp_path / "spm", SPM)


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    return models.make_hf_model_numpy(tmp_path / "bpe", BPE)


def tokenizer_bin(folder: Path) -> bytes:
    """llama2.c's file of a SentencePiece model."""
    pieces = models.spm_model(403)
    return Vocab.from_sentencepiece(pieces).padded_to(403).to_tokenizer_bin()


def test_tokenizer_json_wins(spm: Path, opened: Callable[..., Source]) -> None:
    vocab = opened(spm).vocab
    assert vocab is not None and vocab.kind == "spm" and len(vocab.tokens) == 403
    (spm / "tokenizer.model").write_bytes(b"not looked at")
    (spm / "tokenizer.bin").write_bytes(b"not looked at")
    assert opened(spm).vocab == vocab
    assert {"tokenizer.json", "tokenizer_config.json"} <= {path.name for path in opened(spm).files}


def test_tokenizer_model_and_tokenizer_bin_stand_in(spm: Path, opened: Callable[..., Source]) -> None:
    tokens = opened(spm).vocab.tokens
    data = tokenizer_bin(spm)
    (spm / "tokenizer.json").unlink()
    (spm / "tokenizer.model").write_bytes(models.spm_model(403))
    (spm / "tokenizer.bin").write_bytes(b"not looked at")
    assert opened(spm).vocab.tokens == tokens
    (spm / "tokenizer.model").unlink()
    (spm / "tokenizer.bin").write_bytes(data)
    source = opened(spm)
    assert source.vocab.kind == "spm" and len(source.vocab.tokens) == 403
    assert "tokenizer.bin" in {path.name for path in source.files}
    (spm / "tokenizer.bin").unlink()
    assert opened(spm).vocab is None


def test_a_tokenizer_may_be_given(spm: Path, bpe: Path, tmp_path: Path, opened: Callable[..., Source]) -> None:
    (tmp_path / "tok403.bin").write_bytes(tokenizer_bin(spm))
    (tmp_path / "pieces").write_bytes(models.spm_model(403))
    converter.convert(bpe, tmp_path / "m.gguf")
    for given, kind in (
        (bpe / "tokenizer.json", "bpe"),
        (bpe, "bpe"),
        (tmp_path / "tok403.bin", "spm"),
        (tmp_path / "pieces", "spm"),
        (tmp_path / "m.gguf", "bpe"),
    ):
        for path in (spm, tmp_path / "m.gguf"):
            assert opened(path, given).vocab.kind == kind
    report = converter.convert(spm, tmp_path / "given.bin", tokenizer=bpe / "tokenizer.json")
    assert opened(tmp_path / "given.bin").vocab.kind == "bpe" and report.version == 1


def test_it_travels_through_every_format(spm: Path, tmp_path: Path, opened: Callable[..., Source]) -> None:
    source = opened(spm)
    for name in ("m.bin", "m.gguf", "folder"):
        converter.convert(spm, tmp_path / name)
        other = opened(tmp_path / name)
        assert (other.vocab.tokens, other.vocab.kind, other.vocab.bos_id) == (source.vocab.tokens, "spm", source.vocab.bos_id)
        assert other.chat_template == source.chat_template == models.INSTRUCT


def test_a_headerless_file_has_it_beside(spm: Path, tmp_path: Path, opened: Callable[..., Source]) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    converter.convert(spm, folder / "model.bin", format="ak42-v0")
    source = opened(folder / "model.bin")
    assert source.vocab.kind == "spm" and [path.name for path in source.files] == ["model.bin", "tokenizer.bin"]
    (folder / "tokenizer.bin").rename(folder / "tok.bin")
    assert opened(folder / "model.bin").vocab is None
    assert opened(folder / "model.bin", folder / "tok.bin").vocab == source.vocab
    report = converter.convert(folder / "model.bin", tmp_path / "m.gguf")
    assert "model.bin: no tokenizer was found; give one with --tokenizer" in report.warnings


def test_ids_that_no_config_says_are_the_vocabulary_s(spm: Path, tmp_path: Path, opened: Callable[..., Source]) -> None:
    converter.convert(spm, tmp_path / "model.bin", format="ak42-v0")
    source = opened(tmp_path / "model.bin")
    assert (source.config.bos_id, source.config.eos_ids) == (-1, ())
    plan = build_plan(source, Request())
    assert (plan.config.bos_id, plan.config.eos_ids) == (1, (2,))


def test_a_text_ends_where_the_model_s_config_says(tmp_path: Path) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "hf", replace(BPE, eos_ids=(7, 2, 9)))
    own = open_source(folder).vocab.eos_ids
    assert len(own) == 1
    assert set(build_plan(open_source(folder), Request()).vocab.eos_ids) == {7, 2, 9}
    assert build_plan(open_source(folder), Request()).vocab.eos_ids[0] == (own[0] if own[0] in (7, 2, 9) else 7)
    folder = models.make_hf_model_numpy(tmp_path / "none", replace(BPE, eos_ids=()))
    assert build_plan(open_source(folder), Request()).vocab.eos_ids == own


def test_an_embedding_may_be_longer_than_the_tokenizer_and_not_shorter(tmp_path: Path, bpe: Path) -> None:
    longer = models.make_hf_model_numpy(tmp_path / "longer", replace(BPE, vocab_size=410))
    shutil.copy(bpe / "tokenizer.json", longer)
    plan = build_plan(open_source(longer), Request())
    assert len(plan.vocab.tokens) == 410
    shorter = models.make_hf_model_numpy(tmp_path / "shorter", replace(BPE, vocab_size=400))
    shutil.copy(bpe / "tokenizer.json", shorter)
    with pytest.raises(FormatError) as caught:
        converter.convert(shorter, tmp_path / "m.bin")
    assert str(caught.value) == "shorter: expected a tokenizer of at most 400 tokens, the rows of the embedding, found one of 403"


# ---- chat templates ----


def test_the_template_s_own_file_wins(bpe: Path, opened: Callable[..., Source]) -> None:
    assert opened(bpe).chat_template == models.CHATML
    (bpe / "chat_template.jinja").write_text("{{ messages }}")
    assert opened(bpe).chat_template == "{{ messages }}"
    assert "chat_template.jinja" in {path.name for path in opened(bpe).files}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ([{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}], "y"),
        ([{"name": "tool_use", "template": "x"}], None),
        ("", None),
        (None, None),
    ],
)
def test_of_several_templates_the_default_is_taken(
    bpe: Path, opened: Callable[..., Source], template: object, expected: str | None
) -> None:
    (bpe / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((bpe / "tokenizer_config.json").read_text()) | {"chat_template": template}
    (bpe / "tokenizer_config.json").write_text(json.dumps(config))
    assert opened(bpe).chat_template == expected


# ---- what is no tokenizer ----


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "expected a tokenizer, found an empty file"),
        (b"{", "expected JSON, found"),
        (b'{"version": "1.0"}', "tok: "),
        (b"\x89PNG\r\n\x1a\n", "expected a tokenizer, found a PNG image"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "expected a vocabulary, found a GGUF file without one"),
        (b"\x0a\x05\x0a\xff", "tok: "),
        (struct.pack("<IfI", 5, 0.0, 2**31), "tok: "),
        (struct.pack("<IfI", 10, 0.0, 1) + b"a", "tok: "),
    ],
)
def test_what_is_no_tokenizer_is_named(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "tok").write_bytes(data)
    with pytest.raises(ConvertError) as caught:
        from_file(tmp_path / "tok", 403)
    assert str(caught.value).startswith("tok: ") and text in str(caught.value) and str(caught.value).isprintable()


def test_a_broken_vocabulary_inside_a_file_names_the_file(spm: Path, tmp_path: Path) -> None:
    converter.convert(spm, tmp_path / "m.gguf")
    data = (tmp_path / "m.gguf").read_bytes().replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz")
    (tmp_path / "m.gguf").write_bytes(data.replace(b"ak42.tokenizer", b"ak42.tokenizes"))
    with pytest.raises(ConvertError, match=r"^m\.gguf: tokenizer\.ggml"):
        converter.convert(tmp_path / "m.gguf", tmp_path / "n.bin")
