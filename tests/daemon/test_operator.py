"""An operator's word holds, whatever the daemon decides at the same moment."""

import os
import signal
import threading

from tests.daemon.conftest import Make
from tests.daemon.live import MailHost, Nft, at_once, eventually, listed
from tests.daemon.test_verdicts import LASTING, QUICK

PEERS = tuple(f"10.99.190.{number}" for number in range(1, 9))


def test_a_verdict_at_the_same_moment_gives_way(make: Make, host: MailHost, nft: Nft) -> None:
    daemon = make(**(QUICK | LASTING))
    daemon.start()
    for peer in PEERS:
        assert all(host.reached(peer) for _ in range(3))
    assert eventually(lambda: daemon.json("status")["peers"] >= len(PEERS))
    os.kill(daemon.pid, signal.SIGSTOP)  # what comes now is all there at once when it goes on
    for peer in PEERS:
        for _ in range(2):
            assert host.reached(peer)
    blocking = threading.Thread(
        target=at_once, args=(daemon, *(f"block {peer} --for 7d" for peer in PEERS))
    )
    blocking.start()
    assert eventually(lambda: len(listed(daemon)) >= len(PEERS) + 1)
    os.kill(daemon.pid, signal.SIGCONT)
    blocking.join()
    assert eventually(lambda: len(set(daemon.json("status")["revision"].values())) == 1)
    verdicts = [
        peer for peer in PEERS if f"{peer} block for 1h, by score" in daemon.log.read_text()
    ]
    assert verdicts, "nothing happened at the same moment"
    lists, kernel = listed(daemon), nft.elements("block4")
    for peer in PEERS:
        assert lists["block", peer]["source"] == "operator", peer
        assert (kernel[peer] or 0) > 6 * 86_400, peer
    at_once(daemon, *(f"unblock {peer}" for peer in PEERS))
    assert all(map(host.reached, PEERS))
