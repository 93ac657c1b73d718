"""Llama 3's own tokenizer.model: the ids of tiktoken itself, the special tokens of both generations, Meta's folders, and what such a
file may not be taken for."""
from __future__ import annotations

import base64
import functools
import random
from pathlib import Path

import pytest
import test_tokenizer_parity as parity
import tiktoken
from converter.errors import FormatError, UnsupportedError
from converter.sources.vocabulary import from_file
from converter.tokenizer import Vocab
from converter.tokenizer_steps import from_letters
from converter.tokenizer_tiktoken import LLAMA3_RANKS, special_tokens
from tokenizer_support import Tokenizer, generated

import pyllama


@functools.cache
def trained() -> tuple[bytes, ...]:
    """Tokens by rank, of a byte-level BPE trained here."""
    pieces = parity.llama3().get_vocab(with_added_tokens=False)
    return tuple(from_letters(piece) for piece in sorted(pieces, key=pieces.get))


def shuffled() -> tuple[bytes, ...]:
    """The same tokens at other ranks: many are no longer what their bytes lead to, which no training gives."""
    tokens = list(trained())
    random.Random(8).shuffle(tokens)
    return tuple(tokens)


def odd() -> tuple[bytes, ...]:
    """Tokens that come about in two ways, or in none."""
    more = [b"aa", b"aaa", b"aaaaa", b"ab", b"bc", b"abc", b"abcab", b"zzzz", b"  ", b"    ", b" a", b" ab", b"\xe6\x97", b"\x97\xa5", b"\xe6\x97\xa5"]
    return (*(bytes([byte]) for byte in range(256)), *more)


def file_of(tokens: tuple[bytes, ...], end: str = "\n") -> bytes:
    return "".join(f"{base64.b64encode(token).decode()} {rank}{end}" for rank, token in enumerate(tokens)).encode()


def theirs_of(tokens: tuple[bytes, ...], later: bool = True) -> tiktoken.Encoding:
    special = {token.decode(): len(tokens) + place for place, token in enumerate(special_tokens(later))}
    return tiktoken.Encoding("llama3", pat_str=parity.LLAMA3, mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
                             special_tokens=special)


@pytest.mark.parametrize(("make", "count"), [(trained, 10_000), (shuffled, 2_000), (odd, 2_000)])
def test_ids_are_those_of_tiktoken(make, count: int) -> None:
    tokens = make()
    theirs, ours = theirs_of(tokens), Tokenizer(Vocab.from_tiktoken(file_of(tokens)).to_tokn())
    special = ["<|begin_of_text|>", "<|eot_id|>", "<|python_tag|>", "<|reserved_special_token_247|>"]
    texts = list(generated(count, seed=61, special=special))
    texts += ["".join(random.Random(seed).choices("abcz 日", k=40)) for seed in range(200)]
    for text, plain, parsed in zip(texts, theirs.encode_ordinary_batch(texts, num_threads=1),
                                   theirs.encode_batch(texts, num_threads=1, allowed_special="all"), strict=True):
        assert ours.encode(text) == plain, repr(text)
        assert ours.encode(text, special=True) == parsed, repr(text)
        assert ours.decode(plain) == text.encode()


def test_it_is_what_the_tokenizer_json_of_the_same_ranks_is() -> None:
    """Steps, flags and merges are those that Llama 3's tokenizer.json has, so GGUF knows the name."""
    vocab = Vocab.from_tiktoken(file_of(trained()))
    like = parity.vocab_of(parity.llama3())
    assert (vocab.steps, vocab.ignore_merges, vocab.add_bos, vocab.kind) == (like.steps, like.ignore_merges, like.add_bos, like.kind)
    assert vocab.tokens[:len(trained())] == like.tokens[:len(trained())] and vocab.merges == like.merges
    assert vocab.to_gguf()["tokenizer.ggml.pre"] == "llama-bpe"
    assert Vocab.from_gguf(vocab.to_gguf()) == vocab and Vocab.from_tokn(vocab.to_tokn()) == vocab
    again = Vocab.from_tokenizer_json(vocab.to_tokenizer_json(), vocab.to_tokenizer_config())
    assert (again.tokens, again.types, again.merges, again.bos_id) == (vocab.tokens, vocab.types, vocab.merges, vocab.bos_id)


