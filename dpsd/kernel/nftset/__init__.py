"""dpsd's nftables table: its ruleset, its elements, and who else changes it.

libnftables, in a process of its own, loads and describes the table and changes prefixes. Hosts, the
hot path, are put and read by netlink messages of our own: libnftables 1.0.6 fetches every interval
set of the machine before it adds one element to a hash set (5 microseconds for each prefix of
anybody's firewall).
"""

from dpsd.kernel.nftset.library import Crashed, Library
from dpsd.kernel.nftset.ruleset import DEFAULT_TIMEOUTS, SIZES, TableSpec, render
from dpsd.kernel.nftset.table import Table
from dpsd.kernel.nftset.watch import Watch
from dpsd.kernel.nftset.wire import Traffic

__all__ = [
    "DEFAULT_TIMEOUTS",
    "SIZES",
    "Crashed",
    "Library",
    "Table",
    "TableSpec",
    "Traffic",
    "Watch",
    "render",
]
