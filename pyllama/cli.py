"""The command `pyllama`: convert, inspect, verify, generate, chat, tokenize, perplexity, bench, doctor. Each command reads its
options, calls the package's public functions and prints; console.py turns what they raise into exit codes. Results go to stdout,
everything else to stderr."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .console import progress_bar, read_input, run, say, write
from .errors import printable
from .sampling import GenerationOptions

if TYPE_CHECKING:
    from .generate import Generation, Stream
    from .model import Model

WEIGHT_TYPES = (
    "f32", "f16", "bf16", "int8", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl",
    "iq4_xs", "mxfp4", "nf4", "nf4-dq",
)
TYPES = ("keep", *WEIGHT_TYPES, "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m")
FORMATS = ("auto", "ak42", "ak42-v0", "ak42-v1", "ak42-v2", "ak42-v3", "gguf", "hf")

MODEL_FILE = click.Path(exists=True, dir_okay=True, path_type=str)
TEXT_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=str)
SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def options(*chosen: Callable) -> Callable[[Callable], Callable]:
    """Several options at once, in the order in which help shows them."""

    def decorate(function: Callable) -> Callable:
        for option in reversed(chosen):
            function = option(function)
        return function

    return decorate


class IsaName(click.ParamType):
    """The kernels that this build holds, asked when the option is used."""

    name = "name"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> str:
        from ._native import isa_names

        names = isa_names()
        if value not in names:
            self.fail(f"{value!r:.40} is not one of {', '.join(names)}", parameter, context)
        return value


model_options = options(
    click.option("-t", "--n-threads", type=click.IntRange(min=1, max=1024), help="Threads.  [default: the physical cores]"),
    click.option("--n-ctx", type=click.IntRange(min=1), help="Context in tokens.  [default: at most 4096]"),
    click.option("--isa", type=IsaName(), help="Kernels; `pyllama doctor` lists them.  [default: the best]"),
    click.option("--kv-type", type=click.Choice(["f32", "f16", "bf16", "int8"]), help="Type of cached keys and values."),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to compute."),
    click.option("--no-mmap", is_flag=True, help="Read the file into memory instead of mapping it."),
)

_defaults = GenerationOptions()
generation_options = options(
    click.option("-n", "--max-new-tokens", type=click.IntRange(min=0), default=_defaults.max_new_tokens, show_default=True),
    click.option("--temperature", type=click.FloatRange(min=0), default=_defaults.temperature, show_default=True, help="0: greedy"),
    click.option("--top-k", type=click.IntRange(min=0), default=_defaults.top_k, show_default=True, help="0: off."),
    click.option("--top-p", type=click.FloatRange(0, 1), default=_defaults.top_p, show_default=True, help="1: off."),
    click.option("--min-p", type=click.FloatRange(0, 1), default=_defaults.min_p, show_default=True, help="0: off."),
    click.option(
        "--repetition-penalty",
        type=click.FloatRange(min=0, min_open=True),
        default=_defaults.repetition_penalty,
        show_default=True,
        help="1: off.",
    ),
    click.option("--seed", type=click.IntRange(min=0, max=2**64 - 1), help="The same seed gives the same text.  [default: random]"),
    click.option("--stop", multiple=True, metavar="TEXT", help="End before this text; may be given more than once."),
)

OPTION_NAMES = {field.name for field in dataclasses.fields(GenerationOptions)}


@click.group(context_settings=SETTINGS, no_args_is_help=False)
@click.version_option(__version__, prog_name="pyllama", message="%(prog)s %(version)s")
def cli() -> None:
    """Convert and run Llama-family language models.

    \b
    Examples:
      pyllama convert SmolLM2-135M-Instruct/ -o model.bin
      pyllama chat model.bin
      pyllama generate model.bin -p "Once upon a time" -n 100
      pyllama inspect model.bin
      pyllama bench model.bin

    Exit codes: 0; 1 bad input; 2 usage; 3 refused; 74 input or output failed; 130 interrupted; 143 terminated.
    """


@cli.command()
@click.argument("source", metavar="SRC", type=MODEL_FILE)
@click.option("-o", "--out", required=True, type=click.Path(path_type=str), metavar="OUT", help="The file or folder to write.")
@click.option("--type", "weight_type", type=click.Choice(TYPES), default="keep", show_default=True,
              help="Of every matrix; keep: as in SRC; q4_k_s, q4_k_m and q5_k_m are llama.cpp's mixes.")
@click.option("--tensor-type", "tensor_types", multiple=True, metavar="PATTERN=TYPE",
              help="Of matrices whose GGUF name matches: blk.*.attn_v=q8_0; may be given more than once.")
@click.option("--keep-head", type=click.Choice(WEIGHT_TYPES),
              help="Of the matrix that makes the logits: output, or the embedding where it is both.")
@click.option("--format", "out_format", type=click.Choice(FORMATS), default="auto", show_default=True, help="auto: by OUT's name.")
@click.option("--layout", type=click.Choice(["panel16", "rows"]), default="panel16", show_default=True,
              help="Of ak42 v3 matrices: panels that the runtime computes from where they lie, or GGUF's rows.")
@click.option("--strict", is_flag=True, help="v1, v2: byte for byte as llama2.c's own exporter writes.")
@click.option("--force", is_flag=True, help="Replace OUT if it is there.")
@click.option("--tokenizer", type=MODEL_FILE, metavar="FILE", help="The vocabulary, where SRC has none or another is wanted.")
@click.option("--lora", type=click.Path(path_type=str), metavar="FOLDER",
              help="A PEFT adapter (LoRA, DoRA) to merge; with other tokens than SRC it brings its own tokenizer.")
@click.option("-v", "--verbose", is_flag=True, help="What encoding cost each tensor, instead of a table of types and roles.")
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
def convert(
    source: str,
    out: str,
    weight_type: str,
    tensor_types: tuple[str, ...],
    keep_head: str | None,
    out_format: str,
    layout: str,
    strict: bool,
    force: bool,
    tokenizer: str,
    lora: str | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Write a model in another format or type.

    SRC is a folder of Hugging Face's or Meta's, a GGUF file, a llama2.c checkpoint (ckpt.pt) or an ak42 file. OUT's name decides
    the format: .bin is ak42, .gguf is GGUF, a folder or a name without suffix is a Hugging Face folder.

    \b
    Examples:
      pyllama convert SmolLM2-135M-Instruct/ -o model.bin
      pyllama convert model.gguf -o model.bin --type q8_0
      pyllama convert Llama-3.2-1B/ -o small.gguf --type q4_k_m --keep-head q8_0
      pyllama convert model.bin -o model.gguf
      pyllama convert stories15M.bin -o stories.gguf --tokenizer tokenizer.bin
      pyllama convert SmolLM2-135M/ -o tuned.gguf --lora my-adapter/ --type q8_0
    """
    import converter

    from .losses import every_tensor, summary
    from .quantize import encode

    with progress_bar("convert", "B") as progress:
        report = converter.convert(
            source,
            out,
            type=weight_type,
            format=out_format,
            layout=layout,
            strict=strict,
            force=force,
            tokenizer=tokenizer,
            lora=lora,
            progress=progress,
            encoder=encode,
            tensor_types=tensor_types,
            keep_head=keep_head,
        )
    for warning in report.warnings:
        say(f"pyllama: warning: {warning}")
    if as_json:
        print_json(report.to_dict())
    else:
        for line in every_tensor(report) if verbose else summary(report):
            say(line)
        say(f"{report.out}: {report.format}, {report.type}, {report.tensors} tensors, {report.bytes / 1e6:.1f} MB")


