"""Changes and reads elements of nf_tables sets over a netlink socket of its own."""

import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from struct import error as struct_error
from struct import pack
from time import monotonic

from dpsd.errors import DpsdError, KernelError, NotPermitted
from dpsd.kernel.ctnetlink import errno_of
from dpsd.kernel.nftset import wire

_NETLINK_NETFILTER = 12
_SOL_NETLINK, _NETLINK_CAP_ACK = 270, 10
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33

# A transaction is one datagram: room for some hundred thousand elements. Used only when needed.
_BUFFER = 64 << 20
_DATAGRAM = 1 << 16
_PATIENCE = 10  # seconds for each part of an answer
WHOLE = 60.0  # seconds for all of it; 262,144 elements take some two


class ElementSocket:
    """A netlink socket that changes and dumps the elements of one table's sets."""

    def __init__(self, table: str) -> None:
        self._table = table
        self._stopped = False
        self._socket = self._open()

    @staticmethod
    def _open() -> socket.socket:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        opened.bind((0, 0))
        opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)  # errors without the request
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, pack("ll", _PATIENCE, 0))
        with suppress(PermissionError):  # then what is sent will be refused anyway
            opened.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        return opened

    def stop(self) -> None:
        """Dump no more: one that goes on in another thread ends with KernelError."""
        self._stopped = True

    def close(self) -> None:
        """Close the socket; the sets stay as they are."""
        self._socket.close()

    def replace(
        self, gone: Mapping[str, Sequence[bytes]], new: Mapping[str, Mapping[bytes, float | None]]
    ) -> None:
        """One transaction: take keys out of sets, whether they are there or not, then put others.

        New keys come with the seconds they stay; they are expected to be among those gone, for
        before Linux 6.12 adding what is there keeps its old time. Raises KernelError or
        NotPermitted; then nothing was changed.
        """
        if failure := self._replace(gone, new):
            raise refused(failure, ", ".join(sorted({*gone, *new})))

    def put(self, name: str, times: Mapping[bytes, float]) -> bool:
        """Put keys into a set, those that are there for their new time, or none of them if it has
        no room for all. Returns whether it had.

        times: the seconds they stay. Raises KernelError or NotPermitted; then nothing was changed.
        """
        failure = self._replace({name: list(times)}, {name: dict(times)})
        if failure not in {0, errno.ENFILE}:
            raise refused(failure, name)
        return not failure

    def remove(self, name: str, key: bytes) -> None:
        """Take a key out of a set, if it is there. Raises KernelError or NotPermitted."""
        change = wire.change(wire.DELSETELEM, self._table, name, [wire.element(key)])
        failure = self._transact(wire.batch(change))
        if failure not in {0, errno.ENOENT}:
            raise refused(failure, name)

    def _replace(
        self, gone: Mapping[str, Sequence[bytes]], new: Mapping[str, Mapping[bytes, float | None]]
    ) -> int:
        """What replace() does; the errno of what failed, 0 if all was done."""
        messages: list[bytes] = []
        for name, keys in gone.items():
            elements = [wire.element(key) for key in keys]
            messages += wire.change(wire.NEWSETELEM, self._table, name, elements)
            messages += wire.change(wire.DELSETELEM, self._table, name, elements)
        for name, times in new.items():
            elements = [wire.element(key, seconds) for key, seconds in times.items()]
            messages += wire.change(wire.NEWSETELEM, self._table, name, elements)
        if not messages:
            return 0
        transaction = wire.batch(messages)
        failure = self._transact(transaction)
        if failure == errno.ENOENT:  # an element may expire between being added and deleted
            failure = self._transact(transaction)
        return failure

    def _transact(self, transaction: bytes) -> int:
        """The errno of the first message that failed, 0 if all was done."""
        try:
            self._socket.send(transaction)
        except OSError as error:
            return error.errno or errno.EIO
        # The kernel worked through all of it within send(), and has queued its answers.
        failure = errno.EPROTO
        while True:
            try:
                answer = self._socket.recv(_DATAGRAM, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return failure
            except OSError as error:  # ENOBUFS: nobody knows what became of it
                return error.errno or errno.EIO
            for kind, _, start, end in wire.messages(answer):
                if kind == wire.NLMSG_ERROR and failure in {0, errno.EPROTO}:
                    failure = errno_of(answer, start, end)

    def dump(self, set_name: str) -> list[wire.Found] | None:
        """A set's elements, until instants of the steady clock; None: no such set.

        It may take seconds. The kernel goes on by position (nft_rhash_walk in
        net/netfilter/nft_set_hash.c): when others come or go meanwhile, elements may be left out,
        and while the hash table grows some are told twice and as many left out. No flag tells
        that, as of Linux 6.18. Raises KernelError or NotPermitted.
        """
        found: list[wire.Found] = []
        for kind, answer, start, end in self._answers(wire.dump(self._table, set_name)):
            if kind == wire.NEWSETELEM:
                try:
                    found += wire.found(answer, start, end, monotonic())
                except struct_error as problem:
                    raise self._given_up(f"set {set_name} makes no sense ({problem})") from None
            elif (failure := errno_of(answer, start, end)) == errno.ENOENT:
                return None
            elif failure:
                raise refused(failure, set_name)
        return found

    def counted(self, chain: str) -> wire.Traffic:
        """What the counters of a chain's rules counted together; none: no such chain.

        Raises KernelError or NotPermitted.
        """
        packets = octets = 0
        for kind, answer, start, end in self._answers(wire.dump_rules(self._table, chain)):
            if kind == wire.NEWRULE:
                try:
                    for each in wire.traffic(answer, start, end):
                        packets, octets = packets + each.packets, octets + each.bytes
                except struct_error as problem:
                    raise self._given_up(f"chain {chain} makes no sense ({problem})") from None
            elif failure := errno_of(answer, start, end):
                raise refused(failure, chain)
        return wire.Traffic(packets, octets)

    def _answers(self, request: bytes) -> Iterator[tuple[int, bytes, int, int]]:
        """The answers to a dump's request, up to the one that says that it is over, or why not.

        Type, the datagram, start and end of the payload. Others are skipped.
        """
        until = monotonic() + WHOLE
        try:
            self._socket.send(request)
            while monotonic() < until:
                if self._stopped:
                    raise KernelError("table inet dpsd: it isn't asked any more")
                answer = self._socket.recv(_DATAGRAM)
                for kind, _, start, end in wire.messages(answer):
                    is_last = kind in {wire.NLMSG_DONE, wire.NLMSG_ERROR}
                    if is_last or kind in {wire.NEWSETELEM, wire.NEWRULE}:
                        yield kind, answer, start, end
                    if is_last:
                        return
        except BlockingIOError:
            raise self._given_up(f"no answer within {_PATIENCE} s") from None
        except OSError as problem:
            raise self._given_up(f"can't be read: {problem.strerror}") from None
        raise self._given_up(f"its answer goes on for over {WHOLE:.0f} s")

    def _given_up(self, why: str) -> KernelError:
        """What comes late of an answer isn't to be taken for the next one: begin with another
        socket."""
        self._socket.close()
        self._socket = self._open()
        return KernelError(f"table inet {self._table}: {why}")


def refused(failure: int, sets: str) -> DpsdError:
    """What an errno of the kernel's means to whoever changed or read elements of these sets."""
    if failure in {errno.EPERM, errno.EACCES}:
        return NotPermitted("changing nftables sets needs CAP_NET_ADMIN: run as root")
    if failure == errno.ENFILE:
        return KernelError(f"table inet dpsd: set {sets} is full; nothing was changed")
    if failure == errno.ENOENT:
        return KernelError(f"table inet dpsd: set {sets} isn't there: it has to be loaded again")
    return KernelError(f"table inet dpsd: set {sets}: {os.strerror(failure)}")
