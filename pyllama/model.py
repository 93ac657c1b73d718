"""Model: an open model file, its facts and its doors: tokens, sessions, generation, chat. Opening and computing is C's; this file
checks options, finds a tokenizer.bin beside old files and hands work to session.py, generate.py and chat.py."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from . import generate as _generate
from ._native import (
    check,
    error_text,
    ffi,
    int32,
    lib,
    new_error,
    new_struct,
    new_ticker,
    path_bytes,
    raise_status,
)
from .errors import ArgumentError, ClosedError, FormatError, TemplateError, UnsupportedError, shown
from .sampling import GenerationOptions, takes_options
from .session import Session
from .tokenizer import Tokenizer

# By ak42_kv_type.
KV_TYPES = ("default", "f32", "f16", "bf16", "int8")
# What a session holds when nobody says: models state contexts whose cache no small machine can hold.
DEFAULT_CTX = 4096
# llama2.c's vocabulary: 1 begins, and so also separates, its stories; 2 ends a text.
LLAMA2C_BOS, LLAMA2C_EOS = 1, (1, 2)


@dataclass(frozen=True)
class ModelInfo:
    """What a model is. Ids that it does not have are None."""

    path: str
    format: str
    architecture: str
    weight_type: str
    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    seq_len: int
    trained_ctx: int
    n_ctx: int
    sliding_window: int
    group_size: int
    shared_classifier: bool
    rope_theta: float
    norm_eps: float
    bos_id: int | None
    eos_ids: tuple[int, ...]
    kv_type: str
    isa: str
    device: str
    n_threads: int
    n_params: int
    file_bytes: int
    mapped_bytes: int
    packed_bytes: int


class Model:
    """An ak42 file (v0 to v3) or a GGUF file, open. Immutable, and shared by any number of threads; each thread that computes has
    a session of its own.

    n_threads: None takes AK42_THREADS, else the physical cores that this process may use. n_ctx: tokens of a session that does
    not say; None: the smaller of what the model was trained for and 4096. device: "auto", "cpu" or "cuda". kv_type: "f32",
    "f16", "bf16" or "int8", how sessions store keys and values. isa: None takes AK42_ISA, else the best; `pyllama doctor` lists
    them. use_mmap=False reads the file into memory, so that it may change or shrink later."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        n_threads: int | None = None,
        n_ctx: int | None = None,
        device: str = "auto",
        kv_type: str | None = None,
        isa: str | None = None,
        use_mmap: bool = True,
    ) -> None:
        raw_path = path_bytes(path)
        self.path = os.fspath(path)
        if os.path.isdir(path):
            command = f"pyllama convert {self.path} -o model.bin"
            raise FormatError(f"{self.path}: expected a model file, found a folder; convert it: {command}")
        self._ticker = new_ticker()
        options = ffi.new("ak42_model_opts *")
        lib.ak42_model_opts_init(options)
        options.n_threads = _threads(n_threads)
        strings = [_c_string("isa", isa or os.environ.get("AK42_ISA") or None), _c_string("device", device)]
        strings.append(_c_string("AK42_CUDA_LIBRARY", os.environ.get("AK42_CUDA_LIBRARY") or None))
        options.isa, options.device, options.cuda_library = strings
        options.use_mmap = lib.AK42_MMAP_YES if use_mmap else lib.AK42_MMAP_NO
        options.kv_type = 0 if kv_type is None else self.kv_type_number(kv_type)
        options.log = lib.pyllama_log
        options.cancel, options.cancel_user = lib.pyllama_cancel, self._ticker
        out, error = ffi.new("ak42_model **"), new_error()
        check(lib.ak42_model_open(out, raw_path, options, error), error, path)
        self._handle = ffi.gc(out[0], lib.ak42_model_close)
        self._tokenizer = Tokenizer._of_model(self._handle, self.path)
        llama2c = self._tokenizer is None and self._open_tokenizer_beside()
        self.info = _info(self._handle, self.path, n_ctx, llama2c)
        if llama2c:
            self._check_tokenizer_beside()
        self._chat_template: Any = None

    # ---- text and tokens ----

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer inside the file, or the tokenizer.bin beside it."""
        if self._tokenizer is None:
            raise UnsupportedError(
                f"{self.path}: has no tokenizer and no tokenizer.bin beside it; convert it anew with --tokenizer, or give token ids"
            )
        self.handle()
        return self._tokenizer

    def tokenizer_or_none(self) -> Tokenizer | None:
        """The tokenizer; None where there is none: such a model computes, but does not speak."""
        return self._tokenizer

    def encode(self, text: str, add_bos: bool | None = None, parse_special: bool = False) -> list[int]:
        """Ids of a text. add_bos None: as the tokenizer does by itself. parse_special: special tokens that are spelled out in
        the text become their ids; otherwise they are text like any other."""
        return self.tokenizer.encode(text, add_bos, parse_special)

    def decode(self, ids: Sequence[int], skip_special: bool = False) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD. skip_special: control tokens give no text."""
        return self.tokenizer.decode(ids, skip_special)

    # ---- computing ----

    def session(self, n_ctx: int | None = None, kv_type: str | None = None) -> Session:
        """A new, empty sequence with room for n_ctx tokens."""
        return Session(self, n_ctx, kv_type)

    @takes_options
    def generate(self, prompt: str | Sequence[int], options: GenerationOptions) -> _generate.Generation:
        """Continues a prompt, a text or token ids. Special tokens in a text are text. The options are GenerationOptions'."""
        with _generate.Stream(self, self._prompt_ids(prompt), options) as stream:
            return stream.run()

    @takes_options
    def generate_batch(self, prompts: Sequence[str | Sequence[int]], options: GenerationOptions) -> list[_generate.Generation]:
        """generate() for many prompts, up to 16 of them in each pass over the weights. Every result is bit for bit what generate()
        gives for that prompt alone; with a seed, each prompt's generator starts from it."""
        from .batch import generate_batch

        return generate_batch(self, [self._prompt_ids(prompt) for prompt in prompts], options)

    @takes_options
    def stream(self, prompt: str | Sequence[int], options: GenerationOptions) -> _generate.Stream:
        """generate() piece by piece: an iterator of texts that, joined, are the Generation's text. Its `result` is the
        Generation once the last piece is out."""
        return _generate.Stream(self, self._prompt_ids(prompt), options)

    @takes_options
    def chat(self, messages: Sequence[dict], options: GenerationOptions) -> _generate.Generation:
        """The model's reply to a conversation, [{"role": "user", "content": "..."}, ...], laid out by the model's own chat
        template. What messages contain is text: it never becomes a control token."""
        with self.stream_chat_with(messages, options) as stream:
            return stream.run()

    @takes_options
    def stream_chat(self, messages: Sequence[dict], options: GenerationOptions) -> _generate.Stream:
        """chat() piece by piece, as stream() is to generate()."""
        return self.stream_chat_with(messages, options)

    def stream_chat_with(
        self, messages: Sequence[dict], options: GenerationOptions, session: Session | None = None
    ) -> _generate.Stream:
        """stream_chat() with options as one value, and in a session that may hold the conversation's beginning already."""
        return _generate.Stream(self, self.encode_chat(messages), options, session, continues=False)

    # ---- chat ----

    @property
    def chat_template(self) -> Any:
        """The model's chat.ChatTemplate; TemplateError where the file has none. Another one may be assigned."""
        from .chat import ChatTemplate

        if self._chat_template is None:
            source = self.metadata("TMPL")
            if source is None:
                raise TemplateError(f"{self.path}: has no chat template; use generate, or give a template of your own")
            self._chat_template = ChatTemplate(source.decode("utf-8", "replace"), self._special_texts())
        return self._chat_template

    @chat_template.setter
    def chat_template(self, source: str) -> None:
        from .chat import ChatTemplate

        self._chat_template = ChatTemplate(source, self._special_texts())

    def apply_chat_template(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> str:
        """The text that the model reads for a conversation."""
        return self.chat_template.render(messages, add_generation_prompt)

    def encode_chat(self, messages: Sequence[dict], add_generation_prompt: bool = True) -> list[int]:
        """The ids of that text, in which only the template's own control tokens are control tokens."""
        from .chat import encode_chat

        template = self.chat_template
        return encode_chat(self.tokenizer, template, messages, add_generation_prompt)

    # ---- the file ----

    def metadata(self, tag: str) -> bytes | None:
        """A text that travels in the file: "CONF" config.json, "GENC" generation_config.json, "TMPL" the chat template, "CHAT",
        "TOKN", "MANI"; None where the file has none."""
        size = ffi.new("size_t *")
        handle = self.handle()
        data = lib.ak42_model_metadata(handle, tag.encode("ascii", "replace"), size)
        return None if data == ffi.NULL else bytes(ffi.buffer(data, size[0]))

    def close(self) -> None:
        """Lets the file go once its sessions and calls that are under way are done. Closing twice is fine."""
        self._handle = None
        self._tokenizer = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<pyllama.Model {self.path!r}, {self.info.format}, {self.info.weight_type}{'' if self._handle else ', closed'}>"

    def __reduce__(self) -> Any:
        raise TypeError("a Model cannot be pickled; pickle its path")

    def handle(self) -> Any:
        """The C object, for this package's own use. Whoever holds it keeps the model open."""
        handle = self._handle
        if handle is None:
            raise ClosedError(f"{self.path}: the model was closed")
        return handle

    @staticmethod
    def kv_type_number(name: str) -> int:
        if name not in KV_TYPES[1:]:
            raise ArgumentError(f"kv_type: expected one of {', '.join(KV_TYPES[1:])}, found {name!r:.40}")
        return KV_TYPES.index(name)

    def _prompt_ids(self, prompt: str | Sequence[int]) -> list[int]:
        if isinstance(prompt, str):
            ids = self.encode(prompt)
            if not ids:
                raise ArgumentError(f"{self.path}: nothing to evaluate: expected a prompt, for the tokenizer adds no BOS")
            return ids
        ids = list(prompt)
        if not ids:
            raise ArgumentError("nothing to evaluate: expected a text or at least one token id")
        return ids

    def _special_texts(self) -> dict[str, str]:
        """bos_token and eos_token, which templates name: the tokenizer's own, whatever ids the model's config has."""
        tokenizer = self.tokenizer
        ids = {"bos_token": tokenizer.bos_id, "eos_token": next(iter(tokenizer.eos_ids), -1)}
        return {name: tokenizer.decode([number]) for name, number in ids.items() if number >= 0}

    def _open_tokenizer_beside(self) -> bool:
        beside = os.path.join(os.path.dirname(self.path), "tokenizer.bin")
        if not os.path.isfile(beside):
            return False
        self._tokenizer = Tokenizer(beside)
        return True

    def _check_tokenizer_beside(self) -> None:
        """tokenizer.bin does not state its size: the model's last id must be there, and no more."""
        last = self.info.vocab_size - 1
        fits = []
        for number in (last, last + 1):
            try:
                self._tokenizer.decode([number])
                fits.append(True)
            except ArgumentError:
                fits.append(False)
        if fits != [True, False]:
            found = "fewer" if not fits[0] else "more"
            raise FormatError(f"{self._tokenizer.path}: expected {last + 1} tokens as in {self.path}, found {found}")


def _threads(n_threads: int | None) -> int:
    if n_threads is not None:
        return int32("n_threads", n_threads, low=1)
    stated = os.environ.get("AK42_THREADS", "").strip()
    if not stated:
        return 0
    if not stated.isascii() or not stated.isdecimal():
        raise ArgumentError(f"AK42_THREADS: expected a whole number, found {stated!r:.40}")
    return int32("AK42_THREADS", int(stated), low=1)


def _c_string(name: str, value: str | None) -> Any:
    if value is None:
        return ffi.NULL
    try:
        raw = os.fsencode(value)
    except (TypeError, UnicodeError):
        raw = b"\0"
    if b"\0" in raw:
        raise ArgumentError(f"{name}: expected a name, found {shown(value)}")
    return ffi.new("char[]", raw)


def _info(handle: Any, path: str, n_ctx: int | None, llama2c: bool) -> ModelInfo:
    raw, error = new_struct("ak42_model_info"), new_error()
    status = lib.ak42_model_get_info(handle, raw, error)
    if status:
        raise_status(status, error_text(error))
    copied = {
        name: getattr(raw, name)
        for name in ModelInfo.__dataclass_fields__
        if name not in ("path", "n_ctx", "shared_classifier", "bos_id", "eos_ids", "kv_type")
    }
    copied = {name: ffi.string(value).decode() if isinstance(value, ffi.CData) else value for name, value in copied.items()}
    bos_id = raw.bos_id if raw.bos_id >= 0 else None
    eos_ids = tuple(raw.eos_ids[i] for i in range(raw.n_eos))
    if llama2c and bos_id is None:
        bos_id = LLAMA2C_BOS
    if llama2c and not eos_ids:
        eos_ids = LLAMA2C_EOS
    return ModelInfo(
        **copied,
        path=path,
        n_ctx=min(raw.trained_ctx, DEFAULT_CTX) if n_ctx is None else int32("n_ctx", n_ctx, low=1),
        shared_classifier=bool(raw.shared_classifier),
        bos_id=bos_id,
        eos_ids=eos_ids,
        kv_type=KV_TYPES[raw.kv_type],
    )