@cli.command()
@click.argument("path", metavar="FILE|FOLDER", type=MODEL_FILE)
@click.option("--n-ctx", type=click.IntRange(min=1), help="Context for the memory needed.  [default: at most 4096]")
@click.option("--json", "as_json", is_flag=True, help="As JSON, with all metadata and tensors.")
def inspect(path: str, n_ctx: int | None, as_json: bool) -> None:
    """Say what a file or folder is, from its headers alone.

    \b
    Examples:
      pyllama inspect model.gguf
      pyllama inspect SmolLM2-135M-Instruct/ --json
    """
    import converter

    from .inspection import described

    found = converter.inspect(path, context=n_ctx)
    if as_json:
        print_json(found)
    else:
        for line in described(path, found):
            click.echo(line)


@cli.command()
@click.argument("path", metavar="FILE|FOLDER", type=MODEL_FILE)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def verify(path: str, as_json: bool) -> None:
    """Read all of a model and say whether it is whole.

    Every extent, every checksum that the format has, the config, the shapes, the vocabulary, and that each weight is a number. Exit
    code 0: whole; 1: the one line says what is wrong.

    \b
    Examples:
      pyllama verify model.bin
      pyllama verify model.gguf --json
    """
    import converter

    with progress_bar("verify", "B") as progress:
        found = converter.verify(path, progress=progress)
    for warning in found["warnings"]:
        say(f"pyllama: warning: {warning}")
    if as_json:
        print_json(found)
    else:
        checks = "checksums, " if found["checksums"] else ""
        click.echo(f"{path}: whole: {found['format']}, {found['tensors']} tensors, {found['bytes'] / 1e6:.1f} MB; checked {checks}"
                   "extents, config, shapes, vocabulary, finite weights")


