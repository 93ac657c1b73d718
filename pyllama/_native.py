"""The border to C: the only importer of the extension's ffi and lib. It turns statuses into exceptions (check), carries
exceptions out of callbacks, and wraps C objects so that they are freed once. It knows nothing of generation or chat."""

from __future__ import annotations

import logging
import os
import re
import threading
from typing import Any, NoReturn

from .errors import BY_CODE, CANCELLED, ArgumentError, ModelIOError, ModelNotFoundError, PyllamaError, shown

try:
    from ._ak42 import ffi, lib
except ImportError as error:  # a source folder that was never built, or a wheel of another machine
    raise ImportError(
        f"pyllama: the C extension cannot be loaded ({error}); build it with `pip install .` in the project's folder"
    ) from error

ABI = 1
if lib.ak42_abi() != ABI:
    raise ImportError(f"pyllama: the C extension has ABI {lib.ak42_abi()}, expected {ABI}; build it again with `pip install .`")

_log = logging.getLogger("pyllama")
# An exception that a callback raised in this thread, until check() raises it again.
_pending = threading.local()


def _keep_exception(kind: type, value: BaseException, trace: Any) -> int:
    _pending.exception = value
    return 1


@ffi.def_extern(name="pyllama_poll", error=1, onerror=_keep_exception)
def _poll() -> int:
    """Entering Python is the point: a pending signal (Ctrl-C) runs its handler here, and what it raises cancels the call."""
    return 0


def _drop_exception(kind: type, value: BaseException, trace: Any) -> None:
    _pending.exception = value


@ffi.def_extern(name="pyllama_log", onerror=_drop_exception)
def _log_line(user: Any, severity: int, text: Any) -> None:
    line = ffi.string(text).decode("utf-8", "replace")
    _log.log(logging.WARNING if severity else logging.INFO, "%s", line)


def new_error() -> Any:
    """An ak42_error for one call."""
    return ffi.new("ak42_error *")


def error_text(error: Any) -> str:
    return ffi.string(error.text).decode("utf-8", "replace")


def check(status: int, error: Any, path: str | os.PathLike[str] | None = None) -> None:
    """Raises what a status says; OK returns. `path` is the file that the call opened, if any."""
    if status:
        raise_status(status, error_text(error), path)


def raise_status(status: int, text: str, path: str | os.PathLike[str] | None = None) -> NoReturn:
    exception = _pending.__dict__.pop("exception", None)
    if status == CANCELLED and exception is not None:
        raise exception
    kind = BY_CODE.get(int(status), PyllamaError)
    if kind is ModelIOError and path is not None and not os.path.exists(path):
        kind = ModelNotFoundError
    raised = kind(text or ffi.string(lib.ak42_status_name(status)).decode())
    raised.code = int(status)
    raise raised


def path_bytes(path: str | os.PathLike[str]) -> bytes:
    """A path as C takes it."""
    try:
        raw = os.fsencode(path)
    except (TypeError, UnicodeError):
        raise ArgumentError(f"path: expected a path, found {shown(path)}") from None
    if not raw or b"\0" in raw:
        raise ArgumentError(f"path: expected a file's name, found {shown(path)}")
    return raw


def int32(name: str, value: object, low: int = -(2**31), high: int = 2**31 - 1) -> int:
    """An option that C takes as int32, checked before it is cut off."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentError(f"{name}: expected a whole number, found {shown(value)}")
    number = value.__index__()
    if not low <= number <= high:
        raise ArgumentError(f"{name}: expected {low} to {high}, found {shown(number)}")
    return number


def token_ids(ids: Any) -> tuple[Any, int]:
    """Ids (a list, tuple, numpy array or any iterable of ints) as (int32_t[], count)."""
    if hasattr(ids, "tolist"):
        if getattr(ids, "ndim", 1) != 1:
            raise ArgumentError(f"token ids: expected one dimension, found {ids.ndim}")
        ids = ids.tolist()
    if isinstance(ids, (str, bytes)):
        raise ArgumentError("token ids: expected whole numbers, found text")
    try:
        values = list(ids)
    except TypeError:
        raise ArgumentError(f"token ids: expected a list of whole numbers, found {shown(ids)}") from None
    try:
        return ffi.new("int32_t[]", values), len(values)
    except (TypeError, OverflowError):
        wrong = next((i for i in values if not hasattr(i, "__index__") or not -(2**31) <= i.__index__() < 2**31), None)
        raise ArgumentError(f"token ids: expected whole numbers of 32 bits, found {shown(wrong)}") from None


def build_info() -> str:
    """One line of key=value pairs: what was built, what this machine gets and why."""
    return ffi.string(lib.ak42_build_info()).decode("utf-8", "replace")


def build_facts() -> dict[str, str]:
    """build_info() by key: version, compiler, isas, isa, n_threads, why. A value may hold spaces."""
    return dict(re.findall(r"(\w+)=(.*?)(?= \w+=|$)", build_info()))


def isa_names() -> list[str]:
    """The names that a model's isa option takes."""
    return ["auto", *re.findall(r"\w+", build_facts().get("isas", ""))]


def version() -> str:
    return ffi.string(lib.ak42_version()).decode()


def new_ticker() -> Any:
    """The state of one cancel callback; it must live as long as the object that it was given to."""
    return ffi.new("pyllama_ticker *")


def new_struct(name: str) -> Any:
    """An ak42 struct with its size filled in, as every function that takes one wants it."""
    struct = ffi.new(f"{name} *")
    struct.struct_size = ffi.sizeof(name)
    return struct
