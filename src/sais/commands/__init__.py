"""The commands of `sais`, one file each: a frozen dataclass of arguments and `run(argv) -> exit code`."""
