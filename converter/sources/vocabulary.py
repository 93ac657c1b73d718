"""Where a model's vocabulary and chat template are kept, in each kind of source, and which file wins where there are several.

Only finds and opens files; what is inside them is tokenizer.py's business. Called by the sources.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import strict_json
from ..errors import ConvertError, FormatError, UnsupportedError, escape
from .input_file import InputFile, looks_like

if TYPE_CHECKING:
    from ..tokenizer import Vocab

MAX_TOKENIZER = 256 << 20          # bytes of tokenizer.json and its like
MAX_TEMPLATE = 1 << 20
SIDECAR = "tokenizer.bin"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", SIDECAR)         # the first that is there is taken
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")            # a line of such a vocabulary: base64 and a rank
TOKENIZER_CONFIG, TEMPLATE, PARAMS = "tokenizer_config.json", "chat_template.jinja", "params.json"


def from_file(path: Path, vocab_size: int, params: Mapping[str, Any] | None = None) -> Vocab:
    """The vocabulary of any file that has one: tokenizer.json, tokenizer.model, tokenizer.bin, GGUF. Its content decides. `params`:
    what Meta's params.json says, where the caller has one; else the one beside the file counts."""
    path = Path(path)
    if path.is_dir():
        vocab = from_folder(path, vocab_size, params)
        if vocab is None:
            raise FormatError(f"{escape(path.name, 0)}: expected one of {', '.join(TOKENIZERS)}, found none of them")
        return vocab
    with InputFile(path) as file:
        head = file.read(0, min(64, file.size))
        if head.lstrip()[:1] == b"{":
            return _from_json(file, path.parent)
        if head.startswith(b"GGUF"):
            return _from_gguf_file(file)
        seen = looks_like(head, file.size)
        if seen is not None:
            raise FormatError(f"{file.name}: expected a tokenizer, found {seen}")
        if _is_protobuf(head) or _TIKTOKEN.match(head):
            return _from_model(file, params)
        return _from_bin(file, vocab_size)


def from_folder(folder: Path, vocab_size: int, params: Mapping[str, Any] | None = None) -> Vocab | None:
    """A Hugging Face folder's: tokenizer.json, else tokenizer.model, else llama2.c's tokenizer.bin; None without all three."""
    for name in TOKENIZERS:
        if not os.path.exists(folder / name):
            continue
        with InputFile(folder / name) as file:
            if name == "tokenizer.json":
                return _from_json(file, folder)
            if name == "tokenizer.model":
                return _from_model(file, params)
            return _from_bin(file, vocab_size)
    return None


def beside(path: Path, vocab_size: int) -> Vocab | None:
    """llama2.c's tokenizer.bin in the folder of a model file, where there is one."""
    sidecar = path.parent / SIDECAR
    if not os.path.exists(sidecar):
        return None
    with InputFile(sidecar) as file:
        return _from_bin(file, vocab_size)


def paths(folder: Path, given: Path | None) -> list[Path]:
    """The files that a folder's vocabulary and chat template are read from, for a manifest."""
    names = [TOKENIZER_CONFIG, TEMPLATE]
    found = [folder / name for name in names if os.path.exists(folder / name)]
    if given is not None:
        return [*found, given] if given.is_file() else found
    tokenizer = next((folder / name for name in TOKENIZERS if os.path.exists(folder / name)), None)
    return found if tokenizer is None else [*found, tokenizer]


def paths_beside(path: Path, given: Path | None) -> list[Path]:
    """The same for a model file that has no vocabulary inside."""
    wanted = path.parent / SIDECAR if given is None else given
    return [wanted] if wanted.is_file() else []


def from_gguf(metadata: Mapping[str, Any], name: str) -> Vocab | None:
    """A GGUF's own vocabulary; None where it has none."""
    if "tokenizer.ggml.model" not in metadata:
        return None
    from ..tokenizer import Vocab

    with named(name):
        return Vocab.from_gguf(metadata)


def from_tokn(data: bytes, name: str) -> Vocab:
    from ..tokenizer import Vocab

    with named(name):
        return Vocab.from_tokn(data)


