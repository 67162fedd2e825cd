"""Run the `sais` command: `python -m sais`."""

from __future__ import annotations

import sys

from sais.cli import main

if __name__ == "__main__":
    sys.exit(main())
