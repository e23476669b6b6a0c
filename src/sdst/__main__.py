"""``python -m sdst`` runs the ``sdst`` command."""

from sdst.cli import main

raise SystemExit(main())
