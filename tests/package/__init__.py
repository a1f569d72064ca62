"""The Debian package, built and tried on both releases: `make deb`, `make test-package`.

trees.py     small systems of either release, made once and never written to again
build.py     the package from this checkout, in a clean tree; lintian
guest.py     a booted systemd on such a tree, with a network of its own
steps.py     telling what is done
peers.py     who connects to its mail server
booted.py    what an administrator does in it, step by step
exim.py      with Exim instead of Postfix: the number of its slots

All of it needs root and the system's own Python, nothing of .venv. It runs in a private world
(tests/lab/private.py), so that mounts, networks and processes end with it.
"""
