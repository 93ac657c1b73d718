"""The files that vocabularies come from and go to, other than tokenizer.json: GGUF keys, tokenizer.model, tokenizer.bin, TOKN, and
the Hugging Face folder that AutoTokenizer opens. Ids are compared with the programs that own the formats."""
from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import test_tokenizer_parity as parity
from converter.errors import ConvertError, FormatError, UnsupportedError
from converter.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, USER, Vocab
from converter.tokenizer_presets import PRESETS
from converter.tokenizer_steps import ADDED_STEP, NFC, SPLIT, SPLIT_GPT2, Step, spm_steps, split, to_letters
from tokenizer_support import FORMAT, UNSUPPORTED, Tokenizer, TokenizerError, generated


@pytest.fixture(scope="module")
def sentencepiece_model() -> bytes:
    return parity.sentencepiece_bpe()[0]


@pytest.fixture(scope="module")
def spm_vocab(sentencepiece_model: bytes) -> Vocab:
    return Vocab.from_sentencepiece(sentencepiece_model)


@pytest.fixture(scope="module")
def bpe_vocab() -> Vocab:
    return parity.vocab_of(parity.train_byte_level(parity.pre_tokenizers.ByteLevel(add_prefix_space=False)))


def write_gguf(path: Path, keys: dict) -> Path:
    """A file with a vocabulary and nothing else, by gguf-py."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif key.endswith("scores"):
            writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, sub_type=gguf.GGUFValueType.FLOAT32)
        elif key.endswith("token_type"):
            writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, sub_type=gguf.GGUFValueType.INT32)
        elif key == "ak42.tokenizer":
            writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, sub_type=gguf.GGUFValueType.UINT8)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def same_ids(one: Tokenizer, two: Tokenizer, count: int, vocab: Vocab) -> None:
    for text in generated(count, seed=count, special=parity.specials_of(vocab)):
        for special in (False, True):
            assert one.encode(text, special=special, bos=None) == two.encode(text, special=special, bos=None), repr(text)


# ---- GGUF ----

# Their added tokens take white space with them, or a space stands in front of the text only: GGUF's own keys cannot say it.
WITH_ATTRIBUTES = (parity.gpt2, parity.spm_metaspace, parity.starcoder, parity.deepseek_llm, parity.deepseek_v3, parity.phi3,
                   parity.phi4_mini)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_presets(tmp_path: Path, bpe_vocab: Vocab, preset) -> None:
    """C and Python hold the same table: the file read by C gives what Python's reading gives; and the name comes back."""
    vocab = replace(bpe_vocab, steps=preset.steps, ignore_merges=preset.ignore_merges)
    keys = vocab.to_gguf() | {"tokenizer.ggml.pre": preset.name}
    from_c = Tokenizer(write_gguf(tmp_path / "v.gguf", {k: v for k, v in keys.items() if not k.startswith("ak42")}))
    same_ids(from_c, Tokenizer(Vocab.from_gguf(keys).to_tokn()), 400, vocab)
    written = vocab.to_gguf()["tokenizer.ggml.pre"]
    assert next(p for p in PRESETS if p.name == written).steps == preset.steps


