"""Token ids and decoded text equal to Hugging Face's tokenizers, on 10,000 generated strings for each family of tokenizer.

The oracle is always a `tokenizers.Tokenizer`; the vocabularies come from SmolLM2's file or are trained here, so that nothing is
fetched. The C side is given the TOKN section that the converter writes.
"""
from __future__ import annotations

import functools
import io
import json
from pathlib import Path

import pytest
import texts
from converter.tokenizer import Vocab
from converter.tokenizer_presets import preset_by_name
from converter.tokenizer_steps import NFC, PREPEND, REPLACE, SPLIT, STRIP
from tokenizer_support import CODE, OTHER, WORDS, Tokenizer, generated
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as HFTokenizer

COUNT = 10_000
COUNT_OTHERS = 2_000
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|begin|>", "<|end|>", "<|im_start|>", "<|im_end|>"]


def corpus() -> list[str]:
    return [text for text in generated(1500, seed=99)] + [" ".join(WORDS)] * 30 + list(CODE) * 20 + list(OTHER) * 10


def vocab_of(hf: HFTokenizer, **special: str) -> Vocab:
    return Vocab.from_tokenizer_json(json.loads(hf.to_str()), special)


def train_byte_level(pre_tokenizer, *, ignore_merges: bool = False, added: tuple[AddedToken, ...] = ()) -> HFTokenizer:
    hf = HFTokenizer(models.BPE(ignore_merges=ignore_merges))
    hf.pre_tokenizer = pre_tokenizer
    hf.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    hf.train_from_iterator(corpus(), trainer)
    hf.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    hf.add_tokens(list(added))
    return hf


ADDED = (AddedToken("<tool>", normalized=False), AddedToken("[[x]]", lstrip=True, normalized=False),
         AddedToken("~~~", rstrip=True, normalized=False), AddedToken("word", single_word=True, normalized=False),
         AddedToken("  \n", normalized=True), AddedToken("日本", normalized=True))


def gpt2() -> HFTokenizer:
    return train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), added=ADDED)


def gpt2_prefixed() -> HFTokenizer:
    return train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))


def llama3() -> HFTokenizer:
    hf = train_byte_level(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
                                                   pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
                          ignore_merges=True)
    hf.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin|> $A", pair="<|begin|> $A <|begin|>:1 $B:1", special_tokens=[("<|begin|>", hf.token_to_id("<|begin|>"))])])
    return hf


def falcon() -> HFTokenizer:
    return train_byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]))


def starcoder() -> HFTokenizer:
    return train_byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                     pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)]), added=ADDED)


def split_by(*patterns: str, digits: bool = False) -> pre_tokenizers.PreTokenizer:
    """Splits by regular expressions one after another, then digits, then bytes: how DeepSeek's tokenizer.json files are laid out."""
    found = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    return pre_tokenizers.Sequence([*found, *([pre_tokenizers.Digits(individual_digits=True)] if digits else []),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False)])


def patterns_of(name: str) -> list[str]:
    return [step.data.decode() for step in preset_by_name(name).steps if step.op == SPLIT]


def deepseek_llm() -> HFTokenizer:
    hf = train_byte_level(split_by(*patterns_of("deepseek-llm"), digits=True), added=ADDED)
    hf.normalizer = normalizers.Sequence([])
    return hf


def deepseek_coder() -> HFTokenizer:
    return train_byte_level(split_by("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", digits=True))


def deepseek_v3() -> HFTokenizer:
    return train_byte_level(split_by(*patterns_of("deepseek-v3")), added=ADDED)


def phi4_mini() -> HFTokenizer:
    """GPT-4o's pattern, and Phi's added tokens, which take the white space behind them."""
    return train_byte_level(split_by(*patterns_of("gpt-4o")), added=(
        AddedToken("<|user|>", rstrip=True, normalized=False), AddedToken("<|end|> ", rstrip=True, normalized=False)))


def qwen2() -> HFTokenizer:
    hf = train_byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))
    hf.normalizer = normalizers.NFC()
    return hf


