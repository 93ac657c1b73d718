"""Writes runtime_c/core/unicode_table.c: the general category of every code point and the punctuation of `tokenizers`.

The categories are read out of the `tokenizers` package's own regular expression engine, one \\p{..} after another, because its
Unicode version (16.0) is the one that token ids depend on, and Python's unicodedata has another in every release. It is run by
hand when that package moves to a newer Unicode: `python tests/make_unicode.py > runtime_c/core/unicode_table.c`.
test_tokenizer_unicode.py compares the file with the package that is installed.
"""
from __future__ import annotations

import sys

from tokenizers import Regex, pre_tokenizers

# The order is that of enum unicode_category in unicode.h.
CATEGORIES = ("Cn Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cs").split()
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
CHUNK = 4096


def matches(pattern: str) -> set[int]:
    """The code points that a one-character pattern matches."""
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    found: set[int] = set()
    for begin in range(0, len(CODE_POINTS), CHUNK):
        chunk = CODE_POINTS[begin:begin + CHUNK]
        for _, (first, last) in split.pre_tokenize_str("".join(map(chr, chunk))):
            found.update(chunk[first:last])
    return found


def punctuation() -> set[int]:
    """The code points that the Punctuation pre-tokenizer splits off: its table is older than the engine's."""
    split = pre_tokenizers.Punctuation("isolated")
    return {c for c in CODE_POINTS if len(split.pre_tokenize_str("a" + chr(c) + "a")) == 3}


def categories() -> list[int]:
    """Category number by code point; surrogates, which no text holds, are Cs."""
    table = [CATEGORIES.index("Cs")] * 0x110000
    for number, name in enumerate(CATEGORIES[:-1]):
        for code_point in matches(r"\p{%s}" % name):
            table[code_point] = number
    return table


def ranges(members: set[int]) -> list[tuple[int, int]]:
    """Runs of consecutive code points: (first, last)."""
    found: list[tuple[int, int]] = []
    for code_point in sorted(members):
        if found and found[-1][1] == code_point - 1:
            found[-1] = (found[-1][0], code_point)
        else:
            found.append((code_point, code_point))
    return found


def rows(items: list[str]) -> str:
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > 110:
            lines.append(line)
            line = "   "
        line += " " + item + ","
    return "\n".join([*lines, line])


def main() -> None:
    table = categories()
    starts = [c for c in range(0x110000) if c == 0 or table[c] != table[c - 1]]
    marks = ranges(punctuation())
    sys.stdout.write(
        "/* unicode_table.c: data only, written by tests/make_unicode.py from the Unicode 16.0 categories of Hugging Face's\n"
        " * tokenizers. unicode.c reads it; nobody edits it. */\n"
        '#include "unicode.h"\n\n'
        "/* First code point of a run * 32 + its category, ascending; a run ends where the next begins. */\n"
        f"const uint32_t unicode_runs[] = {{\n{rows([f'{c << 5 | table[c]:#x}' for c in starts])}\n}};\n"
        "const uint32_t unicode_n_runs = sizeof unicode_runs / sizeof unicode_runs[0];\n\n"
        "/* Punctuation as the Punctuation pre-tokenizer has it: first code point * 256 + how many follow it. */\n"
        f"const uint32_t unicode_marks[] = {{\n{rows([f'{a << 8 | b - a:#x}' for a, b in marks])}\n}};\n"
        "const uint32_t unicode_n_marks = sizeof unicode_marks / sizeof unicode_marks[0];\n")


if __name__ == "__main__":
    main()
