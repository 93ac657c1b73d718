"""Added tokens of a tokenizer.json: found as `tokenizers` finds them, whatever they are made of, in time linear in the text."""
from __future__ import annotations

import json
import random
import time
from typing import Any

import pytest
from converter.errors import UnsupportedError
from converter.tokenizer import LSTRIP, NORMAL, RSTRIP, USER, Vocab
from converter.tokenizer_steps import ADDED_STEP
from tokenizer_support import Tokenizer
from tokenizers import Tokenizer as HFTokenizer

DECODERS = [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]


def tokenizer_json(pieces: list[str], added: list[dict[str, Any]], **model: Any) -> dict[str, Any]:
    """A SentencePiece-like tokenizer.json without steps, with one merge, b and c; added tokens that are no pieces get the next ids."""
    ids = {piece: i for i, piece in enumerate(pieces)}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    for token in added:
        ids.setdefault(token["content"], len(ids))
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None, "post_processor": None,
        "added_tokens": sorted(({"id": ids[token["content"]], **plain, **token} for token in added), key=lambda token: token["id"]),
        "decoder": {"type": "Sequence", "decoders": DECODERS},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": ["b c"], **model}}


def opened(data: dict[str, Any], special: bool = True) -> tuple[HFTokenizer, Tokenizer]:
    hf = HFTokenizer.from_str(json.dumps(data))
    hf.encode_special_tokens = not special
    return hf, Tokenizer(Vocab.from_tokenizer_json(data).to_tokn())


def random_added(rng: random.Random) -> list[dict[str, Any]]:
    texts = {"".join(rng.choice("ab \n") for _ in range(rng.randint(1, 4))) for _ in range(rng.randint(1, 5))}
    flags = ("single_word", "lstrip", "rstrip", "special")
    return [{"content": text, **{flag: rng.random() < 0.25 for flag in flags}} for text in sorted(texts)]


def test_random_added_tokens() -> None:
    """Tokens that begin within one another, overlap and consist of white space."""
    rng = random.Random(4)
    compared = 0
    for _ in range(300):
        special = rng.random() < 0.7
        hf, ours = opened(tokenizer_json([*"abc \n", "bc"], random_added(rng)), special)
        for _ in range(8):
            text = "".join(rng.choice("aaabbc  \n") for _ in range(rng.randint(0, 14)))
            try:
                wanted = hf.encode(text).ids
            except BaseException:              # a panic: an lstrip token wholly inside of what an rstrip token has taken
                continue
            assert ours.encode(text, special=special) == wanted, (hf.to_str(), text)
            compared += 1
    assert compared > 2000


NORMALISERS = [
    [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}],
    [{"type": "Replace", "pattern": {"String": "x"}, "content": "yy"}],
    [{"type": "Strip", "strip_left": True, "strip_right": True}]]


@pytest.mark.parametrize("normalisers", NORMALISERS)
def test_normalised_tokens_decode_to_what_is_found(normalisers: list[dict[str, Any]]) -> None:
    """"a <x>" is the tokens "▁a" and "▁<x>" to Llama 2's normaliser, and has its space again when decoded."""
    added = [{"content": text, "normalized": True} for text in ("<x>", "a", "x ")] + [{"content": "[x]", "normalized": False}]
    data = tokenizer_json([*"abcxy▁ ", "bc"], added)
    data["normalizer"] = {"type": "Sequence", "normalizers": normalisers}
    hf, ours = opened(data)
    for text in ("a <x>b", "<x>", " x b[x]", "abc", "b x  <x>"):
        assert ours.encode(text) == hf.encode(text).ids
        assert ours.decode(ours.encode(text)).decode() == hf.decode(hf.encode(text).ids)
    for token_id in range(hf.get_vocab_size()):
        assert ours.decode([0, token_id, 1]).decode() == hf.decode([0, token_id, 1]), token_id
    data["added_tokens"][0]["special"] = True
    assert opened(data)[1].decode([data["added_tokens"][0]["id"]], skip_special=True) == b""


@pytest.mark.parametrize(("content", "step"), [
    (" \n", {"type": "Strip", "strip_left": True, "strip_right": False}), ("  ", NORMALISERS[0][1] | {"content": ""}),
    ("<x>", {"type": "Replace", "pattern": {"Regex": "[<x>]+"}, "content": ""}),
    ("12", {"type": "Replace", "pattern": {"Regex": r"\p{N}+"}, "content": ""})])
def test_tokens_that_normalise_to_nothing(content: str, step: dict[str, Any]) -> None:
    """`tokenizers` finds the empty text between any two characters and does not merge them."""
    data = tokenizer_json([*"abcxy▁ ", "bc"], [{"content": content, "normalized": True}]) | {"normalizer": step}
    assert HFTokenizer.from_str(json.dumps(data)).encode("bc").ids == [1, 2]
    with pytest.raises(UnsupportedError, match="expected a text that the normalizer leaves something of"):
        Vocab.from_tokenizer_json(data)
    if content != "12":                    # where Python cannot tell what \p matches
        assert Vocab.from_tokenizer_json(data | {"normalizer": {"type": "Sequence", "normalizers": [NORMALISERS[0][0], step]}})


