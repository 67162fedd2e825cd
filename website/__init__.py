"""The documentation site: hooks of MkDocs, pages made from the code, theme. `make docs` uses it."""