def test_qwen35_is_its_tokenizer_s(tmp_path: Path, bpe_vocab: Vocab) -> None:
    """The steps of the name are those that transformers' own class has, form C among them, and its tokenizer.json gets the name."""
    from transformers import Qwen3_5Tokenizer

    Qwen3_5Tokenizer().save_pretrained(tmp_path)
    steps = json.loads((tmp_path / "tokenizer.json").read_text())
    assert steps["normalizer"] == {"type": "NFC"}
    pattern = steps["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    assert replace(bpe_vocab, steps=(Step(NFC), ADDED_STEP, split(pattern))).to_gguf()["tokenizer.ggml.pre"] == "qwen35"


@pytest.mark.parametrize("family", parity.FAMILIES, ids=lambda family: family.__name__)
def test_gguf_round_trip(tmp_path: Path, family) -> None:
    _, vocab = parity.made(family)
    try:
        keys = vocab.to_gguf()
    except UnsupportedError as error:
        assert family in (parity.gpt2_prefixed, parity.odd_splits, parity.spm_split)
        assert "GGUF has no" in str(error) and "\n" not in str(error)
        return
    again = Vocab.from_gguf(keys)
    assert again.steps == vocab.steps and again.merges == vocab.merges and again.tokens == vocab.tokens
    assert ("ak42.tokenizer" in keys) == (family in WITH_ATTRIBUTES)
    assert bool(vocab.gguf_notes()) == ("ak42.tokenizer" in keys)
    same_ids(Tokenizer(again.to_tokn()), Tokenizer(vocab.to_tokn()), 500, vocab)
    if "ak42.tokenizer" not in keys:
        same_ids(Tokenizer(write_gguf(tmp_path / "v.gguf", keys)), Tokenizer(vocab.to_tokn()), 500, vocab)


@pytest.mark.parametrize("options", [{}, {"add_space_prefix": False}, {"remove_extra_whitespaces": True}, {"add_bos_token": False}])
def test_gguf_sentencepiece(tmp_path: Path, spm_vocab: Vocab, options: dict) -> None:
    keys = spm_vocab.to_gguf() | {f"tokenizer.ggml.{key}": value for key, value in options.items()}
    assert "ak42.tokenizer" not in keys and "tokenizer.ggml.merges" not in keys
    vocab = Vocab.from_gguf(keys)
    same_ids(Tokenizer(write_gguf(tmp_path / "v.gguf", keys)), Tokenizer(vocab.to_tokn()), 600, vocab)
    if not options:
        assert vocab == spm_vocab
    bare = {k: v for k, v in keys.items() if not k.endswith("token_type")}
    same_ids(Tokenizer(write_gguf(tmp_path / "w.gguf", bare)), Tokenizer(Vocab.from_gguf(bare).to_tokn()), 200, vocab)


GGUF_DAMAGE = [
    ({"model": "bert"}, UNSUPPORTED, "bert"), ({"pre": "nonesuch"}, UNSUPPORTED, "nonesuch"), ({"merges": None}, FORMAT, "merges"),
    ({"merges": ["ab"]}, FORMAT, "element 0"), ({"merges": ["a qzqzq"]}, FORMAT, "element 0"), ({"tokens": None}, FORMAT, ""),
    ({"token_type": [9]}, FORMAT, ""), ({"bos_token_id": 10 ** 6}, FORMAT, ""),
    ({"bos_token_id": None, "add_bos_token": True}, FORMAT, "BOS"), ({"token_type": "types"}, FORMAT, ""),
]


@pytest.mark.parametrize(("change", "status", "text"), GGUF_DAMAGE)
def test_gguf_damage(tmp_path: Path, bpe_vocab: Vocab, change: dict, status: int, text: str) -> None:
    keys = bpe_vocab.to_gguf()
    for key, value in change.items():
        keys[f"tokenizer.ggml.{key}"] = value
    keys = {key: value for key, value in keys.items() if value is not None}
    with pytest.raises(FormatError if status == FORMAT else UnsupportedError) as python:
        Vocab.from_gguf(keys)
    assert "\n" not in str(python.value)
    if not isinstance(change.get("token_type"), str):
        with pytest.raises(TokenizerError) as c:
            Tokenizer(write_gguf(tmp_path / "v.gguf", keys))
        assert c.value.code == status and text in str(c.value), str(c.value)


def test_gguf_values_of_other_kinds(bpe_vocab: Vocab) -> None:
    types = {"tokenizer.ggml.token_type": [float("nan")] * len(bpe_vocab.tokens)}
    with pytest.raises(FormatError, match="token_type: expected whole numbers, found others"):
        Vocab.from_gguf(bpe_vocab.to_gguf() | types)
    for value in (1 << 40, 10 ** 400, 3.0):        # a number of bytes to Python, were it asked
        with pytest.raises(FormatError, match="ak42.tokenizer: expected an array of bytes, found "):
            Vocab.from_gguf({"ak42.tokenizer": value})


# ---- tokenizer.model ----

def test_sentencepiece_ids(sentencepiece_model: bytes, spm_vocab: Vocab) -> None:
    """By score, as the sentencepiece library itself does it."""
    import sentencepiece

    theirs = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model)
    ours = Tokenizer(spm_vocab.to_tokn())
    for text in generated(10_000, seed=77):
        text = text.replace("\0", "")          # which the library takes for the end of a text
        assert ours.encode(text) == theirs.encode(text), repr(text)


