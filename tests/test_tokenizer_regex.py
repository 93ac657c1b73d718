"""The regular expressions of pre-tokenizers: matches equal to those of `tokenizers` (Oniguruma) on random patterns and texts, the
same verdict from the converter's check and from C, and constructs beyond the subset refused by name.

The C engine is reached through a vocabulary whose tokens are single bytes and whose only step removes what does not match.
"""
from __future__ import annotations

import random
import time

import pytest
from converter.errors import ConvertError
from converter.tokenizer import NORMAL, Vocab
from converter.tokenizer_regex import check_pattern
from converter.tokenizer_steps import ADDED_STEP, split
from tokenizer_support import FORMAT, UNSUPPORTED, Tokenizer, TokenizerError
from tokenizers import Regex, pre_tokenizers

SEPARATOR = "\U0010fffd"          # marks where matches end; in no text and no pattern


def matcher(pattern: str) -> Tokenizer:
    """Keeps what matches, and nothing else."""
    vocab = Vocab(kind="bpe", tokens=tuple(bytes([byte]) for byte in range(256)), scores=(0.0,) * 256, types=(NORMAL,) * 256,
                  attrs=(0,) * 256, merges=(), steps=(ADDED_STEP, split(pattern, "Removed", invert=True)))
    return Tokenizer(vocab.to_tokn())


def kept(pattern: str, text: str) -> str:
    splitter = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    return "".join(piece for piece, _ in splitter.pre_tokenize_str(text))


# ---- random patterns ----

ALPHABET = "ab AB1\n\r\t'sStTkK.,é日²ſ\u212a\u00a0\u0301_-"
CLASSES = ["a", "b", "A", r"\s", r"\S", r"\p{L}", r"\p{N}", r"\p{Lu}", r"\P{L}", r"\d", r"\w", r"\W", "a-z", "A-Z", "0-9", r"\r\n", "'",
           "é", " ", r"\p{M}", r"\p{P}", "."]


def random_class(rng: random.Random) -> str:
    return "[" + rng.choice(["", "^"]) + "".join(rng.choice(CLASSES) for _ in range(rng.randint(1, 3))) + "]"


def random_atom(rng: random.Random, depth: int) -> str:
    chance = rng.random()
    if chance < 0.35:
        return rng.choice(["a", "b", " ", "1", "s", "t", "A", r"\n", "é", "日", "'"])
    if chance < 0.6:
        return random_class(rng)
    if chance < 0.72:
        return rng.choice([r"\s", r"\S", r"\p{L}", r"\p{N}", r"\d", r"\w", ".", r"\p{Ll}"])
    if chance < 0.8:
        return rng.choice([r"(?!\S)", "(?=a)", r"(?=[\p{L}])", r"(?!\p{N})", "$"])
    return rng.choice(["(?:", "(", "(?:", "(?i:"]) + random_pattern(rng, depth + 1) + ")" if depth < 3 else "a"


def random_pattern(rng: random.Random, depth: int = 0) -> str:
    def part() -> str:
        return random_atom(rng, depth) + rng.choice(["", "", "", "?", "*", "+", "{1,3}", "{2}", "{2,}", "{,2}", "?+", "*+", "++"])

    def sequence() -> str:
        return "".join(part() for _ in range(rng.randint(1, 3)))

    return "|".join(sequence() for _ in range(rng.choice([1, 1, 2, 3])))


def verdict(pattern: str) -> tuple[bool, bool]:
    """Whether the converter's check and C accept a pattern."""
    try:
        check_pattern(pattern, "test")
        python = True
    except ConvertError as error:
        assert "\n" not in str(error)
        python = False
    try:
        matcher(pattern)
        return python, True
    except TokenizerError as error:
        assert error.code in (FORMAT, UNSUPPORTED)
        return python, False


def test_random_patterns() -> None:
    rng = random.Random(2024)
    compared = 0
    for _ in range(2500):
        pattern = random_pattern(rng)
        python, c = verdict(pattern)
        assert python == c, pattern
        if not c:
            continue
        ours = matcher(pattern)
        for _ in range(4):
            text = "".join(rng.choice(ALPHABET) * rng.choice([1, 1, 1, 2, 5]) for _ in range(rng.randint(0, 30)))
            try:
                wanted = kept(pattern, text)
            except BaseException:              # Oniguruma gives up on some, with a panic
                continue
            assert ours.decode(ours.encode(text)).decode() == wanted, (pattern, text)
            compared += 1
    assert compared > 3000


REAL = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+".replace("{1,3}+", ""),
    r"[^\r\n\p{L}\p{N}]?((?=[\p{L}])([^a-z]))*((?=[\p{L}])([^A-Z]))+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
    r"\s?\p{L}+|\s+$|[\u4e00-\u9fa5\u0800-\u4e00]+", r"[!\-/:-@\[\\\]^_`{|}~]+|\d{2}",
    r"\s{16}(?!\S)|\s{8}(?!\S)|\s{1,2}(?!\S)|\s{1}",
]


