"""ak42 beside llama.cpp, in one run: `make bench`, or `python benchmarks/compare.py --help`.

Makes or fetches the models, builds the peer (llama-cpp-python from PyPI, compiled for this machine) in a virtual environment of its
own under build/, and runs both in turns: A B B A ..., each leg a process of its own. It prints one line a row with both
sides' tokens/s and the median of the per-pair ratios, and writes the same as JSON and as a chart. It is a benchmark, not a test:
it asserts nothing. Times on a shared machine mean little alone; the ratios are what it is for.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
PEER_PACKAGE = "llama-cpp-python==0.3.36"
PEER_BUILD_FLAGS = {
    "native": "-DGGML_NATIVE=ON",
    "avx2": "-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON",
}
# The peer is at its best with flash attention or without, with weights rearranged as it loads them or as they are in the file.
PEER_SETTINGS = tuple(("--flash-attention", attention, "--repack", repack) for attention in ("0", "1") for repack in ("1", "0"))
# Random weights in the shape of TinyLlama-1.1B: a model that no cache holds.
SHAPE_1B = dict(dim=2048, hidden_dim=5632, n_layers=22, n_heads=32, n_kv_heads=4, vocab_size=32000)


@dataclass(frozen=True)
class Row:
    """One line of the table: a model in a type, and what is timed on it."""

    model: str
    type: str
    peer_type: str
    prompt: int = 512
    generate: int = 128
    depth: int = 0
    batch: int = 0

    @property
    def name(self) -> str:
        """As printed."""
        parts = [self.model, self.type]
        if self.depth:
            parts.append(f"at {self.depth}")
        if self.batch:
            parts.append(f"{self.batch} at once")
        return " ".join(parts)


ROWS = (
    Row("1.1B", "q8_0", "q8_0"),
    Row("1.1B", "q4_0", "q4_0"),
    Row("1.1B", "int8", "q8_0"),
    Row("1.1B", "f32", "f32", generate=32),
    Row("1.1B", "bf16", "bf16", generate=64),
    Row("1.1B", "q4_k", "q4_k"),
    Row("1.1B", "q6_k", "q6_k"),
    Row("1.1B", "nf4", "q4_0"),
    Row("smollm2", "q8_0", "q8_0"),
    Row("smollm2", "q4_0", "q4_0"),
    Row("smollm2", "q8_0", "q8_0", prompt=0, generate=64, depth=2048),
    Row("smollm2", "q8_0", "q8_0", prompt=4096, generate=0),
    Row("1.1B", "q8_0", "q8_0", prompt=0, generate=128, batch=8),
    Row("1.1B", "q4_k", "q4_k", prompt=0, generate=128, batch=8),
)


@dataclass
class Result:
    """What a row came to; rates in tokens/s, fractions of the limits measured in the same legs."""

    row: Row
    ours: list[dict] = field(default_factory=list)
    peer: list[dict] = field(default_factory=list)

    def median(self, side: str, key: str) -> float:
        """Median rate of one side."""
        return statistics.median(leg[key] for leg in getattr(self, side))

    def ratios(self, key: str) -> list[float]:
        """Of each pair, in ascending order; empty where it was not timed."""
        pairs = [(a[key], b[key]) for a, b in zip(self.ours, self.peer, strict=True)]
        return sorted(a / b for a, b in pairs) if all(a and b for a, b in pairs) else []

    def ratio(self, key: str) -> float | None:
        """Median of the per-pair ratios; None where it was not timed."""
        ratios = self.ratios(key)
        return statistics.median(ratios) if ratios else None

    def fraction(self, key: str) -> float | None:
        """Median of a fraction that our legs state."""
        values = [leg[key] for leg in self.ours if leg.get(key)]
        return statistics.median(values) if values else None


# ---- models ----


def random_folder(folder: Path) -> Path:
    """A Hugging Face folder of random bf16 weights in SHAPE_1B; made once."""
    import numpy as np

    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    s = SHAPE_1B
    head_dim = s["dim"] // s["n_heads"]
    shapes = {"model.embed_tokens.weight": (s["vocab_size"], s["dim"]), "model.norm.weight": (s["dim"],)}
    for i in range(s["n_layers"]):
        p = f"model.layers.{i}."
        shapes |= {
            p + "input_layernorm.weight": (s["dim"],),
            p + "post_attention_layernorm.weight": (s["dim"],),
            p + "self_attn.q_proj.weight": (s["n_heads"] * head_dim, s["dim"]),
            p + "self_attn.k_proj.weight": (s["n_kv_heads"] * head_dim, s["dim"]),
            p + "self_attn.v_proj.weight": (s["n_kv_heads"] * head_dim, s["dim"]),
            p + "self_attn.o_proj.weight": (s["dim"], s["n_heads"] * head_dim),
            p + "mlp.gate_proj.weight": (s["hidden_dim"], s["dim"]),
            p + "mlp.up_proj.weight": (s["hidden_dim"], s["dim"]),
            p + "mlp.down_proj.weight": (s["dim"], s["hidden_dim"]),
        }
    shapes["lm_head.weight"] = (s["vocab_size"], s["dim"])
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(42)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            weights = np.ones(shape, np.float32) if len(shape) == 1 else rng.standard_normal(shape, np.float32) * np.float32(0.02)
            file.write((weights.view(np.uint32) >> 16).astype("<u2").tobytes())
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": s["dim"], "intermediate_size": s["hidden_dim"],
        "num_hidden_layers": s["n_layers"], "num_attention_heads": s["n_heads"], "num_key_value_heads": s["n_kv_heads"],
        "head_dim": head_dim, "vocab_size": s["vocab_size"], "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": False, "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(byte_tokenizer(s["vocab_size"])))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def byte_tokenizer(vocab_size: int) -> dict:
    """A byte-level tokenizer.json without merges, so that the peer accepts the file: 3 specials, 256 bytes, fillers."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]
    tokens = ["<unk>", "<s>", "</s>", *letters, *[f"filler{i}" for i in range(vocab_size - 259)]]
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "added_tokens": [
            {"id": i, "content": tokens[i], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True}
            for i in range(3)
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
            "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)}, "merges": [],
        },
    }  # fmt: skip


