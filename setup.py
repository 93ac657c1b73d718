"""Builds and describes the distribution `ak42`: the packages converter and pyllama, and the extension pyllama._ak42 that holds the
C library. pyproject.toml names what a build needs; pyllama/_build.py lists what is compiled; this file joins them. Called by pip,
by `make wheel`, and by `make` for the extension in place."""

from __future__ import annotations

import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = os.path.dirname(os.path.abspath(__file__))

# What running and converting needs. Everything else is an extra.
REQUIRES = [
    "cffi>=1.16",  # the border to C at run time; 1.16 is the first for Python 3.12
    "numpy>=1.23",  # logits and, in the converter, tensors
    "click>=8.1",  # the command line
    "jinja2>=3.1.6",  # chat templates; older sandboxes have known holes
    "tqdm>=4.60",  # progress bars
]
EXTRAS = {
    # Oracles and tools of the tests. torch is pinned: logits are compared with it. From PyPI it is the CUDA build, gigabytes; with
    # PyTorch's CPU index as an extra index, pip takes the CPU build.
    "test": [
        "pytest>=8",
        "pytest-xdist>=3.6",  # `make test` keeps two cores busy; 3.6 runs tests in a worker's main thread, where signals arrive
        "hypothesis>=6.100",
        "torch==2.13.0",
        "transformers>=5",
        "tokenizers>=0.21",
        "tiktoken>=0.8",  # what Llama 3's own tokenizer.model is compared with
        "safetensors>=0.5",
        "sentencepiece>=0.2",
        "protobuf>=4",  # transformers reads sentencepiece models with it
        "gguf>=0.19",
        "bitsandbytes==0.50.2",  # makes the checkpoints that it has quantised, and dequantises them; pinned: compared bit for bit
        "peft>=0.21",  # merges the adapters that --lora is compared with
        "setuptools>=77",  # builds the wheel that a test installs
    ],
    # The benchmarks' pictures. Their peer is built by benchmarks/compare.py in an environment of its own.
    "chart": ["matplotlib>=3.8"],
}


def version() -> str:
    with open(os.path.join(ROOT, "pyllama", "__init__.py"), encoding="utf-8") as file:
        return re.search(r'^__version__ = "([^"]+)"$', file.read(), re.MULTILINE).group(1)


def readme() -> str:
    path = os.path.join(ROOT, "README.md")
    if not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as file:
        return file.read()


class ParallelBuild(build_ext):
    """Compiles an extension's files side by side, and only those that are older than their source or than any header. The objects
    stay in the project's build folder, so that installing, building in place and making a wheel compile each file once."""

    def build_extension(self, ext) -> None:
        compile_all = self.compiler.compile
        objects = os.path.join("build", f"extension-{sys.implementation.cache_tag}")
        changed = max((os.path.getmtime(path) for path in ext.depends), default=0.0)

        def compile_one(source: str, options: dict) -> str:
            inside = not os.path.isabs(source) and source.startswith("runtime_c")
            options = {**options, "output_dir": objects} if inside else options
            (made,) = self.compiler.object_filenames([source], output_dir=options["output_dir"])
            if inside and os.path.exists(made) and os.path.getmtime(made) > max(changed, os.path.getmtime(source)):
                return made
            return compile_all([source], **options)[0]

        def compile_parallel(sources: list, **options) -> list:
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                return list(pool.map(lambda source: compile_one(source, options), sources))

        self.compiler.compile = compile_parallel
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile = compile_all


# Free-threaded Python has no stable ABI; its wheels are for one version.
STABLE_ABI = {} if getattr(sys, "abiflags", "").startswith("t") else {"bdist_wheel": {"py_limited_api": "cp310"}}

setup(
    name="ak42",
    version=version(),
    description="Converts and runs Llama-family language models: one file, C inside, no torch",
    long_description=readme(),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["converter", "converter.*", "pyllama", "pyllama.*"]),
    cffi_modules=["pyllama/_build.py:ffibuilder"],
    cmdclass={"build_ext": ParallelBuild},
    options=STABLE_ABI,
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["pyllama=pyllama.__main__:main"]},
    zip_safe=False,
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C",
        "Programming Language :: Python :: 3",
    ],
)
