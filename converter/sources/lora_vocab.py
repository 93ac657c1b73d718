"""The vocabulary of a model with an adapter in it: how many rows it has, whose tokenizer cuts its texts, which ids end them.

An adapter that was trained with more (or fewer) tokens than its base model has brings its embedding and its head whole; its
tokenizer then lies beside it, and takes the place of the base model's together with its chat template and its special ids. Merges
nothing. Called by lora.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import MAX_VOCAB, ModelConfig
from ..errors import ConvertError, FormatError, UnsupportedError
from . import vocabulary
from .checkpoint import same_tensors
from .hf import EMBEDDING, HEAD
from .peft_adapter import Change, Part, PeftAdapter, Replacement, TokenRows

if TYPE_CHECKING:
    from ..tokenizer import Vocab
    from . import Source

TOKENIZER = vocabulary.TOKENIZERS[0]           # what transformers saves beside an adapter
PADDING = 8                                    # an embedding with more rows than tokens has a multiple of it,
MAX_PADDED = 1024                              # and fewer than so many that stand for none


def is_tied(adapter: PeftAdapter, tied: bool) -> bool:
    """Whether the merged model's head is its embedding, as `tied` says of the base model's. UnsupportedError where that hangs on
    the base model's own rows."""
    head, embedding = adapter.changes.get(HEAD), adapter.changes.get(EMBEDDING)
    if not tied:
        return False
    if isinstance(head, Replacement) and isinstance(embedding, Replacement):
        return _same(head.whole, embedding.whole)
    if isinstance(head, TokenRows) and isinstance(embedding, TokenRows) and _same_rows(head, embedding):
        return True
    for name, change in ((HEAD, head), (EMBEDDING, embedding)):
        if change is not None and (name == HEAD or isinstance(change, Replacement)):
            raise UnsupportedError(f"{adapter.name}: {name}: the base model's head is its embedding; an adapter that changes one "
                                   "of them alone is not supported")
    return True


def _same(one: Part | None, other: Part | None) -> bool:
    if one is None or other is None:
        return one is other
    return same_tensors(one.file, one.entry, other.file, other.entry)


def _same_rows(one: TokenRows, other: TokenRows) -> bool:
    return one.tokens == other.tokens and _same(one.part, other.part) and _same(one.whole, other.whole)


def rows_of(adapter: PeftAdapter, config: ModelConfig, tied: bool) -> int:
    """How many tokens the merged model has; FormatError where its embedding and its head would not have the same."""
    rows = [_own_rows(adapter.changes.get(name), config.vocab_size) for name in (EMBEDDING, HEAD)]
    if not tied and rows[0] != rows[1]:
        raise FormatError(f"{adapter.name}: expected as many rows of {EMBEDDING} as of {HEAD}, found {rows[0]} and {rows[1]}; an "
                          "adapter with another vocabulary than the base model's has to hold both: save it with "
                          "save_embedding_layers=True")
    if not 0 < rows[0] <= MAX_VOCAB:
        raise FormatError(f"{adapter.name}: {EMBEDDING}: expected 1 to {MAX_VOCAB} rows, found {rows[0]}")
    return rows[0]


def _own_rows(change: Change | None, rows: int) -> int:
    """Those of a weight that the adapter brings along, else the base model's."""
    shape = change.whole.entry.shape if change is not None and change.whole is not None else ()
    return shape[0] if len(shape) == 2 else rows


def vocab_of(adapter: PeftAdapter, rows: int, given: Path | None) -> Vocab:
    """The vocabulary of a model whose embedding has other rows than the base model's: the one given, else the adapter's own."""
    if given is not None:
        return vocabulary.from_file(given, rows)
    if not os.path.exists(adapter.path / TOKENIZER):
        raise FormatError(f"{adapter.name}: {TOKENIZER}: expected the tokenizer of the adapter's {rows} embedding rows beside it, "
                          "found none; put the one there that it was trained with, or give it with --tokenizer")
    with vocabulary.named(adapter.name):
        vocab = vocabulary.from_folder(adapter.path, rows)
    n = len(vocab.tokens)
    if n > rows or n < rows and (rows % PADDING or rows - n >= MAX_PADDED):
        raise FormatError(f"{adapter.name}: {TOKENIZER}: expected {rows} tokens, the rows of the adapter's embedding, found {n}; "
                          "put the one there that it was trained with, or give it with --tokenizer")
    return vocab


def with_vocab(config: ModelConfig, rows: int, vocab: Vocab) -> ModelConfig:
    """The base model's config with another vocabulary: the special ids are the tokenizer's, where it has them; a text ends at any
    end of the base model's too."""
    ends = dict.fromkeys((*vocab.eos_ids, *config.eos_ids))
    first = [token if token >= 0 else other for token, other in ((vocab.bos_id, config.bos_id), (vocab.pad_id, config.pad_id))]
    bos, pad = (token if token < rows else -1 for token in first)
    return replace(config, vocab_size=rows, bos_id=bos, eos_ids=tuple(token for token in ends if token < rows), pad_id=pad)


def restated(values: Mapping[str, Any] | None, config: ModelConfig, keys: tuple[str, ...]) -> dict[str, Any] | None:
    """A config.json or generation_config.json that the base model has, with these keys as a config of the merged model says."""
    if values is None:
        return None
    stated = config.to_hf("float32")
    return {**values, **{key: stated[key] for key in keys if key in values or stated[key] is not None}}


def other_tokenizer(adapter: PeftAdapter, source: Source) -> list[str]:
    """A warning where an adapter that leaves the embedding's rows alone lies beside another tokenizer than the base model's."""
    try:
        vocab, template = vocabulary.from_folder(adapter.path, source.config.vocab_size), vocabulary.chat_template(adapter.path)
    except ConvertError:
        return []                      # it is not read, and so need not be readable
    own = None if vocab is None else source.vocab
    differs = {
        "other tokens": vocab is not None and own is not None and vocab.tokens != own.tokens[:len(vocab.tokens)],
        "another end of a text": vocab is not None and own is not None and not
                                 {*vocab.eos_ids} <= {*own.eos_ids, *source.config.eos_ids},
        "another chat template": template not in (None, source.chat_template),
    }
    if not any(differs.values()):
        return []
    listed = ", ".join(what for what, found in differs.items() if found)
    remedy = "; --tokenizer takes another" if differs["other tokens"] else ""
    return [f"{adapter.name}: beside it is a tokenizer with {listed}; that of {source.name} is kept{remedy}"]
