"""Converts a Hugging Face folder for build/run, once: `make run MODEL=folder` calls it.

    python examples/prepare_model.py FOLDER OUT_FOLDER

Prints the path of the model file, which is converted anew only where the folder holds something newer."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys


def converted_path(folder: str, out_folder: str) -> str:
    """Folders of one name in different places do not meet."""
    whole = os.path.realpath(folder)
    return os.path.join(out_folder, f"{os.path.basename(whole)}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:8]}.bin")


def newest(folder: str) -> float:
    return max((entry.stat().st_mtime for entry in os.scandir(folder) if entry.is_file()), default=0.0)


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: prepare_model.py FOLDER OUT_FOLDER", file=sys.stderr)
        return 2
    folder, out_folder = sys.argv[1:]
    out = converted_path(folder, out_folder)
    if not os.path.exists(out) or os.path.getmtime(out) < newest(folder):
        os.makedirs(out_folder, exist_ok=True)
        command = [sys.executable, "-m", "pyllama", "convert", folder, "-o", out, "--force"]
        code = subprocess.run(command, stdout=sys.stderr).returncode
        if code:
            return code
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