def test_sentencepiece_extra_spaces() -> None:
    import io

    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(parity.corpus()), model_writer=written, vocab_size=1200, model_type="bpe", byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", num_threads=1, minloglevel=2, user_defined_symbols=["<tool>"],
        pad_id=3)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    vocab = Vocab.from_sentencepiece(written.getvalue())
    assert vocab.pad_id == 3 and vocab.collapse_spaces and USER in vocab.types
    ours = Tokenizer(vocab.to_tokn())
    for text in generated(2000, seed=78):
        text = text.replace("\0", "")
        assert ours.encode(text) == theirs.encode(text), repr(text)


SYMBOLS = [("<tool>",), ("▁▁", "▁▁▁"), ("<x>", "▁<x"), ("x▁", "▁y"), ("\n\n", "\t", "▁▁"), ("the", "▁of"), ("▁",)]
SYMBOL_PARTS = ["a", "the", "of", " ", "  ", "▁", "▁▁", "x", "y", "<x>", "<tool>", "<", "\n", "\n\n", "\t", "é", "日", "hello",
                "▁<x"]


def with_symbols(data: bytes, symbols: tuple[str, ...], prefix: bool, collapse: bool) -> bytes:
    """The model with user-defined symbols and settings of the normaliser."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(data)
    model.normalizer_spec.add_dummy_prefix, model.normalizer_spec.remove_extra_whitespaces = prefix, collapse
    pieces = {piece.piece: piece for piece in model.pieces}
    for symbol in symbols:
        (pieces[symbol] if symbol in pieces else model.pieces.add(piece=symbol, score=0.0)).type = USER
    return model.SerializeToString()


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("collapse", [False, True])
def test_sentencepiece_user_defined_symbols(sentencepiece_model: bytes, prefix: bool, collapse: bool) -> None:
    """One space in front of the text, whatever symbols it is cut at; spaces beside and marks in symbols as the library has them."""
    import random

    import sentencepiece

    rng = random.Random(5)
    for symbols in SYMBOLS:
        data = with_symbols(sentencepiece_model, symbols, prefix, collapse)
        theirs, vocab = sentencepiece.SentencePieceProcessor(model_proto=data), Vocab.from_sentencepiece(data)
        assert Vocab.from_tokn(vocab.to_tokn()) == vocab and Vocab.from_gguf(vocab.to_gguf()).attrs == vocab.attrs
        texts = ["".join(rng.choice(SYMBOL_PARTS) for _ in range(rng.randint(0, 8))) for _ in range(300)]
        same = [Tokenizer(vocab.to_tokn()).encode]
        try:
            hf = parity.HFTokenizer.from_str(json.dumps(vocab.to_tokenizer_json()))
            hf.encode_special_tokens = True
            same.append(lambda text, hf=hf: hf.encode(text, add_special_tokens=False).ids)
        except UnsupportedError as error:
            assert (prefix or collapse and symbols[0] != "<x>") and "normalised text without being normalised" in str(error)
        for text in texts:
            for encode in same:
                assert encode(text) == theirs.encode(text), (symbols, text)


def test_sentencepiece_symbol_with_a_space(sentencepiece_model: bytes) -> None:
    with pytest.raises(UnsupportedError, match="user-defined symbol a  b: expected none with a space"):
        Vocab.from_sentencepiece(with_symbols(sentencepiece_model, ("a  b",), True, True))


def small_model(data: bytes, pieces: list[tuple[str, float, int]]) -> bytes:
    """A BPE model of these pieces behind the three special ones, without a space in front."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(data)
    del model.pieces[3:]
    model.trainer_spec.byte_fallback = model.normalizer_spec.add_dummy_prefix = False
    for text, score, kind in pieces:
        model.pieces.add(piece=text, score=score, type=kind)
    return model.SerializeToString()


