"""Nothing but whole files at OUT: every step of writing fails once, signals and kills arrive, others hold the lock, and OUT is
always as it was before, or complete, with no .part beside it.
"""
from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from converter import output, part
from converter.errors import ConvertError, OutputError, RefusedError
from converter.output import OutputFile, OutputFolder, check_output

ROOT = Path(output.__file__).parents[1]
NEW = {"config.json": b"{}", "model.safetensors": b"new" * 1000}


def write_file(out: Path, force: bool = False, data: bytes = b"new" * 1000, **options) -> None:
    with OutputFile(out, force, **options) as stream:
        stream.write(data)


def write_folder(out: Path, force: bool = False, files: dict[str, bytes] = NEW, **options) -> None:
    with OutputFolder(out, force, **options) as folder:
        for name, data in files.items():
            with folder.file(name, len(data)) as stream:
                stream.write(data)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"/" for path in sorted(folder.rglob("*"))}


def make_old(out: Path, kind: str) -> None:
    if kind == "file":
        out.write_bytes(b"old")
    else:
        out.mkdir()
        (out / "config.json").write_bytes(b"old")
        (out / "tokenizer.json").write_bytes(b"old too")


WRITERS = {"file": write_file, "folder": write_folder}
RESULTS = {"file": {"model": b"new" * 1000},             # what they leave in an empty folder, as `snapshot` sees it
           "folder": {"model": b"/", **{f"model/{name}": data for name, data in NEW.items()}}}


# ---- when all is well ----


def test_a_file(tmp_path: Path) -> None:
    out = tmp_path / "model.bin"
    with OutputFile(out, size=100) as stream:
        assert not out.exists() and (tmp_path / "model.bin.part").stat().st_mode & 0o777 == 0o600
        stream.write(b"....abc")
        stream.patch(0, b"head")
        stream.pad_to(8)
        assert stream.position == 8
        stream.write(memoryview(b""))
        with pytest.raises(ValueError, match="patch"):
            stream.patch(5, b"beyond")
    assert snapshot(tmp_path) == {"model.bin": b"headabc\0"}


