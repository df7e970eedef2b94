"""The command starts without the model libraries, and its reference page is current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "numpy", "decord", "PIL", "av")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    return done.stdout


def test_help_imports_nothing_heavy():
    program = (
        "import sys\n"
        "from sage_cli.app import app\n"
        "sys.argv = ['sage', {argument!r}]\n"
        "try:\n    app()\nexcept SystemExit: pass\n"
        f"print('heavy:', [m for m in {HEAVY!r} if m in sys.modules])\n"
    )
    for argument in ("--help", "--version"):
        assert run(program.format(argument=argument)).endswith("heavy: []\n")


def test_every_module_of_the_command_imports_without_torch():
    found = run(
        "import pkgutil, importlib, sys, sage_cli\n"
        "for m in pkgutil.walk_packages(sage_cli.__path__, 'sage_cli.'):\n"
        "    if not m.name.endswith('__main__'): importlib.import_module(m.name)\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    assert found == "[]\n"


def test_garbage_collection_is_off_during_imports():
    found = run(
        "import gc\n"
        "from sage_cli.console import loading_progress, not_collecting\n"
        "with loading_progress(False): inside = gc.isenabled(); kept = [[] for _ in range(9000)]\n"
        "first = gc.get_freeze_count()\n"
        "with loading_progress(False): more = [[] for _ in range(9000)]\n"
        "print(inside, gc.isenabled(), first > 9000, gc.get_freeze_count() <= first)\n"
        "gc.disable()\n"
        "with not_collecting(): pass\n"
        "print(gc.isenabled())"
    )
    assert found == "False True True True\nFalse\n"


def test_the_reference_is_current():
    from sage_cli.cli_reference import reference

    written = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == reference(), "run: python -m sage_cli.cli_reference > docs/cli.md"


def test_every_option_has_help():
    import typer

    from sage_cli.app import app

    for command in typer.main.get_command(app).commands.values():
        for param in command.params:
            assert param.help, param.name


@pytest.mark.parametrize("command", ["caption", "ask", "chat"])
def test_the_help_fits_on_a_screen_and_names_every_option(command):
    import typer

    from sage_cli.app import app

    options = [p.opts[0] for p in typer.main.get_command(app).commands[command].params]
    brief = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80"}).stdout
    whole = CliRunner().invoke(app, [command, "--help-all"], env={"COLUMNS": "200"}).stdout
    assert len(brief.splitlines()) <= 50
    assert len(whole.splitlines()) > 2 * len(brief.splitlines())
    for option in options:
        name = option if option.startswith("-") else ""
        assert name in brief and name in whole
