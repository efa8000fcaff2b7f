"""Everything that touches the world: one file an outside system, behind a small Protocol."""
