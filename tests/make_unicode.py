"""Writes the Unicode tables of the runtime: categories and punctuation, or what normalisation form C needs.

They are read out of the `tokenizers` package itself, because its Unicode versions (16.0 in regular expressions, older elsewhere) are
those that token ids depend on, and Python's unicodedata has another in every release. It is run by hand when the package moves on:
    python tests/make_unicode.py categories > runtime_c/core/unicode_table.c
    python tests/make_unicode.py nfc > runtime_c/core/unicode_nfc_table.c
test_tokenizer_unicode.py compares what the runtime does with the package that is installed.
"""
from __future__ import annotations

import sys
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

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
        for code_point in matches(f"\\p{{{name}}}"):
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


def write_categories() -> None:
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


def decompositions() -> list[tuple[int, int, int, bool]]:
    """(code point, first, second or 0, whether the two compose again) of all canonical decompositions but Hangul's."""
    nfd, nfc = normalizers.NFD(), normalizers.NFC()
    found = []
    for code in CODE_POINTS:
        if 0xAC00 <= code <= 0xD7A3 or nfd.normalize_str(chr(code)) == chr(code):
            continue
        parts = [int(part, 16) for part in unicodedata.decomposition(chr(code)).split()]
        assert 1 <= len(parts) <= 2, hex(code)
        composes = len(parts) == 2 and nfc.normalize_str("".join(map(chr, parts))) == chr(code)
        found.append((code, parts[0], parts[1] if len(parts) == 2 else 0, composes))
    return found


def combining_classes() -> dict[int, int]:
    """The classes that are not 0, of the code points that the package knows to have one: it moves them."""
    nfc = normalizers.NFC()
    classes = {}
    for code in CODE_POINTS:
        known = unicodedata.combining(chr(code))
        other = "\u0334" if known > 1 else "\u0301"        # of class 1 and 230
        given = "q" + chr(code) + other if known > 1 else "q" + other + chr(code)
        if known and nfc.normalize_str(given) != given:
            classes[code] = known
    return classes


def write_nfc() -> None:
    table, classes = decompositions(), combining_classes()
    pairs = sorted((first, second, index) for index, (_, first, second, composes) in enumerate(table) if composes)
    runs: list[list[int]] = []
    for code, number in sorted(classes.items()):
        if runs and runs[-1][1] == code - 1 and runs[-1][2] == number:
            runs[-1][1] = code
        else:
            runs.append([code, code, number])
    sys.stdout.write(
        "/* unicode_nfc_table.c: data only, written by tests/make_unicode.py from what Hugging Face's tokenizers normalises.\n"
        " * unicode_nfc.c reads it; nobody edits it. */\n"
        '#include "unicode.h"\n\n'
        "/* Canonical decompositions, ascending: code point, first, second (0: none). */\n"
        f"const uint32_t unicode_decompositions[][3] = {{\n{rows([f'{{{a:#x},{b:#x},{c:#x}}}' for a, b, c, _ in table])}\n}};\n"
        "const uint32_t unicode_n_decompositions = sizeof unicode_decompositions / sizeof unicode_decompositions[0];\n\n"
        "/* Those that compose again, by first and second: places in the table above. */\n"
        f"const uint16_t unicode_compositions[] = {{\n{rows([str(index) for _, _, index in pairs])}\n}};\n"
        "const uint32_t unicode_n_compositions = sizeof unicode_compositions / sizeof unicode_compositions[0];\n\n"
        "/* Combining classes that are not 0, ascending: first, last, class. */\n"
        f"const uint32_t unicode_combining[][3] = {{\n{rows([f'{{{a:#x},{b:#x},{c}}}' for a, b, c in runs])}\n}};\n"
        "const uint32_t unicode_n_combining = sizeof unicode_combining / sizeof unicode_combining[0];\n")


if __name__ == "__main__":
    {"categories": write_categories, "nfc": write_nfc}[sys.argv[1]]()
