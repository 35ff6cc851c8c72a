"""The terminal side of a conversation: lines in, text out, and the commands that begin with a slash."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import platformdirs

from edged.cli.conversation import SAMPLING, Conversation, Piece
from edged.cli.output import say, styled
from edged.errors import EdgedError

HELP = f"""\
/system TEXT        what the model is told to be (nothing: no longer)
/set NAME VALUE     {', '.join(SAMPLING)}; VALUE may be default
/clear              forget what was said so far
/stats              tell tokens and rates after each answer, or no longer
/help               this
/bye                leave, as ctrl-D does
alt-enter begins a new line; so does a message that begins with \"\"\" and ends with it. ctrl-C stops an answer."""

FENCE = '"""'


def chat(conversation: Conversation, *, stats: bool = False, keep_history: bool = True) -> None:
    """Until /bye or ctrl-D."""
    read = _reader(keep_history=keep_history)
    say(styled(f"{conversation.model} listens. /help tells what else there is, ctrl-D leaves.", "2"))
    while True:
        try:
            said = read_message(read)
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if not said.strip():
            continue
        if said.startswith("/"):
            if said.split()[0] in ("/bye", "/exit", "/quit"):
                return
            stats = command(conversation, said, stats)
            continue
        answer(conversation, said)
        if stats and conversation.stats:
            say(styled(conversation.stats, "2"))


def answer(conversation: Conversation, said: str) -> bool:
    """Prints it as it comes. False when ctrl-C or an error ended it early."""
    pieces = conversation.ask(said)
    try:
        write(pieces)
    except KeyboardInterrupt:
        print(styled(" (stopped)", "2"), flush=True)
        return False
    except EdgedError as error:
        print()
        say(f"edged: {error}")
        return False
    return True


def write(pieces: Iterable[Piece]) -> None:
    thinking = False
    for piece in pieces:
        if thinking and not piece.thinking:
            print("\n")
        thinking = piece.thinking
        print(styled(piece.text, "2") if thinking else piece.text, end="", flush=True)
    print(flush=True)


def command(conversation: Conversation, said: str, stats: bool) -> bool:
    """Whether stats are to be told from now on."""
    name, _, rest = said.partition(" ")
    rest = rest.strip()
    match name:
        case "/help" | "/?":
            say(HELP)
        case "/clear":
            conversation.clear()
            say("forgotten")
        case "/system":
            conversation.system = rest or None
            say("noted" if rest else "no system message")
        case "/set":
            key, _, value = rest.partition(" ")
            try:
                conversation.set(key, value.strip())
                say(", ".join(f"{key} {value}" for key, value in conversation.sampling.items()) or "all by default")
            except EdgedError as error:
                say(str(error))
        case "/stats":
            return not stats
        case _:
            say(f"there is no {name}; /help tells what there is")
    return stats


def read_message(read: Callable[[str], str]) -> str:
    """One message: a line, or all from one FENCE to the next."""
    first = read(">>> ")
    if not first.lstrip().startswith(FENCE):
        return first
    text = first.lstrip().removeprefix(FENCE)
    while FENCE not in text:
        text += "\n" + read("... ")
    return text.partition(FENCE)[0].strip("\n")


def _reader(*, keep_history: bool) -> Callable[[str], str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, History, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    history: History = FileHistory(str(history_file())) if keep_history else InMemoryHistory()
    session: PromptSession[str] = PromptSession(history=history, key_bindings=keys)
    return session.prompt


def history_file() -> Path:
    """Private: it holds what was asked."""
    folder = platformdirs.user_state_path("edged", appauthor=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "history"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    return path
