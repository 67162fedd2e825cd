"""The commands of `sais`, one file each: a frozen dataclass of arguments and `run(argv) -> exit code`.

To add a command, write its file and add a row to `sais.commands.table.COMMANDS`.
"""
