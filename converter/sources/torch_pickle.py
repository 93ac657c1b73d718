"""The pickle inside a torch checkpoint, read without running it: dicts, lists, texts, numbers, and where tensors lie.

A small machine for the opcodes that torch writes. It imports nothing and calls nothing that a file names: the few names of tensors
and containers that are known stand in tables here, and any other name, whatever it would have done, is refused by that name.
Harmless values that no model is made of (sets, bytes, long integers) become `Unread`s: whoever looks at one finds no tensor.
Knows no file: bytes in, plain values out. Called by torch_file.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError, UnsupportedError, escape

MAX_ITEMS = 4_000_000              # values that one pickle may make
MAX_DIMS = 8                       # of a tensor

# torch's storage classes and dtypes, in safetensors' names.
STORAGES = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64", "LongStorage": "I64",
            "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL"}
DTYPES = {"float32": "F32", "float": "F32", "float16": "F16", "half": "F16", "bfloat16": "BF16", "float64": "F64", "double": "F64",
          "int64": "I64", "long": "I64", "int32": "I32", "int": "I32", "int16": "I16", "short": "I16", "int8": "I8", "uint8": "U8",
          "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2"}
UNTYPED = "bytes"                  # the storage class that leaves the dtype to the tensor


@dataclass(frozen=True)
class Storage:
    """A run of elements under a key; `dtype` is UNTYPED where `numel` counts bytes."""

    dtype: str
    key: str
    numel: int


@dataclass(frozen=True)
class PickledTensor:
    """A view of a storage: offset and strides in elements."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    storage: Storage


@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle names; never looked up anywhere but in the tables of this module."""

    text: str                      # "torch._utils._rebuild_tensor_v2"


class Unread:
    """A value that is passed over, whatever it was; `str` says what."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __str__(self) -> str:
        return self._what


class _Mark:
    pass