@pytest.mark.parametrize(("pieces", "text", "message"), [
    ([("a", -1.0, 1), ("b", -2.0, 1), ("ab", -3.0, 5), ("aba", -4.0, 1)], "aba", "unused piece ab: expected one that no text"),
    ([("a", 0.0, 1), ("ab", -1.0, 1)], "ab", "piece ab: expected its characters to be pieces, found none for b"),
    ([("a", 0.0, 1), ("b", -1e11, 1)], "ab", "piece b: expected a score above -1e.10, found -1e.11")])
def test_sentencepiece_odd_pieces(sentencepiece_model: bytes, pieces: list, text: str, message: str) -> None:
    """The library gives them ids; none is what the runtime would give."""
    import sentencepiece

    data = small_model(sentencepiece_model, pieces)
    assert 0 not in sentencepiece.SentencePieceProcessor(model_proto=data).encode(text)
    with pytest.raises(UnsupportedError, match=message):
        Vocab.from_sentencepiece(data)


@pytest.mark.parametrize("kind", [3, 5])
def test_sentencepiece_single_characters(sentencepiece_model: bytes, kind: int) -> None:
    """A control or unused piece of one character is none: the text is unknown."""
    import sentencepiece

    data = small_model(sentencepiece_model, [("a", 0.0, 1), ("b", 0.0, kind)])
    ours, theirs = Tokenizer(Vocab.from_sentencepiece(data).to_tokn()), sentencepiece.SentencePieceProcessor(model_proto=data)
    assert ours.encode("abba") == theirs.encode("abba") == [3, 0, 3]
    data = small_model(sentencepiece_model, [("b", 0.0, kind), ("a", 0.0, 1)])
    with pytest.raises(UnsupportedError, match="token 3 is one character and no piece"):
        Vocab.from_sentencepiece(data).to_tokenizer_json()


def test_sentencepiece_unknown_mark(sentencepiece_model: bytes) -> None:
    """A mark that is no piece is unknown like any character, and one of a run."""
    import sentencepiece

    data = small_model(sentencepiece_model, [("a", 0.0, 1), ("▁", 0.0, 3)])
    ours, theirs = Tokenizer(Vocab.from_sentencepiece(data).to_tokn()), sentencepiece.SentencePieceProcessor(model_proto=data)
    for text in ("xy zxyzxyz xyza", "a b aaaaaaaaaaaaaaaaaaaaaa b", " " * 20):
        assert ours.encode(text) == theirs.encode(text), text


def test_sentencepiece_below_zero(sentencepiece_model: bytes) -> None:
    """A score of -0, which the first merge of a trained model has, is below the 0 of a piece put in by hand."""
    import sentencepiece

    for scores in ((0.0, -0.0), (-0.0, 0.0), (-0.0, -0.0)):
        data = small_model(sentencepiece_model, [("a", -3.0, 1), ("b", -3.0, 1), ("ab", scores[0], 1), ("ba", scores[1], 1)])
        theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
        ours = Tokenizer(Vocab.from_sentencepiece(data).to_tokn())
        for text in ("aba", "bab", "abab", "babab"):
            assert ours.encode(text) == theirs.encode(text), (scores, text)