def odd_splits() -> HFTokenizer:
    """Every behaviour once, on rules that no real tokenizer has together."""
    return train_byte_level(pre_tokenizers.Sequence([
        pre_tokenizers.Split("-", "merged_with_next"), pre_tokenizers.Split(Regex(r"\n"), "merged_with_previous"),
        pre_tokenizers.Split(Regex(r"[a-z]+"), "contiguous", invert=True), pre_tokenizers.Split("#", "removed"),
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]))


def sentencepiece_bpe() -> tuple[bytes, HFTokenizer]:
    """A SentencePiece model that is trained here, and its form as a tokenizer.json."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(" ".join(text.split()) for text in corpus() if text.strip()), model_writer=written, vocab_size=1200,
        model_type="bpe", byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, num_threads=1, minloglevel=2, allow_whitespace_only_pieces=True)
    vocab = Vocab.from_sentencepiece(written.getvalue())
    pieces = [token.decode() for token in vocab.tokens]
    index = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for piece, score, kind in zip(pieces, vocab.scores, vocab.types, strict=True):
        if kind == 1:
            merges += [(-score, index[piece], cut, piece[:cut], piece[cut:]) for cut in range(1, len(piece))
                       if piece[:cut] in index and piece[cut:] in index]
    hf = HFTokenizer(models.BPE(vocab=index, merges=[(left, right) for _, _, _, left, right in sorted(merges)], unk_token="<unk>",
                                fuse_unk=True, byte_fallback=True))
    hf.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    hf.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    hf.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    hf.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return written.getvalue(), hf


def spm() -> HFTokenizer:
    return sentencepiece_bpe()[1]


def spm_metaspace() -> HFTokenizer:
    """The same vocabulary as transformers 5 builds it: the space only in front of the text."""
    hf = spm()
    hf.normalizer = None
    hf.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    hf.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("word", single_word=True)])
    return hf


def spm_split() -> HFTokenizer:
    hf = spm()
    hf.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")])
    hf.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True)
    hf.decoder = decoders.Sequence([decoders.Metaspace("▁", prepend_scheme="always"), decoders.ByteFallback(), decoders.Fuse()])
    hf.add_tokens([AddedToken("<tool>", normalized=True), AddedToken("[[x]]", lstrip=True, rstrip=True)])
    return hf


def phi3() -> HFTokenizer:
    """Llama 2's settings with Phi-3's added tokens: special ones and an ordinary </s> that take the white space behind them."""
    hf = spm()
    hf.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    hf.add_special_tokens([AddedToken(text, rstrip=True, normalized=False)
                           for text in ("<|assistant|>", "<|placeholder1|>", "<|system|>", "<|end|>", "<|user|>")])
    hf.add_tokens([AddedToken("<tool>", rstrip=True, normalized=False)])
    return hf


def gemma() -> HFTokenizer:
    """No space in front, runs of white space as tokens of their own, found in the text as it is."""
    hf = spm()
    hf.normalizer = normalizers.Replace(" ", "▁")
    hf.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    hf.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    hf.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "\n\n\n", "\t\t", "▁▁", "▁▁▁", "<table>", "</h1>", "<unused0>")])
    hf.add_special_tokens([AddedToken(text, normalized=False) for text in ("<start_of_turn>", "<end_of_turn>")])
    return hf


# Those that models have; the others are of no model, and get fewer strings.
MAIN = [gpt2, llama3, spm, falcon, qwen2, starcoder, deepseek_llm, deepseek_coder, deepseek_v3, phi3, phi4_mini, gemma]
FAMILIES = [*MAIN, gpt2_prefixed, odd_splits, spm_metaspace, spm_split]
# What GGUF calls the steps of each; None: no name of GGUF's stands for them.
GGUF_NAMES = {gpt2: "gpt-2", llama3: "llama-bpe", falcon: "falcon", qwen2: "qwen2", starcoder: "smollm", deepseek_llm: "deepseek-llm",
              deepseek_coder: "deepseek-coder", deepseek_v3: "deepseek-v3", phi4_mini: "gpt-4o"}


@functools.cache
def made(family) -> tuple[HFTokenizer, Vocab]:
    """A family's tokenizer and vocabulary, trained once."""
    hf = family()
    return hf, vocab_of(hf)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.__name__)
