"""pyllama: run ak42 and GGUF models from Python.

    import pyllama
    with pyllama.Model("model.bin") as model:
        print(model.generate("Once upon a time", max_new_tokens=64).text)

The package is a thin, safe layer over the C library (runtime_c/include/ak42.h). This file names what is public and holds the
version, the only place where it is written. Importing it loads neither numpy nor anything heavier."""

from __future__ import annotations

__version__ = "0.1.0"

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
