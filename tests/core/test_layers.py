"""The packages import in one direction, without circles (docs/architecture.md has the order)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ORDER = (
    "errors", "checks", "files", "trees", "media", "models", "generation", "runtime", "drafts",
    "engine", "options", "pair_loading", "stream", "generate", "distill", "bench",
    "conversation", "pipeline", "captioning", "__init__",
)  # fmt: skip
"""A package or module of `sage_core` imports only what stands before it."""
CLI_ORDER = ("render", "sinks", "options", "jobs", "commands")
"""The same of `sage_cli`; the modules at its top are above or below all of them."""


@cache
def modules() -> dict[str, Path]:
    files = [f for package in ("sage_core", "sage_cli") for f in (ROOT / package).rglob("*.py")]
    names = {f: ".".join(f.relative_to(ROOT).with_suffix("").parts) for f in files}
    return {name.removesuffix(".__init__"): f for f, name in names.items()}


@cache
def imports() -> dict[str, set[str]]:
    """What each module imports, also inside functions and for type checkers only."""
    return {name: set(_imported(name, path)) for name, path in modules().items()}


def _imported(name: str, path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found = {one if one in modules() else node.module for one in names}
        elif isinstance(node, ast.Import):
            found = {alias.name for alias in node.names}
        else:
            continue
        yield from (one for one in found if one in modules() and one != name)


def _layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_module_of_the_library_has_a_layer() -> None:
    found = {_layer(name) for name in modules() if name.startswith("sage_core")}
    assert found == set(ORDER)


@pytest.mark.parametrize("module", [m for m in modules() if m.startswith("sage_core")])
def test_nothing_is_imported_against_the_order(module: str) -> None:
    layer = ORDER.index(_layer(module))
    for other in imports()[module]:
        assert not other.startswith("sage_cli"), f"{module} imports {other}"
        assert ORDER.index(_layer(other)) <= layer, f"{module} imports {other}"


@pytest.mark.parametrize("module", [m for m in modules() if _layer(m) in CLI_ORDER])
def test_nothing_of_the_command_line_is_imported_against_the_order(module: str) -> None:
    if not module.startswith("sage_cli"):
        return
    layer = CLI_ORDER.index(_layer(module))
    for other in imports()[module]:
        if other.startswith("sage_cli") and _layer(other) in CLI_ORDER:
            assert CLI_ORDER.index(_layer(other)) <= layer, f"{module} imports {other}"


def test_no_circle() -> None:
    """Repeatedly take away what imports nothing that is left: all must go."""
    left = {name: set(others) for name, others in imports().items()}
    # A package's own text may name the public parts of what is inside it.
    for name, others in left.items():
        others -= {one for one in others if name.startswith(one + ".")}
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"in or above a circle: {', '.join(sorted(left))}"


def test_modules_at_the_top_are_few_and_public() -> None:

    top = [f.stem for f in (ROOT / "sage_core").glob("*.py") if f.stem != "__init__"]
    assert len(top) <= 9, top


def test_trees_need_numpy_only() -> None:
    for path in (ROOT / "sage_core" / "trees").rglob("*.py"):
        found = {
            name.partition(".")[0]
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not found & {"torch", "transformers"}, path


@pytest.mark.parametrize("package", ["sage_core", "sage_cli"])
def test_every_package_says_what_belongs_there(package: str) -> None:
    for path in (ROOT / package).rglob("__init__.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert len(text.split()) >= 15, f"{path}: what belongs here, what must not"