def pair(request) -> tuple[HFTokenizer, Vocab, Tokenizer]:
    hf, vocab = made(request.param)
    return hf, vocab, Tokenizer(vocab.to_tokn())


def specials_of(vocab: Vocab) -> list[str]:
    return [token.decode() for token, kind in zip(vocab.tokens, vocab.types, strict=True) if kind in (2, 3, 4)]


@functools.cache
def strings(count: int, seed: int, special: tuple[str, ...]) -> list[str]:
    """generated(), once for all families with the same special tokens."""
    return list(generated(count, seed=seed, special=special))


def compare(hf: HFTokenizer, ours: Tokenizer, texts: list[str], special: bool) -> None:
    hf.encode_special_tokens = not special
    theirs = hf.encode_batch_fast(texts, add_special_tokens=False)
    for text, encoding in zip(texts, theirs, strict=True):
        assert ours.encode(text, special=special) == encoding.ids, repr(text)


@pytest.mark.parametrize("special", [False, True], ids=["text", "special"])
def test_ids(pair, special: bool, request: pytest.FixtureRequest) -> None:
    """10,000 strings for the families that models of ours have, fewer for the rest."""
    hf, vocab, ours = pair
    count = COUNT if request.node.callspec.params["pair"] in MAIN else COUNT_OTHERS
    compare(hf, ours, strings(count, 7 + special, tuple(specials_of(vocab))), special)


def test_frame(pair) -> None:
    """What the post-processor puts around a text."""
    hf, _, ours = pair
    hf.encode_special_tokens = True
    for text in generated(50, seed=3):
        assert ours.encode(text, bos=None) == hf.encode(text).ids


def test_decode(pair) -> None:
    """Ids of texts, and ids at random; U+FFFD stands where bytes are no UTF-8, which only byte-level vocabularies agree on."""
    import random

    hf, vocab, ours = pair
    rng = random.Random(5)
    texts = strings(2000, 11, tuple(specials_of(vocab)))
    sequences = [encoding.ids for encoding in hf.encode_batch_fast(texts, add_special_tokens=False)]
    sequences += [[rng.randrange(len(vocab.tokens)) for _ in range(rng.randint(1, 8))] for _ in range(2000)]
    for skip in (False, True):
        texts = hf.decode_batch(sequences, skip_special_tokens=skip)
        for ids, text in zip(sequences, texts, strict=True):
            found = ours.decode(ids, skip_special=skip)
            if vocab.kind == "spm" and not valid(found):
                continue
            assert found.decode("utf-8", "replace") == text, ids


