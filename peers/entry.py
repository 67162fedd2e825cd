"""The end of every `python -m peers...`: an error or Ctrl-C is one line, not a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from sais.errors import SaisError


def run_main(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run `main` with the words of the command line and exit with its status; 1 for an error, 130 for Ctrl-C."""
    try:
        sys.exit(main(sys.argv[1:]))
    except SaisError as error:
        sys.exit(f"peers: error: {error}")
    except KeyboardInterrupt:
        print("peers: interrupted", file=sys.stderr)
        sys.exit(130)
