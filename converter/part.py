"""The `.part` of an output: opened, locked, and in the end in OUT's place.

A lock (flock) says that its writer lives: a `.part` without one is stale and is replaced. The change of places is one rename, an
exchange where there is an old OUT, which stays locked until it is gone. Called by output.py, which writes into it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError, RefusedError, escape

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
NOT_THERE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)      # this kernel or file system cannot do that

# What a model folder is made of: a folder with anything else in it is never replaced, nor taken for a stale one of ours.
MODEL_FILES = re.compile(r"config\.json|generation_config\.json|model(-\d{5}-of-\d{5})?\.safetensors"
                         r"|model\.safetensors\.index\.json|tokenizer\.json|tokenizer_config\.json|tokenizer\.model"
                         r"|chat_template\.jinja|special_tokens_map\.json|added_tokens\.json|vocab\.json|merges\.txt|README\.md"
                         r"|LICENSE(\.\w+)?|\.gitattributes")


def part_path(path: Path) -> Path:
    """Where OUT is written until it is whole."""
    if path.name in ("", "..", "-"):
        raise RefusedError(f"{escape(path, 0)}: expected the name of a file or folder to write")
    return path.with_name(path.name + ".part")


def kind_of(mode: int) -> str:
    for test, name in ((stat.S_ISREG, "file"), (stat.S_ISDIR, "folder"), (stat.S_ISLNK, "symbolic link"), (stat.S_ISFIFO, "pipe"),
                       (stat.S_ISSOCK, "socket")):
        if test(mode):
            return name
    return "device"


def foreign_entry(folder: Path) -> str | None:
    """The first entry that is no regular file of a model folder."""
    with said_by(folder, "listing"), os.scandir(folder) as entries:
        foreign = [entry.name for entry in entries
                   if not (MODEL_FILES.fullmatch(entry.name) and (entry.is_file() or entry.is_symlink()))]
    return min(foreign, default=None)


def said(path: Path, what: str, error: OSError) -> str:
    return f"{escape(path, 0)}: {what}: {error.strerror or error}"


@contextmanager
def said_by(path: Path, what: str) -> Iterator[None]:
    """An OSError inside becomes an OutputError that names the file, the step and the system's reason."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(said(path, what, error)) from error


# -- the part ----------------------------------------------------------------------------------------------------------------


def open_part_file(part: Path) -> int:
    """A new, empty, locked file at `part`; a stale one is replaced. RefusedError where another process holds it."""
    while True:
        with said_by(part, "creation"):
            fresh = True
            try:
                descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                fresh = False
                descriptor = _open_stale(part, "file", os.O_RDWR | os.O_NONBLOCK)
        if descriptor is None:
            continue
        keep = False
        try:
            try:
                keep = _lock(part, descriptor) and fresh
            except OutputError:
                if fresh:
                    with suppress(OSError):
                        os.unlink(part)
                raise
            if keep:
                return descriptor
            # The lock is ours: the writer is gone, or has renamed the file under us. Only the former leaves it in place.
            with said_by(part, "removal"):
                if is_open_file(part, descriptor):
                    os.unlink(part)
        finally:
            if not keep:
                os.close(descriptor)


def open_part_folder(part: Path) -> int:
    """A new, empty, locked folder at `part`; what a stale one holds is removed."""
    while True:
        with said_by(part, "creation"), suppress(FileExistsError):
            os.mkdir(part, 0o700)
        descriptor, keep = None, False
        try:
            with said_by(part, "creation"):
                descriptor = _open_stale(part, "folder", os.O_RDONLY | os.O_DIRECTORY)
            if descriptor is None:
                continue
            if not _lock(part, descriptor):
                continue
            foreign = foreign_entry(part)
            if foreign is not None:
                raise RefusedError(f"{escape(part, 0)}: expected a model's files alone, found {escape(foreign)}; remove it")
            with said_by(part, "emptying"):
                for name in os.listdir(descriptor):
                    os.unlink(name, dir_fd=descriptor)
            keep = True
            return descriptor
        except OutputError:
            with suppress(OSError):
                os.rmdir(part)                   # if it is empty: nobody else's, then, or nobody's loss
            raise
        finally:
            if descriptor is not None and not keep:
                os.close(descriptor)


