"""Perplexity of a model on a text: how surprised it is by each token, given those before it.

The text's tokens are cut into windows of n_ctx that do not overlap; the last one may be shorter. Where the model's tokenizer puts
BOS first by itself, every window begins with BOS, which takes one of its places; otherwise nothing is added. All tokens of a
window but its first are scored, each given the ones before it in the window. The perplexity is e to the mean of their negative
log probabilities."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import ArgumentError, NumericError

if TYPE_CHECKING:
    import numpy as np

    from .model import Model

# Tokens evaluated at once: bounds the logits held, (CHUNK, vocab_size).
CHUNK = 128


@dataclass(frozen=True)
class Perplexity:
    """nll: the mean negative log probability of a scored token, in nats. tokens: how many were scored."""

    perplexity: float
    nll: float
    tokens: int
    windows: int
    n_ctx: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0


def windows(ids: list[int], n_ctx: int, bos_id: int | None) -> Iterator[list[int]]:
    """The windows of a text's ids (without BOS), each with bos_id first where there is one."""
    first = [] if bos_id is None else [bos_id]
    size = n_ctx - len(first)
    for begin in range(0, len(ids), size):
        window = first + ids[begin : begin + size]
        if len(window) > 1:
            yield window


def perplexity(model: Model, text: str, n_ctx: int = 512, progress: Callable[[int, int], None] | None = None) -> Perplexity:
    """progress(done, total) counts tokens, scored or not."""
    if n_ctx < 2:
        raise ArgumentError(f"n_ctx: expected at least 2, found {n_ctx}")
    ids = model.encode(text, add_bos=False)
    bos_id = _own_bos(model)
    cut = list(windows(ids, n_ctx, bos_id))
    if not cut:
        raise ArgumentError(f"text: expected at least 2 tokens, found {len(ids)}: nothing to evaluate")
    total, done, sums, start = sum(map(len, cut)), 0, [], time.perf_counter()
    with model.session(n_ctx=min(n_ctx, max(map(len, cut)))) as session:
        for window in cut:
            session.truncate(0)
            for begin in range(0, len(window), CHUNK):
                # The last token of a window predicts nothing that is scored; it is evaluated with the others all the same.
                chunk = window[begin : begin + CHUNK]
                targets = window[begin + 1 : begin + CHUNK + 1]
                logits = session.eval(chunk, all_logits=True)
                if targets:
                    sums.append(negative_log_likelihood(logits[: len(targets)], targets))
                done += len(chunk)
                if progress:
                    progress(done, total)
    tokens = total - len(cut)
    nll = math.fsum(sums) / tokens
    if not math.isfinite(nll):
        raise NumericError("perplexity: expected finite logits, found a sum that is not")
    return Perplexity(math.exp(min(nll, 700.0)), nll, tokens, len(cut), n_ctx, time.perf_counter() - start)


def negative_log_likelihood(logits: np.ndarray, targets: list[int]) -> float:
    """The sum over rows of -log softmax(row)[target], in double precision."""
    import numpy as np

    rows = logits.astype(np.float64)
    highest = rows.max(axis=1)
    normaliser = highest + np.log(np.exp(rows - highest[:, None]).sum(axis=1))
    return float((normaliser - rows[np.arange(len(targets)), targets]).sum())


def _own_bos(model: Model) -> int | None:
    """The BOS that the tokenizer puts first by itself."""
    with_bos, without = model.encode("a"), model.encode("a", add_bos=False)
    return with_bos[0] if len(with_bos) == len(without) + 1 and with_bos[1:] == without else None
