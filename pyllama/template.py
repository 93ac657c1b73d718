"""Chat templates are programs that strangers wrote. This file runs one in Jinja's sandbox, set up as transformers sets it up, and
within a budget of steps, bytes and seconds that the sandbox alone does not give. It knows nothing of models or tokens.

The budget is kept in three ways: a pass over the parsed template puts a charge at the head of every loop and macro body and
around the expressions that make or compare values; operators, calls, slices and filters are charged before they build anything
large; and the output is counted as it comes. Nothing here can be named from inside a template: the charges are filters whose
names hold a space."""

from __future__ import annotations

import datetime
import functools
import itertools
import json
import re
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes as nodes
import jinja2.sandbox
import jinja2.utils
import jinja2.visitor

from .budget import (
    FILTER_CHECKS,
    Budget,
    BudgetError,
    byte_size,
    check_bits,
    check_format,
    check_method,
    check_spec,
    check_width,
)
from .errors import TemplateError, printable

MAX_SOURCE = 256 * 1024  # characters of a template
MAX_OUTPUT = 4 * 1024 * 1024  # characters of a rendered conversation
MAX_TOKENS = 20_000  # of a template's source; the largest in use have 4,000
MAX_RANGE = 10_000
MAX_DEPTH = 64  # lists and mappings within one another in a conversation

# The charges' names: no template can spell them.
STEP, TICK, MADE, CONCAT = "ak42 step", "ak42 tick", "ak42 made", "ak42 concat"


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox with transformers' settings and the budget."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols], finalize=_finalize
        )
        self._running = threading.local()
        self.globals.pop("lipsum", None)
        self.globals.update(
            range=_range, dict=_dict, namespace=Namespace, raise_exception=_raise_exception, strftime_now=_strftime_now
        )
        self.filters["tojson"] = _tojson
        self.filters = {name: self._charged(name, function) for name, function in self.filters.items()}
        self.tests = {name: self._charged(name, function) for name, function in self.tests.items()}
        self.filters.update({STEP: _step, TICK: _tick, MADE: _made, CONCAT: _concat})

    @property
    def budget(self) -> Budget:
        """Of the rendering that this thread is at."""
        return self._running.budget

    def compile_template(self, source: str) -> jinja2.Template:
        self._running.budget = Budget()
        if next(itertools.islice(self.lexer.tokeniter(source, None), MAX_TOKENS, None), None) is not None:
            raise BudgetError(f"expected at most {MAX_TOKENS} tokens")
        tree = Charges().visit(self.parse(source))
        return self.template_class.from_code(self, self.compile(tree, filename="<template>"), self.make_globals(None))

    def render(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        self._running.budget = Budget()
        pieces, size = [], 0
        for piece in template.generate(**variables):
            size += len(piece)
            if size > MAX_OUTPUT:
                raise BudgetError(f"the chat template wrote more than {MAX_OUTPUT} characters")
            pieces.append(piece)
        return "".join(pieces)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        budget = self.budget
        budget.tick()
        if operator == "%" and isinstance(left, (str, bytes)):
            check_format(budget, left, right)
        elif operator == "+" and isinstance(left, (str, bytes, list, tuple)):
            budget.spend(byte_size(left) + byte_size(right))
        elif operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, (str, bytes, list, tuple)) and isinstance(times, int):
                    budget.spend(byte_size(sequence) * max(times, 0))
            if isinstance(left, int) and isinstance(right, int):
                check_bits(left.bit_length() + right.bit_length())
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            check_bits(left.bit_length() * abs(right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, obj: Any, *args: Any, **named: Any) -> Any:  # type: ignore[override]
        self.budget.tick()
        if isinstance(obj, types.BuiltinMethodType):
            args = check_method(self.budget, obj.__self__, obj.__name__, args, named)
        made = super().call(context, obj, *args, **named)
        self.budget.spend(byte_size(made))
        return made

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja's own guard of str.format, with fields that cannot be wide."""
        if super().wrap_str_format(value) is None:
            return None
        text, is_map = value.__self__, value.__name__ == "format_map"

        def format_text(*args: Any, **named: Any) -> str:
            if is_map:
                (named,), args = args, ()
            return Formatter(self).vformat(text, args, named)

        return format_text

    def _charged(self, name: str, function: Callable) -> Callable:
        """A filter or test that ticks before, spends what it made after, and looks at its arguments where a small value may
        become a large one."""
        check = FILTER_CHECKS.get(name)
        skip = 1 if hasattr(function, "jinja_pass_arg") else 0

        @functools.wraps(function)
        def charged(*args: Any, **named: Any) -> Any:
            budget = self.budget
            budget.tick()
            if check is not None:
                args = (*args[:skip], *check(budget, *args[skip:], **named))
            made = function(*args, **named)
            budget.spend(byte_size(made))
            return made

        return charged


class Charges(jinja2.visitor.NodeTransformer):
    """Puts the charges into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        if node.test is not None:
            node.test = _filter(node.test, TICK)
        return self._charge_body(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        self.generic_visit(node)
        return self._charge_body(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        self.generic_visit(node)
        return self._charge_body(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), CONCAT)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Filter:
        self.generic_visit(node)
        return _filter(node, TICK)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, MADE) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._charge_literal(node, node.items)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._charge_literal(node, [part for pair in node.items for part in (pair.key, pair.value)])

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        if node.ctx != "load":
            return node
        return self._charge_literal(node, node.items)

    def _charge_literal(self, node: nodes.Expr, parts: list[nodes.Expr]) -> nodes.Node:
        self.generic_visit(node)
        return node if all(isinstance(part, nodes.Const) for part in parts) else _filter(node, MADE)

    def _charge_body(self, node: Any) -> Any:
        """One step a round, and the literal text that the body may write."""
        literal = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        charge = nodes.ExprStmt(lineno=node.lineno)
        charge.node = _filter(nodes.Const(literal, lineno=node.lineno), STEP)
        node.body.insert(0, charge)
        return node


class GenerationTag(jinja2.ext.Extension):
    """{% generation %} ... {% endgeneration %} marks the model's own words for training; here it is its content."""

    tags = {"generation"}

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Callable[[], str]) -> str:
        return caller()


