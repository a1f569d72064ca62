"""This host's own sockets, by the sock_diag netlink family: what they tell of sessions that
conntrack doesn't, and SOCK_DESTROY, which ends live sessions.

All of it may be called from any thread: each call opens a netlink socket of its own.
"""

from dpsd.kernel.sockdiag.ending import destroy, probe
from dpsd.kernel.sockdiag.sockets import closed, held
from dpsd.kernel.sockdiag.wire import Session
from dpsd.kernel.sockdiag.words import ask

__all__ = ["Session", "ask", "closed", "destroy", "held", "probe"]
