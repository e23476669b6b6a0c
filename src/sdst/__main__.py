"""``python -m sdst`` runs the ``sdst`` command."""

from sdst.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
