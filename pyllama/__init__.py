"""pyllama: run ak42 and GGUF models from Python.

    import pyllama
    with pyllama.Model("model.bin") as model:
        print(model.generate("Once upon a time", max_new_tokens=64).text)

The package is a thin, safe layer over the C library (runtime_c/include/ak42.h). This file names what is public and holds the
version, the only place where it is written. A module is loaded when one of its names is first asked for, so that importing the
package takes no time in which a command could not answer Ctrl-C (__main__.py)."""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False              # typing's, to those who check types
if TYPE_CHECKING:
    from .errors import (
        ArgumentError,
        CancelledError,
        ClosedError,
        ContextError,
        DeviceError,
        FormatError,
        ModelIOError,
        ModelNotFoundError,
        NumericError,
        OutOfMemoryError,
        PyllamaError,
        SessionBusyError,
        TemplateError,
        UnsupportedError,
    )
    from .generate import Generation, Stream
    from .model import Model, ModelInfo
    from .sampling import GenerationOptions
    from .session import Session
    from .tokenizer import Tokenizer

__all__ = [
    "ArgumentError",
    "CancelledError",
    "ClosedError",
    "ContextError",
    "DeviceError",
    "FormatError",
    "Generation",
    "GenerationOptions",
    "Model",
    "ModelIOError",
    "ModelInfo",
    "ModelNotFoundError",
    "NumericError",
    "OutOfMemoryError",
    "PyllamaError",
    "Session",
    "SessionBusyError",
    "Stream",
    "TemplateError",
    "Tokenizer",
    "UnsupportedError",
]

# Which module has which of them, but for those of errors.py.
_MODULES = {
    "Generation": "generate",
    "Stream": "generate",
    "Model": "model",
    "ModelInfo": "model",
    "GenerationOptions": "sampling",
    "Session": "session",
    "Tokenizer": "tokenizer",
}


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in __all__:
        return getattr(import_module(f".{_MODULES.get(name, 'errors')}", __name__), name)
    if name == "errors" or name in _MODULES.values():
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