class Namespace(jinja2.utils.Namespace):
    """namespace() without names that begin with an underscore, which are Python's."""

    def __init__(*args: Any, **named: Any) -> None:  # `self` may be an attribute's name
        self, args = args[0], args[1:]
        values = dict(*args, **named)
        for name in values:
            _check_name(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class Formatter(jinja2.sandbox.SandboxedFormatter):
    """str.format whose fields are charged."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._budget = environment.budget

    def format_field(self, value: Any, spec: str) -> str:
        check_spec(spec)
        self._budget.weigh(value)
        text = super().format_field(value, spec)
        self._budget.spend(len(text))
        return text

    def convert_field(self, value: Any, conversion: str) -> Any:
        self._budget.spend(self._budget.weigh(value))
        return super().convert_field(value, conversion)


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


# ---- the charges themselves ----


@jinja2.pass_context
def _finalize(context: Any, value: Any) -> Any:
    """Every expression that is written out comes by here."""
    budget = context.environment.budget
    budget.spend(budget.weigh(value) * (4 if isinstance(value, str) and not value.isascii() else 1))
    return value


@jinja2.pass_context
def _step(context: Any, literal: int) -> None:
    budget = context.environment.budget
    budget.step()
    budget.spend(literal)


@jinja2.pass_context
def _tick(context: Any, value: Any) -> Any:
    context.environment.budget.tick()
    return value


@jinja2.pass_context
def _made(context: Any, value: Any) -> Any:
    """A literal list or mapping, weighed with all that it holds, so that no value is larger written out than the budget; or a
    slice."""
    budget = context.environment.budget
    budget.weigh(value)
    budget.spend(byte_size(value))
    return value


@jinja2.pass_context
def _concat(context: Any, parts: list) -> str:
    """a ~ b ~ c"""
    budget = context.environment.budget
    budget.spend(sum(byte_size(part) if isinstance(part, str) else budget.weigh(part) for part in parts))
    return jinja2.runtime.str_join(parts)


# ---- what templates may call ----


def _range(*args: int) -> range:
    numbers = range(*args)
    if len(numbers) > MAX_RANGE:
        raise BudgetError(f"the chat template asks for a range of {len(numbers)}, more than {MAX_RANGE}")
    return numbers


def _dict(*args: Any, **named: Any) -> dict:
    return dict(*args, **named)


def _raise_exception(message: Any) -> NoReturn:
    raise jinja2.exceptions.TemplateError(str(message))


def _strftime_now(form: str) -> str:
    if len(form) > 1000 or re.search(r"\d{3,}", form):
        raise BudgetError("the chat template formats a date wider than 99")
    return datetime.datetime.now().strftime(form)


@jinja2.pass_environment
def _tojson(
    environment: Environment,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML's escapes, which Jinja's own filter has."""
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    budget, pieces = environment.budget, []
    budget.weigh(value)
    check_width(indent, len(indent) if isinstance(indent, str) else 0)
    for piece in encoder.iterencode(value):
        budget.spend(len(piece))
        pieces.append(piece)
    return "".join(pieces)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"{name!r} cannot be an attribute of a namespace")


