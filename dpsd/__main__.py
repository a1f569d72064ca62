"""python -m dpsd: the same as the command."""

from dpsd.cli import main

main()