def test_sentencepiece_across_words() -> None:
    """Pieces that hold more than one word: the text must not be cut at words then."""
    import io

    import sentencepiece

    written = io.BytesIO()
    lines = [line for text in parity.corpus() for line in text.split("\n") if line.strip()]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, vocab_size=1300, model_type="bpe", byte_fallback=True, num_threads=1,
        character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False, split_by_whitespace=False,
        minloglevel=2)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    vocab = Vocab.from_sentencepiece(written.getvalue())
    assert any("▁" in token.decode().lstrip("▁") for token in vocab.tokens)
    ours = Tokenizer(vocab.to_tokn())
    ranked = Tokenizer(Vocab.from_tokenizer_json(vocab.to_tokenizer_json(), vocab.to_tokenizer_config()).to_tokn())
    hf = parity.HFTokenizer.from_str(json.dumps(vocab.to_tokenizer_json()))
    hf.encode_special_tokens = True
    for text in generated(1500, seed=79):
        text = text.replace("\0", "")
        assert ours.encode(text) == theirs.encode(text), repr(text)
        assert ranked.encode(text) == hf.encode(text, add_special_tokens=False).ids, repr(text)


@pytest.mark.parametrize(("kind", "rule", "text"), [("unigram", "identity", "Unigram"), ("bpe", "nmt_nfkc", "character map")])
def test_sentencepiece_refused(kind: str, rule: str, text: str) -> None:
    import io

    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(parity.corpus()), model_writer=written, vocab_size=900,
                                             model_type=kind, normalization_rule_name=rule, num_threads=1, minloglevel=2,
                                             character_coverage=0.98)
    with pytest.raises(UnsupportedError, match=text):
        Vocab.from_sentencepiece(written.getvalue())


def test_sentencepiece_damage(sentencepiece_model: bytes) -> None:
    """Every cut and many changed bytes: a Vocab or a ConvertError, nothing else."""
    import random

    rng = random.Random(3)
    opened = 0
    for size in [*range(200), *(rng.randrange(len(sentencepiece_model)) for _ in range(40))]:
        opened += survives(Vocab.from_sentencepiece, sentencepiece_model[:size])
    assert opened == 0                         # without the trainer's words it is no BPE model
    for _ in range(150):
        data = bytearray(sentencepiece_model)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        survives(Vocab.from_sentencepiece, bytes(data))
    for data in (b"\x0a" + b"\xff" * 11, b"\x0a\xff\xff\xff\xff\x7f", b"\x0b\x0b", b"\x00\x00", b"\x0d\0\0\0\0", b"\x08\x01"):
        with pytest.raises(FormatError):
            Vocab.from_sentencepiece(data)


def survives(read, data: bytes) -> bool:
    try:
        vocab = read(data)
    except ConvertError as error:
        assert "\n" not in str(error)
        return False
    try:
        Tokenizer(vocab.to_tokn()).encode("a b")
    except TokenizerError:
        pytest.fail("the converter accepted what C refuses")
    return True


# ---- tokenizer.bin ----

def llama2c_encode(pieces: list[bytes], scores: list[float], text: bytes) -> list[int]:
    """llama2.c's loop, in its order: best pair first, one merge at a time."""
    index: dict[bytes, int] = {}
    for token_id, piece in enumerate(pieces):
        index.setdefault(piece, token_id)
    ids = [index[b" "]] if text else []
    at = 0
    while at < len(text):
        end = at + 1
        while end < len(text) and text[end] & 0xC0 == 0x80 and end - at < 4:
            end += 1
        found = index.get(text[at:end])
        ids += [found] if found is not None else [byte + 3 for byte in text[at:end]]
        at = end
    while True:
        best, best_at = -1e10, -1
        for i in range(len(ids) - 1):
            found = index.get(pieces[ids[i]] + pieces[ids[i + 1]])
            if found is not None and scores[found] > best:
                best, best_at = scores[found], i
        if best_at < 0:
            return ids
        ids[best_at:best_at + 2] = [index[pieces[ids[best_at]] + pieces[ids[best_at + 1]]]]


