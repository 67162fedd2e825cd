"""Load and faults of `sais serve`, from outside: `python -m peers.serving load` and `faults`."""
