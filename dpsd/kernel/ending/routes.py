"""Whether an address is of this host, as the kernel routes."""

import errno
import socket

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from dpsd.errors import KernelError

_RTN_LOCAL = 2
_UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}


def is_local(address: bytes) -> bool | None:
    """Whether a packed address is this network namespace's own; None: there is no way to it.

    Raises KernelError if the kernel can't be asked.
    """
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    try:
        with IPRoute() as routes:
            found = routes.route("get", dst=socket.inet_ntop(family, address), family=family)
            return any(route["type"] == _RTN_LOCAL for route in found)
    except NetlinkError as problem:
        if problem.code in _UNREACHABLE:
            return None
        raise KernelError(f"the routes can't be asked: {problem}") from None
    except OSError as problem:
        raise KernelError(f"the routes can't be asked: {problem.strerror}") from None
