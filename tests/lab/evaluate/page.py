"""docs/evaluation.md: the tables in it."""