def test_the_special_tokens_of_both_generations() -> None:
    first, later = ([token.decode()[2:-2] for token in special_tokens(flag)] for flag in (False, True))
    assert first[:12] == ["begin_of_text", "end_of_text", *(f"reserved_special_token_{i}" for i in range(4)), "start_header_id",
                          "end_header_id", "reserved_special_token_4", "eot_id", "reserved_special_token_5", "reserved_special_token_6"]
    assert later[:12] == ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1", "finetune_right_pad_id",
                          "reserved_special_token_2", "start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag",
                          "reserved_special_token_3"]
    assert (first[-1], later[-1]) == ("reserved_special_token_250", "reserved_special_token_247")
    assert len(set(first)) == len(set(later)) == 256
    n = len(odd())
    old, new = (Vocab.from_tiktoken(file_of(odd()), later=flag) for flag in (False, True))
    assert (old.bos_id, old.eos_ids, old.pad_id) == (n, (n + 1, n + 9), -1)
    assert (new.bos_id, new.eos_ids, new.pad_id) == (n, (n + 1, n + 9, n + 8), n + 4)


def test_which_files_are_llama_3_s(tmp_path: Path) -> None:
    """By the count of tokens, or by a params.json beside it; the name of the file says nothing."""
    path = tmp_path / "pieces"
    path.write_bytes(file_of(odd()))
    for says in (None, {"vocab_size": len(odd()) + 255}, {"dim": 64}, {"vocab_size": "many"}):
        if says is not None:
            write_params(tmp_path, **says)
        with pytest.raises(UnsupportedError, match="a tiktoken vocabulary says neither .* expected 128000 tokens.* give a tokenizer.json"):
            from_file(path, len(odd()) + 256)
        with pytest.raises(pyllama.UnsupportedError, match="pieces: a tiktoken vocabulary says neither"):
            pyllama.Tokenizer(path)
    write_params(tmp_path, vocab_size=len(odd()) + 256)
    assert b"<|reserved_special_token_250|>" in from_file(path, 0).tokens
    write_params(tmp_path, vocab_size=len(odd()) + 256, use_scaled_rope=True)
    assert b"<|reserved_special_token_247|>" in from_file(path, 0).tokens
    with pyllama.Tokenizer(path) as tokenizer:
        assert tokenizer.vocab_size == len(odd()) + 256 and tokenizer.add_bos
        assert tokenizer.encode("abc<|eot_id|>", parse_special=True)[-1] == len(odd()) + 9
        assert tokenizer.decode(tokenizer.encode("日本 abcab"), skip_special=True) == "日本 abcab"


def write_params(folder: Path, **values: object) -> None:
    import json

    (folder / "params.json").write_text(json.dumps(values))


def test_a_vocabulary_of_llama_3_s_size(tmp_path: Path) -> None:
    """128,000 tokens: every byte, pair of bytes, and three-byte tokens to the end."""
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    triples = [bytes([a, b, c]) for a in range(256) for b in range(256) for c in (32, 97)]
    tokens = (*(bytes([byte]) for byte in range(256)), *pairs, *triples)[:LLAMA3_RANKS]
    (tmp_path / "tokenizer.model").write_bytes(file_of(tokens, "\r\n"))
    with pyllama.Tokenizer(tmp_path) as tokenizer:
        theirs = theirs_of(tokens)
        assert tokenizer.vocab_size == 128_256 and tokenizer.bos_id == 128_000 and tokenizer.eos_ids[0] == 128_001
        for text in generated(200, seed=5):
            assert tokenizer.encode(text, add_bos=False) == theirs.encode_ordinary(text)


DAMAGED = {
    "a rank twice": (lambda lines: [*lines, lines[-1]], "line 272: expected the rank 271, found 270"),
    "a token twice": (lambda lines: [*lines, lines[-1].replace("270", "271")], "every token once"),
    "no base64": (lambda lines: [*lines, "a=b= 271"], "line 272: expected base64"),
    "half a group": (lambda lines: [*lines, "abcde 271"], "line 272: expected base64"),
    "no rank": (lambda lines: [*lines, "YWE="], "line 272: expected base64, a space and a rank"),
    "a byte is missing": (lambda lines: [line for line in lines if not line.endswith(" 255")][:255], "found none for 0xff"),
    "a special token": (lambda lines: [*lines, base64.b64encode(b"<|eot_id|>").decode() + " 271"], "found the special token"),
    "an empty line": (lambda lines: [*lines[:5], "", *lines[5:]], "line 6: expected base64"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage(name: str) -> None:
    damage, says = DAMAGED[name]
    lines = damage(file_of(odd()).decode().splitlines())
    with pytest.raises(FormatError, match=says):
        Vocab.from_tiktoken("\n".join(lines).encode())


def test_tokens_that_are_too_long() -> None:
    with pytest.raises(UnsupportedError, match="up to 1024 bytes, found 1025"):
        Vocab.from_tiktoken(file_of((*odd(), b"x" * 1025)))
    many = tuple(bytes([i % 256, i // 256]) * 512 for i in range(300))
    with pytest.raises(UnsupportedError, match="so many long ones"):
        Vocab.from_tiktoken(file_of((*odd(), *many)))
