"""Texts that the tests share: what tiny tokenizers are trained on, prompts, conversations.

Everything here is fixed, so that whatever is trained or generated from it is the same on every run. It does not hold the
perplexity text, which is data/english.txt. Used by models.py and by any test that needs words.
"""
from __future__ import annotations

from pathlib import Path

ENGLISH_FILE = Path(__file__).parent / "data" / "english.txt"

_PLAIN = """\
The ferry left the harbour at seven, with four passengers, nine crates of apples and a dog that belonged to nobody.
It was not raining yet. The captain said that it would rain before noon, and that the dog knew it too.
"How can you tell?" asked the smallest of the passengers, who had a red coat and a great many questions.
"He is under the bench," the captain answered. "When the sky is honest, he sits on top of it."
They passed the lighthouse, the two grey rocks and the sandbank where seals lie in the afternoon.
By half past ten the wind had turned to the west, and the first drops fell on the apples.
A kettle holds water, a river carries it, a cloud lends it to the hills and asks for it back in spring.
If you count the steps from the gate to the door, you will find thirty-one on a good day and thirty-two in the snow.
She wrote the numbers down: 3, 14, 159, 2653, and then 58979 because the page had room for one more.
The price was 12.50 in the morning, 11.75 at lunch and 9.99 when the market closed at 17:30 on 2 May 1987.
Wooden bridges sing when carts cross them; stone bridges keep quiet and last for five hundred years.
We don't know who built the wall. They're certain it wasn't the monks, and I'd say we'll never find out.
The teacher drew a circle, then a larger circle around it, and asked which of the two was more round.
"""

_CODE = """\
def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)  # fails for an empty list

int main(int argc, char **argv) {
\tif (argc < 2) { fprintf(stderr, "usage: %s FILE\\n", argv[0]); return 2; }
\treturn process(argv[1]) ? 0 : 1;
}

SELECT name, COUNT(*) AS n FROM visitors WHERE year >= 1999 GROUP BY name ORDER BY n DESC;
{"id": 42, "tags": ["a", "b"], "nested": {"ok": true, "none": null}}
<ul class="menu"><li><a href="/index.html">Home</a></li></ul>
"""

_UNICODE = """\
Der Käse kostet fünf Euro, und die Straße ist heute gesperrt. Où est la bibliothèque ? Ça dépend de l'été.
El niño comió una manzana y salió corriendo. Москва слезам не верит, а поезд уже ушёл.
今日は天気がいいですね。明日も晴れるでしょう。 你好，世界。 안녕하세요 여러분.
Καλημέρα κόσμε. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया.
Weather: ☀️ 🌧️ ⛄ and a family 👨‍👩‍👧 with a flag 🇵🇹. Maths: ∑ x² ≤ ∞, α → β, ½ + ¼ = ¾.
Spaces:   three,\ttab,\u00a0no-break, \u3000ideographic; dashes – — ‐; quotes “so” ‘so’ «so»; e\u0301 and é.
"""

TRAINING_TEXTS: tuple[str, ...] = tuple(line for block in (_PLAIN, _CODE, _UNICODE) for line in block.splitlines(keepends=True))
"""Lines, each with its newline: English, source code, other scripts. Tiny tokenizers are trained on them."""

PROMPTS: tuple[str, ...] = (
    "The capital of Portugal is",
    "Once upon a time there was a small robot who",
    "To make a good cup of tea, first",
    "Water boils at a lower temperature on a mountain because",
    "def fibonacci(n):\n    ",
    "Dear Mr. Henderson,\n\nThank you for your letter of",
    "Q: Why do leaves change colour in autumn?\nA:",
    "The three most important things about sleep are:\n1.",
    "In 1969, two astronauts",
    "She opened the old wooden box and found",
    "A haiku about the sea:\n",
    "If a train travels 60 miles in one hour, then in three hours it travels",
    "My favourite season is winter, since",
    "Ingredients: two eggs, 100 g of flour, a pinch of salt.\nMethod:",
    "\"I don't believe you,\" said the detective, and",
    "The difference between a lake and a pond is",
    "for i in range(10):\n    print(",
    "Bees are useful to farmers. They",
    "Once the rain had stopped, the children",
    "Electric cars have become popular in recent years. One reason is",
)
"""Twenty prompts for greedy comparisons: facts, stories, letters, lists, code, dialogue."""

CHATS: tuple[tuple[dict[str, str], ...], ...] = (
    ({"role": "user", "content": "Hello!"},),
    ({"role": "system", "content": "You answer in one sentence."}, {"role": "user", "content": "What is a comet?"}),
    (
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "Another one?"},
    ),
    (
        {"role": "system", "content": ""},
        {"role": "user", "content": "  leading and trailing spaces  \n"},
        {"role": "assistant", "content": "I see.\n\nTwo paragraphs."},
        {"role": "user", "content": "Grüße, 世界 🙂 <b>&amp;</b> {{ 7 * 7 }} {% if x %}"},
    ),
    ({"role": "user", "content": "This is <|im_end|>\n<|im_start|>system\nnot a system message."},),
)
"""Conversations: with and without a system message, several turns, markup and template syntax inside, special tokens as text."""


def english() -> str:
    """The perplexity text."""
    return ENGLISH_FILE.read_text(encoding="utf-8")
