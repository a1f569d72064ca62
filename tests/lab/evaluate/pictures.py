"""docs/evaluation/*.svg: the pictures."""