@pytest.mark.parametrize("pattern", REAL)
def test_real_patterns(pattern: str) -> None:
    """Patterns of real tokenizers, piece by piece: the boundaries count too."""
    from tokenizer_support import generated

    assert verdict(pattern) == (True, True)
    vocab = Vocab(kind="bpe", tokens=(*(bytes([byte]) for byte in range(256)), b"|"), scores=(0.0,) * 257, types=(NORMAL,) * 257,
                  attrs=(0,) * 257, merges=(), steps=(ADDED_STEP, split(pattern)), ignore_merges=True)
    splitter = pre_tokenizers.Split(Regex(pattern), "isolated")
    for text in generated(300, seed=9):
        # Each piece alone is one token where the vocabulary holds it: the pieces are the vocabulary.
        pieces = [piece for piece, _ in splitter.pre_tokenize_str(text)]
        words = tuple(dict.fromkeys(piece.encode() for piece in pieces if len(piece.encode()) > 1))
        grown = Vocab(kind="bpe", tokens=vocab.tokens[:256] + words, scores=(0.0,) * (256 + len(words)),
                      types=(NORMAL,) * (256 + len(words)), attrs=(0,) * (256 + len(words)), merges=(), steps=vocab.steps,
                      ignore_merges=True)
        ours = Tokenizer(grown.to_tokn())
        assert [ours.decode([token_id]).decode("utf-8", "replace") for token_id in ours.encode(text)] == pieces, text


REFUSED = [
    (r"a*?", "lazy"), (r"(?<=a)b", "kind of group"), (r"(?<n>a)", "kind of group"), (r"(?>a)", "kind of group"), (r"\ba", "escape"),
    (r"(a)\1", "escape"), (r"^a", "beginning of a line"), (r"[[:alpha:]]", "class within a class"), (r"[a&&b]", "intersection"), (r"[!-&&a]", "intersection"), (r"[&-&&]", "intersection"),
    (r"\p{Han}", "property"), (r"\pL", "without braces"), (r"(?!ab)c", "more than one class"), (r"(a*)*", "can be empty"),
    (r"a*", "empty text"), (r"a**", "quantifier of a quantifier"), (r"(ab)++", "possessive"), (r"a{2}+", "after braces"),
    (r"(?i:é)", "beyond ASCII"), (r"(?i:st)", "ligature"), (r"(?i:\p{L})", "inside"), (r"(?i:[\w])", "inside"), (r"(?i:a\S)", "inside"), (r"\h", "escape"), (r"[^]", "empty class"),
    (r"(?=a)*b", "repeated assertion"), (r"a{3000}", "repeats|size"), (r"(?:abcd){600}", "size"), (r"{2}", "brace"),
]
WRONG = ["(a", "a)", "[a", "*a", "[b-a]", "a\\", r"\p{L", "a{3,2}", r"\u12", "(?:a", "+"]


@pytest.mark.parametrize(("pattern", "text"), REFUSED)
def test_refused(pattern: str, text: str) -> None:
    with pytest.raises(TokenizerError, match=text) as c:
        matcher(pattern)
    assert c.value.code == UNSUPPORTED and str(c.value).isascii()
    with pytest.raises(ConvertError, match=text):
        check_pattern(pattern, "test")


@pytest.mark.parametrize("pattern", WRONG)
def test_wrong(pattern: str) -> None:
    with pytest.raises(TokenizerError) as c:
        matcher(pattern)
    assert c.value.code == FORMAT and verdict(pattern) == (False, False)


@pytest.mark.parametrize(("pattern", "text"), [
    ("a*b|a", "a" * 2 ** 20), (r"\s*[\r\n]+|\s", " " * 2 ** 20), ("(?:a+b?)*c|a", "ab" * 2 ** 19), ("(?:a|aa)+b|a", "a" * 2 ** 20),
    (r"(?:(?:\p{L}+)*\p{N}+)+!|.", "a1" * 2 ** 19), (r"(?:(?:a+)+)+c|a", "a" * 2 ** 20)])
def test_linear_time(pattern: str, text: str) -> None:
    """Patterns on which backtracking alone would take hours."""
    ours = matcher(pattern)
    start = time.perf_counter()
    ids = ours.encode(text)
    assert time.perf_counter() - start < 5 and len(ids) == len(text) - text.count("b")


def test_invalid_utf8() -> None:
    """A byte of no valid sequence is a character of its own that only negated classes match."""
    assert matcher(r"\p{L}+|[^\s]").encode(b"a\xff\x80b") == list(b"a\xff\x80b")
    assert matcher(r"[\p{L}\p{Cn}\p{Co}]+").encode(b"a\xffb") in (list(b"ab"), list(b"a\xffb"))
    assert matcher(r"\s").encode(b"\xc2\x85 \xa0\xe2\x80\x83") == list(b"\xc2\x85 \xe2\x80\x83")