def test_tokenizer_bin(tmp_path: Path, spm_vocab: Vocab) -> None:
    data = spm_vocab.to_tokenizer_bin()
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(data)
    pieces, scores, at = [], [], 4
    while at < len(data):
        score, size = struct.unpack_from("<fI", data, at)
        pieces.append(data[at + 8:at + 8 + size])
        scores.append(score)
        at += 8 + size
    assert struct.unpack_from("<I", data)[0] == max(map(len, pieces)) and pieces[1] == b"\n<s>\n"
    ours = Tokenizer(path)
    for text in generated(3000, seed=88):
        for source in (text.encode()[:200], text.encode()[1:90]):          # cut anywhere, also inside a character
            assert ours.encode(source) == llama2c_encode(pieces, scores, source), source
    assert ours.encode("a", bos=None)[0] == 1
    vocab = Vocab.from_tokenizer_bin(data, len(pieces))
    assert vocab.to_tokenizer_bin() == data
    same_ids(Tokenizer(vocab.to_tokn()), ours, 500, vocab)
    # Without merges across words, SentencePiece's own form gives the same ids.
    same_ids(Tokenizer(Vocab.from_gguf(vocab.to_gguf()).to_tokn()), ours, 500, vocab)


def test_tokenizer_bin_refused(spm_vocab: Vocab, bpe_vocab: Vocab) -> None:
    data = spm_vocab.to_tokenizer_bin()
    n = len(spm_vocab.tokens)
    for size in (0, 3, 4, 11, 12, 40, len(data) - 1):
        with pytest.raises(FormatError):
            Vocab.from_tokenizer_bin(data[:size], n)
    for wrong in (n - 1, n + 1):
        with pytest.raises(FormatError, match=rf"{wrong} pieces.*found {n}"):
            Vocab.from_tokenizer_bin(data, wrong)
    with pytest.raises(UnsupportedError, match="byte-level"):
        bpe_vocab.to_tokenizer_bin()
    with pytest.raises(UnsupportedError, match="bos 1"):
        replace(spm_vocab, bos_id=5).to_tokenizer_bin()
    with pytest.raises(UnsupportedError, match="space put in front"):
        replace(spm_vocab, steps=spm_steps(dummy_prefix=False)).to_tokenizer_bin()


# ---- TOKN ----

def test_tokn_golden() -> None:
    """The bytes of a small section, written down; a released section is read for ever."""
    vocab = Vocab(kind="spm", tokens=(b"<unk>", b"<s>", b"</s>", b"\xe2\x96\x81", b"a"), scores=(0.0, 0.0, 0.0, -1.0, -2.5),
                  types=(UNKNOWN, CONTROL, CONTROL, NORMAL, NORMAL), attrs=(0, 1 << 9, 0, 0, 0), merges=(),
                  steps=(Step(1, 0, b"\xe2\x96\x81"), ADDED_STEP), bos_id=1, eos_ids=(2,), unk_id=0, add_bos=True, dummy_prefix=True)
    golden = bytes.fromhex(
        "01000000 01000000 05000000 01000000 00000000 ffffffff 01000000 05000000 00000000 02000000 02000000"
        "00000000 02000000 05000000 3c756e6b3e 00000000 03020000 03000000 3c733e 00000000 03000000 04000000 3c2f733e"
        "000080bf 01000000 03000000 e29681 000020c0 01000000 01000000 61"
        "01000000 00000000 03000000 e29681 08000000 00000000 00000000")
    assert vocab.to_tokn() == golden and Vocab.from_tokn(golden) == vocab
    Tokenizer(golden)


def test_tokn_damage() -> None:
    """Python and C give the same verdict on every cut and every changed byte of a small section; neither ever does worse."""
    small = Vocab(kind="bpe", tokens=(b"<s>", b"a", b"b", b"ab"), scores=(0.0,) * 4, types=(CONTROL, NORMAL, NORMAL, NORMAL), attrs=(0,) * 4,
                  merges=((1, 2),), steps=(ADDED_STEP, SPLIT_GPT2), bos_id=0, eos_ids=(0,))
    data = small.to_tokn()
    changed = [data[:size] for size in range(len(data))] + [data + b"\0"]
    for at in range(len(data)):
        changed += [data[:at] + bytes([value]) + data[at + 1:] for value in (0, 1, 127, 128, 255)]
    steps = data.index(SPLIT_GPT2.data) - 24        # Python leaves the insides of steps to C
    for section in changed:
        c, python = opens(Tokenizer, section), opens(Vocab.from_tokn, section)
        assert c == python or (python and section[:steps] == data[:steps]), section.hex()


