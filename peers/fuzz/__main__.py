"""`python -m peers.fuzz`: the same as `python -m peers fuzz`."""

from __future__ import annotations

import sys

from peers.__main__ import main
from sais.errors import SaisError

if __name__ == "__main__":
    try:
        sys.exit(main(["fuzz", *sys.argv[1:]]))
    except SaisError as error:
        sys.exit(f"peers: error: {error}")
