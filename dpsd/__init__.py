"""dpsd: keeps a mail host answering while it is attacked."""

__version__ = "0.1.0"