def test_pieces_are_whole_and_patches_reach_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any writes and patches, over small pieces, make the bytes that they say; every write but patches begins where a piece does."""
    monkeypatch.setattr(output, "PIECE_BYTES", 16)
    begins: list[int] = []
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, at: (begins.append(at), real(descriptor, data, at))[1])
    random = np.random.default_rng(3)
    for nth in range(40):
        out, expected = tmp_path / str(nth), bytearray()
        with OutputFile(out) as stream:
            for _ in range(8):
                begins.clear()
                data = random.bytes(int(random.integers(0, 50)))
                stream.write(data)
                expected += data
                assert not any(at % 16 for at in begins)
                offset = int(random.integers(0, len(expected) + 1))
                patch = random.bytes(int(random.integers(0, len(expected) - offset + 1)))
                stream.patch(offset, patch)
                expected[offset:offset + len(patch)] = patch
                assert stream.position == len(expected)
        assert out.read_bytes() == expected


def test_modes_are_the_umasks(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "model.bin")
        write_folder(tmp_path / "model")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.bin").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "model" / "config.json").stat().st_mode) == 0o640


def test_a_folder(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "model", size=10) as folder:
        with folder.file("config.json") as stream:
            stream.write(b"{}")
        assert not (tmp_path / "model").exists() and folder.names == ["config.json"]
        with pytest.raises(ValueError, match="notes.txt"), folder.file("notes.txt"):
            pass
    assert snapshot(tmp_path) == {"model": b"/", "model/config.json": b"{}"}


@pytest.mark.parametrize("kind", list(WRITERS))
def test_force_replaces_and_the_old_one_lives_until_then(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "model"
    make_old(out, kind)
    with open(out if kind == "file" else out / "config.json", "rb") as reader:
        WRITERS[kind](out, force=True)
        assert reader.read() == b"old"                   # whoever has it open keeps it
    assert snapshot(tmp_path) == RESULTS[kind]


# ---- refusals ----


@pytest.mark.parametrize("kind", list(WRITERS))
def test_an_existing_out_needs_force(tmp_path: Path, kind: str) -> None:
    make_old(tmp_path / "model", kind)
    before = snapshot(tmp_path)
    with pytest.raises(RefusedError, match="exists; use --force") as caught:
        WRITERS[kind](tmp_path / "model")
    assert caught.value.code == 3 and snapshot(tmp_path) == before


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def _link_to_file(path: Path) -> None:
    (path.parent / "target").write_bytes(b"precious")
    path.symlink_to("target")


def _link_to_folder(path: Path) -> None:
    (path.parent / "target").mkdir()
    path.symlink_to("target")


@pytest.mark.parametrize("place", ["model", "model.part"])
@pytest.mark.parametrize("make", [_fifo, _socket, _dangling, _link_to_file, _link_to_folder])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_odd_things_in_the_way_are_refused_even_with_force(tmp_path: Path, kind: str, make: Callable[[Path], None],
                                                           place: str) -> None:
    make(tmp_path / place)
    before = {path.name: path.lstat().st_ino for path in tmp_path.iterdir()}
    with pytest.raises(RefusedError, match=f"expected a {kind} or nothing, found a (pipe|socket|symbolic link)"):
        WRITERS[kind](tmp_path / "model", force=True)
    assert {path.name: path.lstat().st_ino for path in tmp_path.iterdir()} == before
    if (tmp_path / "target").is_file():
        assert (tmp_path / "target").read_bytes() == b"precious"


@pytest.mark.parametrize("place", ["model", "model.part"])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path, kind: str, place: str) -> None:
    make_old(tmp_path / place, "folder" if kind == "file" else "file")
    before = snapshot(tmp_path)
    with pytest.raises(RefusedError, match="expected a"):
        WRITERS[kind](tmp_path / "model", force=True)
    assert snapshot(tmp_path) == before


def test_a_device_is_refused() -> None:
    with pytest.raises(RefusedError, match="found a device"):
        check_output(Path("/dev/null"), force=True)


@pytest.mark.parametrize("name", ["", ".", "/", "..", "a/..", "-"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(RefusedError, match="name"):
        OutputFile(Path(name))


@pytest.mark.parametrize("place", ["model", "model.part"])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_a_folder_of_other_things_is_never_replaced(tmp_path: Path, kind: str, place: str) -> None:
    (tmp_path / place).mkdir()
    (tmp_path / place / "config.json").write_bytes(b"{}")
    (tmp_path / place / "thesis.tex").write_bytes(b"years")
    before = snapshot(tmp_path)
    with pytest.raises(RefusedError, match="thesis.tex" if kind == "folder" else "found a folder"):
        WRITERS[kind](tmp_path / "model", force=True)
    assert snapshot(tmp_path) == before


def test_an_input_is_no_output(tmp_path: Path) -> None:
    source = tmp_path / "model.bin"
    source.write_bytes(b"weights")
    os.link(source, tmp_path / "linked.bin")
    (tmp_path / "soft.bin").symlink_to(source)
    for out in ("model.bin", "linked.bin", "soft.bin"):
        with pytest.raises(RefusedError, match="input"):
            write_file(tmp_path / out, force=True, inputs=[source])
    half = tmp_path / "half.bin.part"
    half.write_bytes(b"a download under way")
    with pytest.raises(RefusedError, match="input"):
        write_file(tmp_path / "half.bin", force=True, inputs=[half])
    assert source.read_bytes() == b"weights" and half.read_bytes() == b"a download under way"


def test_the_folder_of_an_input_is_no_output(tmp_path: Path) -> None:
    make_old(tmp_path / "model", "folder")
    before = snapshot(tmp_path)
    with pytest.raises(RefusedError, match="input"):
        write_folder(tmp_path / "model", force=True, inputs=[tmp_path / "model" / "config.json"])
    assert snapshot(tmp_path) == before


# ---- the lock, and what a kill leaves ----


@pytest.mark.parametrize("kind", list(WRITERS))
def test_a_taken_lock_is_refused(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "model"
    first = OutputFile(out) if kind == "file" else OutputFolder(out)
    with first as opened:
        if kind == "file":
            opened.write(b"first")
        else:
            with opened.file("config.json") as stream:
                stream.write(b"first")
        with pytest.raises(RefusedError, match="another conversion"):
            WRITERS[kind](out, force=True)
    assert (out if kind == "file" else out / "config.json").read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1


CHILD = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from converter.output import OutputFile, OutputFolder
out, kind, number = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
signal.signal(signal.SIGHUP, signal.SIG_DFL)             # nohup, which the tests may run under, has it ignored
if kind == "file":
    with OutputFile(out, True, size=1 << 20) as stream:
        stream.write(b"half")
        os.kill(os.getpid(), number)
        stream.write(b"whole")
else:
    with OutputFolder(out, True) as folder, folder.file("model.safetensors", 1 << 20) as stream:
        stream.write(b"half")
        os.kill(os.getpid(), number)
        stream.write(b"whole")
"""


