"""A conversation with a model file from Python: two questions, answers streamed as they come.

python examples/chat.py model.bin
"""

from __future__ import annotations

import sys

import pyllama


def main(path: str) -> None:
    """Asks two questions, the second in the context of the first."""
    messages: list[dict[str, str]] = []
    with pyllama.Model(path) as model:
        for question in ("What is a llama?", "What does it eat?"):
            messages.append({"role": "user", "content": question})
            print(f"> {question}")
            answer = ""
            for piece in model.stream_chat(messages, max_new_tokens=64, temperature=0):
                print(piece, end="", flush=True)
                answer += piece
            print()
            messages.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    main(sys.argv[1])
