"""Describes the extension module pyllama._ak42 to cffi (API mode) and lists what is compiled into it. setup.py runs this file by
its path while building; nothing imports it at run time.

The declarations are the region of ak42.h between its cdef markers: the header is the one source of truth. The sources are those
of `make lib`: all of runtime_c/core and runtime_c/cpu. Where make has compiled them already, AK42_LIBRARY names its libak42.a,
which is linked instead; a wheel or an installation without make compiles them itself."""

from __future__ import annotations

import glob
import os
import re

import cffi

# Relative paths: setuptools wants them, and runs with the project's root as the current folder.
HEADER = "runtime_c/include/ak42.h"
SOURCES = sorted(glob.glob("runtime_c/core/*.c") + glob.glob("runtime_c/cpu/*.c"))
HEADERS = sorted(glob.glob("runtime_c/**/*.h", recursive=True))

# The Makefile's CFLAGS are the same. NDEBUG: asserts state what the library itself guarantees; no check of a file or an argument
# is an assert. -ffp-contract=off is part of -std=c11 and is what makes results equal on every machine of one ISA. -g0 is here
# alone: Python adds -g by itself, which makes a wheel five times as large.
COMPILE_ARGS = ["-std=c11", "-O3", "-fvisibility=hidden", "-g0"]
MACROS = [("_GNU_SOURCE", None), ("NDEBUG", None)]

# Called by C now and then during long work. Python code is entered at most every 20 ms, so that a thread that evaluates does not
# queue for the interpreter's lock in every layer. pyllama_poll is Python (_native.py): running any Python lets a pending Ctrl-C be
# raised there.
PREAMBLE = r"""
#include <time.h>
#include "ak42.h"

typedef struct pyllama_ticker {
    int64_t next_ns;               /* when Python is asked next */
} pyllama_ticker;

static int32_t pyllama_poll(void);

static int32_t pyllama_cancel(void *user) {
    pyllama_ticker *ticker = user;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    if (now_ns < ticker->next_ns) return 0;
    ticker->next_ns = now_ns + 20000000;
    return pyllama_poll();
}
"""

DECLARATIONS = """
typedef struct pyllama_ticker { int64_t next_ns; } pyllama_ticker;
int32_t pyllama_cancel(void *user);
extern "Python" int32_t pyllama_poll(void);
extern "Python" void pyllama_log(void *user, int32_t severity, const char *text);
"""


def declarations(header: str) -> str:
    """The part of ak42.h that cffi is given."""
    begin, end = "/* cdef-begin */", "/* cdef-end */"
    if header.count(begin) != 1 or header.count(end) != 1:
        raise RuntimeError(f"{HEADER}: expected one {begin} and one {end}")
    return header.split(begin)[1].split(end)[0]


def version() -> str:
    """pyllama.__version__, read from the text: the package cannot be imported before it is built."""
    with open("pyllama/__init__.py", encoding="utf-8") as file:
        match = re.search(r'^__version__ = "([^"]+)"$', file.read(), re.MULTILINE)
    if not match:
        raise RuntimeError("pyllama/__init__.py: no __version__")
    return match.group(1)


def builder() -> cffi.FFI:
    if not os.path.exists(HEADER):
        raise RuntimeError(f"{HEADER} is missing: build from the project's root or from a complete source package")
    with open(HEADER, encoding="utf-8") as file:
        text = file.read()
    library = os.environ.get("AK42_LIBRARY")
    if library and not os.path.exists(library):
        raise RuntimeError(f"AK42_LIBRARY: expected build/libak42.a, found no {library}; run `make lib`, or unset it")
    made = [library] if library else []
    ffi = cffi.FFI()
    ffi.cdef(declarations(text) + DECLARATIONS)
    ffi.set_source(
        "pyllama._ak42",
        PREAMBLE,
        sources=[] if made else SOURCES,
        extra_objects=made,
        include_dirs=["runtime_c/include"],
        depends=[*made, *HEADERS, "setup.py", "pyllama/_build.py", "pyllama/__init__.py"],
        define_macros=[*MACROS, ("AK42_VERSION", f'"{version()}"')],
        extra_compile_args=COMPILE_ARGS,
        libraries=["m", "pthread"],
    )
    return ffi


ffibuilder = builder()
