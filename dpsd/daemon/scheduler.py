"""APScheduler without pkg_resources, which takes 5 MB and 0.1 s and more to import.

APScheduler before 3.11 asks it for its own version and for plugins; none is used here.
"""

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from types import ModuleType


def _no_plugins(_: str) -> Iterator[object]:
    return iter(())


_before = sys.modules.get("pkg_resources")
_asked = ModuleType("pkg_resources")
vars(_asked).update(
    get_distribution=distribution,
    DistributionNotFound=PackageNotFoundError,
    iter_entry_points=_no_plugins,
)
sys.modules["pkg_resources"] = _asked
from apscheduler.schedulers.asyncio import AsyncIOScheduler  # noqa: E402
from apscheduler.triggers.base import BaseTrigger  # noqa: E402

if _before is None:
    del sys.modules["pkg_resources"]
else:
    sys.modules["pkg_resources"] = _before

__all__ = ["AsyncIOScheduler", "BaseTrigger"]
