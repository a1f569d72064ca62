"""The labelled evaluation: attacks, defences and rounds in the lab; docs/evaluation.md from it."""
