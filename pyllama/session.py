"""Session: one sequence of tokens with its KV cache. It guards itself with a lock (a second thread is told, not queued), keeps its
model open, and hands out logits that belong to the caller. It knows nothing of text or sampling options' defaults."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._native import check, error_text, ffi, int32, lib, new_error, new_ticker, raise_status, token_ids
from .errors import RANGE, ArgumentError, ClosedError, ContextError, SessionBusyError
from .sampling import GenerationOptions

if TYPE_CHECKING:
    import numpy as np

    from .model import Model


BLOB_COUNT, BLOB_IDS = 32, 64  # where a blob says how many tokens it holds, and where they stand (ak42.h)


class Session:
    """Made by model.session(). `with` closes it; so does dropping it."""

    def __init__(self, model: Model, n_ctx: int | None = None, kv_type: str | None = None) -> None:
        self.n_ctx = model.info.n_ctx if n_ctx is None else int32("n_ctx", n_ctx, low=1)
        self._model = model
        self._lock = threading.Lock()
        self._ticker = new_ticker()
        self._ids: list[int] = []
        options = ffi.new("ak42_session_opts *")
        lib.ak42_session_opts_init(options)
        options.n_ctx = self.n_ctx
        if kv_type is not None:
            options.kv_type = model.kv_type_number(kv_type)
        options.cancel = lib.pyllama_cancel
        options.cancel_user = self._ticker
        out, error = ffi.new("ak42_session **"), new_error()
        check(lib.ak42_session_new(out, model.handle(), options, error), error)
        self._handle = ffi.gc(out[0], lib.ak42_session_close)
        self._vocab_size = model.info.vocab_size

    def eval(self, ids: Sequence[int], positions: Sequence[int] | None = None, all_logits: bool = False) -> np.ndarray:
        """Appends tokens and returns float32 logits of the last one (vocab_size,), or with all_logits of every one
        (len(ids), vocab_size). The array is the caller's own. positions: the rotary positions, ascending; None: they follow on.
        After an error, Ctrl-C included, the session is as it was before the call."""
        import numpy as np

        with self._in_use() as handle:
            self._append(handle, ids, positions, lib.AK42_EVAL_ALL_LOGITS if all_logits else 0)
            rows = ffi.new("size_t *")
            logits = lib.ak42_session_logits(handle, rows)
            array = np.empty((rows[0], self._vocab_size) if all_logits else self._vocab_size, dtype=np.float32)
            ffi.memmove(ffi.from_buffer(array), logits, array.nbytes)
        return array

    def advance(self, ids: Sequence[int], logits: bool = True) -> None:
        """eval() without handing out logits: for sample(), or with logits=False to fill the cache only."""
        with self._in_use() as handle:
            self._append(handle, ids, None, 0 if logits else lib.AK42_EVAL_NO_LOGITS)

    def sample(self, options: GenerationOptions, state: Any) -> int:
        """Draws the next token from the last logits; it is not appended. state: a uint64_t[1] of generator_state()."""
        with self._in_use() as handle:
            sampler = ffi.new("ak42_sampler_opts *")
            lib.ak42_sampler_opts_init(sampler)
            sampler.temperature = options.temperature
            sampler.top_k = options.top_k
            sampler.top_p = options.top_p
            sampler.min_p = options.min_p
            sampler.repetition_penalty = options.repetition_penalty
            token, error = ffi.new("int32_t *"), new_error()
            check(lib.ak42_session_sample(handle, sampler, state, token, error), error)
            return token[0]

    @property
    def position(self) -> int:
        """How many tokens the session holds."""
        return lib.ak42_session_position(self._open())

    @property
    def ids(self) -> list[int]:
        """The tokens that the session holds."""
        return list(self._ids)

    def truncate(self, n: int) -> None:
        """Forgets all tokens from the n-th on."""
        n = int32("n", n, low=0)
        with self._in_use() as handle:
            error = new_error()
            check(lib.ak42_session_truncate(handle, n, error), error)
            del self._ids[n:]

    def resume(self, ids: Sequence[int]) -> list[int]:
        """Keeps the longest beginning that the session shares with ids, forgets the rest, and returns the ids still to be
        evaluated: at least one, so that there are logits."""
        ids = list(ids)
        shared = 0
        for held, wanted in zip(self._ids, ids[:-1], strict=False):
            if held != wanted:
                break
            shared += 1
        self.truncate(shared)
        return ids[shared:]

    def save(self) -> bytes:
        """The tokens and their cache as bytes, for load(): a prompt that is long to evaluate and often the same can be kept in a
        file. As large as the cache of the tokens held."""
        with self._in_use() as handle:
            size, error = ffi.new("size_t *"), new_error()
            lib.ak42_session_save(handle, ffi.NULL, 0, size, error)
            blob = bytearray(size[0])
            check(lib.ak42_session_save(handle, ffi.from_buffer(blob), len(blob), size, error), error)
            return bytes(blob)

    def load(self, blob: bytes) -> None:
        """Takes the tokens and the cache of a saved session of the same model and kv_type in place of its own. What was not saved
        so is a FormatError, and leaves the session as it was. There is nothing to sample from until the next eval()."""
        try:
            view = memoryview(blob).cast("B")
        except TypeError:
            raise ArgumentError(f"blob: expected what save() gave, found {type(blob).__name__}") from None
        with self._in_use() as handle:
            error = new_error()
            check(lib.ak42_session_load(handle, ffi.from_buffer(view), len(view), error), error)
            (count,) = struct.unpack_from("<I", view, BLOB_COUNT)
            self._ids = list(struct.unpack_from(f"<{count}i", view, BLOB_IDS))

    def close(self) -> None:
        """Frees the cache once a call that is under way has returned. Closing twice is fine."""
        self._handle = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<pyllama.Session of {self._model.info.path!r}, {len(self._ids)} of {self.n_ctx} tokens>"

    def __reduce__(self) -> Any:
        raise TypeError("a Session cannot be pickled")

    def _append(self, handle: Any, ids: Sequence[int], positions: Sequence[int] | None, flags: int) -> None:
        array, count = token_ids(ids)
        if not count:
            raise ArgumentError("nothing to evaluate: expected at least one token id")
        where = ffi.NULL
        if positions is not None:
            where, n_positions = token_ids(positions)
            if n_positions != count:
                raise ArgumentError(f"positions: expected {count}, one for each token id, found {n_positions}")
        held = lib.ak42_session_position(handle)
        error = new_error()
        status = lib.ak42_session_eval(handle, array, count, where, flags, error)
        if status == RANGE and held + count > self.n_ctx:
            raise ContextError(error_text(error))
        if status:
            raise_status(status, error_text(error))
        self._ids.extend(ffi.unpack(array, count))

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[Any]:
        if not self._lock.acquire(blocking=False):
            raise SessionBusyError("the session is in use by another thread; give each thread a session of its own")
        try:
            yield self._open()
        finally:
            self._lock.release()

    def _open(self) -> Any:
        handle = self._handle
        if handle is None:
            raise ClosedError("the session was closed")
        return handle


def advance_together(sessions: Sequence[Session], ids: Sequence[Sequence[int]]) -> None:
    """Appends ids[i] to sessions[i], all of one model, in one pass over the weights. After an error all are as they were."""
    with contextlib.ExitStack() as stack:
        handles = [stack.enter_context(session._in_use()) for session in sessions]
        array, _ = token_ids([token for part in ids for token in part])
        counts = ffi.new("size_t[]", [len(part) for part in ids])
        error = new_error()
        check(lib.ak42_eval_batch(ffi.new("ak42_session *[]", handles), len(handles), array, counts, 0, error), error)
        for session, part in zip(sessions, ids, strict=True):
            session._ids.extend(part)


def generator_state(seed: int) -> Any:
    """The random generator of one generation, for sample()."""
    return ffi.new("uint64_t *", seed)
