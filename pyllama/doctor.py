"""What was built, what this machine gets and why: the facts of `pyllama doctor`. It opens no model."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from typing import Any

from . import __version__, _native

# What they are for is said where one is missing.
OPTIONAL = {
    "torch": "tests",
    "transformers": "tests",
    "tokenizers": "tests",
    "gguf": "tests",
}
VARIABLES = ("AK42_ISA", "AK42_THREADS", "AK42_CUDA_LIBRARY")


def facts() -> dict[str, Any]:
    """Everything as JSON has it."""
    return {
        "version": __version__,
        "library": _native.version(),
        "build": _native.build_facts(),
        "extension": sys.modules["pyllama._ak42"].__file__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "environment": {name: os.environ[name] for name in VARIABLES if os.environ.get(name)},
        "packages": {name: _version(name) for name in ("numpy", "cffi", "click", "jinja2", "tqdm")},
        "optional": {name: _version(name) for name in OPTIONAL},
    }


def problems(found: dict[str, Any]) -> list[str]:
    """What a user should do something about, one line each."""
    lines = []
    if found["version"] != found["library"]:
        lines.append(f"the extension is {found['library']}, the package {found['version']}: build it again with `pip install .`")
    jinja = found["packages"]["jinja2"]
    if jinja is None or tuple(int(part) for part in re.findall(r"\d+", jinja)[:3]) < (3, 1, 6):
        lines.append(f"jinja2 {jinja or 'is missing'}: chat templates need 3.1.6 or later: pip install 'jinja2>=3.1.6'")
    return lines


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
