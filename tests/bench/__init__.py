"""The benchmarks: what dpsd costs and how fast it is. `python -m tests.bench`, or `make bench`."""
