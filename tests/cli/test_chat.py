"""sage chat: lines are questions or commands, answers go to standard output."""

from __future__ import annotations

import json
import os
import signal

import pytest

from sage_core.errors import InputError, ModelError, OptionError
from tests.cli.fake import Script, scripted, word
from tests.cli.test_terminal import Terminal


def answer(steps) -> str:
    return "".join(word(t) for step in steps for t in step.tokens).strip()


ANSWER = answer(scripted())


def asked(pipeline) -> list[tuple]:
    """What reached the conversation, in order."""
    return [(call["prompt"], call["files"]) for call in pipeline.calls if "prompt" in call]


def test_each_line_is_a_question_about_the_same_files(sage, pipeline):
    result = sage("chat", "a.png", "b.png", "--policy", "chain", stdin="What?\n\n  And then? \n")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{ANSWER}\n{ANSWER}\n"
    assert asked(pipeline) == [("What?", ["a.png", "b.png"]), ("And then?", ["a.png", "b.png"])]
    assert pipeline.calls[0]["chat"] == ["a.png", "b.png"]
    assert pipeline.calls[0]["policy"] == "chain"
    assert result.stderr == f"sage: {pipeline.note}\n"


def test_a_conversation_without_files_or_questions(sage, pipeline):
    assert sage("chat", stdin="What?").stdout == f"{ANSWER}\n"
    assert asked(pipeline) == [("What?", [])]
    silent = sage("chat", stdin="")
    assert (silent.exit_code, silent.stdout) == (0, "")


def test_json_has_one_object_per_turn(sage):
    lines = sage("chat", "a.png", "--jsonl", stdin="One?\nTwo?\n").stdout.splitlines()
    objects = [json.loads(line) for line in lines]
    assert [o["prompt"] for o in objects] == ["One?", "Two?"]
    assert [o["files"] for o in objects] == [["a.png"], ["a.png"]]
    whole = json.loads(sage("chat", "a.png", "--json", stdin="One?\nTwo?\n").stdout)
    assert [o["text"] for o in whole] == [ANSWER, ANSWER]
    one = json.loads(sage("chat", "a.png", "--json", stdin="One?\n").stdout)
    assert [o["prompt"] for o in one] == ["One?"], "a list, however many there are"


def test_commands(sage, pipeline):
    lines = ["/help", "One?", "/stats", "/add b.png 'c d.png'", "Two?", "Three?", "/reset", "Four?",
             "/quit", "Five?"]  # fmt: skip
    result = sage("chat", "a.png", "--jsonl", stdin="\n".join(lines))
    assert result.exit_code == 0, result.stderr
    assert [question for question, _ in asked(pipeline)] == ["One?", "Two?", "Three?", "Four?"]
    files = ["a.png", "b.png", "c d.png"]
    assert asked(pipeline)[1] == ("Two?", files)
    assert pipeline.calls[-2] == {"reset": True}
    assert json.loads(result.stdout.splitlines()[1])["files"] == files
    for said in ("/add FILE", "tokens/s", "b.png, c d.png: added", "answers dropped"):
        assert said in result.stderr
    assert result.stderr.count("new files: read again") == 1, "each reason once"


MISTAKES = [
    ("/bogus", 2, "unknown command /bogus"),
    ("/add", 2, "/add FILE..."),
    ("/add -", 2, "/add FILE..."),
    ("/add 'a", 2, "close the quotes"),
    ("/add none.png", 3, "none.png: no such file"),
    ("/stats", 2, "nothing has been answered"),
]


@pytest.mark.parametrize(("line", "code", "says"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_errors_are_reported_and_the_conversation_continues(sage, pipeline, line, code, says):
    result = sage("chat", "a.png", "--quiet", stdin=f"{line}\nWhat?\n")
    assert result.exit_code == code
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == f"{ANSWER}\n"


def test_a_failed_answer_does_not_end_the_conversation(sage, pipeline):
    pipeline.enqueue(OptionError("the prompt may not contain <image>: write it otherwise"))
    pipeline.enqueue(Script(), Script(error=MemoryError()))
    result = sage("chat", "a.png", "--jsonl", "--quiet", stdin="<image>?\nTwo?\nThree?\nFour?\n")
    assert result.exit_code == 5
    objects = [json.loads(line) for line in result.stdout.splitlines()]
    assert ["error" in o for o in objects] == [True, False, True, False]
    assert [line.split(":")[1] for line in result.stderr.splitlines()] == [" a.png", " a.png"]


REFUSED = [
    (("chat", "-"), 2, "standard input holds the questions"),
    (("chat", "--files-from", "-"), 2, "standard input holds the questions"),
    (("chat", "a.png", "--save-view", "v.svg"), 2, "--save-view keeps one result"),
    (("chat", "a.png", "--json", "--jsonl"), 2, "exclude each other"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), REFUSED, ids=[m[2][:20] for m in REFUSED])
def test_what_cannot_work_is_refused_before_loading(sage, loads, arguments, code, says):
    result = sage(*arguments, stdin="What?\n")
    assert result.exit_code == code
    assert says in result.stderr
    assert not loads.calls


def test_unreadable_files_and_models_end_it(sage, pipeline, loads, monkeypatch):
    def unreadable(files, **_):
        raise InputError("a.png: the file is empty")

    monkeypatch.setattr(pipeline, "chat", unreadable)
    assert sage("chat", "a.png", stdin="What?\n").exit_code == 3
    loads.error = ModelError("no such model")
    assert sage("chat", "a.png", stdin="What?\n").exit_code == 4


def test_an_interruption_keeps_the_answers_so_far(sage, pipeline):
    def interrupt(step: int) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    pipeline.enqueue(Script(), Script(on_step=interrupt))
    result = sage("chat", "a.png", "--jsonl", stdin="One?\nTwo?\nThree?\n")
    assert result.exit_code == 130
    texts = [json.loads(line)["text"] for line in result.stdout.splitlines()]
    assert texts[0] == ANSWER
    assert texts[1:] == [answer(scripted()[:2])], "and no third answer"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_on_a_terminal():
    """A prompt, a streamed answer, Ctrl-C within an answer and at the prompt, Ctrl-D."""
    terminal = Terminal("chat", "a.png", FAKE_STEPS="400", FAKE_PAUSE="0.02")
    terminal.read(until="(?s)/help lists.*> ")
    terminal.type("What?\r")
    terminal.read(until="red circle")
    assert "\x1b[?1049h" not in terminal.shown, "no view without --live"
    os.killpg(terminal.process.pid, signal.SIGINT)
    terminal.read(until=r"(?s)red circle.*stopped\r\n.*> ")
    # Python misses a Ctrl-C between the prompt and its wait for a key, where a person is too slow.
    for _ in range(60):
        os.killpg(terminal.process.pid, signal.SIGINT)
        terminal.read(seconds=1)
        if "/quit ends" in terminal.shown:
            break
    terminal.read(until=r"(?s)/quit ends\r\n.*> ")
    terminal.type("/bogus\r")
    terminal.read(until=r"(?s)unknown command /bogus.*> ")
    terminal.type("\x04")
    assert terminal.finish() == 0


def test_nothing_is_loaded_for_a_file_that_cannot_be_used(sage, loads):
    result = sage("chat", "a.png", "none.png", stdin="What?\n")
    assert result.exit_code == 3
    assert result.stderr == "sage: none.png: no such file: check the path\n"
    assert not loads.calls
