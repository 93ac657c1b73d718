"""tokenizer.json and tokenizer_config.json: every component that is not translated is refused by name, every wrong value is one
line that says where, and no JSON whatever makes the reader raise anything but a ConvertError."""
from __future__ import annotations

import copy
import itertools
import json
import random
from typing import Any

import pytest
from converter.errors import ConvertError, FormatError, UnsupportedError
from converter.tokenizer import CONTROL, USER, Vocab
from converter.tokenizer_steps import LETTERS
from test_tokenizer_added import tokenizer_json
from tokenizer_support import Tokenizer, TokenizerError
from tokenizers import Tokenizer as HFTokenizer


def byte_level() -> dict[str, Any]:
    """A byte-level tokenizer.json as small as can be."""
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": 4, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                          "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                                                    {"Sequence": {"id": "A", "type_id": 0}}],
                           "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3},
                  "merges": ["a b"]},
    }


def spm() -> dict[str, Any]:
    data = byte_level()
    data["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                              {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    data["pre_tokenizer"] = None
    data["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    data["model"] |= {"byte_fallback": True, "vocab": {"a": 0, "b": 1, "ab": 2, "▁": 3}}
    return data


def changed(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the value at a path of keys and indexes set."""
    data = copy.deepcopy(data)
    inner: Any = data
    *keys, last = path.split("/")
    for key in keys:
        inner = inner[int(key) if key.isdigit() else key]
    inner[int(last) if last.isdigit() else last] = value
    return data


def test_good() -> None:
    vocab = Vocab.from_tokenizer_json(byte_level(), {"bos_token": "<s>", "eos_token": {"content": "<s>"}, "pad_token": None})
    assert vocab.tokens == (b"a", b"b", b"ab", b" ", b"<s>") and vocab.bos_id == 4 and vocab.eos_ids == (4,) and vocab.add_bos
    assert Tokenizer(vocab.to_tokn()).encode("ab b<s>", bos=None, special=True) == [4, 2, 3, 1, 4]
    assert Tokenizer(Vocab.from_tokenizer_json(spm()).to_tokn()).encode("ab b") == [3, 2, 3, 1]


UNSUPPORTED = [
    ("model/type", "Unigram", "Unigram"), ("model/type", "WordPiece", "WordPiece"), ("model/dropout", 0.1, "dropout"),
    ("model/continuing_subword_prefix", "##", "continuing_subword_prefix"), ("model/end_of_word_suffix", "</w>", "end_of_word_suffix"),
    ("normalizer", {"type": "Lowercase"}, "Lowercase"), ("normalizer", {"type": "NFKC"}, "NFKC"), ("normalizer", {"type": "NFD"}, "NFD"),
    ("normalizer", {"type": "BertNormalizer"}, "BertNormalizer"), ("normalizer", {"type": "StripAccents"}, "StripAccents"),
    ("normalizer", {"type": "Precompiled", "precompiled_charsmap": ""}, "Precompiled"),
    ("normalizer", {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": []}]}, "Sequence"),
    ("pre_tokenizer", {"type": "BertPreTokenizer"}, "BertPreTokenizer"), ("pre_tokenizer", {"type": "Whitespace"}, "Whitespace"),
    ("pre_tokenizer", {"type": "UnicodeScripts"}, "UnicodeScripts"), ("pre_tokenizer", {"type": "FixedLength", "length": 0}, "FixedLength"),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(?<=a)b"}, "behavior": "Isolated", "invert": False}, "kind of group"),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "a+"}, "behavior": "Sideways", "invert": False}, "Sideways"),
    ("normalizer", {"type": "Prepend", "prepend": "x" * 65537}, "step 0 .op 1.: expected a text of 1 to 65536 bytes, found 65537"),
    ("pre_tokenizer", {"type": "Sequence", "pretokenizers": [{"type": "CharDelimiterSplit", "delimiter": ""}, {
        "type": "ByteLevel", "add_prefix_space": False}]}, "step 1 .op 16.: expected a text of 1 to 65536 bytes, found 0"),
    ("decoder", None, "null"), ("decoder", {"type": "WordPiece"}, "WordPiece"), ("decoder", {"type": "CTC"}, "CTC"),
    ("post_processor/single", [{"SpecialToken": {"id": "<s>", "type_id": 0}}] * 2 + [{"Sequence": {"id": "A", "type_id": 0}}], "more than one"),
    ("post_processor", {"type": "Odd"}, "Odd"),
]


@pytest.mark.parametrize(("path", "value", "text"), UNSUPPORTED)
def test_unsupported(path: str, value: Any, text: str) -> None:
    with pytest.raises(UnsupportedError, match=text) as error:
        Vocab.from_tokenizer_json(changed(byte_level(), path, value))
    assert error.value.code == 1 and "\n" not in str(error.value)


WRONG = [
    ("model", None, "model"), ("model/vocab", [], "model.vocab"), ("model/vocab/a", "x", "an id"), ("model/vocab/a", True, "an id"),
    ("model/vocab/a", 1, "id 1"), ("model/vocab/a", 9, "ids 0 to 9"), ("model/vocab/a", -1, "an id"), ("model/vocab/a", 4294967295, "an id"),
    ("model/vocab", {}, "none for 0|unk|no tokens|ids 0"), ("model/merges", ["a c"], "merges 0"), ("model/merges", ["b a"], "merges 0"),
    ("model/merges", ["ab"], "merges 0"), ("model/merges", [["a"]], "merges 0"), ("model/merges", [3], "merges 0"),
    ("model/merges", None, "model.merges"), ("model/unk_token", "zz", "unk_token"), ("model/byte_fallback", "yes", "byte_fallback"),
    ("added_tokens/0/id", 1, "id 1"), ("added_tokens/0/id", 7, "ids 0 to 7"), ("added_tokens/0/content", "", "1 to 4096"),
    ("added_tokens/0/content", "x" * 4097, "1 to 4096"), ("added_tokens/0/content", "ab", "not the vocabulary's"),
    ("added_tokens/0", 3, "added_tokens 0"), ("added_tokens", {}, "added_tokens"), ("added_tokens/0/lstrip", "no", "lstrip"),
    ("pre_tokenizer", [], "pre_tokenizer"), ("pre_tokenizer/type", 5, "pre_tokenizer"), ("pre_tokenizer/use_regex", 1, "use_regex"),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"}, "without"),
    ("pre_tokenizer", {"type": "Split", "pattern": {"Other": "a"}, "behavior": "Isolated"}, "String or Regex"),
    ("post_processor/special_tokens", {}, "special_tokens"), ("post_processor/special_tokens/<s>/ids", ["4"], "one id"),
    ("post_processor/special_tokens/<s>/ids", [400], "bos id"), ("post_processor/single", [], "more than one|Template"),
    ("model/vocab/\ud800", 4, "surrogate|taken|two tokens"),
]


@pytest.mark.parametrize(("path", "value", "text"), WRONG)
def test_wrong(path: str, value: Any, text: str) -> None:
    with pytest.raises((FormatError, UnsupportedError), match=text) as error:
        Vocab.from_tokenizer_json(changed(byte_level(), path, value))
    assert str(error.value).startswith("tokenizer.json") and str(error.value).isascii() and "\n" not in str(error.value)


DECODER_PARTS = {
    "Replace": {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, "ByteFallback": {"type": "ByteFallback"},
    "Fuse": {"type": "Fuse"}, "Strip": {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    "Metaspace": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}}


def test_orders_of_decoders() -> None:
    """Every order of up to four parts: decoded as `tokenizers` does it, or refused."""
    rng = random.Random(9)
    pieces = ["a", "b", "ab", "▁", "▁a", " ", "  a", "▁▁", " ▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    data = changed(spm(), "model/vocab", {piece: i for i, piece in enumerate(pieces)})
    data["added_tokens"], data["post_processor"], kept = [], None, []
    mark = [9 + byte for byte in "▁".encode()]
    for names in itertools.chain.from_iterable(itertools.product(DECODER_PARTS, repeat=n) for n in range(1, 5)):
        data["decoder"] = {"type": "Sequence", "decoders": [DECODER_PARTS[name] for name in names]}
        try:
            ours = Tokenizer(Vocab.from_tokenizer_json(data).to_tokn())
        except UnsupportedError as error:
            assert "decoder" in str(error) and "\n" not in str(error)
            continue
        kept.append(names)
        hf = HFTokenizer.from_str(json.dumps(data))
        for _ in range(60):
            ids = [i for _ in range(rng.randint(1, 4))
                   for i in rng.choice(([rng.randrange(9)], [rng.randrange(9)], mark, [9 + 32]))]
            assert ours.decode(ids).decode() == hf.decode(ids), (names, ids)
    assert ("Replace", "ByteFallback", "Fuse", "Strip") in kept and ("Replace", "ByteFallback") in kept and len(kept) == 14


@pytest.mark.parametrize("names", [("Strip", "Fuse"), ("ByteFallback", "Fuse", "Metaspace"), ("Fuse", "Replace", "ByteFallback"),
                                   ("ByteFallback", "Strip")])
def test_order_is_named(names: tuple[str, ...]) -> None:
    data = changed(spm(), "decoder", {"type": "Sequence", "decoders": [DECODER_PARTS[name] for name in names]})
    with pytest.raises(UnsupportedError, match=f"in this order .*, found {', '.join(names)}: not supported"):
        Vocab.from_tokenizer_json(data)


def random_normaliser(rng: random.Random) -> dict[str, Any]:
    kind = rng.choice(["Replace", "Replace", "Regex", "Strip", "Prepend", "NFC"])
    if kind in ("Replace", "Regex"):
        text = rng.choice(["a", "ab", "b", " ", "é", "P", "Pa"] if kind == "Replace" else ["a+", r"\s", "[aé]b", r"\A +"])
        content = "" if text[0] == "\\" and text[1] == "A" else rng.choice(["", "x", "ab", " ", "c c", "▁"])
        return {"type": "Replace", "pattern": {"String" if kind == "Replace" else kind: text}, "content": content}
    return {"Strip": {"type": "Strip", "strip_left": rng.random() < 0.7, "strip_right": rng.random() < 0.5},
            "Prepend": {"type": "Prepend", "prepend": rng.choice(["P", " ", "ab"])}, "NFC": {"type": "NFC"}}[kind]


def test_first_behind_normalisers() -> None:
    """prepend_scheme "first" asks for the place in the original text: as `tokenizers` has it, or refused."""
    rng = random.Random(31)
    refused = same = 0
    for _ in range(600):
        added = [{"content": text, "normalized": rng.random() < 0.5}
                 for text in rng.sample(["P", "<x>", "\u0915", "abc", "x"], rng.choice((0, 0, 1, 2)))]
        data = tokenizer_json([*"abcdePx é▁\u0301\u093c\u0915\u0958", "bc"], added)
        data["normalizer"] = {"type": "Sequence", "normalizers": [random_normaliser(rng) for _ in range(rng.choice((1, 1, 2, 3)))]}
        metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": rng.random() < 0.5}
        cut = {"type": "Split", "pattern": {"String": "a"}, "behavior": "Isolated", "invert": False}
        data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [cut, metaspace] if rng.random() < 0.3 else [metaspace]}
        try:
            ours = Tokenizer(Vocab.from_tokenizer_json(data).to_tokn())
        except UnsupportedError as error:
            assert "prepend_scheme" in str(error) or "leaves something" in str(error), error
            refused += 1
            continue
        hf = HFTokenizer.from_str(json.dumps(data))
        for _ in range(12):
            text = "".join(rng.choice(["a", "b", " ", "é", "e\u0301", "c", "P", "<x>", "\u0958", "x"])
                           for _ in range(rng.randint(1, 6)))
            assert ours.encode(text) == hf.encode(text).ids, (json.dumps(data), text)
            same += 1
    assert refused > 100 and same > 1000


def test_byte_fallback_of_byte_level() -> None:
    """Accepted where it does nothing, as tokenizers shows; refused where a letter would fall back."""
    data = changed(byte_level(), "model/byte_fallback", True)
    data["model"]["vocab"] |= {"<s>": 4}
    data["model"]["vocab"] |= {f"<0x{byte:02X}>": 5 + byte for byte in range(64)}          # ASCII letters from @ on stay out of it
    data["model"]["vocab"] |= {letter: 69 + i for i, letter in enumerate(LETTERS[33:64])}
    data["post_processor"] = None
    hf, ours = HFTokenizer.from_str(json.dumps(data)), Tokenizer(Vocab.from_tokenizer_json(data).to_tokn())
    text = "ab !?09Zé\n"
    assert ours.encode(text) == hf.encode(text).ids == [2, 3, 69, 99, 84, 93]
    del data["model"]["vocab"]["!"]
    data["model"]["vocab"] |= {"?": 69}
    assert 5 + 0x21 in HFTokenizer.from_str(json.dumps(data)).encode(text).ids
    with pytest.raises(UnsupportedError, match="model.byte_fallback: expected no effect.*found no token !"):
        Vocab.from_tokenizer_json(data)


@pytest.mark.parametrize(("ids", "pieces"), [((5, 4), {}), ((1, 4), {"b": 2, "ab": 3, "Ġ": 5}), ((4, 5), {"<t>": 6})])
def test_numbers_of_added_tokens(ids: tuple[int, int], pieces: dict[str, int]) -> None:
    """tokenizers numbers added tokens by itself; a file of another mind is refused instead of giving ids that differ."""
    data = byte_level()
    data["model"]["vocab"] |= pieces
    data["added_tokens"] = [data["added_tokens"][0] | {"id": token_id, "content": text}
                            for token_id, text in zip(ids, ("<s>", "<t>"), strict=True)]
    data["post_processor"] = None
    hf = HFTokenizer.from_str(json.dumps(data))
    assert (hf.token_to_id("<s>"), hf.token_to_id("<t>")) != ids
    with pytest.raises((FormatError, UnsupportedError), match="which tokenizers gives it, found|not the vocabulary's"):
        Vocab.from_tokenizer_json(data)


def test_no_merges() -> None:
    """The runtime would merge such a vocabulary by score, `tokenizers` does not merge at all."""
    with pytest.raises(UnsupportedError, match="model.merges: expected merges, found none"):
        Vocab.from_tokenizer_json(changed(spm(), "model/merges", []))
    assert Vocab.from_tokenizer_json(changed(byte_level(), "model/merges", [])).merges == ()


def test_config_decides_only_without_a_template() -> None:
    """The post-processor is the truth about BOS; tokenizer_config.json's add_bos_token stands in where there is none."""
    data, config = byte_level(), {"bos_token": "<s>", "add_bos_token": True}
    assert Vocab.from_tokenizer_json(data, {"add_bos_token": False, "bos_token": "<s>"}).add_bos
    data["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    assert Vocab.from_tokenizer_json(data, config).add_bos and not Vocab.from_tokenizer_json(data, {"bos_token": "<s>"}).add_bos
    assert not Vocab.from_tokenizer_json(data).add_bos and Vocab.from_tokenizer_json(data).bos_id == -1
    data["post_processor"] = {"type": "RobertaProcessing", "sep": ["b", 1], "cls": ["<s>", 4], "trim_offsets": True}
    assert Tokenizer(Vocab.from_tokenizer_json(data).to_tokn()).encode("a", bos=None) == [4, 0, 1]
    with pytest.raises(FormatError, match="bos_token"):
        Vocab.from_tokenizer_json(data, {"bos_token": 5})


def test_added_token_kinds() -> None:
    data = changed(byte_level(), "added_tokens/0/special", False)
    assert Vocab.from_tokenizer_json(data).types[4] == USER
    assert Vocab.from_tokenizer_json(byte_level()).types[4] == CONTROL
    ours = Tokenizer(Vocab.from_tokenizer_json(data).to_tokn())
    assert ours.encode("a<s>b") == [0, 4, 1]           # not special: found in any text
    special = Tokenizer(Vocab.from_tokenizer_json(byte_level()).to_tokn())
    assert 4 not in special.encode("a<s>b") and special.encode("a<s>b", special=True) == [0, 4, 1]


def mutate(value: Any, rng: random.Random) -> Any:
    """One random change somewhere inside."""
    odd = [None, True, 0, -1, 1, 2 ** 31, 1.5, "", "a", "Ġ", "\x00", "<s>", [], {}, ["a", "b"], {"type": "BPE"}, {"String": "a"}, "(a*)*"]
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.15:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: mutate(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        return rng.choice([value[:at] + value[at + 1:], value + [value[at]], value[:at] + [mutate(value[at], rng)] + value[at + 1:]])
    return rng.choice(odd)


@pytest.mark.parametrize("good", [byte_level, spm])
def test_random_damage(good) -> None:
    """A Vocab that C opens as well, or a ConvertError of one line."""
    rng = random.Random(12)
    accepted = 0
    for _ in range(3000):
        data = good()
        for _ in range(rng.choice((1, 1, 2, 3))):
            data = mutate(data, rng)
        config = {"bos_token": rng.choice(["<s>", None, "zz", {"content": "a"}])}
        try:
            vocab = Vocab.from_tokenizer_json(data, config)
        except ConvertError as error:
            assert "\n" not in str(error) and str(error).isascii()
            continue
        accepted += 1
        try:
            ours = Tokenizer(vocab.to_tokn())
        except TokenizerError as error:
            pytest.fail(f"the converter accepted what C refuses: {error}: {json.dumps(data)}")
        ours.decode(ours.encode("ab <s>\n", special=True))
        try:
            vocab.to_tokenizer_json()
            vocab.to_gguf()
        except ConvertError:
            pass
    assert accepted > 300
