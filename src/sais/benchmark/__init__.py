"""Time and memory on this machine: models, masks, scaling, training; each `sais bench` subcommand is one module."""
