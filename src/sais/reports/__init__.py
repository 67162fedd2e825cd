"""Reports that people read: the page of a run, and what it shares with the other pages of the package.

`record` reads a run's folder, `judge` says what became of each object and each detection, `charts` and `tables` draw,
`sections` and `images` make the parts, `write` the whole.
"""
