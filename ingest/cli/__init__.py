"""The command line: the only room that prints and exits, and the one synchronous edge."""

from __future__ import annotations

import sys


def run() -> None:
    """Run the command line and exit with its status."""
    from ingest.cli.main import main

    sys.exit(main())