class Unpickler:
    """Reads one pickle; `load` may be called again for the one behind it. `name` stands first in messages."""

    def __init__(self, data: bytes, name: str, at: int = 0) -> None:
        self.at = at
        self._data = data
        self._name = name
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}
        self._made = 0

    def load(self) -> Any:
        """The value of the pickle at `at`, which is then behind it. FormatError or UnsupportedError; nothing was run either way."""
        self._stack, self._memo, self._made = [], {}, 0
        while True:
            opcode = self._take(1)[0]
            if opcode == 0x2E:                     # STOP
                value = self._pop()
                if self._stack:
                    raise self._error("expected one value, found more")
                return value
            action = _ACTIONS.get(opcode)
            if action is None:
                raise UnsupportedError(f"{self._name}: pickle: opcode 0x{opcode:02x} at byte {self.at - 1} is not read; only "
                                       "tensors, texts, numbers and containers are, and nothing was run")
            self._count(1)
            action(self)

    # -- the machine --

    def _count(self, items: int) -> None:
        """So many values more: a remembered list can be handed to many calls, each of which makes another of its length."""
        self._made += items
        if self._made > MAX_ITEMS:
            raise self._error(f"expected at most {MAX_ITEMS} values, found more")

    def _error(self, text: str) -> FormatError:
        return FormatError(f"{self._name}: pickle: {text} (before byte {self.at})")

    def _take(self, size: int) -> bytes:
        data = self._data[self.at : self.at + size]
        if len(data) != size:
            raise self._error(f"expected {size} bytes, found the end")
        self.at += size
        return data

    def _number(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _line(self) -> str:
        end = self._data.find(b"\n", self.at, self.at + 256)
        if end < 0:
            raise self._error("expected a name, found none")
        raw = self._take(end + 1 - self.at)[:-1]
        return raw.decode("utf-8", "surrogateescape")

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise self._error("expected a text in UTF-8, found other bytes") from None

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or isinstance(self._stack[-1], _Mark):
            raise self._error("expected a value on the stack, found none")
        return self._stack.pop()

    def _marked(self) -> list[Any]:
        """The values above the last mark, which goes too."""
        for place in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[place], _Mark):
                values = self._stack[place + 1 :]
                del self._stack[place:]
                return values
        raise self._error("expected a mark on the stack, found none")

    def _top(self, kind: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise self._error(f"expected a {'set' if kind is Unread else kind.__name__} on the stack, found something else")
        return self._stack[-1]

    def _remember(self, place: int) -> None:
        self._memo[place] = self._pop()
        self._push(self._memo[place])

    def _recall(self, place: int) -> None:
        if place not in self._memo:
            raise self._error(f"expected a value remembered as {place}, found none")
        self._push(self._memo[place])

    def _tuple(self, size: int) -> None:
        self._push(tuple([self._pop() for _ in range(size)][::-1]))

    def _set_items(self, values: list[Any]) -> None:
        target = self._top(dict)
        if len(values) % 2:
            raise self._error("expected pairs of key and value, found an odd one")
        for key, value in zip(values[::2], values[1::2], strict=True):
            plain = isinstance(key, (str, int))            # a hash of others could take long
            target[key if plain else Unread(f"a {type(key).__name__}")] = value

    def _add_items(self, values: list[Any]) -> None:
        self._top(list).extend(values)

    def _long(self) -> None:
        self._push(int.from_bytes(self._take(self._take(1)[0]), "little", signed=True))

    def _unread(self, what: str, size: int) -> None:
        self._take(size)
        self._push(Unread(what))

    def _add_unread(self) -> None:
        self._marked()
        self._top(Unread)

    def _frozenset(self) -> None:
        self._marked()
        self._push(Unread("a frozenset"))

    # -- names --

    def _global(self, module: str, name: str) -> None:
        """A name: a dtype, a storage class, or something that may be called by `_reduce`. Everything else is refused."""
        text = f"{module}.{name}"
        if module == "torch" and name in DTYPES:
            self._push(_Name(text))
            return
        if module in ("torch", "torch.storage") and (name in STORAGES or name in ("UntypedStorage", "TypedStorage")):
            self._push(_Name(text))
            return
        if text not in _KNOWN:
            raise UnsupportedError(f"{self._name}: pickle: {escape(text)} would be called while loading; only tensors, texts, "
                                   "numbers and containers are read, and nothing was run")
        self._push(_Name(text))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise self._error("expected the name of a class, found something else")
        self._global(module, name)

    def _reduce(self) -> None:
        arguments, called = self._pop(), self._pop()
        if not isinstance(called, _Name) or called.text not in _KNOWN or not isinstance(arguments, tuple):
            shown = escape(called.text) if isinstance(called, _Name) else type(called).__name__
            raise UnsupportedError(f"{self._name}: pickle: a call of {shown} is not read, and nothing was run")
        if called.text in _PASSED:
            self._push(Unread(f"a {called.text.rpartition('.')[2]}" if called.text != "_codecs.encode" else "bytes"))
            return
        self._count(sum(len(argument) for argument in arguments if isinstance(argument, (list, tuple, dict))))
        try:
            self._push(_CALLS[called.text](*arguments))
        except (TypeError, ValueError):
            raise self._error(f"{called.text}: expected the arguments that torch writes, found others") from None

    def _build(self) -> None:
        """The state of a container (the `_metadata` of a state dict) is of no use here."""
        self._pop()
        self._top(dict)

    def _persistent(self) -> None:
        described = self._pop()
        if not (isinstance(described, tuple) and len(described) in (5, 6) and described[0] == "storage"):
            raise self._error("expected the description of a storage, found something else")
        _storage, kind, key, _device, numel = described[:5]
        if len(described) == 6 and described[5] is not None:
            raise UnsupportedError(f"{self._name}: pickle: a view of a storage, as torch wrote before 0.4, is not supported")
        name = kind.text.rpartition(".")[2] if isinstance(kind, _Name) else ""
        dtype = STORAGES.get(name, UNTYPED if name == "UntypedStorage" else None)
        if dtype is None or not isinstance(key, (str, int)) or not _is_size(numel):
            raise self._error("expected a storage of a known class, found something else")
        self._push(Storage(dtype, str(key), numel))


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


# -- what may be called: values from values, nothing else ------------------------------------------------------------------------


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any = False, _hooks: Any = None,
            metadata: Any = None) -> PickledTensor:
    """Metadata are bits by which the elements are not what they seem: negated, conjugated."""
    if not isinstance(storage, Storage) or storage.dtype == UNTYPED or metadata:
        raise TypeError
    return _checked(storage.dtype, storage, offset, shape, strides)


def _typed_tensor(storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any,
                  metadata: Any = None) -> PickledTensor:
    """The same over a storage of bytes, with a dtype of its own."""
    name = dtype.text.partition(".")[2] if isinstance(dtype, _Name) else ""
    if not isinstance(storage, Storage) or name not in DTYPES or metadata:
        raise TypeError
    return _checked(DTYPES[name], storage, offset, shape, strides)


