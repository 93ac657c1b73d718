"""Files and folders that exist whole or not at all.

Everything is written to `<out>.part` beside OUT, which is locked meanwhile, and takes OUT's place at the end: fsync, one rename,
fsync of the folder. An OUT that is there already is refused unless `force`, and stays whole until the rename. On any error,
KeyboardInterrupt or SIGTERM the `.part` is removed; only a kill leaves one, and the next run to the same OUT replaces it.
Called by the targets; it knows nothing of formats.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from .errors import OutputError, RefusedError, escape
from .interrupt import Interrupts
from .part import (MODEL_FILES, NOT_THERE, foreign_entry, install, is_open_file, kind_of, open_part_file, open_part_folder,
                   part_path, remove_folder, said, said_by)


def check_output(path: Path, force: bool, inputs: Iterable[Path] = (), folder: bool = False) -> None:
    """Raises RefusedError where OUT must not be written: it exists without `force`, is no file (folder), or is an input."""
    part = part_path(path)
    for source in inputs:
        for place in (path, part):
            if _same(source, place) or (folder and _same(source.parent, place)):
                raise RefusedError(f"{escape(path, 0)}: expected an output that is not an input, found {escape(source, 0)}; "
                                   "choose another name")
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(said(path, "look-up", error)) from error
    wanted = "folder" if folder else "file"
    kind = kind_of(status.st_mode)
    if kind != wanted:
        raise RefusedError(f"{escape(path, 0)}: expected a {wanted} or nothing, found a {kind}; choose another name")
    if not force:
        raise RefusedError(f"{escape(path, 0)}: the {wanted} exists; use --force to replace it, or choose another name")
    foreign = foreign_entry(path) if folder else None
    if foreign is not None:
        raise RefusedError(f"{escape(path, 0)}: expected a model's files alone, found {escape(foreign)}; "
                           "it is not replaced, choose another name")


# Files reach the system in pieces of this size, each at a multiple of it: Linux then keeps what is written in pages of 2 MiB where
# the file system can, and a model that runs from where it is mapped is read a few percent faster than from small pages.
PIECE_BYTES = 8 << 20


class Stream:
    """An open file that is written from its start to its end, with places that are filled in later."""

    def __init__(self, shown: Path, descriptor: int, size: int | None) -> None:
        self._shown = shown
        self._descriptor = descriptor
        self._piece = memoryview(np.empty(PIECE_BYTES, np.uint8))
        self._begin = 0                # where the piece goes; all before it is in the file
        self.position = 0              # where `write` goes on; at the end: the file's size
        if size:
            with said_by(shown, f"reserving {size} bytes"):
                _reserve(descriptor, size)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends; arrays too, if they are contiguous."""
        view = memoryview(data)
        if not view.nbytes:
            return
        view = view.cast("B")
        while view:
            at = self.position - self._begin
            taken = view[:PIECE_BYTES - at]
            self._piece[at:at + len(taken)] = taken
            self.position += len(taken)
            view = view[len(taken):]
            if self.position == self._begin + PIECE_BYTES:
                self._flush()

    def patch(self, offset: int, data: bytes) -> None:
        """Overwrites bytes that have been written."""
        end = offset + len(data)
        if end > self.position:
            raise ValueError(f"patch of bytes {offset} to {end} of {self.position}")
        middle = min(max(offset, self._begin), end)
        self._put(memoryview(data)[:middle - offset], offset)
        if middle < end:
            self._piece[middle - self._begin:end - self._begin] = data[middle - offset:]

    def pad_to(self, multiple: int) -> None:
        """Zeros up to the next multiple of `multiple`."""
        self.write(bytes(-self.position % multiple))

    def _flush(self) -> None:
        self._put(self._piece[:self.position - self._begin], self._begin)
        self._begin = self.position

    def _put(self, view: memoryview, offset: int) -> None:
        with said_by(self._shown, f"write at byte {offset}"):
            while view:
                done = os.pwrite(self._descriptor, view, offset)
                if done == 0:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                offset += done
                view = view[done:]

    def finish(self) -> None:
        """On the disk, as long as it is written, with the mode that the umask gives."""
        self._flush()
        with said_by(self._shown, "fsync"):
            os.ftruncate(self._descriptor, self.position)      # what was reserved in excess
            os.fchmod(self._descriptor, 0o666 & ~umask())
            os.fsync(self._descriptor)