def valid(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_written_tokenizer_json(pair) -> None:
    """tokenizer.json -> Vocab -> tokenizer.json gives the same ids, and reads back as the same Vocab."""
    hf, vocab, _ = pair
    written = vocab.to_tokenizer_json()
    again = HFTokenizer.from_str(json.dumps(written))
    texts = strings(800, 21, tuple(specials_of(vocab)))
    for special in (False, True):
        hf.encode_special_tokens = again.encode_special_tokens = not special
        for one, two in zip(hf.encode_batch_fast(texts), again.encode_batch_fast(texts), strict=True):
            assert one.ids == two.ids
    assert [hf.decode(e.ids) for e in hf.encode_batch_fast(texts)] == [again.decode(e.ids) for e in again.encode_batch_fast(texts)]
    assert Vocab.from_tokenizer_json(written, vocab.to_tokenizer_config()) == vocab


def test_tokn_round_trip(pair) -> None:
    _, vocab, _ = pair
    assert Vocab.from_tokn(vocab.to_tokn()) == vocab


def test_any_bytes_come_back(pair) -> None:
    """Every byte string survives encoding and decoding where the vocabulary can say every byte and no step changes the text."""
    import random

    _, vocab, ours = pair
    removes = any(step.op == SPLIT and step.flags & 7 == 1 for step in vocab.steps)
    exact = vocab.kind == "bpe" and not removes and not any(step.op in (PREPEND, REPLACE, STRIP, NFC) for step in vocab.steps)
    rng = random.Random(17)
    for _ in range(2000):
        data = bytes(rng.choice((rng.randrange(256), rng.choice(b" a\xe2\x96\x81\xf0\x9f\xff\xc3"))) for _ in range(rng.randint(0, 40)))
        ids = ours.encode(data, special=rng.random() < 0.5)
        text = ours.decode(ids)
        if exact and b"[[x]]" not in data and b"~~~" not in data:          # which strip what is beside them
            assert text == data


@pytest.mark.parametrize("family", GGUF_NAMES, ids=lambda family: family.__name__)
def test_gguf_name(family) -> None:
    """The settings have the name that GGUF files give them, and the name leads back to the settings."""
    _, vocab = made(family)
    keys = vocab.to_gguf()
    assert keys["tokenizer.ggml.pre"] == GGUF_NAMES[family]
    keys.pop("ak42.tokenizer", None)
    assert Vocab.from_gguf(keys).steps == vocab.steps


def test_follows(pair) -> None:
    """A text that continues another gets no BOS and no space in front."""
    _, vocab, ours = pair
    first = ours.encode("word", bos=None, follows=True)
    assert vocab.bos_id not in first or vocab.bos_id < 0
    assert ours.decode(first, follows=True).strip() == b"word"
    assert ours.decode(first, follows=True) == b"word"


def test_smollm2(smollm2_gguf: Path) -> None:
    """The real model: its GGUF's tokens and merges in a tokenizers BPE, with Digits(individual) and then ByteLevel."""
    from gguf import GGUFReader

    reader = GGUFReader(str(smollm2_gguf))
    tokens = reader.get_field("tokenizer.ggml.tokens").contents()
    kinds = reader.get_field("tokenizer.ggml.token_type").contents()
    merges = [tuple(merge.split(" ")) for merge in reader.get_field("tokenizer.ggml.merges").contents()]
    hf = HFTokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    hf.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                pre_tokenizers.ByteLevel(add_prefix_space=False)])
    hf.decoder = decoders.ByteLevel()
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]
    hf.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    ours = Tokenizer(smollm2_gguf)
    for flag in (False, True):
        texts = list(generated(COUNT, seed=31 + flag, special=special))
        compare(hf, ours, texts, flag)
        ids = [encoding.ids for encoding in hf.encode_batch_fast(texts[:2000], add_special_tokens=False)]
        for sequence, text in zip(ids, hf.decode_batch(ids, skip_special_tokens=False), strict=True):
            assert ours.decode(sequence).decode("utf-8", "replace") == text
    vocab = Vocab.from_gguf({key: field.contents() for key, field in reader.fields.items() if key.startswith("tokenizer.")})
    again = Tokenizer(vocab.to_tokn())
    for text in generated(1000, seed=41, special=special):
        assert again.encode(text, special=True) == ours.encode(text, special=True)


def test_time(smollm2_gguf: Path) -> None:
    """A megabyte of English in a second at the most (docs/tokenizer.md has what was measured), a MiB of one letter in two; best of
    three."""
    import time

    ours = Tokenizer(smollm2_gguf)
    words = (" ".join(WORDS) + ".\n").encode()
    english = texts.ENGLISH_FILE.read_bytes()
    english = english * (1_000_000 // len(english)) + english[:1_000_000 % len(english)]
    for text, limit in ((english, 1.0), (words * (1_000_000 // len(words)), 1.0), (b"a" * 2 ** 20, 2.0), (b" " * 2 ** 20, 2.0), (b"e\xcc\x81" * 2 ** 18, 2.0)):
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            ours.encode(text)
            seconds.append(time.perf_counter() - start)
        assert min(seconds) < limit, text[:20]