def _open_stale(part: Path, wanted: str, flags: int) -> int | None:
    """Opens what stands at `part`, if it is of the kind wanted (RefusedError); None where it has just gone."""
    try:
        kind = kind_of(os.lstat(part).st_mode)
        if kind != wanted:
            raise RefusedError(f"{escape(part, 0)}: expected a {wanted} or nothing, found a {kind}; remove it")
        return os.open(part, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _lock(part: Path, descriptor: int) -> bool:
    """Takes the lock; False where `part` has meanwhile become another file. RefusedError where somebody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RefusedError(f"{escape(part, 0)}: another conversion is writing it; wait for it, or choose another name") from None
    except OSError as error:
        raise OutputError(said(part, "lock", error)) from error
    return is_open_file(part, descriptor)


def is_open_file(path: Path, descriptor: int) -> bool:
    """Whether the name still leads to the open file."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


# -- the change of places ----------------------------------------------------------------------------------------------------


def install(part: Path, out: Path, force: bool) -> None:
    """`part` becomes `out`, for good: it returns when that is on the disk, or raises with both as they were."""
    with said_by(out, "rename"):
        old = _lock_old(out) if force else None
        try:
            aside = _change_places(part, out, force)
            try:
                _sync_folder(out.parent)
                if aside is not None and not aside.is_dir():
                    os.unlink(aside)
            except OSError:
                _undo(part, out, aside)
                raise
            if aside is not None and aside.is_dir():
                with said_by(aside, "removal of the old folder"):       # too late to undo: it may be half gone
                    remove_folder(aside)
        finally:
            if old is not None:
                os.close(old)


def _lock_old(out: Path) -> int | None:
    """The `out` that is to be replaced, locked: when it stands at `part`, nobody shall take it for a stale one."""
    try:
        descriptor = os.open(out, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RefusedError(f"{escape(out, 0)}: another program has locked it; wait for it, or choose another name") from None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _change_places(part: Path, out: Path, force: bool) -> Path | None:
    """`part` becomes `out`; where the old `out` stands now, if there was one."""
    try:
        _rename(part, out, _RENAME_NOREPLACE)
        return None
    except FileExistsError:
        if not force:
            raise RefusedError(f"{escape(out, 0)}: it appeared while being written; use --force to replace it") from None
    kind = kind_of(os.lstat(out).st_mode)
    if kind != kind_of(os.lstat(part).st_mode):
        raise RefusedError(f"{escape(out, 0)}: it became a {kind} while being written")
    foreign = foreign_entry(out) if kind == "folder" else None
    if foreign is not None:
        raise RefusedError(f"{escape(out, 0)}: {escape(foreign)} appeared in it while being written; it is not replaced")
    try:
        _rename(part, out, _RENAME_EXCHANGE)
        return part
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
    aside = part.with_name(f"{part.name}.{os.getpid()}")
    os.rename(out, aside)
    try:
        os.rename(part, out)
    except OSError:
        os.rename(aside, out)
        raise
    return aside


def _undo(part: Path, out: Path, aside: Path | None) -> None:
    with suppress(OSError):
        if aside == part:
            _rename(out, part, _RENAME_EXCHANGE)
            return
        _rename(out, part, _RENAME_NOREPLACE)
        if aside is not None:
            _rename(aside, out, _RENAME_NOREPLACE)


def _rename(source: Path, target: Path, flags: int) -> None:
    """renameat2; where there is none, NOREPLACE is a look and a rename, and EXCHANGE an OSError of NOT_THERE."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = errno.ENOSYS
    if hasattr(libc, "renameat2"):
        if libc.renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)) == 0:
            return
        code = ctypes.get_errno()
    if code not in NOT_THERE or flags == _RENAME_EXCHANGE:
        raise OSError(code, os.strerror(code), str(source), None, str(target))
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """A folder of a model's files."""
    for name in os.listdir(folder):
        os.unlink(folder / name)
    os.rmdir(folder)
