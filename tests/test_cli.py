"""The command `pyllama` as a user has it: what goes to stdout and what to stderr, exit codes, one-line errors, pipes, terminals,
signals. What the commands compute is tested elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import models
import pytest

import converter
import pyllama
from pyllama.conversation import converse
from pyllama.sampling import GenerationOptions

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("convert", "inspect", "generate", "chat", "tokenize", "perplexity", "bench", "doctor")


@pytest.fixture(scope="module")
def bpe_bin(tiny_bpe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "bpe.bin"
    converter.convert(tiny_bpe, out)
    return out


@pytest.fixture(scope="module")
def spm_bin(tiny_spm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "spm.bin"
    converter.convert(tiny_spm, out)
    return out


@pytest.fixture(scope="module")
def slow_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    spec = {
        "dim": 256,
        "hidden_dim": 688,
        "n_layers": 24,
        "n_heads": 8,
        "vocab_size": 403,
        "max_positions": 8192,
        "tokenizer": "bpe",
    }
    models.make_hf_model_numpy(folder / "slow", chat_template=models.CHATML, eos_ids=(402,), **spec)
    converter.convert(folder / "slow", folder / "slow.bin")
    return folder / "slow.bin"


def one_line(err: str) -> str:
    """The one line that a mistake is, without a traceback."""
    assert err.startswith("pyllama: ") and err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in err, err
    return err


# ---- help and usage ----


def test_help_teaches(pyllama_command) -> None:
    whole = pyllama_command("--help")
    assert whole.code == 0 and whole.err == "" and "Examples:" in whole.out
    for name in COMMANDS:
        done = pyllama_command(name, "--help")
        assert done.code == 0 and done.err == "" and "Examples:" in done.out and f"pyllama {name}" in done.out
        assert name in whole.out
    assert pyllama_command("--version").out == f"pyllama {pyllama.__version__}\n"


@pytest.mark.parametrize("arguments", [
    [], ["--wrong"], ["wrong"], ["convert"], ["generate"], ["generate", "MODEL", "--wrong"], ["generate", "MODEL", "-n", "x"],
    ["generate", "MODEL", "-n", "-1"], ["generate", "MODEL", "--temperature", "-1"], ["generate", "MODEL", "--top-p", "1.5"],
    ["generate", "MODEL", "--seed", "-1"], ["generate", "MODEL", "-p"], ["generate", "MODEL", "extra"], ["generate", "none.bin"],
    ["generate", "MODEL", "--kv-type", "f64"], ["generate", "MODEL", "--isa", "mmx"], ["generate", "MODEL", "--n-ctx", "0"],
    ["convert", "MODEL"], ["convert", "none", "-o", "x.bin"], ["convert", "MODEL", "-o", "x.bin", "--type", "q3"],
    ["convert", "MODEL", "-o", "x.bin", "--format", "onnx"], ["convert", "MODEL", "-o", "x.bin", "--layout", "tiles"],
    ["inspect"], ["inspect", "none"], ["tokenize"], ["tokenize", "none"], ["perplexity", "MODEL"], ["perplexity", "MODEL", "none"], ["perplexity", "MODEL", "MODEL", "--wrong"], ["bench", "MODEL", "-t", "0"], ["bench", "MODEL", "-p", "-5"],
    ["doctor", "extra"], ["chat", "MODEL", "--chat-template", "none"],
])  # fmt: skip
def test_usage_mistakes(pyllama_command, bpe_bin: Path, arguments: list[str]) -> None:
    done = pyllama_command(*(bpe_bin if word == "MODEL" else word for word in arguments))
    assert done.code == 2 and done.out == "" and "--help" in one_line(done.err)


# ---- bad input ----


def test_bad_input(pyllama_command, bpe_bin: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.bin"
    text.write_text("this is no model, whatever its name says, but it is long enough to look like one at first" * 5)
    whole = bpe_bin.read_bytes()
    (tmp_path / "short.bin").write_bytes(whole[: len(whole) // 2])
    for path in (text, tmp_path / "short.bin"):
        for command in (["generate", path, "-p", "x"], ["inspect", path], ["bench", path], ["tokenize", path, "-p", "x"],
                        ["convert", path, "-o", tmp_path / "out.gguf"], ["chat", path, "-p", "x"]):  # fmt: skip
            done = pyllama_command(*command)
            assert done.code == 1 and path.name in one_line(done.err), (command, done)
    assert not (tmp_path / "out.gguf").exists()
    done = pyllama_command("generate", tmp_path, "-p", "x")
    assert done.code == 1 and "pyllama convert" in one_line(done.err)


def test_nothing_to_evaluate(pyllama_command, bpe_bin: Path, spm_bin: Path) -> None:
    done = pyllama_command("generate", bpe_bin)
    assert done.code == 1 and "nothing to evaluate" in one_line(done.err)
    assert pyllama_command("generate", spm_bin, "-n", 3).code == 0  # BOS


def test_context_exceeded(pyllama_command, bpe_bin: Path) -> None:
    done = pyllama_command("generate", bpe_bin, "-p", "too many words for so small a context", "--n-ctx", 4)
    assert done.code == 1 and "4" in one_line(done.err)


def test_ids_out_of_range(pyllama_command, bpe_bin: Path) -> None:
    for ids in ("403", "-1", "99999999999", "1 2 x", "1.5", "١"):
        done = pyllama_command("tokenize", bpe_bin, "--decode", input=ids)
        assert done.code == 1 and done.out == "", ids
        one_line(done.err)


def test_no_such_device(pyllama_command, bpe_bin: Path) -> None:
    done = pyllama_command("generate", bpe_bin, "-p", "x", "--device", "cuda")
    assert done.code == 3 and "cuda" in one_line(done.err).lower()


def test_system_errors(pyllama_command, bpe_bin: Path) -> None:
    done = pyllama_command("convert", bpe_bin, "-o", "/proc/none/out.gguf")
    assert done.code == 74, done
    one_line(done.err)
    for unbuffered in ("", "1"):
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", "pyllama", "generate", bpe_bin, "-p", "x", "-n", "3"]
            environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
            done = subprocess.run(command, stdout=full, stderr=-1, text=True, env=environment)
        assert done.returncode == 74 and "No space" in one_line(done.stderr)
    for closed, code in ((">&-", 74), ("<&-", 0)):
        done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-m", "pyllama", "inspect", bpe_bin],
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "closed" in one_line(done.stderr) if code else not done.stderr


def test_names_from_files_cannot_move_the_cursor(pyllama_command, bpe_bin: Path, tmp_path: Path) -> None:
    path = tmp_path / "evil\x1b[2J\u202e.bin"
    path.write_bytes(b"nothing")
    done = pyllama_command("inspect", path)
    assert done.code == 1 and "\x1b" not in one_line(done.err) and "\u202e" not in done.err


# ---- convert and inspect ----


def test_convert_and_inspect(pyllama_command, tiny_bpe: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.bin"
    done = pyllama_command("convert", tiny_bpe, "-o", out)
    assert done.code == 0 and done.out == "" and str(out) in done.err and out.exists()
    again = pyllama_command("convert", tiny_bpe, "-o", out)
    assert again.code == 3 and "force" in one_line(again.err)
    forced = pyllama_command("convert", tiny_bpe, "-o", out, "--force", "--type", "bf16", "--json")
    assert forced.code == 0 and json.loads(forced.out)["type"] == "bf16"
    found = json.loads(pyllama_command("inspect", out, "--json").out)
    assert found["format"] == "ak42" and found["version"] == 3 and found["config"]["dim"] == 48
    assert {"name", "type", "shape", "offset", "bytes"} <= set(found["tensors"][0])
    for path in (out, tiny_bpe, tiny_bpe / "model.safetensors"):
        shown = pyllama_command("inspect", path)
        assert shown.code == 0 and shown.err == "" and "tensors" in shown.out
    assert "parameters" in pyllama_command("inspect", out).out
    small, large = (json.loads(pyllama_command("inspect", out, "--json", "--n-ctx", n).out)["memory"]["kv_cache"] for n in (1, 100))
    assert large == 100 * small


def test_every_route_gives_one_text(pyllama_command, tiny_spm: Path, tmp_path: Path) -> None:
    """HF to each format that can hold the model, run and compared."""
    ask = ("-p", "the little", "--temperature", 0, "-n", 12)
    wanted = None
    for name, options in (("a.bin", []), ("b.bin", ["--format", "ak42-v3"]), ("c.bin", ["--format", "ak42-v3", "--layout", "rows"]),
                          ("d.gguf", []), ("v0/e.bin", ["--format", "ak42-v0"])):  # fmt: skip
        out = tmp_path / name
        out.parent.mkdir(exist_ok=True)
        assert pyllama_command("convert", tiny_spm, "-o", out, *options).code == 0
        done = pyllama_command("generate", out, *ask)
        wanted = wanted or done.out
        assert done.code == 0 and done.out == wanted, name


def test_the_fast_encoder_writes_the_same_bytes(pyllama_command, tmp_path: Path) -> None:
    folder = models.make_hf_model_numpy(tmp_path / "m", dim=64, hidden_dim=128, n_heads=4, vocab_size=320)
    for kind in ("int8", "q8_0", "q4_0", "q4_1"):
        assert pyllama_command("convert", folder, "-o", tmp_path / f"{kind}.bin", "--type", kind).code == 0
        converter.convert(folder, tmp_path / "numpy.bin", type=kind, force=True)
        assert (tmp_path / f"{kind}.bin").read_bytes() == (tmp_path / "numpy.bin").read_bytes()


# ---- generate ----


def test_generate_text_ids_and_json(pyllama_command, bpe_bin: Path) -> None:
    ask = ("generate", bpe_bin, "-p", "Hello", "--temperature", 0, "-n", 12)
    text, ids, found = pyllama_command(*ask), pyllama_command(*ask, "--ids"), pyllama_command(*ask, "--json")
    assert text.code == ids.code == found.code == 0
    result = json.loads(found.out)
    assert set(result) == {"text", "token_ids", "finish_reason", "prompt_tokens", "tokens_per_second", "seed"}
    assert text.out == result["text"] + "\n"
    assert re.fullmatch(r"\d+( \d+)*\n", ids.out) and list(map(int, ids.out.split())) == result["token_ids"]
    assert re.search(r"tokens/s.*seed \d+", text.err) and "Hello" not in text.out
    with pyllama.Model(bpe_bin) as model:
        assert model.generate("Hello", temperature=0, max_new_tokens=12).token_ids == result["token_ids"]


def test_generate_from_stdin_and_with_stop(pyllama_command, bpe_bin: Path) -> None:
    ask = ("generate", bpe_bin, "--temperature", 0, "-n", 20)
    whole = pyllama_command(*ask, "-p", "Hello").out
    assert pyllama_command(*ask, "-p", "-", input="Hello").out == whole
    stop = whole[3:5]
    assert pyllama_command(*ask, "-p", "Hello", "--stop", stop, "--stop", "@@").out == whole[: whole.index(stop)] + "\n"


def test_the_same_seed_gives_the_same_text(pyllama_command, bpe_bin: Path) -> None:
    ask = ("generate", bpe_bin, "-p", "Hello", "-n", 20, "--seed", 5, "--temperature", 2)
    first = pyllama_command(*ask)
    assert "seed 5" in first.err and pyllama_command(*ask).out == first.out


def test_bench_environment_and_options(pyllama_command, bpe_bin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AK42_ISA", "generic")
    monkeypatch.setenv("AK42_THREADS", "1")
    ask = ("bench", bpe_bin, "-p", 16, "-n", 8, "-d", 5, "--json")
    done = pyllama_command(*ask)
    found = json.loads(done.out)
    assert done.code == 0 and set(found) == {"model", "threads", "isa", "read_gb_per_s", "prompt", "generate", "peak_rss_mb"}
    assert set(found["prompt"]) == {"tokens", "tokens_per_second"}
    assert set(found["generate"]) == {"tokens", "tokens_per_second", "percent_of_bandwidth"}
    assert (found["isa"], found["threads"]) == ("generic", 1)
    assert found["prompt"]["tokens"] == 16 and found["prompt"]["tokens_per_second"] > 0
    assert found["generate"]["tokens"] == 8 and 0 < found["generate"]["percent_of_bandwidth"] < 400
    assert found["read_gb_per_s"] > 0.1 and found["peak_rss_mb"] > 1
    shown = pyllama_command("bench", bpe_bin, "-p", 4, "-n", 0, "--isa", "reference", "-t", 2)
    assert "tokens/s" in shown.out and "reference" in shown.out and "2 threads" in shown.out
    monkeypatch.setenv("AK42_THREADS", "many")
    assert "AK42_THREADS" in one_line(pyllama_command(*ask).err)


def test_another_locale_changes_nothing(bpe_bin: Path) -> None:
    """The C locale, and one with decimal commas where the machine has it."""
    command = [sys.executable, "-m", "pyllama", "tokenize", str(bpe_bin), "--decode"]
    ids = subprocess.run([*command[:-1], "--ids"], input="é🙂".encode(), capture_output=True).stdout
    for locale in ("C", "de_DE.UTF-8"):
        environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        done = subprocess.run(command, input=ids, capture_output=True, env=environment)
        assert done.returncode == 0 and done.stdout == "é🙂".encode()


# ---- tokenize ----


@pytest.mark.parametrize("text", ["Hello world", "", " ", "a\nb\r\n\tc", "é🙂", "<|im_end|>", "x" * 3000])
def test_tokenize_there_and_back(pyllama_command, bpe_bin: Path, text: str) -> None:
    ids = subprocess.run([sys.executable, "-m", "pyllama", "tokenize", bpe_bin, "--ids"], input=text.encode(), capture_output=True)
    assert ids.returncode == 0 and ids.stderr == b"" and ids.stdout.endswith(b"\n")
    with pyllama.Model(bpe_bin) as model:
        assert list(map(int, ids.stdout.split())) == model.encode(text)
    back = subprocess.run([sys.executable, "-m", "pyllama", "tokenize", bpe_bin, "--decode"], input=ids.stdout, capture_output=True)
    assert back.returncode == 0 and back.stdout == text.encode()


def test_tokenize_options(pyllama_command, spm_bin: Path, bpe_bin: Path) -> None:
    def ids(path: Path, *options: str, text: str = "a <|im_end|>") -> list[int]:
        return list(map(int, pyllama_command("tokenize", path, "--ids", *options, input=text).out.split()))

    assert ids(spm_bin)[0] == 1 and ids(spm_bin, "--no-bos") == ids(spm_bin)[1:]
    assert len(ids(bpe_bin, "--parse-special")) < len(ids(bpe_bin))
    listed = json.loads(pyllama_command("tokenize", bpe_bin, "-p", "ab cd", "--json").out)
    assert "".join(piece["text"] for piece in listed) == "ab cd"
    assert len(pyllama_command("tokenize", bpe_bin, "-p", "ab cd").out.splitlines()) == len(listed)


def test_tokenize_takes_bytes_that_are_no_text(bpe_bin: Path) -> None:
    raw = b"a\xff\xfe\x00b"
    ids = subprocess.run([sys.executable, "-m", "pyllama", "tokenize", bpe_bin, "--ids"], input=raw, capture_output=True)
    with pyllama.Tokenizer(bpe_bin) as tokenizer:
        assert tokenizer.decode_bytes(list(map(int, ids.stdout.split()))) == raw


def test_tokenize_other_files(pyllama_command, tiny_spm: Path, spm_bin: Path, tmp_path: Path) -> None:
    wanted = pyllama_command("tokenize", spm_bin, "--ids", input="some text").out
    converter.convert(tiny_spm, tmp_path / "v0.bin", format="ak42-v0")
    for path in (tiny_spm, tmp_path / "tokenizer.bin"):
        assert pyllama_command("tokenize", path, "--ids", input="some text").out == wanted


# ---- chat ----


def test_chat_in_a_pipe(pyllama_command, bpe_bin: Path) -> None:
    settings = ("--temperature", 0, "-n", 10)
    piped = pyllama_command("chat", bpe_bin, *settings, input="What is it?")
    asked = pyllama_command("chat", bpe_bin, "-p", "What is it?", *settings)
    assert piped.code == asked.code == 0 and piped.out == asked.out
    with pyllama.Model(bpe_bin) as model:
        messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "What is it?"}]
        wanted = model.chat(messages, temperature=0, max_new_tokens=10)
    found = json.loads(pyllama_command("chat", bpe_bin, "--system", "Be kind.", *settings, "--json", input="What is it?").out)
    assert found["token_ids"] == wanted.token_ids and found["text"] == wanted.text


def test_chat_with_another_template(pyllama_command, bpe_bin: Path, tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("Q: {{ messages[0].content }} A:")
    done = pyllama_command("chat", bpe_bin, "-p", "why", "--chat-template", tmp_path / "t.jinja", "--temperature", 0, "-n", 8)
    with pyllama.Model(bpe_bin) as model:
        assert done.out == model.generate("Q: why A:", temperature=0, max_new_tokens=8).text + "\n"
    (tmp_path / "t.jinja").write_text("{{ ''.__class__.__mro__ }}")
    done = pyllama_command("chat", bpe_bin, "-p", "why", "--chat-template", tmp_path / "t.jinja")
    assert done.code == 1 and "template" in one_line(done.err)


def test_chat_without_a_template(pyllama_command, tmp_path: Path) -> None:
    models.make_hf_model_numpy(tmp_path / "m", vocab_size=403, tokenizer="bpe")
    converter.convert(tmp_path / "m", tmp_path / "m.bin")
    done = pyllama_command("chat", tmp_path / "m.bin", "-p", "x")
    assert done.code == 1 and "no chat template" in one_line(done.err)


class Terminal:
    """A command on a pseudo-terminal of its own."""

    def __init__(self, *arguments: object, home: Path) -> None:
        environment = {**os.environ, "XDG_STATE_HOME": str(home), "TERM": "dumb"}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)      # a shell's background, where the tests may run, has it ignored
            os.execve(sys.executable, [sys.executable, "-m", "pyllama", *map(str, arguments)], environment)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", 24, 100, 0, 0))
        self.shown = ""

    def read_until(self, text: str, timeout: float = 60) -> str:
        """What came until text did, and it."""
        end = time.monotonic() + timeout
        while text not in self.shown:
            assert time.monotonic() < end, f"expected {text!r}, found {self.shown!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    data = os.read(self.fd, 4096)
                except OSError:
                    data = b""
                assert data, f"expected {text!r}, found the end after {self.shown!r}"
                self.shown += data.decode("utf-8", "replace")
        head, _, self.shown = self.shown.partition(text)
        return head + text

    def send(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait(self, timeout: float = 30) -> int:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.shown += os.read(self.fd, 4096).decode("utf-8", "replace")
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        raise AssertionError(f"the command did not end: {self.shown!r}")


def test_chat_on_a_terminal(bpe_bin: Path, tmp_path: Path) -> None:
    terminal = Terminal("chat", bpe_bin, "--temperature", 0, "-n", 5, home=tmp_path)
    terminal.read_until("> ")
    for line in ("first question", "second"):
        terminal.send(line + "\n")
        terminal.read_until(line)
        terminal.read_until("> ")
    terminal.send("\x04")
    assert terminal.wait() == 0
    history = tmp_path / "ak42" / "chat_history"
    assert "first question" in history.read_text() and history.stat().st_mode & 0o077 == 0


def test_ctrl_c_ends_an_answer_and_then_the_talk(slow_bin: Path, tmp_path: Path) -> None:
    # with most seeds the model soon says its end token; with this one not in 3,000 tokens, and never the prompt
    terminal = Terminal("chat", slow_bin, "-n", 8000, "--temperature", 2, "--seed", 10, "-t", 1, home=tmp_path)
    terminal.read_until("> ")
    terminal.send("go on\n")
    terminal.read_until("go on")
    time.sleep(1.0)
    terminal.send("\x03")
    terminal.read_until("\n> ")
    time.sleep(1.0)             # Python's readline overlooks a signal that comes after its prompt and before it waits for a key
    terminal.send("\x03")
    assert terminal.wait() == 130


def test_ctrl_c_before_an_answer_s_first_word_ends_the_answer_alone(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    lines = iter(["go on"])

    def read(prompt: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    class Interrupted:
        chat_template = ""
        session = contextlib.nullcontext

        def stream_chat_with(self, *_: object) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr("pyllama.conversation._history", contextlib.nullcontext)
    converse(Interrupted(), [], GenerationOptions(), False)       # goes on to the next question, and to the end of input
    assert capsys.readouterr().out == "\n"


def test_control_characters_are_shown_on_a_terminal_only() -> None:
    """write() escapes what would move the cursor where stdout is a terminal, and nothing in a pipe."""
    code = "from pyllama.console import write; write('a\\x1b[2Jb\\n')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stdout == b"a\x1b[2Jb\n"
    parent, child = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stdout=child, check=True)
    assert os.read(parent, 100) == b"a\\x1b[2Jb\r\n"
    os.close(parent)
    os.close(child)


def test_a_progress_bar_on_a_terminal_only(pyllama_command, tiny_bpe: Path, tmp_path: Path) -> None:
    assert "%" not in pyllama_command("convert", tiny_bpe, "-o", tmp_path / "a.bin").err
    terminal = Terminal("convert", tiny_bpe, "-o", tmp_path / "b.bin", home=tmp_path)
    assert terminal.wait() == 0 and "%" in terminal.shown


def test_an_argument_with_a_nul_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """No shell can give one, a caller of main can."""
    from pyllama.cli import main

    for arguments in (["inspect", "a\0b"], ["convert", ".", "-o", "a\0b.bin"]):
        assert main(arguments) == 2
        assert one_line(capsys.readouterr().err).startswith("pyllama: expected arguments without a NUL, found a\\x00b")


# ---- signals and pipes ----


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_generation(slow_bin: Path, number: int, code: int) -> None:
    command = [sys.executable, "-m", "pyllama", "generate", slow_bin, "-p", "x", "-n", "8000", "--temperature", "2", "-t", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.read(1)
    start = time.monotonic()
    process.send_signal(number)
    _out, err = process.communicate(timeout=30)
    assert process.returncode == code and time.monotonic() - start < 5 and "Traceback" not in err


@pytest.mark.parametrize("start", [["-m", "pyllama"], ["-c", "import sys; from pyllama.__main__ import main; sys.exit(main())"]])
def test_ctrl_c_while_the_command_loads(tmp_path: Path, start: list[str]) -> None:
    """A module that it imports, here one that is interrupted; and the package itself, on the way to its __main__, loads none of its own."""
    (tmp_path / "click.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n")
    path = os.pathsep.join([str(tmp_path), str(Path(pyllama.__file__).parents[1])])
    done = subprocess.run([sys.executable, *start, "--help"], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True,
                          timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    code = "import sys, pyllama; print([name for name in sys.modules if name.startswith('pyllama.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_reader_that_goes_away(slow_bin: Path) -> None:
    command = [sys.executable, "-m", "pyllama", "generate", slow_bin, "-p", "x", "-n", "8000", "--temperature", "2", "-t", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=30) == 74 and "Traceback" not in err and "Exception" not in err


# ---- perplexity, doctor ----


def test_perplexity(pyllama_command, bpe_bin: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 10)
    done = pyllama_command("perplexity", bpe_bin, tmp_path / "text.txt", "--n-ctx", 64, "--json")
    found = json.loads(done.out)
    assert done.code == 0 and done.err == "" and found["n_ctx"] == 64 and found["perplexity"] > 1
    shown = pyllama_command("perplexity", bpe_bin, "-", "--n-ctx", 64, input=(tmp_path / "text.txt").read_text())
    assert shown.out == f"perplexity {found['perplexity']:.4f}\n" and "tokens scored" in shown.err
    (tmp_path / "empty.txt").write_text("")
    assert "nothing to evaluate" in one_line(pyllama_command("perplexity", bpe_bin, tmp_path / "empty.txt").err)


def test_doctor(pyllama_command) -> None:
    found = json.loads(pyllama_command("doctor", "--json").out)
    assert found["version"] == found["library"] == pyllama.__version__ and found["problems"] == []
    assert (
        found["build"]["isa"] in found["build"]["isas"]
        and "generic" in found["build"]["isas"]
        and int(found["build"]["n_threads"]) >= 1
        and found["build"]["why"]
    )
    shown = pyllama_command("doctor", "--measure")
    assert shown.code == 0 and "read_gb_per_s" in shown.out


# ---- README ----

README = ROOT / "README.md"


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def readme_folder(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which README's commands find what they name: the sources, what `make lib` built, and the default model."""
    if not (ROOT / "build" / "run").exists():
        pytest.skip("build/run is not built; run `make lib`")
    folder = tmp_path_factory.mktemp("readme")
    (folder / "build" / "models").mkdir(parents=True)
    for name in ("runtime_c", "examples", "build/run", "build/libak42.a"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "build" / "models" / smollm2_gguf.name).symlink_to(smollm2_gguf)
    return folder


