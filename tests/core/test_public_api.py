"""The public names are there, and the light modules stay light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import sage_core

LIGHT = [
    "sage_core",
    "sage_core.errors",
    "sage_core.trees.tree",
    "sage_core.trees.steps",
    "sage_core.engine.results",
    "sage_core.trees.policies",
    "sage_core.media",
    "sage_core.models.catalog",
    "sage_core.models.devices",
    "sage_core.options",
]


@pytest.mark.parametrize("name", sage_core.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(sage_core, name) is not None
    assert name in dir(sage_core)


def test_public_names_are_sorted_and_each_has_one_home() -> None:
    assert list(sage_core.__all__) == sorted(sage_core.__all__)
    homes = [name for names in sage_core._HOMES.values() for name in names]
    assert sorted(homes) == sorted(sage_core.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        sage_core.nonsense  # noqa: B018


@pytest.mark.parametrize("module", LIGHT)
def test_importing_it_does_not_import_torch(module: str) -> None:
    heavy = "('torch', 'transformers', 'huggingface_hub', 'decord', 'av', 'rich', 'typer')"
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_stay_what_they_are_when_modules_are_imported() -> None:
    """No module at the top has the name of something public: importing it would hide that."""
    top = {file.stem for file in Path(sage_core.__file__).parent.glob("*.py")}
    assert not top & set(sage_core.__all__)