def _checked(dtype: str, storage: Storage, offset: Any, shape: Any, strides: Any) -> PickledTensor:
    if not isinstance(shape, tuple) or not isinstance(strides, tuple) or len(shape) != len(strides):
        raise TypeError
    if len(shape) > MAX_DIMS or not _is_size(offset) or not all(_is_size(size) for size in (*shape, *strides)):
        raise ValueError
    return PickledTensor(dtype, shape, strides, offset, storage)


def _parameter(tensor: Any, *_flags: Any) -> PickledTensor:
    if not isinstance(tensor, PickledTensor):
        raise TypeError
    return tensor


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    if not isinstance(pairs, (list, tuple)) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 and
                                                       isinstance(pair[0], (str, int)) for pair in pairs):
        raise TypeError
    return dict(pairs)


def _size(values: Any) -> tuple[int, ...]:
    if not isinstance(values, (list, tuple)) or not all(_is_size(value) for value in values):
        raise TypeError
    return tuple(values)


def _device(*_described: Any) -> str:
    """Where a tensor was is of no use here."""
    return "device"


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _tensor, "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor, "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter, "collections.OrderedDict": _ordered_dict,
    "torch.Size": _size, "torch.device": _device,
}


# Calls for values that no model is made of, which are not made: the arguments are passed over.
_PASSED = {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "bytearray", "complex")}
_PASSED |= {"collections.Counter", "_codecs.encode"}
_KNOWN = _PASSED | _CALLS.keys()


# -- opcodes of protocols 2 to 5 that torch writes --------------------------------------------------------------------------------

_ACTIONS: dict[int, Callable[[Unpickler], None]] = {
    0x80: lambda self: self._take(1) and None,                                   # PROTO
    0x95: lambda self: self._take(8) and None,                                   # FRAME
    ord("("): lambda self: self._push(_Mark()),
    ord("N"): lambda self: self._push(None),
    0x88: lambda self: self._push(True),
    0x89: lambda self: self._push(False),
    ord("J"): lambda self: self._push(self._number("<i")),
    ord("K"): lambda self: self._push(self._number("<B")),
    ord("M"): lambda self: self._push(self._number("<H")),
    0x8A: lambda self: self._long(),
    0x8B: lambda self: self._unread("a long integer", self._number("<I")),       # LONG4: of more than 255 bytes
    ord("G"): lambda self: self._push(self._number(">d")),
    ord("X"): lambda self: self._push(self._text(self._number("<I"))),
    0x8C: lambda self: self._push(self._text(self._number("<B"))),
    ord("U"): lambda self: self._push(self._text(self._number("<B"))),
    ord("T"): lambda self: self._push(self._text(self._number("<I"))),
    ord("C"): lambda self: self._push(self._take(self._number("<B"))),
    ord("B"): lambda self: self._push(self._take(self._number("<I"))),
    0x8D: lambda self: self._push(self._text(self._number("<Q"))),
    0x8E: lambda self: self._unread("bytes", self._number("<Q")),
    0x96: lambda self: self._unread("a bytearray", self._number("<Q")),
    0x8F: lambda self: self._push(Unread("a set")),
    0x90: lambda self: self._add_unread(),
    0x91: lambda self: self._frozenset(),
    ord("]"): lambda self: self._push([]),
    ord("}"): lambda self: self._push({}),
    ord(")"): lambda self: self._push(()),
    0x85: lambda self: self._tuple(1),
    0x86: lambda self: self._tuple(2),
    0x87: lambda self: self._tuple(3),
    ord("t"): lambda self: self._push(tuple(self._marked())),
    ord("a"): lambda self: self._add_items([self._pop()]),
    ord("e"): lambda self: self._add_items(self._marked()),
    ord("s"): lambda self: self._set_items([self._pop(), self._pop()][::-1]),
    ord("u"): lambda self: self._set_items(self._marked()),
    ord("q"): lambda self: self._remember(self._number("<B")),
    ord("r"): lambda self: self._remember(self._number("<I")),
    0x94: lambda self: self._remember(len(self._memo)),
    ord("h"): lambda self: self._recall(self._number("<B")),
    ord("j"): lambda self: self._recall(self._number("<I")),
    ord("c"): lambda self: self._global(self._line(), self._line()),
    0x93: lambda self: self._stack_global(),
    ord("R"): lambda self: self._reduce(),
    ord("b"): lambda self: self._build(),
    ord("Q"): lambda self: self._persistent(),
}
