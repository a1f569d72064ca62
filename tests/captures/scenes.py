"""The scenes behind the captures: recorded on a real kernel, in namespaces, then replayed.

python -m tests.captures.scenes             record all scenes anew, and write their verdicts
python -m tests.captures.scenes holder      only this one
python -m tests.captures.scenes --verdicts  write the verdicts of the captures as they are
"""

import json
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

from dpsd.capture import record, replay
from dpsd.config import Config, load
from tests.lab import private
from tests.lab.net import MAIL4, MAIL6, Net

HERE = Path(__file__).parent
TRACKED = """
table inet tracked {
  chain input { type filter hook input priority 0; ct state new accept; }
}
"""


def capture(name: str) -> Path:
    """The capture of a scene."""
    return HERE / f"{name}.pcap"


def config(name: str) -> Config:
    """What it is judged by."""
    return load(HERE / f"{name}.toml")


def verdicts(name: str) -> Path:
    """What comes of it."""
    return HERE / f"{name}.json"


@dataclass
class Stage:
    """Where a scene is played: by this thread, in the peers' namespace, until it is over."""

    net: Net
    over: Event = field(default_factory=Event)
    kept: ExitStack = field(default_factory=ExitStack)

    def connect(self, peer: str) -> socket.socket:
        """A session from a peer's address, established."""
        server = str(MAIL6 if ":" in peer else MAIL4)
        return socket.create_connection((server, 25), timeout=5, source_address=(peer, 0))

    def keep(self, client: socket.socket) -> socket.socket:
        """Let it stay open to the end of the scene."""
        return self.kept.enter_context(client)

    def mail(self, peer: str, pause: float = 0.0) -> None:
        """Deliver a mail."""
        with self.connect(peer) as client:
            for text in (b"EHLO honest.example\r\n", b"Subject: hi\r\n" + b"x" * 1500, b"QUIT\r\n"):
                client.recv(100)
                time.sleep(pause)
                client.sendall(text)
            client.shutdown(socket.SHUT_WR)
            while client.recv(100):
                pass


def holder(stage: Stage) -> None:
    """Two peers with eight silent sessions each; a third sends a mail, and then another."""
    for peer in ("10.99.128.1", "2001:db8:a800:1::19"):
        for _ in range(8):
            stage.keep(stage.connect(peer)).sendall(b"HELO agent\r\n")
    stage.mail("10.99.0.9")
    stage.over.wait(10)  # that is what they hold for: two dumps have to find them silent
    stage.mail("10.99.0.9")


def churner(stage: Stage) -> None:
    """Two peers that come and go, one of them with a reset; a third does so slowly."""
    for n in range(30):
        for peer in ("10.99.128.2", "2001:db8:a800:2::19"):
            with stage.connect(peer) as client:
                if ":" in peer:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if n % 15 == 0:
            stage.mail("10.99.0.9")


def vanisher(stage: Stage) -> None:
    """Two peers send FIN and are gone before the last ACK; a third takes leave properly."""
    gone = ("10.99.128.3", "2001:db8:a800:3::19")
    clients = [stage.keep(stage.connect(peer)) for peer in gone for _ in range(4)]
    vanished = "tcp flags & (fin | syn | rst) == 0 drop"
    for family, peer in zip(("ip", "ip6"), gone, strict=True):
        rule = f"add rule inet world output {family} saddr {peer} {vanished}"
        stage.net.world.run("nft", *rule.split())
    for client in clients:
        client.shutdown(socket.SHUT_WR)
    stage.mail("10.99.0.9")


def honest(stage: Stage) -> None:
    """Mails of both families, one that takes its time, and one that the mail host itself sends."""
    for n in range(4):
        stage.mail(f"10.99.0.{10 + n}")
        stage.mail(f"2001:db8:a000:{10 + n}::19")
    stage.mail("10.99.0.20", pause=0.3)
    with socket.create_server(("10.99.0.99", 25)) as remote, stage.net.mail.entered():
        with socket.create_connection(("10.99.0.99", 25)) as client:
            client.sendall(b"EHLO mail.example\r\n")
        remote.accept()[0].close()


SCENES: dict[str, tuple[Callable[[Stage], None], float]] = {
    "holder": (holder, 15.0),
    "churner": (churner, 4.0),
    "vanisher": (vanisher, 9.0),
    "honest": (honest, 4.0),
}
"""Each scene, and for how many seconds it is recorded."""


# The mail host


@contextmanager
def _server() -> Iterator[None]:
    """Greets, answers whatever is said, and closes when the peer has."""
    ended = Event()
    listener = socket.create_server(("::", 25), family=socket.AF_INET6, dualstack_ipv6=True)
    with listener, selectors.DefaultSelector() as ready:
        ready.register(listener, selectors.EVENT_READ)

        def serve() -> None:
            while not ended.is_set():
                for chosen, _ in ready.select(0.1):
                    _answer(ready, chosen.fileobj, listener)

        thread = Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            for chosen in [*ready.get_map().values()]:
                chosen.fileobj.close()  # type: ignore[union-attr]


def _answer(ready: selectors.BaseSelector, found: Any, listener: socket.socket) -> None:
    if found is listener:
        server, _ = listener.accept()
        ready.register(server, selectors.EVENT_READ)
        with suppress(ConnectionError):
            server.sendall(b"220 mail.example\r\n")
        return
    with suppress(ConnectionError):
        if found.recv(1 << 16):
            found.sendall(b"250 ok\r\n")
            return
    ready.unregister(found)
    found.close()


def _subscribed() -> bool:
    """Whether somebody in this namespace listens to conntrack's events."""
    lines = Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]
    return any(
        protocol == "12" and groups == "00000007"
        for _, protocol, _, groups, *_ in map(str.split, lines)
    )


def take(name: str, path: Path, seconds: float | None = None, anonymize: bool = False) -> None:
    """Record a scene to a new file. Needs a private world."""
    scene, usual = SCENES[name]
    with Net() as net, net.mail.entered():
        net.mail.run("nft", "-f", "-", stdin=TRACKED)
        net.mail.sysctl(netfilter__nf_conntrack_acct=1)
        stage = Stage(net)

        def act() -> None:
            with net.mail.entered():
                while not _subscribed() and not stage.over.wait(0.01):
                    pass
            stage.over.wait(0.5)  # the first dump is over: nobody is judged before
            with net.world.entered(), stage.kept:
                scene(stage)
                stage.over.wait()

        thread = Thread(target=act)
        with _server():
            thread.start()
            try:
                record(config(name), path, usual if seconds is None else seconds, anonymize)
            finally:
                stage.over.set()
                thread.join()


def judge(name: str) -> list[dict[str, Any]]:
    """The verdicts that its capture gives."""
    return replay(config(name), capture(name))


def main(arguments: list[str]) -> None:
    """See above."""
    names = [name for name in arguments if not name.startswith("-")] or [*SCENES]
    if "--verdicts" not in arguments:
        private.enter()
        for name in names:
            capture(name).unlink(missing_ok=True)
            take(name, capture(name))
    for name in names:
        verdicts(name).write_text(json.dumps(judge(name), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