def run_readme_command(command: str, folder: Path) -> subprocess.CompletedProcess:
    """Runs one command as it is written. make and pip work on the project's own folder: what would start these very tests or
    change this very environment is only planned here (-n, --dry-run) and run by the slow tests below, in a clone. `make bench` is
    planned everywhere: it builds the peer and measures for an hour."""
    where = folder
    if command.startswith("make"):
        where, command = ROOT, command.replace("make", "make -n", 1) if command.startswith(("make test", "make bench")) else command
    elif command.startswith("pip install"):
        where, command = ROOT, f"{sys.executable} -m {command} --dry-run --no-deps --no-build-isolation --disable-pip-version-check"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        command, shell=True, cwd=where, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900
    )


def test_every_command_of_the_readme(readme_folder: Path) -> None:
    """In order, in one folder; then the Python example."""
    commands = [line for block in code_blocks("sh") for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    assert {"make run", "make test"} <= set(commands) and len(commands) > 10
    for command in commands:
        done = run_readme_command(command, readme_folder)
        assert done.returncode == 0, (command, done.stdout[-1000:], done.stderr[-1000:])
        assert "Traceback" not in done.stderr
        if command.startswith("make run"):
            assert len(done.stdout.split()) > 10 and "tokens/s" in done.stderr, (command, done.stdout, done.stderr)
    for block in code_blocks("python"):
        done = subprocess.run([sys.executable, "-c", block], cwd=readme_folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_commands_that_the_readme_names_in_passing() -> None:
    """make targets and --type names in the running text exist."""
    text = README.read_text()
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets
    for name in re.findall(r"`pyllama ([a-z]+)", text):
        assert name in COMMANDS
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / path).exists(), path


# ---- README, in a fresh clone ----

@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a clone of this working tree would hold: every file that git does not ignore, nothing that was made."""
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git checkout here, so nothing to clone")
    folder = tmp_path_factory.mktemp("clone") / "ak42"
    for name in filter(None, listed.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, folder / name)
    yield folder
    shutil.rmtree(folder.parent, ignore_errors=True)


def run_as_written(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """A README command in a shell of its own, with nothing of the running environment but the machine's."""
    assert command in [line for block in code_blocks("sh") for line in block.splitlines()], command
    inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "PYTEST_ADDOPTS")}
    return subprocess.run(
        command, shell=True, cwd=folder, env={**inherited, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=3000
    )


@pytest.mark.slow
def test_make_test_runs_in_a_fresh_clone(clone: Path) -> None:
    """Makes the environment, installs the test extra, builds everything and runs pytest: on one file, lest these tests start
    themselves. PIP_ARGS goes on to pip where it is set (README: PyPI's torch is the CUDA build)."""
    done = run_as_written("make test", clone, PYTEST_ARGS="tests/test_config.py")
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    assert re.search(r"\b\d{2,} passed", done.stdout), done.stdout[-500:]
    for name in (".venv/bin/pyllama", "build/run", "build/libak42.a", "build/libak42.so", "build/check_kernels"):
        assert (clone / name).exists(), name


@pytest.mark.slow
def test_pip_install_works_in_a_clean_environment(clone: Path, tmp_path: Path) -> None:
    """Installed from the folder, used away from it."""
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / "bin"
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    done = run_as_written("pip install .", clone, PATH=path)
    assert done.returncode == 0, done.stderr[-2000:]
    away = tmp_path / "elsewhere"
    away.mkdir()
    code = "import pyllama, converter; print(pyllama.__version__); print(pyllama.__file__); print(converter.__file__)"
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    used = subprocess.run([programs / "python", "-c", code], cwd=away, env=inherited, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    version, *files = used.stdout.splitlines()
    assert version == pyllama.__version__ and all(Path(file).is_relative_to(tmp_path / "venv") for file in files)
    shown = subprocess.run([programs / "pyllama", "doctor", "--json"], cwd=away, env=inherited, capture_output=True, text=True)
    assert shown.returncode == 0 and json.loads(shown.stdout)["problems"] == [], shown