@cli.command()
@click.argument("path", metavar="MODEL", type=MODEL_FILE)
@click.option("-p", "--prompt", default="", help="The text to continue; - reads it from stdin.  [default: begin at BOS]")
@click.option("--parse-special", is_flag=True, help="Special tokens that the prompt spells out are special tokens.")
@click.option("--ids", is_flag=True, help="Print the new token ids instead of text, on one line.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
@click.option("--raw", is_flag=True, help="Print control characters as they are, on a terminal too.")
@generation_options
@model_options
def generate(path: str, prompt: str, parse_special: bool, ids: bool, as_json: bool, raw: bool, **settings: Any) -> None:
    """Continue a text.

    \b
    Examples:
      pyllama generate model.bin -p "Once upon a time"
      pyllama generate model.bin -p "The capital of France is" --temperature 0 -n 10
      echo "def fib(n):" | pyllama generate model.bin -p - --stop "\\n\\n"
    """
    wanted, opening = split_settings(settings)
    with open_model(path, opening) as model:
        text = read_input() if prompt == "-" else prompt
        given = model.encode(text, parse_special=True) if parse_special else text
        with model.stream(given, **wanted) as stream:
            print_stream(stream, "ids" if ids else "json" if as_json else "text", raw)


@cli.command()
@click.argument("path", metavar="MODEL", type=MODEL_FILE)
@click.option("-p", "--prompt", help="Ask this, print the answer and end; - reads it from stdin.")
@click.option("--system", help="The system message.")
@click.option("--chat-template", type=TEXT_FILE, metavar="FILE", help="A Jinja template instead of the model's own.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object (one question).")
@click.option("--raw", is_flag=True, help="Print control characters as they are, on a terminal too.")
@generation_options
@model_options
def chat(
    path: str, prompt: str | None, system: str | None, chat_template: str | None, as_json: bool, raw: bool, **settings: Any
) -> None:
    """Talk to a chat model.

    On a terminal it converses: the arrow keys recall what was said, Ctrl-C ends an answer, Ctrl-D ends the talk. In a pipe it
    answers what it reads.

    \b
    Examples:
      pyllama chat model.bin
      pyllama chat model.bin -p "What is a llama?" --temperature 0
      git diff | pyllama chat model.bin --system "You write commit messages."
    """
    from .conversation import converse

    wanted, opening = split_settings(settings)
    with open_model(path, opening) as model:
        if chat_template:
            with click.open_file(chat_template, encoding="utf-8") as file:
                model.chat_template = file.read()
        messages = [{"role": "system", "content": system}] if system else []
        if prompt is None and sys.stdin.isatty() and not as_json:
            converse(model, messages, GenerationOptions(**wanted), raw)
            return
        asked = read_input() if prompt in (None, "-") else prompt
        with model.stream_chat([*messages, {"role": "user", "content": asked}], **wanted) as stream:
            print_stream(stream, "json" if as_json else "text", raw)


@cli.command()
@click.argument("path", metavar="FILE", type=MODEL_FILE)
@click.option("-p", "--prompt", help="The text.  [default: stdin]")
@click.option("--ids", is_flag=True, help="Print ids on one line, separated by spaces.")
@click.option("--decode", is_flag=True, help="Read ids, print their text.")
@click.option("--no-bos", is_flag=True, help="No BOS first, whatever the tokenizer does by itself.")
@click.option("--parse-special", is_flag=True, help="Special tokens that the text spells out become their ids.")
@click.option("--skip-special", is_flag=True, help="With --decode: control tokens give no text.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of {id, text}.")
def tokenize(
    path: str, prompt: str | None, ids: bool, decode: bool, no_bos: bool, parse_special: bool, skip_special: bool, as_json: bool
) -> None:
    """Show the tokens of a text, or the text of tokens.

    FILE is a model, a vocabulary-only GGUF, a tokenizer.json, tokenizer.model or tokenizer.bin, or a folder with one of these.

    \b
    Examples:
      pyllama tokenize model.bin -p "Hello world"
      echo -n "Hello world" | pyllama tokenize model.bin --ids
      echo "19556 905" | pyllama tokenize model.bin --decode
    """
    from .tokenizer import Tokenizer

    text = read_input() if prompt is None else prompt
    with Tokenizer(path) as tokenizer:
        if decode:
            data = tokenizer.decode(parsed_ids(text), skip_special)
            write(data + ("\n" if sys.stdout.isatty() else ""))
            return
        found = tokenizer.encode(text, False if no_bos else None, parse_special)
        if ids:
            click.echo(" ".join(map(str, found)))
            return
        pieces = [{"id": number, "text": tokenizer.decode_bytes([number]).decode("utf-8", "backslashreplace")} for number in found]
        if as_json:
            print_json(pieces)
        else:
            for piece in pieces:
                click.echo(f"{piece['id']:>8}  {json.dumps(piece['text'], ensure_ascii=False)}")


@cli.command()
@click.argument("path", metavar="MODEL", type=MODEL_FILE)
@click.argument("text_file", metavar="FILE", type=TEXT_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
@model_options
def perplexity(path: str, text_file: str, as_json: bool, **opening: Any) -> None:
    """Measure how well a model predicts a text; lower is better.

    The text is cut into windows of --n-ctx tokens (512) that do not overlap, each begun with BOS where the tokenizer does that by
    itself; every token of a window but its first is scored.

    \b
    Examples:
      pyllama perplexity model.bin book.txt
      pyllama perplexity model.bin book.txt --n-ctx 2048 --json
    """
    from .perplexity import perplexity as measure

    with click.open_file(text_file, "rb") as file:
        text = file.read().decode("utf-8", "surrogateescape")
    with open_model(path, opening) as model, progress_bar("perplexity", " tokens") as progress:
        found = measure(model, text, opening["n_ctx"] or 512, progress)
    if as_json:
        print_json({"model": path, **dataclasses.asdict(found), "tokens_per_second": round(found.tokens_per_second, 2)})
        return
    click.echo(f"perplexity {found.perplexity:.4f}")
    say(f"{found.tokens} tokens scored in {found.windows} windows of {found.n_ctx}, {found.tokens_per_second:.1f} tokens/s")


@cli.command()
@click.argument("path", metavar="MODEL", type=MODEL_FILE)
@click.option("-p", "--prompt", type=click.IntRange(min=0), default=512, show_default=True, help="Tokens of the prompt.")
@click.option("-n", "--generate", type=click.IntRange(min=0), default=128, show_default=True, help="Tokens to generate.")
@click.option("-d", "--depth", type=click.IntRange(min=0), default=0, show_default=True, help="Tokens in the cache before either.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
@model_options
def bench(path: str, prompt: int, generate: int, depth: int, as_json: bool, **opening: Any) -> None:
    """Measure speed, and the part of the memory's bandwidth that generation uses.

    \b
    Examples:
      pyllama bench model.bin
      pyllama bench model.bin -t 2 -p 512 -n 64 -d 2048 --json
    """
    from .bench import BenchPlan
    from .bench import bench as measure

    with open_model(path, opening) as model:
        found = measure(model, BenchPlan(prompt, generate, depth))
    if as_json:
        keys = ("model", "threads", "isa", "read_gb_per_s", "prompt", "generate", "peak_rss_mb")
        inner = ("tokens", "tokens_per_second", "percent_of_bandwidth")
        stated = {key: found[key] for key in keys}
        print_json(stated | {"generate": {key: found["generate"][key] for key in inner}})
        return
    made, read = found["generate"], found["read_gb_per_s"]
    setting = f"{found['weight_type']}, cache {found['kv_type']}, {found['threads']} threads, {found['isa']}"
    click.echo(f"model     {printable(path)}: {setting}")
    click.echo(f"prompt    {found['prompt']['tokens_per_second']:.1f} tokens/s ({prompt} tokens)")
    click.echo(f"generate  {made['tokens_per_second']:.1f} tokens/s ({generate} tokens at depth {depth})")
    click.echo(f"memory    {made['percent_of_bandwidth']:.1f}% of {read:.1f} GB/s, {found['peak_rss_mb']:.0f} MB resident at most")


@cli.command()
@click.option("--measure", is_flag=True, help="Measure the memory's bandwidth and the arithmetic peaks, in about a second.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(measure: bool, as_json: bool) -> None:
    """Say what was built, what this machine gets, and why.

    \b
    Examples:
      pyllama doctor
      pyllama doctor --measure
    """
    from . import doctor as doctors

    found = doctors.facts()
    if measure:
        from .bench import measure as measure_machine

        n_threads = int(os.environ.get("AK42_THREADS") or 0)
        found["measured"] = measure_machine(n_threads, os.environ.get("AK42_ISA") or "auto")
    found["problems"] = doctors.problems(found)
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        if name == "build":
            for key in [key for key in value if key != "version"]:
                click.echo(f"{key:<12} {value[key]}")
            continue
        if isinstance(value, dict):
            rounded = {key: round(item, 1) if isinstance(item, float) else item for key, item in value.items()}
            value = ", ".join(f"{key} {item or 'missing'}" for key, item in rounded.items())
        elif isinstance(value, list):
            value = "; ".join(value)
        click.echo(f"{name:<12} {value or 'none'}")


# ---- what the commands share ----


def main(arguments: list[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    return run(cli, arguments)


def split_settings(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a generation, and options of opening a model."""
    wanted = {name: value for name, value in settings.items() if name in OPTION_NAMES}
    wanted["stop"] = wanted.get("stop") or None
    return wanted, {name: value for name, value in settings.items() if name not in OPTION_NAMES}


def open_model(path: str, opening: dict[str, Any]) -> Model:
    from .model import Model

    return Model(path, use_mmap=not opening["no_mmap"], **{name: opening[name] for name in opening if name != "no_mmap"})


def parsed_ids(text: str) -> list[int]:
    numbers = []
    for word in text.split():
        if not word.isascii() or not word.removeprefix("-").isdecimal() or len(word) > 11:
            raise click.ClickException(f"ids: expected whole numbers, found {word!r:.40}")
        numbers.append(int(word))
    return numbers


def print_json(value: Any) -> None:
    """One object, in ASCII: safe on every terminal and in every pipe."""
    click.echo(json.dumps(_clean(value), indent=2, default=str))


def _clean(value: Any) -> Any:
    """The same without halves of surrogate pairs, which are not Unicode text: undecodable bytes of a path become escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value


def print_stream(stream: Stream, form: str, raw: bool) -> None:
    """Runs a generation and prints it as text while it comes, as ids or as JSON; figures go to stderr."""
    for piece in stream:
        if form == "text":
            write(piece, raw)
    result = stream.result
    assert result is not None
    if form == "text":
        write("\n")
    elif form == "ids":
        click.echo(" ".join(map(str, result.token_ids)))
    else:
        print_json(dataclasses.asdict(result))
    say(figures(result))


def figures(result: Generation) -> str:
    return (
        f"{len(result.token_ids)} tokens, {result.tokens_per_second:.1f} tokens/s, prompt {result.prompt_tokens} tokens, "
        f"ended by {result.finish_reason}, seed {result.seed}"
    )