def chat_template(folder: Path) -> str | None:
    """chat_template.jinja wins over tokenizer_config.json's key, as in transformers; of several named ones "default" is taken."""
    path = folder / TEMPLATE
    if os.path.exists(path):
        with InputFile(path) as file:
            data = file.read_all(MAX_TEMPLATE)
        try:
            return data.decode("utf-8") or None
        except UnicodeDecodeError:
            raise FormatError(f"{path.name}: expected UTF-8, found other bytes") from None
    for name in (TOKENIZER_CONFIG, "chat_template.json"):
        template = (_json_beside(folder, name) or {}).get("chat_template")
        if isinstance(template, list):
            named = {item.get("name"): item.get("template") for item in template if isinstance(item, dict)}
            template = named.get("default")
        if template is not None and not isinstance(template, str):
            raise FormatError(f"{name}: chat_template: expected a text, found {strict_json.type_name(template)}")
        if template:
            return template
    return None


@contextmanager
def named(name: str, usual: str = "") -> Iterator[None]:
    """Puts the file's name in front of a complaint about its content, where it does not begin with it already."""
    try:
        yield
    except ConvertError as error:
        text = str(error)
        if text.startswith(f"{name}: "):
            raise
        raise type(error)(f"{name}: {text.removeprefix(usual + ': ') if usual else text}") from None


def _json_beside(folder: Path, name: str) -> dict[str, Any] | None:
    if not os.path.exists(folder / name):
        return None
    with InputFile(folder / name) as file:
        return strict_json.load_object(file.read_all(MAX_TOKENIZER), name)


def _from_json(file: InputFile, folder: Path) -> Vocab:
    """tokenizer.json, with the tokenizer_config.json beside it."""
    from ..tokenizer import Vocab

    values = strict_json.load_object(file.read_all(MAX_TOKENIZER), file.name)
    with named(file.name, "tokenizer.json"):
        return Vocab.from_tokenizer_json(values, _json_beside(folder, TOKENIZER_CONFIG))


def _from_model(file: InputFile, params: Mapping[str, Any] | None) -> Vocab:
    """tokenizer.model: a SentencePiece model, or Llama 3's tiktoken vocabulary, with what params.json says."""
    from ..tokenizer import Vocab

    if _TIKTOKEN.match(file.read(0, min(64, file.size))):
        return _from_tiktoken(file, params if params is not None else _json_beside(file.path.parent, PARAMS))
    with named(file.name, "tokenizer.model"):
        return Vocab.from_sentencepiece(file.read_all(MAX_TOKENIZER))


def _from_tiktoken(file: InputFile, params: Mapping[str, Any] | None) -> Vocab:
    """Such a file says neither how it cuts a text nor what is special, so it has to be Llama 3's: by its 128,000 tokens, or by a
    params.json whose vocabulary is 256 larger. Without a params.json the special tokens have Llama 3.1's names."""
    from ..tokenizer import Vocab
    from ..tokenizer_tiktoken import LLAMA3_RANKS, N_SPECIAL

    data = file.read_all(MAX_TOKENIZER)
    n = data.count(b"\n") + (not data.endswith(b"\n"))
    wanted = (params or {}).get("vocab_size", -1)
    if n != LLAMA3_RANKS and wanted != n + N_SPECIAL:
        raise UnsupportedError(f"{file.name}: a tiktoken vocabulary says neither how it cuts a text nor what is special; only "
                               f"Llama 3's is known: expected {LLAMA3_RANKS} tokens, or a {PARAMS} with a vocab_size of "
                               f"{N_SPECIAL} more, found {n} tokens; give a tokenizer.json")
    with named(file.name, "tokenizer.model"):
        return Vocab.from_tiktoken(data, later=params is None or params.get("use_scaled_rope") is True)


def _from_bin(file: InputFile, vocab_size: int) -> Vocab:
    from ..tokenizer import Vocab

    with named(file.name, SIDECAR):
        return Vocab.from_tokenizer_bin(file.read_all(MAX_TOKENIZER), vocab_size)


def _from_gguf_file(file: InputFile) -> Vocab:
    from .gguf_parts import open_gguf

    gguf = open_gguf(file.path, unknown_types=True, all_parts=False)
    gguf.close()
    vocab = from_gguf(gguf.metadata, file.name)
    if vocab is None:
        raise FormatError(f"{file.name}: expected a vocabulary, found a GGUF file without one")
    return vocab


def _is_protobuf(head: bytes) -> bool:
    """A SentencePiece model begins with a piece: field 1, its length, and inside again field 1. A tokenizer.bin whose longest
    token has 10 bytes begins with the same byte, and zeros behind it."""
    return head[:1] == b"\x0a" and head[1:2] != b"\0"