def run_child(out: Path, kind: str, number: int) -> int:
    return subprocess.run([sys.executable, "-c", CHILD, str(ROOT), str(out), kind, str(number)], check=False,
                          stderr=subprocess.DEVNULL).returncode


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_a_signal_leaves_nothing(tmp_path: Path, kind: str, number: int, status: int, old: bool) -> None:
    if old:
        make_old(tmp_path / "model", kind)
    before = snapshot(tmp_path)
    assert run_child(tmp_path / "model", kind, number) == status
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("kind", list(WRITERS))
def test_what_a_kill_leaves_is_replaced(tmp_path: Path, kind: str) -> None:
    assert run_child(tmp_path / "model", kind, signal.SIGKILL) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["model.part"]
    WRITERS[kind](tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert snapshot(tmp_path) == RESULTS[kind]


@pytest.mark.parametrize("kind", list(WRITERS))
def test_an_interrupt_in_this_process(tmp_path: Path, kind: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        with OutputFile(tmp_path / "model") if kind == "file" else OutputFolder(tmp_path / "model"):
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir()) and signal.getsignal(signal.SIGTERM) is before


def test_a_signal_waits_for_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100):                             # many chances for a handler to run
            folder.exists()

    monkeypatch.setattr(part, "_sync_folder", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "model")
    assert snapshot(tmp_path) == {"model": b"new" * 1000}


def test_handlers_of_others_are_called_and_come_back(tmp_path: Path) -> None:
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    try:
        with OutputFile(tmp_path / "model") as stream:
            os.kill(os.getpid(), signal.SIGTERM)
            stream.write(b"x")
        assert seen == [signal.SIGTERM] and callable(signal.getsignal(signal.SIGTERM))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert snapshot(tmp_path) == {"model": b"x"}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_many_at_once(tmp_path: Path, kind: str, old: bool) -> None:
    """Six processes to one OUT, over and over: each succeeds or is refused, and what is there is whole."""
    out = tmp_path / "model"
    if old:
        make_old(out, kind)
    children = []
    for i in range(6):
        child = os.fork()
        if child == 0:
            code = 0
            try:
                for turn in range(8):
                    data = bytes([16 * i + turn]) * 30_000
                    try:
                        if kind == "file":
                            write_file(out, True, data)
                        else:
                            write_folder(out, True, {"config.json": data, "model.safetensors": data})
                    except RefusedError:
                        code = 3
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                code = 9
            os._exit(code)
        children.append(child)
    codes = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
    assert codes <= {0, 3} and [path.name for path in tmp_path.iterdir()] == ["model"]
    data = [out.read_bytes()] if kind == "file" else [path.read_bytes() for path in sorted(out.iterdir())]
    assert len(data) == (1 if kind == "file" else 2) and len(set(data)) == 1
    assert len(data[0]) == 30_000 and len(set(data[0])) == 1


# ---- the system says no ----


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, place: object, name: str, nth: int, code: int) -> Iterator[list[int]]:
    """The nth call of a function raises an OSError; yields how often it was called."""
    calls = [0]
    real = getattr(place, name)

    def fake(*arguments, **keywords):
        calls[0] += 1
        if calls[0] == nth:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, fake)
        yield calls


STEPS = [(os, "open"), (os, "pwrite"), (os, "posix_fallocate"), (os, "ftruncate"), (os, "fchmod"), (os, "fsync"),
         (part.fcntl, "flock"), (part, "_rename"), (os, "mkdir"), (os, "fstatvfs")]