def model_file(model: str, type_name: str, suffix: str) -> Path:
    """The model in a type as .bin (v3 panel16) or .gguf, converted once."""
    import converter
    from pyllama.quantize import encode

    out = BUILD / "bench" / f"{model}-{type_name}{suffix}"
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    if model == "1.1B":
        source = random_folder(BUILD / "bench" / "1.1B-hf")
    else:
        source = BUILD / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
        if not source.exists():
            subprocess.run([sys.executable, str(ROOT / "examples" / "fetch_model.py"), str(source)], check=True)
    say(f"converting {source.name} to {out.name}")
    converter.convert(source, out, type=type_name, format="gguf" if suffix == ".gguf" else "ak42-v3", encoder=encode)
    return out


# ---- the peer ----


def peer_python(flavour: str) -> Path:
    """The interpreter of the peer's virtual environment, built once (many minutes)."""
    venv = BUILD / f"peer-{flavour}"
    python = venv / "bin" / "python"
    if (venv / "built").exists():
        return python
    say(f"building {PEER_PACKAGE} for {flavour}; this takes many minutes, once")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    environment = os.environ | {"CMAKE_ARGS": PEER_BUILD_FLAGS[flavour], "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count())}
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-binary", "llama-cpp-python", PEER_PACKAGE]
    subprocess.run(command, check=True, env=environment)
    (venv / "built").touch()
    return python


def leg(command: list[str], environment: dict[str, str] | None = None) -> dict:
    """Runs one leg and returns its JSON."""
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | (environment or {}))
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr.strip()}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def arguments_of(row: Row, threads: int) -> list[str]:
    """The part of a leg's command line that both sides share."""
    values = {"-p": row.prompt, "-n": row.generate, "-d": row.depth, "-b": row.batch, "-t": threads}
    return [text for key, value in values.items() for text in (key, str(value))]


