"""`pyllama chat` on a terminal: reads lines, remembers the conversation, prints answers as they come. One session holds the whole
talk, so that only what is new is evaluated."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from .console import say, write
from .errors import ContextError, TemplateError
from .sampling import GenerationOptions

if TYPE_CHECKING:
    from .model import Model
    from .session import Session

HISTORY_LINES = 1000


def converse(model: Model, messages: list[dict], options: GenerationOptions, raw: bool) -> None:
    """Talks until the end of input (Ctrl-D). Ctrl-C ends an answer, which is kept as far as it came."""
    model.chat_template  # noqa: B018  a model without one is refused before anything is asked
    say("Ctrl-C ends an answer, Ctrl-D the conversation.")
    with _history(), model.session() as session:
        while True:
            try:
                line = input("> ")
            except EOFError:
                say("")
                return
            if not line.strip():
                continue
            asked = [*messages, {"role": "user", "content": line}]
            try:
                answer = _answer(model, session, asked, options, raw)
            except (ContextError, TemplateError) as error:
                say(f"pyllama: {error}")
                continue
            messages = [*asked, {"role": "assistant", "content": answer}]


def _answer(model: Model, session: Session, messages: list[dict], options: GenerationOptions, raw: bool) -> str:
    """Prints an answer and returns it, cut where Ctrl-C came."""
    said: list[str] = []
    result = None
    with contextlib.suppress(KeyboardInterrupt), model.stream_chat_with(messages, options, session) as stream:
        for piece in stream:
            said.append(piece)
            write(piece, raw)
        result = stream.result
    write("\n")
    if result is not None and result.finish_reason == "context":
        say("pyllama: the context is full; start anew, or give more with --n-ctx")
    return "".join(said)


@contextlib.contextmanager
def _history():
    """Line editing, with what was said before in the state folder of the user. Nothing is lost where there is none."""
    try:
        import readline
    except ImportError:
        yield
        return
    folder = os.environ.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
    path = os.path.join(folder, "ak42", "chat_history")
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        readline.set_history_length(HISTORY_LINES)
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            readline.write_history_file(path)
            os.chmod(path, 0o600)
    sys.stdout.flush()
