"""``python -m sage_cli``."""

from sage_cli.app import main

if __name__ == "__main__":
    main()
