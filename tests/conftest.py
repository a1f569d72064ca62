"""All tests run in a private world: their network, mounts and processes are gone with them.

Without root that can't be made; then the tests that need a kernel fail, as they should.
"""

import os
import subprocess

from tests.lab import private

if os.geteuid() == 0:
    private.enter()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
