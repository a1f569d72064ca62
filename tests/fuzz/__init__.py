"""Nonsense in place of what the kernel says, of captures and of configurations, by hypothesis."""
