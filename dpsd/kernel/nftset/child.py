"""The program that runs libnftables: in a process of its own, which may die of it.

libnftables 1.0.6 ends its process (SIGSEGV) when it meets a set that a newer nft made anywhere in
the network namespace. So this imports nothing of dpsd, and speaks through pipes: a request is a
byte for the mode ("t": terse, "d": dry run) and commands; an answer is nft's code, its output, its
errors, and the port ids of the sockets that it speaks to the kernel with. Each text comes after its
length.
"""

import os
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import BinaryIO

_LENGTH = struct.Struct("=I")
_SO_PROTOCOL, _NETFILTER = 38, 12


def read(file: BinaryIO) -> bytes:
    """A text after its length; EOFError when the other end is gone."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    text = file.read(length)
    if len(text) < length:
        raise EOFError
    return text


def write(file: BinaryIO, text: bytes) -> None:
    """A text after its length."""
    file.write(_LENGTH.pack(len(text)))
    file.write(text)


def main() -> None:
    """Answer until there is nobody any more who asks."""
    from nftables import Nftables  # noqa: PLC0415 - the parent reads this file without it

    for number in (signal.SIGINT, signal.SIGTERM):  # it ends with its parent, not before
        signal.signal(number, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    nft = Nftables()
    nft.set_stateless_output(True)  # list no counters and no time left
    write(answers, _ports())
    answers.flush()
    while True:
        try:
            request = read(requests).decode()
        except EOFError:
            return
        nft.set_terse_output(request[:1] == "t")
        nft.set_dry_run(request[:1] == "d")
        code, output, error = nft.cmd(request[1:])
        for text in (str(code).encode(), str(output).encode(), str(error).encode(), _ports()):
            write(answers, text)
        answers.flush()


def _ports() -> bytes:
    """The port ids of this process's sockets that speak to netfilter."""
    ports = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the list's own, which is closed
            if not os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(descriptor))) as own:
                netlink = own.family == socket.AF_NETLINK
                if netlink and own.getsockopt(socket.SOL_SOCKET, _SO_PROTOCOL) == _NETFILTER:
                    ports.append(str(own.getsockname()[0]))
    return " ".join(ports).encode()


if __name__ == "__main__":
    main()