@pytest.mark.parametrize("old", [False, True], ids=["new", "replaced"])
@pytest.mark.parametrize(("place", "name"), STEPS, ids=[name for _, name in STEPS])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_every_step_that_fails(tmp_path: Path, kind: str, place: object, name: str, old: bool,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "model"
    if old:
        make_old(out, kind)
    before = snapshot(tmp_path)
    for code in (errno.ENOSPC, errno.EIO):
        for nth in range(1, 20):
            with failing(monkeypatch, place, name, nth, code) as calls:
                try:
                    WRITERS[kind](out, force=old, size=3002)
                except OutputError as error:
                    assert error.code == 74 and os.strerror(code) in str(error) and "model" in str(error) and "\n" not in str(error)
            if calls[0] < nth:                           # it went through: there are no more calls
                break
            assert snapshot(tmp_path) == before, f"{name} number {nth}"
        if out.is_dir():
            for path in out.iterdir():
                path.unlink()
            out.rmdir()
        else:
            out.unlink()
        if old:
            make_old(out, kind)


def test_short_writes_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: real(descriptor, data[:7], offset))
    write_file(tmp_path / "model", data=bytes(range(100)))
    assert snapshot(tmp_path) == {"model": bytes(range(100))}
    monkeypatch.setattr(os, "pwrite", lambda *_arguments: 0)
    with pytest.raises(OutputError, match="write at byte 0"):
        write_file(tmp_path / "other")
    assert list(snapshot(tmp_path)) == ["model"]


@pytest.mark.parametrize("size", [None, 3 << 20])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_a_real_limit(tmp_path: Path, kind: str, size: int | None) -> None:
    """RLIMIT_FSIZE: reserving or writing beyond it fails as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OutputError) as caught:
            if kind == "file":
                write_file(tmp_path / "model", data=bytes(3 << 20), size=size)
            else:
                with OutputFolder(tmp_path / "model") as folder, folder.file("model.safetensors", size) as stream:
                    stream.write(bytes(3 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.strerror(errno.EFBIG) in str(caught.value) and not list(tmp_path.iterdir())


def test_a_folder_that_cannot_fit_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=os.strerror(errno.ENOSPC)):
        write_folder(tmp_path / "model", size=1 << 60)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", list(WRITERS))
def test_places_that_cannot_be_written(tmp_path: Path, kind: str) -> None:
    (tmp_path / "plain").write_bytes(b"")
    for out, reason in ((tmp_path / "missing" / "model", errno.ENOENT), (tmp_path / "plain" / "model", errno.ENOTDIR),
                        (tmp_path / ("n" * 255), errno.ENAMETOOLONG)):
        with pytest.raises(OutputError, match=os.strerror(reason)) as caught:
            WRITERS[kind](out)
        assert caught.value.code == 74
    assert list(snapshot(tmp_path)) == ["plain"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("kind", list(WRITERS))
def test_a_folder_without_permission(tmp_path: Path, kind: str) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match=os.strerror(errno.EACCES)):
            WRITERS[kind](tmp_path / "model")
    finally:
        tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_without_renameat2(tmp_path: Path, kind: str, old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part.ctypes, "CDLL", lambda *_arguments, **_keywords: object())
    out = tmp_path / "model"
    if old:
        make_old(out, kind)
        with pytest.raises(RefusedError):
            WRITERS[kind](out)
    WRITERS[kind](out, force=old)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (out if kind == "file" else out / "model.safetensors").read_bytes() == b"new" * 1000


@pytest.mark.parametrize("kind", list(WRITERS))
def test_an_out_that_appears_meanwhile_is_kept(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "model"
    with pytest.raises(RefusedError, match="appeared"):
        with OutputFile(out) if kind == "file" else OutputFolder(out):
            make_old(out, kind)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (out if kind == "file" else out / "config.json").read_bytes() == b"old"


def test_a_foreign_file_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    make_old(tmp_path / "model", "folder")
    with pytest.raises(RefusedError, match="notes.txt"), OutputFolder(tmp_path / "model", force=True):
        (tmp_path / "model" / "notes.txt").write_bytes(b"mine")
    assert sorted(snapshot(tmp_path)) == ["model", "model/config.json", "model/notes.txt", "model/tokenizer.json"]


def test_errors_are_of_the_converter_and_of_the_system() -> None:
    assert issubclass(OutputError, ConvertError) and issubclass(OutputError, OSError) and OutputError.code == 74


def test_order_of_the_last_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write, fsync of the file, rename, fsync of the folder."""
    steps: list[str] = []
    real_fsync, real_rename = os.fsync, part._rename

    def fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def rename(*arguments) -> None:
        steps.append("rename")
        real_rename(*arguments)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(part, "_rename", rename)
    write_file(tmp_path / "model.bin")
    assert steps == ["file", "rename", "folder"]
    steps.clear()
    write_folder(tmp_path / "model")
    assert steps == ["file", "file", "folder", "rename", "folder"]
