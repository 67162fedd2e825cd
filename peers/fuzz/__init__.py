"""Seeded mutation fuzzer of everything that sais reads: files of strangers and command lines."""
