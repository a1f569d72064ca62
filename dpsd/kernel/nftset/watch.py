"""Notices when somebody else changes the table, by the kernel's nf_tables notifications.

Each notification carries the port id of the netlink socket whose transaction it tells of. Those of
this process's own sockets are filtered out in the kernel, so that own changes, however many, cost
nothing here. Elements that expire aren't notified of at all.
"""

import ctypes
import errno
import os
import socket
import sys
from contextlib import suppress
from functools import cache
from struct import pack

from dpsd.kernel.nftset import library, wire
from dpsd.kernel.nftset.table import TABLE

_NETLINK_NETFILTER, _NFNLGRP_NFTABLES = 12, 7
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_PROTOCOL = 26, 33, 38
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_JUMP, _LOAD_AT, _LOAD_BYTE_AT, _SET_X = 0x05, 0x40, 0x50, 0x01
_STORE, _STORE_X, _LOAD_X, _TO_X = 0x02, 0x03, 0x61, 0x07
_SHIFT_LEFT, _ADD, _ADD_X, _AND = 0x64, 0x04, 0x0C, 0x54
_MESSAGES = 16  # of a datagram that are looked at; net.core.optmem_max may be 20 KiB
_PORT_OFFSET = 12  # of nlmsghdr.nlmsg_pid
_TABLE_NAME = 1  # NFTA_TABLE_NAME; the table's attribute has this number in every kind of message
_NEWGEN = wire.NFNL_SUBSYS_NFTABLES << 8 | 15  # NFT_MSG_NEWGEN: ends a transaction, names no table
_BUFFER = 4 << 20  # other people's changes; more of them at a time count as lost


class Watch:
    """Foreign changes of table inet dpsd. Its descriptor is readable when there may be some."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        self._socket.setblocking(False)
        with suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self.lost = False
        self._own: frozenset[int] = frozenset()
        self.learn()
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop watching."""
        self._socket.close()

    def foreign(self) -> bool:
        """Read all that has come in: has somebody else changed or deleted the table?

        If notifications were lost nobody knows: then `lost` is set.
        """
        changed = False
        while True:
            try:
                changed = self._foreign(self._socket.recv(1 << 16)) or changed
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost = True

    def _foreign(self, datagram: bytes) -> bool:
        for kind, port, start, end in wire.messages(datagram):
            if kind != _NEWGEN and port not in self._own and _is_ours(datagram, start, end):
                self.learn()  # libnftables opens a new socket now and then
                if port not in self._own:
                    return True
        return False

    def learn(self) -> None:
        """Learn which sockets are this process's own; worth a call after another Table is made.

        Otherwise they are learnt from the first notification, which comes too late for a load of
        more elements than the buffer holds.
        """
        self._own = frozenset(_own_ports())
        _attach(self._socket, _filter(self._own))


def _is_ours(datagram: bytes, start: int, end: int) -> bool:
    if datagram[start:end][:1] != bytes([wire.NFPROTO_INET]):
        return False
    name = TABLE.encode() + b"\0"
    return any(
        kind == _TABLE_NAME and datagram[first:last] == name
        for kind, first, last in wire.attributes(datagram, start + 4, end)
    )


def _own_ports() -> set[int]:
    """The port ids of this process's sockets that speak to netfilter, and of libnftables' ones."""
    ports = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # closed meanwhile
            # Sockets only: closing a copy of any file drops every lock that this process has on
            # it (fcntl(2)), and SQLite's safety with it.
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                ports.add(_netfilter_port(int(descriptor)))
    return ports - {0} | library.ports()


def _netfilter_port(descriptor: int) -> int:
    """The port id of a netfilter netlink socket, 0 for any other socket."""
    with socket.socket(fileno=os.dup(descriptor)) as own:
        if own.family != socket.AF_NETLINK:
            return 0
        if own.getsockopt(socket.SOL_SOCKET, _SO_PROTOCOL) != _NETLINK_NETFILTER:
            return 0
        return int(own.getsockname()[0])


def _filter(own: frozenset[int]) -> bytes:
    """A classic BPF program that drops what carries one of these port ids, or tells of no message
    about the table.

    One datagram tells of one transaction, so that its first message's port id speaks for all. BPF
    loads in network byte order.
    """
    ports = sorted(own)[:200]  # a jump reaches 255 instructions
    program = [(_LOAD, 0, 0, _PORT_OFFSET)]
    for index, port in enumerate(ports):
        program.append((_EQUAL, len(ports) - index, 0, socket.htonl(port)))
    program += [(_JUMP, 0, 0, 1), (_RETURN, 0, 0, 0)]
    return b"".join(pack("=HBBI", *instruction) for instruction in program) + _about_table()


@cache
def _about_table() -> bytes:
    """The part of the program that passes on what has a message about the table, or very many.

    A load beyond the datagram's end ends the program, and drops it.
    """
    name = TABLE.encode()
    head = int.from_bytes(pack("=HH", 4 + len(name) + 1, _TABLE_NAME), "big")
    expected = (
        (_LOAD_AT, 24, int.from_bytes(name, "big")),
        (_LOAD_AT, 20, head),
        (_LOAD_BYTE_AT, 28, 0),
        (_LOAD_BYTE_AT, 16, wire.NFPROTO_INET),
    )
    low, high = (0, 1) if sys.byteorder == "little" else (3, 2)  # of nlmsg_len
    message: list[tuple[int, int, int, int]] = []
    for index, (load, offset, value) in enumerate(expected):
        rest = 2 * (len(expected) - index) - 1  # to behind the return
        message += [(load, 0, 0, offset), (_EQUAL, 0, rest, value)]
    message.append((_RETURN, 0, 0, 0xFFFFFFFF))
    message += [  # the next message: X += (length + 3) & ~3
        *((_LOAD_BYTE_AT, 0, 0, high), (_SHIFT_LEFT, 0, 0, 8), (_STORE, 0, 0, 0)),
        *((_LOAD_BYTE_AT, 0, 0, low), (_STORE_X, 0, 0, 1)),
        *((_LOAD_X, 0, 0, 0), (_ADD_X, 0, 0, 0), (_LOAD_X, 0, 0, 1), (_ADD_X, 0, 0, 0)),
        *((_ADD, 0, 0, 3), (_AND, 0, 0, 0xFFFFFFFC), (_TO_X, 0, 0, 0)),
    ]
    program = [(_SET_X, 0, 0, 0), *message * _MESSAGES, (_RETURN, 0, 0, 0xFFFFFFFF)]
    return b"".join(pack("=HBBI", *instruction) for instruction in program)


def _attach(to: socket.socket, program: bytes) -> None:
    held = ctypes.create_string_buffer(program, len(program))
    prog = pack("HxxxxxxP" if ctypes.sizeof(ctypes.c_void_p) == 8 else "HxxP",
                len(program) // 8, ctypes.addressof(held))  # struct sock_fprog  # fmt: skip
    to.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, prog)
