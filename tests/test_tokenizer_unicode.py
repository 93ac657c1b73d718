"""The runtime's Unicode tables against the installed `tokenizers`: classes of the pattern engine, Digits, Punctuation, white space,
and normalisation form C, on every code point of planes 0 and 1 and a part of the rest."""
from __future__ import annotations

import random

import pytest
from converter.tokenizer import NORMAL, Vocab
from converter.tokenizer_steps import ADDED_STEP, NFC, Step, punctuation, split
from tokenizer_support import Tokenizer
from tokenizers import Regex, normalizers, pre_tokenizers

CODES = [c for c in range(0x20000) if not 0xD800 <= c <= 0xDFFF] + list(range(0x20000, 0x110000, 61))
CHUNK = 8192


def bytes_vocab(*steps: Step) -> Tokenizer:
    vocab = Vocab(kind="bpe", tokens=tuple(bytes([byte]) for byte in range(256)), scores=(0.0,) * 256, types=(NORMAL,) * 256,
                  attrs=(0,) * 256, merges=(), steps=steps)
    return Tokenizer(vocab.to_tokn())


def check_kept(ours: Tokenizer, splitter) -> None:
    """The characters that a step keeps are those that the package's keeps."""
    for begin in range(0, len(CODES), CHUNK):
        text = "".join(map(chr, CODES[begin:begin + CHUNK]))
        wanted = "".join(piece for piece, _ in splitter.pre_tokenize_str(text))
        assert ours.decode(ours.encode(text)).decode() == wanted


@pytest.mark.parametrize("pattern", [r"\p{L}", r"\p{Lu}", r"\p{Ll}", r"\p{Lt}", r"\p{Lm}", r"\p{Lo}", r"\p{M}", r"\p{N}", r"\p{Nd}",
                                     r"\p{P}", r"\p{S}", r"\p{Z}", r"\p{C}", r"\p{Cn}", r"\s", r"\d", r"\w", r"\W", r"[\w]", r"[^\W]", "."])
def test_classes(pattern: str) -> None:
    check_kept(bytes_vocab(ADDED_STEP, split(pattern, "Removed", invert=True)),
               pre_tokenizers.Split(Regex(pattern), "removed", invert=True))


def test_punctuation() -> None:
    check_kept(bytes_vocab(ADDED_STEP, punctuation("Removed")), pre_tokenizers.Punctuation("removed"))


def test_nfc() -> None:
    ours, theirs = bytes_vocab(Step(NFC), ADDED_STEP), normalizers.NFC()
    for begin in range(0, len(CODES), 64):
        text = "q".join(map(chr, CODES[begin:begin + 64]))
        assert ours.decode(ours.encode(text)).decode() == theirs.normalize_str(text)
    import unicodedata

    rng = random.Random(8)
    marks = [c for c in CODES if unicodedata.combining(chr(c))]
    whole = [c for c in CODES if unicodedata.decomposition(chr(c))]
    kinds = [marks, marks, whole, list(range(0x1100, 0x1200)), list(range(0xAC00, 0xB000)), list(range(32, 127)), list(range(0xC0, 0x2000))]
    for _ in range(50):                        # a letter with more marks than any language has
        text = "e" + "".join(chr(rng.choice(marks)) for _ in range(200)) + "o"
        assert ours.decode(ours.encode(text)).decode() == theirs.normalize_str(text), ascii(text)
    for _ in range(20_000):
        text = "".join(chr(rng.choice(rng.choice(kinds))) for _ in range(rng.choice((1, 2, 3, 6, 12, 40))))
        assert ours.decode(ours.encode(text)).decode() == theirs.normalize_str(text), ascii(text)


def test_digits() -> None:
    """Digits counts what is a number in Unicode 16; the package's own table is a version newer in some builds."""
    numbers = [c for c in CODES if len(pre_tokenizers.Digits(individual_digits=True).pre_tokenize_str("a" + chr(c) + "a")) == 3]
    from converter.tokenizer_steps import digits

    tokens = tuple(bytes([byte]) for byte in range(256))
    for code in numbers:
        if not pre_tokenizers.Split(Regex(r"\p{N}"), "removed", invert=True).pre_tokenize_str(chr(code)):
            continue                           # newer than Unicode 16
        whole = ("a" + chr(code)).encode()     # one token where Digits does not cut
        ours = Tokenizer(Vocab(kind="bpe", tokens=(*tokens, whole), scores=(0.0,) * 257, types=(NORMAL,) * 257, attrs=(0,) * 257,
                               merges=(), steps=(ADDED_STEP, digits(True)), ignore_merges=True).to_tokn())
        assert 256 not in ours.encode(whole), hex(code)