def opens(read, data: bytes) -> bool:
    try:
        read(data)
    except (ConvertError, TokenizerError):
        return False
    return True


# ---- vocabularies ----

def test_padding(bpe_vocab: Vocab) -> None:
    n = len(bpe_vocab.tokens)
    padded = bpe_vocab.padded_to(n + 3)
    assert len(padded.tokens) == n + 3 and padded.tokens[-1] == b"[PAD%d]" % (n + 2)
    ours = Tokenizer(padded.to_tokn())
    for text in generated(300, seed=5):
        assert ours.encode(text) == Tokenizer(bpe_vocab.to_tokn()).encode(text)
    assert bpe_vocab.padded_to(n) is bpe_vocab
    assert Vocab.from_tokenizer_json(padded.to_tokenizer_json(), padded.to_tokenizer_config()).padded_to(n + 3) == padded
    with pytest.raises(FormatError, match=f"{n - 1} tokens.*found {n}"):
        bpe_vocab.padded_to(n - 1)


def test_equal_tokens() -> None:
    """Of two tokens with the same bytes the lower id is the one that is found."""
    vocab = Vocab(kind="bpe", tokens=(b"a", b"b", b"ab", b"ab", b"a"), scores=(0.0,) * 5, types=(NORMAL,) * 5, attrs=(0,) * 5,
                  merges=((0, 1),), steps=(ADDED_STEP,))
    ours = Tokenizer(vocab.to_tokn())
    assert ours.encode("aba") == [2, 0] and ours.decode([3, 4]) == b"aba"


def test_strange_byte_pieces() -> None:
    """Only two hexadecimal digits make a byte piece of a GGUF token."""
    keys = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "<0x-1>", "<0xZZ>", "<0x1>", "<0x41>"],
            "tokenizer.ggml.scores": [0.0] * 5, "tokenizer.ggml.token_type": [2, 6, 6, 6, 6]}
    assert Vocab.from_gguf(keys).types == (UNKNOWN, NORMAL, NORMAL, NORMAL, BYTE)


# ---- a folder for transformers ----

@pytest.mark.parametrize("family", [parity.gpt2, parity.llama3, parity.spm, parity.spm_metaspace], ids=lambda family: family.__name__)
def test_auto_tokenizer(tmp_path: Path, family) -> None:
    """AutoTokenizer on what we write gives the ids of the tokenizer that it came from, in transformers' own call."""
    from transformers import AutoTokenizer

    hf = family()
    named = {"bos_token": "<s>", "eos_token": "</s>"} if family in (parity.spm, parity.spm_metaspace) else {"eos_token": "<|end|>"}
    vocab = Vocab.from_tokenizer_json(json.loads(hf.to_str()), named)
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocab.to_tokenizer_json()), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(vocab.to_tokenizer_config()), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    auto = AutoTokenizer.from_pretrained(tmp_path)
    assert auto.eos_token_id == vocab.eos_ids[0] and (auto.bos_token_id is None) == (vocab.bos_id < 0)
    ours = Tokenizer(vocab.to_tokn())
    for text in generated(1500, seed=61, special=parity.specials_of(vocab)):
        theirs = hf.encode(text).ids
        assert auto(text)["input_ids"] == theirs, repr(text)
        twice = vocab.add_bos and theirs[:2] == [vocab.bos_id] * 2          # a text that spells its BOS out: never two here
        assert ours.encode(text, special=True, bos=None) == theirs[twice:], repr(text)


def test_letters() -> None:
    assert to_letters(b" \n!\xad\xff") == "ĠĊ!ŃÿF"[:5]
    assert split("a").op == SPLIT
