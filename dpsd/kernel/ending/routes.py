"""Whether an address is of this host, as the kernel routes."""

import errno
import os
import socket
from struct import Struct, pack, unpack_from

from dpsd.errors import KernelError

_GETROUTE, _NEWROUTE, _ERROR, _REQUEST = 26, 24, 2, 1
_DST = 1  # RTA_DST
_RTN_LOCAL = 2
_UNREACHABLE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}
_PATIENCE = 5.0  # seconds for the kernel's answer
_HEADER = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence number, port id
_ROUTE = Struct("=8BI")  # rtmsg: family, lengths of destination and source, ..., type; flags
_TYPE_AT = 7  # rtm_type


def is_local(address: bytes) -> bool | None:
    """Whether a packed address is this network namespace's own; None: there is no way to it.

    Raises KernelError if the kernel can't be asked.
    """
    try:
        return _type_of_route(address) == _RTN_LOCAL
    except OSError as problem:
        if problem.errno in _UNREACHABLE:
            return None
        raise KernelError(f"the routes can't be asked: {problem.strerror}") from None


def _type_of_route(address: bytes) -> int:
    """The type of the route (rtm_type) that a packet to an address takes; OSError."""
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    body = _ROUTE.pack(family, 8 * len(address), 0, 0, 0, 0, 0, 0, 0)
    body += pack("=HH", 4 + len(address), _DST) + address
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asking:
        asking.settimeout(_PATIENCE)
        asking.send(_HEADER.pack(_HEADER.size + len(body), _GETROUTE, _REQUEST, 0, 0) + body)
        answer = asking.recv(1 << 16)
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind == _ERROR:
        (failure,) = unpack_from("=i", answer, _HEADER.size)
        raise OSError(-failure, os.strerror(-failure))
    if kind != _NEWROUTE:
        raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
    return answer[_HEADER.size + _TYPE_AT]
