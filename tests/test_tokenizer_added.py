"""Added tokens of a tokenizer.json: found in time linear in the text."""
from __future__ import annotations

import time

import pytest
from converter.tokenizer import LSTRIP, NORMAL, RSTRIP, USER, Vocab
from converter.tokenizer_steps import ADDED_STEP
from tokenizer_support import Tokenizer

@pytest.mark.parametrize(("added", "attr", "text"), [
    ([b"a" * 4000 + b"z"], 0, b"a" * 2 ** 20), ([b"a", b"a" * 4000 + b"z"], 0, b"a" * 2 ** 20), ([b"z" + b"a" * 4000], 0, b"a" * 2 ** 20),
    ([b" "], RSTRIP, b" " * 2 ** 20), ([b" "], RSTRIP | LSTRIP, b" " * 2 ** 20), ([b"a"], LSTRIP, (b" " * 1000 + b"a") * 1000)])
def test_linear_time(added: list[bytes], attr: int, text: bytes) -> None:
    """A MiB; looking at every byte for every token took eight seconds and more."""
    n = 256 + len(added)
    ours = Tokenizer(Vocab(
        kind="bpe", tokens=(*(bytes([byte]) for byte in range(256)), *added), scores=(0.0,) * n,
        types=(NORMAL,) * 256 + (USER,) * len(added), attrs=(0,) * 256 + (attr,) * len(added), merges=(), steps=(ADDED_STEP,)).to_tokn())
    start = time.perf_counter()
    ours.encode(text)
    assert time.perf_counter() - start < 2