def test_written_added_tokens_become_no_pieces() -> None:
    """An added token of one character that is no piece must not stand for it when its text is not looked for."""
    data = tokenizer_json([*"abc", "bc"], [{"content": " ", "special": True}, {"content": "<1<"}, {"content": "<x>"}])
    vocab = Vocab.from_tokenizer_json(data)
    hf, again = (HFTokenizer.from_str(json.dumps(one)) for one in (data, vocab.to_tokenizer_json()))
    for special in (False, True):
        hf.encode_special_tokens = again.encode_special_tokens = special
        assert hf.encode("a b<x>").ids == again.encode("a b<x>").ids
    assert Vocab.from_tokenizer_json(vocab.to_tokenizer_json()) == vocab


def test_marks_that_come_together() -> None:
    """Where no token stands for a character it is dropped, and what is beside it may merge, also from one word to the next."""
    data = tokenizer_json([*"ab▁", "▁▁", "c", "bc"], [], merges=["▁ ▁", "b c"])
    hf, ours = opened(data)
    for text in ("▁xyz▁▁▁", "b▁x▁c▁", "▁x▁x▁x▁x▁x▁x▁"):
        assert ours.encode(text) == hf.encode(text).ids, text


BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@pytest.mark.parametrize("special", [False, True])
def test_byte_tokens_that_are_added(special: bool) -> None:
    """Byte fallback goes on using them, their text is found as well, and both decode to the byte; one that is no piece decodes."""
    added = [{"content": text, "special": special, "rstrip": text == "<0x41>"} for text in ("<0x0D>", "<0x41>", "<0xC3>", "<0xA9>")]
    for pieces in ([*"abc", "bc", *BYTES], [*"abc", "bc", *(text for text in BYTES if text != "<0x0D>")]):
        data = tokenizer_json(pieces, added, byte_fallback=True)
        data["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        vocab = Vocab.from_tokenizer_json(data)
        assert Vocab.from_tokn(vocab.to_tokn()) == vocab == Vocab.from_tokenizer_json(vocab.to_tokenizer_json())
        assert vocab.to_gguf()["ak42.tokenizer"] == list(vocab.to_tokn()) and "byte" in vocab.gguf_notes()[0]
        hf, ours = opened(data)
        for text in ("a\rb", "A\r<0x0D>a", "<0x41>  b", "é<0xC3><0xA9>", "<0x0D", "bc<0x42>"):
            for found in (False, True):
                hf.encode_special_tokens = not found
                ids = hf.encode(text).ids
                assert ours.encode(text, special=found) == ids, text
                for skip in (False, True):
                    assert ours.decode(ids, skip_special=skip).decode() == hf.decode(ids, skip_special_tokens=skip), text


def test_normalised_byte_token() -> None:
    with pytest.raises(UnsupportedError, match="expected a byte's token without normalized"):
        Vocab.from_tokenizer_json(tokenizer_json(
            [*"abc", "bc", *BYTES], [{"content": "<0x0D>", "normalized": True}], byte_fallback=True))


@pytest.mark.parametrize("name", ["<0x0d>", "<0xaB>", "<0x+5>"])
def test_other_names_of_bytes(name: str) -> None:
    data = tokenizer_json([*"abc", "bc", name], [], byte_fallback=True)
    assert HFTokenizer.from_str(json.dumps(data)).decode([4]) != name
    with pytest.raises(UnsupportedError, match="two capital hexadecimal digits"):
        Vocab.from_tokenizer_json(data)


@pytest.mark.parametrize(("added", "attr", "text"), [
    ([b"a" * 4000 + b"z"], 0, b"a" * 2 ** 20), ([b"a", b"a" * 4000 + b"z"], 0, b"a" * 2 ** 20),
    ([b"z" + b"a" * 4000], 0, b"a" * 2 ** 20),
    ([b" "], RSTRIP, b" " * 2 ** 20), ([b" "], RSTRIP | LSTRIP, b" " * 2 ** 20), ([b"a"], LSTRIP, (b" " * 1000 + b"a") * 1000)])
def test_linear_time(added: list[bytes], attr: int, text: bytes) -> None:
    """A MiB; looking at every byte for every token took eight seconds and more."""
    n = 256 + len(added)
    ours = Tokenizer(Vocab(
        kind="bpe", tokens=(*(bytes([byte]) for byte in range(256)), *added), scores=(0.0,) * n,
        types=(NORMAL,) * 256 + (USER,) * len(added), attrs=(0,) * 256 + (attr,) * len(added), merges=(),
        steps=(ADDED_STEP,)).to_tokn())
    start = time.perf_counter()
    ours.encode(text)
    assert time.perf_counter() - start < 2
