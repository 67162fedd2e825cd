"""Peers that SAIS is compared with, and the comparisons. The package `sais` never imports anything of it."""
