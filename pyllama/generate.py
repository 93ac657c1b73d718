"""The generation loop: evaluate, draw, decode, until something ends it. Text comes out in pieces that never split a character and
never hold any part of a stop string. The options are sampling.py's, the tokens session.py's."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from ._native import lib
from .errors import ContextError
from .sampling import GenerationOptions
from .session import Session, generator_state

if TYPE_CHECKING:
    from .model import Model


@dataclass(frozen=True)
class Generation:
    """text: what was generated, without control tokens and without the stop string.
    token_ids: the new tokens, the end-of-sequence token included where the model gave one.
    finish_reason: "stop" (the model ended, or a stop string came), "length" (max_new_tokens) or "context" (no room left).
    prompt_tokens: how many the prompt has. tokens_per_second: of the generation alone, the prompt's time not counted.
    seed: what the random generator started from."""

    text: str
    token_ids: list[int]
    finish_reason: str
    prompt_tokens: int
    tokens_per_second: float
    seed: int


class StopFilter:
    """Lets text through until a stop string: holds back an end that may be a stop string's beginning."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """What may be shown now. After `stopped` it is always empty."""
        if self.stopped or not self._stops:
            return "" if self.stopped else text
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back and turned out to be text."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of text that begins stop, stop itself excluded."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class Stream:
    """An iterator over the pieces of one generation. It owns the session that it made; `with`, close() or dropping it lets that go.
    With a session given, that one is used: what it holds of the prompt's beginning is not evaluated again.

    continues: the text goes on after a prompt, so that a first token's leading space is kept."""

    def __init__(
        self,
        model: Model,
        ids: list[int],
        options: GenerationOptions,
        session: Session | None = None,
        continues: bool = True,
    ) -> None:
        self._run = Run(model, ids, options, session, continues)
        self._pieces = self._run.pieces()

    @property
    def result(self) -> Generation | None:
        """The Generation; None before the last piece is out."""
        return self._run.result

    def run(self) -> Generation:
        """Exhausts the stream and returns its result."""
        for _ in self:
            pass
        assert self.result is not None
        return self.result

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Ends the generation early; the result stays None."""
        self._pieces.close()
        self._run.release()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Run:
    """The state of one generation, one step at a time: whoever drives it evaluates `pending()` in its session, then asks for
    `draw()`, until `done`; then `finish()`. It does not know its Stream, so that dropping the Stream frees the session at once."""

    def __init__(self, model: Model, ids: list[int], options: GenerationOptions, session: Session | None, continues: bool) -> None:
        self.result: Generation | None = None
        self.token_ids: list[int] = []
        self.seed = options.drawn_seed()
        self.seconds = 0.0  # spent on generating, the prompt's evaluation not counted
        self._ids = ids
        self._options = options
        self._info = model.info
        self._tokenizer = model.tokenizer_or_none()
        self._own = session is None
        self._n_ctx = model.info.n_ctx if session is None else session.n_ctx
        if len(ids) > self._n_ctx:
            raise ContextError(f"{model.path}: the prompt has {len(ids)} tokens, the context holds {self._n_ctx}; see n_ctx")
        if session is None:
            # The last token drawn is never evaluated, hence the room for one less.
            room = len(ids) + max(options.max_new_tokens - 1, 0)
            session = model.session(min(self._n_ctx, room))
        self.session = session
        self._state = generator_state(self.seed)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = StopFilter(options.stops)
        self._said: list[str] = []
        self._reason = "" if options.max_new_tokens else "length"
        # Before anything was said a leading space is the tokenizer's; after a prompt it is the text's.
        alone = not continues or ids == [model.info.bos_id]
        self._flags = lib.AK42_DECODE_SKIP_SPECIAL | (0 if alone else lib.AK42_DECODE_CONTINUE)

    @property
    def done(self) -> bool:
        """Nothing more is to be drawn."""
        return bool(self._reason)

    def pending(self) -> list[int]:
        """The ids to evaluate before the next draw: what the session lacks of the prompt, then each token drawn."""
        return self.token_ids[-1:] if self.token_ids else self.session.resume(self._ids)

    def draw(self) -> str:
        """Draws a token from the session's logits; returns the text that may be shown now."""
        token = self.session.sample(self._options, self._state)
        self.token_ids.append(token)
        if token in self._info.eos_ids:
            self._reason = "stop"
            return ""
        piece = self._stops.feed(self._decoder.decode(self._bytes(token)))
        if piece:
            self._said.append(piece)
        if self._stops.stopped:
            self._reason = "stop"
        elif len(self.token_ids) == self._options.max_new_tokens:
            self._reason = "length"
        elif self.session.position == self._n_ctx:
            self._reason = "context"
        return piece

    def finish(self) -> str:
        """Makes the result; returns the text that was held back until now."""
        rest = self._stops.feed(self._decoder.decode(b"", final=True)) + self._stops.flush()
        if self._stops.stopped:
            self._reason = "stop"
        if rest:
            self._said.append(rest)
        speed = len(self.token_ids) / self.seconds if self.seconds > 0 else 0.0
        self.result = Generation("".join(self._said), self.token_ids, self._reason, len(self._ids), speed, self.seed)
        return rest

    def release(self) -> None:
        """Lets go of the session that it made."""
        if self._own:
            self.session.close()

    def pieces(self) -> Iterator[str]:
        """Drives the run alone; the next token is evaluated when the next piece is asked for."""
        try:
            while not self.done:
                ids, first = self.pending(), not self.token_ids
                start = time.perf_counter()
                self.session.advance(ids)
                if first:
                    start = time.perf_counter()
                piece = self.draw()
                self.seconds += time.perf_counter() - start
                if piece:
                    yield piece
            rest = self.finish()
            if rest:
                yield rest
        finally:
            self.release()

    def _bytes(self, token: int) -> bytes:
        """What a token adds to the text; nothing where the model has no tokenizer."""
        if self._tokenizer is None:
            return b""
        data = self._tokenizer.decode_bytes([token], self._flags)
        self._flags |= lib.AK42_DECODE_CONTINUE
        return data