def run_row(row: Row, options: argparse.Namespace) -> Result:
    """Both sides in turns, after a pass in which the peer's fastest setting is found."""
    ours = [sys.executable, str(ROOT / "benchmarks" / "ours.py"), str(model_file(row.model, row.type, ".bin")),
            *arguments_of(row, options.threads)]  # fmt: skip
    if options.isa:
        ours += ["--isa", options.isa]
    peer = [str(peer_python("avx2" if options.isa == "avx2" else "native")), str(ROOT / "benchmarks" / "peer_llama_cpp.py"),
            str(model_file(row.model, row.peer_type, ".gguf")), *arguments_of(row, options.threads)]  # fmt: skip
    probes = {setting: leg([*peer, *setting]) for setting in PEER_SETTINGS}
    result = Result(row)
    best = {key: max(probes, key=lambda setting, key=key: probes[setting][key]) for key in ("prompt", "generate")}
    for i in range(options.pairs):
        legs = [lambda: result.ours.append(leg(ours)), lambda: result.peer.append(peer_leg(peer, best))]
        for run in legs if i % 2 == 0 else reversed(legs):
            run()
    return result


def peer_leg(command: list[str], best: dict[str, tuple[str, ...]]) -> dict:
    """The peer's leg; where its prompt and its generation want different settings it runs once with each."""
    if best["prompt"] == best["generate"]:
        return leg([*command, *best["prompt"]])
    return {key: leg([*command, *setting])[key] for key, setting in best.items()}


# ---- output ----


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def cells(result: Result) -> Iterator[list[str]]:
    """The table's lines for a row: one for the prompt, one for generation."""
    for key, limit in (("prompt", "peak_fraction"), ("generate", "bandwidth_fraction")):
        ratio = result.ratio(key)
        if ratio is None:
            continue
        fraction, ratios = result.fraction(limit), result.ratios(key)
        what = f"prompt {result.row.prompt}" if key == "prompt" else "generate"
        yield [result.row.name, what, f"{result.median('ours', key):.1f}", f"{result.median('peer', key):.1f}", f"{ratio:.2f}x",
               f"{ratios[0]:.2f} to {ratios[-1]:.2f}",
               f"{100 * fraction:.0f}% of {'peak' if key == 'prompt' else 'bandwidth'}" if fraction else ""]  # fmt: skip


def as_json(result: Result) -> dict:
    """A row of the report: every leg, and what the pairs came to."""
    medians = {key: result.ratio(key) for key in ("prompt", "generate")}
    return asdict(result) | {"ratio": medians, "ratios": {key: result.ratios(key) for key in medians}}


def print_table(lines: list[list[str]]) -> None:
    """Columns that line up."""
    table = [["model", "test", "ak42 t/s", "llama.cpp t/s", "ratio", "of pairs", "of the machine's limit"], *lines]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        cells = zip(line, widths, strict=True)
        print("  ".join(cell.ljust(w) if i in (0, 1, 6) else cell.rjust(w) for i, (cell, w) in enumerate(cells)))


def write_chart(lines: list[list[str]], path: Path) -> None:
    """Ratios as bars beside the line at 1."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [f"{line[0]}, {line[1]}" for line in lines][::-1]
    ratios = [float(line[4][:-1]) for line in lines][::-1]
    figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(lines) + 1.2))
    bars = axes.barh(names, ratios, color=["#2a6f97" if r >= 1 else "#b56576" for r in ratios])
    axes.bar_label(bars, [f"{r:.2f}x" for r in ratios], padding=3)
    axes.axvline(1, color="#333333", linewidth=1)
    axes.set_xlabel("tokens/s of ak42 / tokens/s of llama.cpp, same weights, same run")
    axes.set_xlim(0, max(ratios) * 1.15)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=144)


def main() -> None:
    """Runs the rows that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5, help="legs of each side, at least 5 for figures to be reported")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", help="force our kernels; avx2 is compared with llama.cpp built for AVX2")
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--out", type=Path, default=BUILD / "bench" / "compare", help="PATH.json and PATH.png are written")
    options = parser.parse_args()
    results, lines = [], []
    for row in ROWS:
        if options.only not in row.name:
            continue
        say(f"{row.name} ...")
        result = run_row(row, options)
        results.append(result)
        lines += cells(result)
    print_table(lines)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": platform.machine(), "peer": PEER_PACKAGE, "threads": options.threads, "isa": options.isa or "auto",
              "rows": [as_json(result) for result in results]}  # fmt: skip
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=1))
    if lines:
        write_chart(lines, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
