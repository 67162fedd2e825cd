"""The paper's tables and figures: rows, runs that go on where they stopped, results. `sais reproduce` calls it."""
