"""Writes docs/cli.md from the commands: ``python -m sage_cli.cli_reference > docs/cli.md``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import typer

from sage_cli.app import HELP, app
from sage_cli.exit_codes import MEANING
from sage_cli.options.answer import AnswerOptions
from sage_cli.options.settings import FILE_NAME

__all__ = ["reference"]

_EXAMPLES = """\
```sh
sage caption photo.jpg                                  # one image
sage caption clip.mp4 --frames 16 --start 1:30 --end 2:00
sage caption photo.jpg --preset alt-text                # a prompt by name, see sage presets
sage caption *.jpg --jsonl --output captions.jsonl      # many, one JSON object per line
find . -name '*.png' -print0 | sage caption --files-from - --jsonl
curl -s https://example.org/cat.webp | sage caption -   # from a pipe
sage ask before.png after.png "What has changed?"       # both in one prompt
sage ask "What is a spandrel?"                          # text alone
sage chat before.png after.png                          # a conversation
printf '%s\\n' "What is it?" "What colour?" | sage chat photo.jpg --jsonl
sage caption photo.jpg --policy sage-paper:dmax=12,nmax=32 --stats
sage caption clip.mp4 --save-view run.html              # a page to step through the run
sage bench --compare static                             # compare methods on this machine
sage distill --data photos --minutes 5 --output my-head # train a draft
```"""

_HEAD = ("| option | default | environment | |", "|---|---|---|---|")


def reference() -> str:
    """All of docs/cli.md."""
    group: Any = typer.main.get_command(app)
    caption = group.commands["caption"]
    names = {field.name for field in fields(AnswerOptions)}
    shared = {(param.name, param.help): param for param in caption.params if param.name in names}
    parts = [
        "# The command line",
        "<!-- Written by `python -m sage_cli.cli_reference`. Do not edit: edit the options. -->",
        HELP,
        _EXAMPLES,
        "What is printed where, conversations, the live view and JSON: [output.md](output.md). "
        f"Defaults for options, in `{FILE_NAME}` and the environment: "
        "[configuration.md](configuration.md).",
        *(_command(name, command, shared) for name, command in group.commands.items()),
        _shared(shared),
        _policies(),
        _exit_codes(),
    ]
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: Any, shared: dict[Any, Any]) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join(p.metavar + ("..." if p.nargs == -1 else "") for p in arguments)
    lines = [f"## sage {name}", "", str(command.help).strip(), ""]
    lines += ["```", f"sage {name} [OPTIONS] {usage}".rstrip(), "```", ""]
    lines += [f"- `{p.metavar}`: {p.help}" for p in arguments]
    lines += [""] if arguments else []
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    taken = [p for p in options if (p.name, p.help) in shared]
    own = [p for p in options if p not in taken]
    below = "[shared options](#shared-options)"
    if len(taken) == len(shared):
        lines += [f"Options: the {below}" + (", and" if own else ".")]
    elif len(taken) > len(shared) / 2:
        names = {p.name for p in taken}
        missing = [param for param in shared.values() if param.name not in names]
        lines += [f"Options: the {below} but for {_flags(missing)}" + (", and" if own else ".")]
    elif len(taken) > 1:
        lines += [f"Of the {below}: {_flags(taken)}; and"]
    else:
        own = options
    if own:
        lines += [*([""] if lines[-1] else []), *_HEAD, *map(_row, own)]
    return "\n".join(lines).rstrip()


def _flags(params: list[Any]) -> str:
    return ", ".join(f"`{param.opts[0].split('/')[0]}`" for param in params)


def _shared(shared: dict[Any, Any]) -> str:
    """The options of the commands that run a model, once."""
    lines = ["## Shared options"]
    panels: dict[str, list[Any]] = {}
    for param in shared.values():
        panels.setdefault(param.rich_help_panel, []).append(param)
    for panel, params in panels.items():
        lines += ["", f"### {panel}", "", *_HEAD, *map(_row, params)]
    return "\n".join(lines)


def _row(param: Any) -> str:
    flags = " / ".join(f"`{flag}`" for flag in [*param.opts, *param.secondary_opts])
    if param.metavar:
        flags = f"{flags[:-1]} {param.metavar}`".replace("|", "\\|")  # else it ends the cell
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
        "`--policy NAME` or `--policy NAME:OPTION=VALUE,OPTION=VALUE`. Every policy gives the same "
        "text; the speed differs.",
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
    lines += ["", "With several files the worst code is used; the other files are still processed."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(reference())
