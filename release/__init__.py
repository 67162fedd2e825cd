"""Checks of what is released: the contents of wheel and source distribution, and installs in clean environments."""
