"""The Markdown pages: links resolve; commands, options, files and names that they mention exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

import sage_core
from sage_cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(
            page
            for name in ("benchmarks", "docs", "training")
            for page in (ROOT / name).rglob("*.md")
        ),
    ]
)
MANUALS = [page for page in PAGES if "results" not in page.parts and page.name != "CHANGELOG.md"]
"""Pages about the present state; result files and the changelog also describe earlier ones."""

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]*)`")
COMMAND = re.compile(r"(?:^|[|;&])\s*sage ([a-z][a-z-]*)([^|;&#\n]*)", re.MULTILINE)
MODULE = re.compile(r"python -m ((?:benchmarks|sage_cli|sage_core|training)(?:\.\w+)*)")
PATH = re.compile(r"^(?:sage_core|sage_cli|tests|training)/[\w*./-]+$")
NAME = re.compile(r"\bsage_core(?:\.[A-Za-z_]\w*)+")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        number = sum(
            other == slug or re.fullmatch(rf"{slug}-\d+", other) is not None for other in found
        )
        found.add(f"{slug}-{number}" if number else slug)
    return found


def broken_links(page: Path) -> list[str]:
    """Links of a page to a file or an anchor that does not exist."""
    text = SPAN.sub("", BLOCK.sub("", page.read_text(encoding="utf-8")))
    targets = re.findall(r"\]\(([^()\s]+)\)", text)
    targets += re.findall(r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE)
    broken = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    return broken


def defined(name: str) -> bool:
    """Whether a dotted name below `sage_core` is public, a module, or defined in a module."""
    path, parts = ROOT / "sage_core", name.split(".")[1:]
    if parts[0] in sage_core.__all__:
        return True
    while parts and ((path / parts[0]).is_dir() or (path / f"{parts[0]}.py").exists()):
        path /= parts.pop(0)
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    pattern = rf"^(?:class|def) {parts[0]}\b|^{parts[0]}\b.*=" if parts else ""
    return re.search(pattern, source.read_text(encoding="utf-8"), re.MULTILINE) is not None


def unknown(page: Path) -> list[str]:
    """What the code on a page names and this repository does not have."""
    text = page.read_text(encoding="utf-8")
    blocks, spans = BLOCK.findall(text), SPAN.findall(BLOCK.sub("", text))
    shell = "\n".join([block for kind, block in blocks if kind == "sh"] + spans)
    group: Any = typer.main.get_command(app)
    out = []
    for command, rest in COMMAND.findall(shell):
        if command not in group.commands:
            out.append(f"sage {command}")
            continue
        options = {o for p in group.commands[command].params for o in (*p.opts, *p.secondary_opts)}
        used = re.findall(r"(?<=\s)--[a-z][a-z-]*", rest)
        out += [f"sage {command} {option}" for option in used if option not in options]
    for module in MODULE.findall(text):
        path = ROOT / module.replace(".", "/")
        if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists()):
            out.append(f"python -m {module}")
    out += [span for span in spans if PATH.match(span) and not any(ROOT.glob(span.rstrip("/")))]
    examples = re.findall(r"\bexamples/[\w-]+\.\w+", text)
    out += [file for file in examples if not (ROOT / file).exists()]
    return out + [name for name in NAME.findall(text) if not defined(name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", MANUALS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_names_exist(page: Path) -> None:
    assert unknown(page) == []


def test_the_changelog_names_modules_that_exist() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    moved = re.findall(r"^\| `sage_core[\w.]+` \| `(sage_core[\w.]+)` \|$", text, re.MULTILINE)
    assert moved and [name for name in moved if not defined(name)] == []


def test_the_readme_has_the_two_commands_and_fits_a_page() -> None:
    """Continuous integration reads the commands from the README."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert "pip install -c constraints.txt . && sage caption examples/moving.mp4" in lines
    assert "pip install -c constraints.txt '.[test]' && pytest" in lines
    assert len(lines) < 150


def test_broken_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One `code` heading: τ\n\n## Twice\n\n## Twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#one-code-heading-τ) [c](other.md#twice-1) [d](#top)\n# Top\n"
        "`[code](absent.md)` [e](other.md#twice-2) ![f](absent.svg) [over\nlines](absent.md)\n"
        "```\n[block](absent.md)\n```\n[web](https://example.org/absent)\n\n[g]: gone.md\n"
    )
    assert broken_links(page) == ["other.md#twice-2", "absent.svg", "absent.md", "gone.md"]


def test_unknown_names_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`sage ask` is sage itself, `sage chatter`, `sage chat --temperature 1 --warmth 2`\n"
        "`sage_core.load` `sage_core.trees.tree.TokenTree` `sage_core.trees.tree.Shrub` "
        "`sage_core.shrubs` `tests/cli/test_*.py` `tests/cli/nothing.py`\n"
        "```sh\ncat a.png | sage caption - --jason\nfind . | sage caption --files-from -  # --why\n"
        "python -m sage_cli.cli_reference\npython -m benchmarks.nothing\n"
        "sage caption examples/shapes.png examples/nothing.png\n```\n"
    )
    assert unknown(page) == [
        "sage caption --jason",
        "sage chatter",
        "sage chat --warmth",
        "python -m benchmarks.nothing",
        "tests/cli/nothing.py",
        "examples/nothing.png",
        "sage_core.trees.tree.Shrub",
        "sage_core.shrubs",
    ]
