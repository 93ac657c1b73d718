"""Bad input: every mistake is one line that says where, what was expected and what was found, with the right exit code, and leaves
nothing behind; an output that was there stays as it was.

damage.py's tables say what is done to a good folder or file. Each goes through the command line as a user would
meet it, and through the Python door. What the parsers refuse beyond this (hostile files) is with each format's own tests.
"""
from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ak42_layout
import models
import numpy as np
import pytest
from damage import BAD, FOLDERS, IO_ERROR, OTHERS, REFUSED, USAGE
from models import ModelSpec

import converter
import pyllama


# ---- helpers ----

def listing(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its bytes: what must not change."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def only_line(text: str) -> str:
    """The one line that stderr holds."""
    lines = text.splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text and lines[0].isprintable() and len(lines[0]) < 600, text
    return lines[0]


def assert_says(line: str, says: tuple[str, ...]) -> None:
    for pattern in says:
        assert re.search(pattern, line), (pattern, line)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[[ModelSpec], Path]:
    """good(spec): a folder that converts."""
    made: dict[str, Path] = {}

    def get(spec: ModelSpec) -> Path:
        key = repr(spec)
        if key not in made:
            made[key] = models.make_hf_model_numpy(tmp_path_factory.mktemp("good") / "hf", spec)
        return made[key]

    return get


@pytest.mark.parametrize("name", FOLDERS)
def test_bad_folder(name: str, good: Callable, pyllama_command: Callable, tmp_path: Path) -> None:
    row = FOLDERS[name]
    folder, work = tmp_path / "hf", tmp_path / "work"
    shutil.copytree(good(row.spec), folder)
    row.damage(folder)
    work.mkdir()
    done = pyllama_command("convert", folder, "-o", work / row.out, *row.args)
    line = only_line(done.err)
    assert (done.code, done.out) == (row.code, ""), line
    assert_says(line, row.says)
    assert listing(work) == {}
    # the Python door says the same, and with force an old output stays
    if row.out == "model.bin" and row.code != USAGE:
        (work / row.out).write_bytes(b"the old one")
        options = dict(zip((arg.removeprefix("--") for arg in row.args[::2]), row.args[1::2], strict=True))
        with pytest.raises(converter.ConvertError) as caught:
            converter.convert(folder, work / row.out, force=True, **options)
        assert caught.value.code == row.code and str(caught.value) in line
        assert listing(work) == {row.out: b"the old one"}


# ---- files that are no model ----

@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("suffix", [".bin", ".gguf"])
def test_what_is_no_model_is_named(name: str, suffix: str, tmp_path: Path) -> None:
    data, says = OTHERS[name]
    path = tmp_path / ("strange" + suffix)
    path.write_bytes(data)
    with pytest.raises(pyllama.PyllamaError) as opened:
        pyllama.Model(path)
    assert isinstance(opened.value, (pyllama.FormatError, pyllama.UnsupportedError)), opened.value
    with pytest.raises(converter.ConvertError) as converted:
        converter.convert(path, tmp_path / "out.bin")
    assert converted.value.code == BAD
    for error in (opened.value, converted.value):
        line = only_line(str(error))
        assert path.name in line
        assert_says(line, (says,))
    assert listing(tmp_path) == {path.name: data}


@pytest.mark.parametrize("command", [("convert", "-o", "out.bin"), ("inspect",), ("generate", "-p", "x", "-n", "1")])
@pytest.mark.parametrize("name", ["text", "baby-llm", "html"])
def test_every_command_names_what_is_no_model(command: tuple[str, ...], name: str, pyllama_command: Callable,
                                              tmp_path: Path) -> None:
    data, says = OTHERS[name]
    (tmp_path / "strange.bin").write_bytes(data)
    done = pyllama_command(command[0], "strange.bin", *command[1:], cwd=tmp_path)
    line = only_line(done.err)
    assert (done.code, done.out) == (BAD, ""), line
    assert_says(line, (r"strange\.bin", says))
    assert listing(tmp_path) == {"strange.bin": data}


def test_a_missing_source_is_a_usage_error(pyllama_command: Callable, tmp_path: Path) -> None:
    for command in (("convert", "none.bin", "-o", "out.bin"), ("inspect", "none.bin"), ("generate", "none.bin", "-p", "x")):
        done = pyllama_command(*command, cwd=tmp_path)
        assert done.code == USAGE and "none.bin" in only_line(done.err)
    assert listing(tmp_path) == {}


# ---- truncation ----

FORMATS = {"v0": ("ak42-v0", "keep"), "v1": ("ak42-v1", "keep"), "v1 strict": ("ak42-v1", "keep"), "v2": ("ak42-v2", "int8"),
           "v3": ("ak42-v3", "keep"), "v3 q8_0": ("ak42-v3", "q8_0"), "gguf": ("gguf", "keep"), "gguf q4_0": ("gguf", "q4_0")}
SMALL = ModelSpec(seed=50, dim=32, hidden_dim=64, n_layers=1, n_heads=4, n_kv_heads=2, vocab_size=403, tie=True, tokenizer="spm",
                  chat_template=models.INSTRUCT)


@pytest.fixture(scope="module")
def files(good: Callable, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """files("v3"): a good file of that kind."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            format_name, type_name = FORMATS[name]
            out = tmp_path_factory.mktemp("file") / ("model.gguf" if format_name == "gguf" else "model.bin")
            converter.convert(good(SMALL), out, format=format_name, type=type_name, strict="strict" in name)
            made[name] = out
        return made[name]

    return get


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_at_every_section_boundary(name: str, files: Callable, tmp_path: Path) -> None:
    """At each boundary, one byte before and one byte after: opening and converting both refuse, and name the file."""
    whole = files(name)
    data = whole.read_bytes()
    boundaries = ak42_layout.boundaries(whole)
    assert len(boundaries) > 10
    path = tmp_path / whole.name
    if whole.with_name("tokenizer.bin").exists():
        shutil.copy(whole.with_name("tokenizer.bin"), tmp_path)
    sizes = sorted({at + step for at in boundaries for step in (-1, 0, 1) if 0 <= at + step < len(data)})
    for size in sizes:
        path.write_bytes(data[:size])
        with pytest.raises((pyllama.FormatError, pyllama.UnsupportedError)) as opened:
            pyllama.Model(path)
        with pytest.raises(converter.ConvertError) as converted:
            converter.convert(path, tmp_path / "out" / "x.bin", format="ak42-v3")
        assert converted.value.code == BAD, (size, converted.value)
        for error in (opened.value, converted.value):
            assert path.name in only_line(str(error)), size
        assert not (tmp_path / "out").exists() or listing(tmp_path / "out") == {}
    path.write_bytes(data)
    pyllama.Model(path).close()


def test_truncated_safetensors(good: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(good(SMALL), folder)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for at in ak42_layout.boundaries(path):
        for size in {max(at - 1, 0), at, min(at + 1, len(data) - 1)}:
            path.write_bytes(data[:size])
            with pytest.raises(converter.ConvertError) as caught:
                converter.convert(folder, tmp_path / "x.bin")
            assert caught.value.code == BAD and path.name in only_line(str(caught.value)), size
            assert not list(tmp_path.glob("x.bin*"))


@pytest.mark.parametrize("name", ["v0", "v1 strict", "v3", "gguf"])
def test_truncated_from_the_shell(name: str, files: Callable, pyllama_command: Callable, tmp_path: Path) -> None:
    whole = files(name)
    path = tmp_path / ("half" + whole.suffix)
    path.write_bytes(whole.read_bytes()[:whole.stat().st_size // 2])
    half = str(path.stat().st_size)
    for command in (("convert", path, "-o", tmp_path / "out.bin"), ("generate", path, "-p", "x")):
        done = pyllama_command(*command)
        line = only_line(done.err)
        assert (done.code, done.out) == (BAD, ""), line
        assert path.name in line and half in line
    assert list(listing(tmp_path)) == [path.name]


@pytest.mark.parametrize("name", ["v0", "v1", "v2", "v3"])
def test_trailing_bytes(name: str, files: Callable, tmp_path: Path) -> None:
    """An ak42 file is exactly as long as it says; a GGUF file may be followed by anything."""
    path = tmp_path / "model.bin"
    path.write_bytes(files(name).read_bytes() + b"\0" * 64)
    with pytest.raises(pyllama.FormatError, match=r"model\.bin"):
        pyllama.Model(path)
    with pytest.raises(converter.FormatError, match=r"model\.bin"):
        converter.convert(path, tmp_path / "out.bin")


@pytest.mark.parametrize("name", ["v1", "v2", "v3", "v3 q8_0"])
def test_a_changed_bit_is_found(name: str, files: Callable, tmp_path: Path) -> None:
    """In header, directory and trailer at opening, by both readers; in weights by the converter, which reads them all."""
    whole = files(name).read_bytes()
    sections = {tag: at for tag, at, _ in ak42_layout.trailer_sections(whole)}
    places = {9: "header", 85: "header", sections["CONF"] + 3: "trailer", sections["TOKN"] + 50: "trailer",
              5000: "payload|weight"}
    if "v3" in name:
        places[struct.unpack_from("<Q", whole, 176)[0] + 70] = "directory"
    path, out = tmp_path / "model.bin", tmp_path / "out.bin"
    for at, what in places.items():
        broken = bytearray(whole)
        broken[at] ^= 0x10
        path.write_bytes(broken)
        lines = []
        with pytest.raises(converter.FormatError) as converted:
            converter.convert(path, out)
        lines.append(only_line(str(converted.value)))
        if "weight" not in what:
            with pytest.raises(pyllama.FormatError) as opened:
                pyllama.Model(path)
            lines.append(only_line(str(opened.value)))
        for line in lines:
            assert_says(line, (r"model\.bin", what, "checksum", "expected 0x[0-9a-f]{8}, found 0x[0-9a-f]{8}"))
        assert list(listing(tmp_path)) == ["model.bin"]


# ---- the output ----

def test_an_existing_output_is_refused(good: Callable, pyllama_command: Callable, tmp_path: Path) -> None:
    folder = good(ModelSpec())
    for out, old in (("model.bin", b"old"), ("model.gguf", b"older")):
        (tmp_path / out).write_bytes(old)
        done = pyllama_command("convert", folder, "-o", out, cwd=tmp_path)
        assert done.code == REFUSED
        assert_says(only_line(done.err), (re.escape(out), "--force"))
        assert (tmp_path / out).read_bytes() == old
        done = pyllama_command("convert", folder, "-o", out, "--force", cwd=tmp_path)
        assert done.code == 0, done.err
        assert (tmp_path / out).stat().st_size > 1000
    assert sorted(listing(tmp_path)) == ["model.bin", "model.gguf"]


def test_a_folder_of_strangers_is_never_replaced(good: Callable, pyllama_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("three years")
    for force in ((), ("--force",)):
        done = pyllama_command("convert", good(ModelSpec()), "-o", tmp_path / "out", *force)
        assert done.code == REFUSED and "out" in only_line(done.err)
        assert listing(tmp_path) == {"out": None, "out/thesis.txt": b"three years"}


@pytest.mark.parametrize("out", ["missing/model.bin", "file/model.bin", "missing/folder"])
def test_an_output_that_cannot_be_written(out: str, good: Callable, pyllama_command: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    before = listing(tmp_path)
    done = pyllama_command("convert", good(ModelSpec()), "-o", out, cwd=tmp_path)
    line = only_line(done.err)
    assert done.code == IO_ERROR, line
    assert_says(line, (re.escape(out.split("/")[1]), "(?i)no such file|not a directory"))
    assert listing(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(good: Callable, pyllama_command: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o500)
    try:
        done = pyllama_command("convert", good(ModelSpec()), "-o", folder / "model.bin")
    finally:
        folder.chmod(0o700)
    assert done.code == IO_ERROR and "ermission denied" in only_line(done.err)
    assert listing(folder) == {}


def limited(size: int) -> Callable[[], None]:
    """Files of this process may not grow past size: writes fail with EFBIG, as on a full disk."""
    def set_limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    return set_limit


@pytest.mark.parametrize("out", ["model.bin", "model.gguf", "folder"])
@pytest.mark.parametrize("size", [0, 1000, 60_000])
def test_a_limit_on_file_size(out: str, size: int, good: Callable, tmp_path: Path) -> None:
    folder = good(ModelSpec(tokenizer="bpe", vocab_size=403))
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}       # Python would cut its own files off, too, and keep them
    done = subprocess.run([sys.executable, "-m", "pyllama", "convert", str(folder), "-o", str(tmp_path / out)], capture_output=True,
                          text=True, preexec_fn=limited(size), env=environment)
    line = only_line(done.stderr)
    assert done.returncode == IO_ERROR, line
    assert_says(line, (re.escape(out), "(?i)too large"))
    assert listing(tmp_path) == {}


FULL_DISK = """\
set -e
mkdir -p "$1"
mount -t tmpfs -o size="$2" tmpfs "$1"
shift 2
code=0
"$@" || code=$?
ls -A disk >&3
exit $code
"""


@pytest.mark.parametrize("out", ["model.bin", "model.gguf", "folder"])
def test_a_full_disk(out: str, good: Callable, tmp_path: Path) -> None:
    """A file system of 64 KiB, in a mount namespace of its own."""
    unshare = shutil.which("unshare")
    namespace = [unshare or "unshare", "--user", "--map-root-user", "--mount"]
    if unshare is None or subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no user make a mount namespace")
    folder = good(ModelSpec(tokenizer="bpe", vocab_size=403))
    command = [sys.executable, "-m", "pyllama", "convert", str(folder), "-o", f"disk/{out}"]
    with open(tmp_path / "left", "wb") as left:
        done = subprocess.run([*namespace, "bash", "-c", f"exec 3>&{left.fileno()}; " + FULL_DISK, "bash", "disk", "64k", *command],
                              capture_output=True, text=True, cwd=tmp_path, pass_fds=(left.fileno(),))
    if "mount:" in done.stderr:
        pytest.skip("this machine lets no user mount a file system")
    line = only_line(done.stderr)
    assert done.returncode == IO_ERROR, line
    assert_says(line, (re.escape(out), "(?i)no space left"))
    assert (tmp_path / "left").read_bytes() == b""


# ---- running ----

@pytest.fixture(scope="module")
def speaking(tiny_bpe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a context of 256 tokens whose tokenizer adds no BOS."""
    out = tmp_path_factory.mktemp("speaking") / "model.bin"
    converter.convert(tiny_bpe, out)
    return out


@pytest.mark.parametrize("args,text,says", [
    (("generate", "-p", "word " * 400), "", ("256", "(?i)context")),
    (("generate", "-p", ""), "", ("(?i)nothing to evaluate", "(?i)bos|prompt")),
    (("tokenize", "--decode"), "5 403", ("403",)),
    (("tokenize", "--decode"), "-1", ("-1",)),
    (("tokenize", "--decode"), "99999999999", ("99999999999",)),
], ids=["context exceeded", "nothing to evaluate", "id out of range", "id negative", "id too large"])
def test_bad_input_to_a_good_model(args: tuple[str, ...], text: str, says: tuple[str, ...], speaking: Path,
                                   pyllama_command: Callable) -> None:
    done = pyllama_command(args[0], speaking, *args[1:], input=text)
    line = only_line(done.err)
    assert (done.code, done.out) == (BAD, ""), line
    assert_says(line, says)


def test_bad_input_to_a_session(speaking: Path) -> None:
    with pyllama.Model(speaking) as model, model.session(n_ctx=8) as session:
        session.eval([1, 2, 3])
        before = session.eval([4])
        session.truncate(3)
        cases = [([], pyllama.ArgumentError, "nothing|at least one|0"), ([403], pyllama.ArgumentError, "403"),
                 ([-1], pyllama.ArgumentError, "-1"), ([1] * 6, pyllama.ContextError, "8")]
        for ids, kind, says in cases:
            with pytest.raises(kind, match=says):
                session.eval(ids)
            assert session.position == 3
        with pytest.raises(pyllama.ArgumentError):
            session.truncate(4)
        assert np.array_equal(session.eval([4]), before)       # the session is as it was
        with pytest.raises(pyllama.ContextError, match="256|context"):
            model.generate([1] * 300)
        with pytest.raises(pyllama.ArgumentError, match="nothing to evaluate"):
            model.generate("")


def test_a_model_that_computes_nan_says_so(tmp_path: Path) -> None:
    """The converter refuses such weights; a file from elsewhere may hold them."""
    import gguf

    folder = models.make_hf_model_numpy(tmp_path / "hf", vocab_size=301)
    path = tmp_path / "model.gguf"
    converter.convert(folder, path)
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "output_norm.weight")
    with open(path, "r+b") as file:
        file.seek(tensor.data_offset)
        file.write(struct.pack("<f", float("nan")))
    with pyllama.Model(path) as model, model.session() as session:
        with pytest.raises(pyllama.NumericError, match="(?i)finite"):
            session.eval([1, 2, 3])
        assert session.position == 0
    with pytest.raises(converter.RefusedError, match="output_norm"):
        converter.convert(path, tmp_path / "out.bin")
