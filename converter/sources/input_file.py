"""One open input file: bytes by offset, and the certainty that it is still the file that was opened.

Only regular files (a symlink to one is fine: that is what a Hugging Face cache holds). Every read is checked against the size and
the time stamp seen at opening, so that a file that changes under a conversion is an error and never a mixture. Knows no format.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np

from ..errors import FormatError, OutputError, UsageError, escape


class InputFile:
    """A regular file, open for reading. `name` is the path's last part, for messages."""

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = Path(path)
        self.name = escape(self.path.name if name is None else name, 0)
        self._fd = -1
        try:
            # O_NONBLOCK: opening a FIFO must not wait for its writer
            self._fd = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
                               | getattr(os, "O_BINARY", 0))
            status = os.fstat(self._fd)
        except FileNotFoundError:
            raise UsageError(f"{self.name}: no such file") from None
        except (OSError, ValueError) as error:
            self.close()
            raise OutputError(f"{self.name}: cannot be opened: {_reason(error)}") from None
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise FormatError(f"{self.name}: expected a regular file, found {_kind(status.st_mode)}")
        self.size = status.st_size
        self._identity = (status.st_size, status.st_mtime_ns)

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; FormatError where the file ends before, OutputError (74) where it changed or cannot be read."""
        return bytes(self.read_array(offset, size))

    def read_array(self, offset: int, size: int) -> np.ndarray:
        """The same as a uint8 array that the caller owns."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise FormatError(f"{self.name}: expected {size} bytes at {offset}, found the end of the file at {self.size}")
        data = np.empty(size, dtype=np.uint8)
        view = memoryview(data)
        done = 0
        try:
            while done < size:
                count = os.preadv(self._fd, [view[done:]], offset + done)
                if count == 0:
                    break
                done += count
            status = os.fstat(self._fd)
        except OSError as error:
            raise OutputError(f"{self.name}: cannot be read: {_reason(error)}") from None
        if done < size or (status.st_size, status.st_mtime_ns) != self._identity:
            raise OutputError(f"{self.name}: expected the file as it was opened, found it changed while it was read")
        return data

    def read_all(self, limit: int) -> bytes:
        """The whole file, at most `limit` bytes."""
        if self.size > limit:
            raise FormatError(f"{self.name}: expected at most {limit} bytes, found {self.size}")
        return self.read(0, self.size)

    def same_file(self, other: Path) -> bool:
        """Whether `other` is this very file."""
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(other))
        except OSError:
            return False

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> InputFile:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return escape(text)


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
             (stat.S_ISSOCK, "a socket"))
    return next((text for test, text in kinds if test(mode)), "something else")


def looks_like(head: bytes, size: int) -> str | None:
    """What a file's first bytes say it is, for the message that refuses it; None where they say nothing."""
    if size == 0:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer; run git lfs pull"
    start = head.lstrip()[:16].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "an HTML page; the download failed"
    for magic, what in _MAGICS:
        if head.startswith(magic):
            return what
    if head.count(0) == len(head):
        return "zeros only; an unfinished download"
    return None


# Magics that are numbers stand as little-endian bytes.
_MAGICS = (
    ((0x62616279).to_bytes(4, "little"), "a baby-llm checkpoint"),
    ((0x616A6331).to_bytes(4, "little"), "a qwen3.c checkpoint"),
    ((0x0A00ABCD).to_bytes(4, "little"), "a distributed-llama checkpoint"),
    ((0x67676D6C).to_bytes(4, "little"), "an unversioned ggml file, older than GGUF"),
    ((0x67676D66).to_bytes(4, "little"), "a ggmf file, older than GGUF"),
    ((0x67676A74).to_bytes(4, "little"), "a ggjt file, older than GGUF"),
    (b"GGUF", "a GGUF file"),
    (b"PK\x03\x04", "a zip archive or torch checkpoint"), (b"\x80\x02", "a pickle or torch checkpoint"),
    (b"\x80\x03", "a pickle"), (b"\x80\x04", "a pickle"), (b"\x80\x05", "a pickle"),
    (b"\x7fELF", "a program"), (b"\x89PNG", "a PNG image"), (b"\xff\xd8\xff", "a JPEG image"), (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip archive; unpack it"), (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it"), (b"\x93NUMPY", "a numpy array"),
    (b"\x89HDF", "an HDF5 file"), (b"{", "JSON"),
)
