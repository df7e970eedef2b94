"""``sage doctor``: devices, versions, and what will be used."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from sage_cli.options.shared import InfoOptions
from sage_cli.options.takes_options import takes_options

if TYPE_CHECKING:
    from sage_core.models.quantization import Method

__all__ = ["doctor"]


@takes_options(InfoOptions)
def doctor(*, options: InfoOptions) -> None:
    """Show devices, data types and library versions, and what will be used."""
    from sage_cli import version
    from sage_cli.console import set_verbosity
    from sage_cli.options.settings import default_path
    from sage_cli.render.jsonout import SCHEMA
    from sage_cli.render.stats import size
    from sage_cli.render.tables import print_json, print_table

    set_verbosity(options.verbose)
    from sage_core.models.devices import report
    from sage_core.models.quantization import METHODS

    found = report()
    settings = default_path()
    if options.json:
        print_json(
            {"schema": SCHEMA, "sage": version(), "settings": str(settings), **asdict(found)}
        )
        return
    print_table(
        ("device", "description", "memory", "free", "data types"),
        [
            (d.name, d.description, size(d.memory), size(d.free), ", ".join(d.dtypes))
            for d in found.devices
        ],
    )
    rows = [("sage", version())]
    rows += [(name, version or "not installed") for name, version in found.versions.items()]
    rows += [(f"quantization {m.name}", _available(m)) for m in METHODS]
    rows.append(("video", found.video))
    rows.append(("models", found.cache))
    rows.append(("settings", f"{settings}{'' if settings.is_file() else ' (not found)'}"))
    rows.append(("will use", found.chosen.note))
    print_table(("", ""), rows)


def _available(method: Method) -> str:
    from sage_core.models.quantization import is_installed

    if is_installed(method):
        return method.about
    return f"not available: pip install 'sage-vlm[{method.package}]'"
