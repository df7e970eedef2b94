"""Writes docs/cli.md from the commands: ``python -m sage_cli.cli_reference > docs/cli.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import typer

from sage_cli.app import HELP, app
from sage_cli.exit_codes import MEANING
from sage_cli.options.bench import ModelOptions
from sage_cli.options.distill import SharedFlags
from sage_cli.options.settings import FILE_NAME
from sage_cli.options.shared import RunOptions

__all__ = ["reference"]

_EXAMPLES = """\
```sh
sage caption photo.jpg                                  # one picture
sage caption clip.mp4 --frames 16 --start 1:30 --end 2:00
sage caption *.jpg --jsonl --output captions.jsonl      # many, a line each
find . -name '*.png' -print0 | sage caption --files-from - --jsonl
curl -s https://example.org/cat.webp | sage caption -   # from a pipe
sage ask before.png after.png "What has changed?"       # seen together
sage ask "What is a spandrel?"                          # no file at all
sage chat before.png after.png                          # one question after another
printf '%s\n' "What is it?" "What colour?" | sage chat photo.jpg --jsonl
sage caption photo.jpg --policy sage-paper:dmax=12,nmax=32 --stats
sage caption clip.mp4 --save-view run.html              # a page to step through the run
sage bench --compare static                             # which method is fastest here
sage distill --data photos --minutes 5 --output my-head # train a draft
```
"""

_SHARED = {
    "bench": frozenset(field.name for field in fields(ModelOptions)),
    "distill": frozenset(field.name for field in fields(SharedFlags)),
}

_HEAD = ("| option | default | environment | |", "|---|---|---|---|")

_TEXT_OUTPUT = """\
## What goes where

Results go to standard output, or to `--output FILE`; everything else (progress, notes, tables,
the live view, errors) goes to standard error. Text is written as it is decided when standard
output is a terminal and no live view is shown, and when it is finished otherwise. Several
captions are headed by `==> NAME <==`, as `head` does it. [output.md](output.md) describes JSON.

`--output FILE` grows as `FILE.partial` and takes its name when everything is done; if the run
breaks off, FILE is as it was and what was finished stays in `FILE.partial`. Where that name is
taken, by another run or an earlier one, it is `FILE.partial.2` and so on; the last line on
standard error names it. What the shell has opened, such as `/dev/stdout` or `/dev/fd/3`, and
devices and pipes are written to directly. An `--output` or `--save-view` that is one of the
inputs is refused.

## Conversations

`sage chat` loads the models once and keeps what both have read: an answer reads only its question.
On a terminal each line typed at the prompt is a question; otherwise the lines of standard input
are, and with `--jsonl` each answer is one object. A line that begins with `/` is a command:

| command | |
|---|---|
| `/add FILE...` | show more files with the next question; everything is then read again |
| `/reset` | forget the questions and answers, keep the files |
| `/stats` | speed and acceptance of the last answer |
| `/help` | the commands |
| `/quit` | end; so does Ctrl-D |

Ctrl-C stops an answer, not the conversation, and what was written of it stays; pressed twice it
stops at once, and the next question reads the conversation again. Answers stay as the model wrote
them, token by token, and what the model's chat template puts around them is added, so that each
answer is the one that the model alone gives to the whole conversation. Some templates have earlier
answers otherwise, without the model's thoughts for instance: then what has changed is read again,
and that is said. On a terminal the exit code is 0; with questions from a pipe it is the worst of
theirs. The live view is shown with `--live` only.

## The live view

It is drawn on standard error, on the terminal's alternate screen, and leaves the screen as it
was; the text is then printed. It is on when standard output and standard error are both
terminals, so that it never fights with a pager; `--live` asks for it when only standard error is
one, `--no-live` and `--quiet` switch it off. Frames are drawn between steps, at most eight a
second and only while the time spent on them stays within 2% of the time spent on decoding.
`NO_COLOR` is honoured: the accepted path also carries a mark.

