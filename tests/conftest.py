"""All tests run in a private world: their network, mounts and processes are gone with them.

Without root that can't be made; then the tests that need a kernel fail, as they should.
"""

import os
import subprocess

from hypothesis import HealthCheck, settings

from tests.lab import private

# A busy machine is no failure.
settings.register_profile("dpsd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dpsd")

if os.geteuid() == 0:
    private.enter()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