# ---- the door ----


@functools.lru_cache(maxsize=1)
def _environment() -> Environment:
    version = tuple(int(part) for part in re.findall(r"\d+", jinja2.__version__)[:3])
    if version < (3, 1, 6):
        raise TemplateError(f"chat templates need jinja2 >= 3.1.6, found {jinja2.__version__}: older sandboxes leak")
    return Environment()


class Template:
    """A compiled template. Safe to be rendered by many threads."""

    def __init__(self, source: str) -> None:
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"chat template: expected at most {MAX_SOURCE} characters, found {len(source)}")
        self._environment = _environment()
        with _one_line_errors():
            self._template = self._environment.compile_template(source)

    def render(self, variables: dict[str, Any]) -> str:
        with _one_line_errors():
            return self._environment.render(self._template, variables)


class _one_line_errors:
    """Whatever a template raises becomes a TemplateError with its line."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        if not isinstance(error, Exception) or isinstance(error, TemplateError):
            return
        line = getattr(error, "lineno", None) or _line_of(trace)
        where = f"chat template, line {line}" if line else "chat template"
        if isinstance(error, RecursionError):
            what = "nested too deeply"
        elif isinstance(error, MemoryError):
            what = "too large"
        else:
            what = str(error) or type(error).__name__
        raise TemplateError(f"{where}: {printable(what)[:300]}") from None


def _line_of(trace: types.TracebackType | None) -> int | None:
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def plain(value: Any, where: str = "messages", depth: int = 0) -> Any:
    """A copy made of JSON's types alone, not nested without end: a template gets hold of nothing else."""
    if depth > MAX_DEPTH:
        raise TemplateError(f"{where}: expected at most {MAX_DEPTH} lists and mappings within one another, found more")
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, str):
        text = str.__str__(value)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TemplateError(f"{where}: expected Unicode text, found half a surrogate pair at character {error.start}") from None
        return text
    if isinstance(value, Mapping):
        return {plain(key, where, depth + 1): plain(item, f"{where}.{key}"[:80], depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{number}]"[:80], depth + 1) for number, item in enumerate(value)]
    raise TemplateError(f"{where}: expected text, numbers, lists and mappings, found {type(value).__name__}")


def strings(value: Any) -> Iterator[str]:
    """Every text inside a plain value, keys excluded."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