From top to bottom: speed, accepted length τ, tokens, steps and draft passes; confidence α and the
limits of depth and width with their recent history; the accepted tokens of the latest steps; the
tree of this step, the accepted path marked and the rest dimmed, a probability at each token; the
text so far. A tree that is too wide for the terminal is drawn indented, one too tall shows its
accepted path, its likeliest nodes and how many more there are.
"""


def reference() -> str:
    """All of docs/cli.md."""
    group: Any = typer.main.get_command(app)
    parts = [
        "# The command line",
        "<!-- Written by `python -m sage_cli.cli_reference`. Do not edit: edit the options. -->",
        HELP,
        _EXAMPLES.rstrip(),
    ]
    parts += [_command(name, command) for name, command in group.commands.items()]
    parts += [
        _shared(group.commands["caption"]),
        _TEXT_OUTPUT.rstrip(),
        _policies(),
        _exit_codes(),
        f"Defaults for the options can be set in `{FILE_NAME}` and in the environment: see "
        "[configuration.md](configuration.md).",
    ]
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join(p.metavar + ("..." if p.nargs == -1 else "") for p in arguments)
    lines = [f"## sage {name}", "", str(command.help).strip(), ""]
    lines += ["```", f"sage {name} [OPTIONS] {usage}".rstrip(), "```", ""]
    lines += [f"- `{p.metavar}`: {p.help}" for p in arguments]
    lines += [""] if arguments else []
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    shared = {field.name for field in fields(RunOptions)}
    if shared <= {p.name for p in options}:
        options = [p for p in options if p.name not in shared]
        lines += ["Options: those [below](#options-of-caption-ask-and-chat)"]
        lines[-1] += ", and" if options else "."
    elif name in _SHARED:
        taken = [p for p in options if p.name in _SHARED[name]]
        options = [p for p in options if p.name not in _SHARED[name]]
        flags = ", ".join(f"`{p.opts[0].split('/')[0]}`" for p in taken)
        lines += [f"Of the options [below](#options-of-caption-ask-and-chat): {flags}; and"]
    if options:
        lines += [*([""] if lines[-1] else []), *_HEAD, *map(_row, options)]
    return "\n".join(lines).rstrip()


def _shared(command: Any) -> str:
    """The options of the commands that run a model, once."""
    lines = ["## Options of caption, ask and chat"]
    shared = {field.name for field in fields(RunOptions)}
    panels: dict[str, list[Any]] = {}
    for param in command.params:
        if param.name in shared:
            panels.setdefault(param.rich_help_panel, []).append(param)
    for panel, params in panels.items():
        lines += ["", f"### {panel}", "", *_HEAD, *map(_row, params)]
    return "\n".join(lines)


def _row(param: Any) -> str:
    flags = " / ".join(f"`{flag}`" for flag in [*param.opts, *param.secondary_opts])
    if param.metavar:
        flags = f"{flags[:-1]} {param.metavar}`"
    if isinstance(param.show_default, str):
        default = param.show_default
    else:
        default = "" if param.default is None or param.is_flag else f"`{param.default}`"
    variable = f"`{param.envvar}`" if param.envvar else ""
    return f"| {flags} | {default} | {variable} | {param.help} |"


def _policies() -> str:
    from sage_core.trees import policies

    lines = [
        "## Policies",
        "",
        "`--policy NAME` or `--policy NAME:OPTION=VALUE,OPTION=VALUE`. The text does not depend on "
        "the policy; the speed does.",
    ]
    for name, kind in policies.available().items():
        lines += ["", f"### {name}"]
        for paragraph in (kind.__doc__ or "").replace("``", "`").split("\n\n"):
            lines += ["", " ".join(paragraph.split())]
        defaults = list(_defaults(kind))
        if defaults:
            lines += ["", "Options and defaults: " + ", ".join(defaults) + "."]
    return "\n".join(lines)


def _defaults(kind: Any) -> Iterator[str]:
    for field in fields(kind):
        yield f"`{field.name}={field.default}`"


def _exit_codes() -> str:
    lines = ["## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {int(code)} | {meaning} |" for code, meaning in MEANING.items()]
    lines += ["", "With several files the worst of their codes is used; the others are still done."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(reference())
