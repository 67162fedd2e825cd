"""`python -m peers.gpu` is the command `python -m peers gpu`."""

from __future__ import annotations

import sys

from peers.__main__ import main
from sais.errors import SaisError

if __name__ == "__main__":
    try:
        sys.exit(main(["gpu", *sys.argv[1:]]))
    except SaisError as error:
        sys.exit(f"peers: error: {error}")
