"""The program: ``sage`` and ``python -m sage_cli``."""

import os
import sys

from sage_cli import signals

__all__ = ["main"]


def main() -> None:
    """Run the command; a signal during its imports ends it as it does later."""
    signals.install()
    # Where the package kernels is installed, transformers would fetch native code and run it.
    os.environ.setdefault("USE_HUB_KERNELS", "NO")
    try:
        from sage_cli.app import main as run

        run()
    except KeyboardInterrupt:
        print("sage: interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