class _Output(ABC):
    """What files and folders share: a locked part, open from `__enter__` to `__exit__`, that becomes OUT or goes."""

    is_folder = False

    def __init__(self, path: Path, force: bool = False, inputs: Iterable[Path] = (), size: int | None = None) -> None:
        self._out = Path(path)
        self._part = part_path(self._out)
        self._force = force
        self._inputs = tuple(inputs)
        self._size = size              # bytes that will be written, or a little more; None: unknown
        self._interrupts = Interrupts()
        self._descriptor = -1

    @abstractmethod
    def _finish(self) -> None:
        """Syncs the part."""

    def _open(self) -> None:
        check_output(self._out, self._force, self._inputs, self.is_folder)
        self._interrupts.__enter__()
        with self._interrupts.hold():
            self._descriptor = (open_part_folder if self.is_folder else open_part_file)(self._part)

    def __exit__(self, kind: type | None, *_rest: object) -> None:
        try:
            if kind is None:
                self._finish()
                with self._interrupts.hold():
                    install(self._part, self._out, self._force)
                    self._close()
        finally:
            self._discard()

    def _discard(self) -> None:
        """Removes what is still a part; nothing after a success."""
        try:
            with self._interrupts.hold():
                if self._descriptor >= 0:
                    with suppress(OSError):
                        if is_open_file(self._part, self._descriptor):
                            (remove_folder if self.is_folder else os.unlink)(self._part)
                    self._close()
        finally:
            self._interrupts.__exit__()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        with suppress(OSError):        # it has been synced, or is of no use
            os.close(descriptor)


class OutputFile(_Output):
    """`with OutputFile(path) as stream: stream.write(..)`: OUT appears when the block ends without an exception."""

    def __enter__(self) -> Stream:
        try:
            self._open()
            self._stream = Stream(self._part, self._descriptor, self._size)
        except BaseException:
            self._discard()
            raise
        return self._stream

    def _finish(self) -> None:
        self._stream.finish()


class OutputFolder(_Output):
    """`with OutputFolder(path) as folder: with folder.file(name) as stream: ..`: OUT appears, whole, when the block ends."""

    is_folder = True

    def __enter__(self) -> OutputFolder:
        self.names: list[str] = []     # of the files, in the order of writing
        try:
            self._open()
            if self._size:
                with said_by(self._part, f"reserving {self._size} bytes"):
                    _check_room(self._descriptor, self._size)
        except BaseException:
            self._discard()
            raise
        return self

    @contextmanager
    def file(self, name: str, size: int | None = None) -> Iterator[Stream]:
        """A new file of the folder, synced when the block ends."""
        if not MODEL_FILES.fullmatch(name):
            raise ValueError(f"{name} is no file of a model folder")
        shown = self._part / name
        with self._interrupts.hold():
            with said_by(shown, "creation"):
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(name, flags, 0o600, dir_fd=self._descriptor)
            self.names.append(name)
        try:
            stream = Stream(shown, descriptor, size)
            yield stream
            stream.finish()
        finally:
            with suppress(OSError):
                os.close(descriptor)

    def _finish(self) -> None:
        with said_by(self._part, "fsync"):
            os.fchmod(self._descriptor, 0o777 & ~umask())
            os.fsync(self._descriptor)


# -- small things ------------------------------------------------------------------------------------------------------------


def _reserve(descriptor: int, size: int) -> None:
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise


def _check_room(descriptor: int, size: int) -> None:
    room = os.fstatvfs(descriptor)
    if room.f_bavail * room.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return os.path.samefile(one, other)
    return False


def umask() -> int:
    with suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
