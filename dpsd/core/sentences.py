"""Sentences: what follows for who is guilty: an entry on a list, longer each time, and the end of
the sessions that its peer has open.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

from dpsd.core.events import Key
from dpsd.core.judge import Guilty, Judge
from dpsd.core.lists import SCORE, Entry, ListName, Lists
from dpsd.core.owners import TOGETHER, Owners
from dpsd.core.peers import Network
from dpsd.core.policy import Policy
from dpsd.core.prefixes import KEPT
from dpsd.core.retries import Retries
from dpsd.core.story import span, verdict

AT_ONCE = 20  # who is listed together: some 2 ms, with the kernel's part
RECALLED = 500  # earlier blocks that are looked at together, to forget them


@dataclass(frozen=True, slots=True)
class Verdict:
    """A new entry for a list, and the peer's sessions that are open now."""

    entry: Entry
    sessions: list[Key]


class Sentences:
    """blocks: when which peer was blocked by its score; waiting: who is guilty and has no sentence
    yet, since very many are at once."""

    def __init__(self, policy: Policy, lists: Lists, judge: Judge, owners: Owners) -> None:
        self.policy = policy
        self.blocks: dict[Network, list[float]] = {}
        self.waiting = Guilty()
        self._lists = lists
        self._judge = judge
        self._owners = owners
        self._scores = judge.scores
        self._retries = Retries()

    def on(self, guilty: Guilty, now: float) -> list[Verdict]:
        """List who is guilty, unless they are on a list, immune, or have delivered since; AT_ONCE
        of them, and the others with the next calls."""
        peers, prefixes = self.waiting.peers, self.waiting.prefixes
        peers.update(guilty.peers)
        prefixes.update(guilty.prefixes)
        entries: dict[Network, Entry] = {}
        wide = list(islice(prefixes, AT_ONCE))
        for network in wide:
            prefix = prefixes.pop(network)
            if self._is_free(network) and self._judge.prefixes.have(network, prefix):
                known = len(prefix.peers)
                many = f"{known} or more" if known == KEPT else f"{known}"
                why = f"{prefix.score:.0f} slot-seconds by {many} of its peers together"
                entries[network] = self._list(network, why, now)
                self._judge.prefixes.clear(network)
        for key in list(islice(peers, AT_ONCE - len(wide))):
            peer = peers.pop(key)
            network = self._scores.size.network_of_key(key)
            decisive = self._lists.decisive(network)
            if decisive is not None or self._owners.immune(network) or peer.relay:
                peer.listed = decisive is not None and decisive.list != ListName.WHITE
                continue
            score, limit = self._scores.score(peer, now), self._judge.limit(peer, now)
            if score < limit:  # it delivered in the meantime
                continue
            why = verdict(score, limit, peer.evidence.values())
            entries[network] = self._list(network, why, now)
        return self._with_sessions(entries)

    def _is_free(self, network: Network) -> bool:
        return self._lists.decisive(network) is None and not self._owners.immune(network)

    def retried(self, persistent: Mapping[Network, int], now: float) -> None:
        """Take which listed peers went on sending, and how many of their packets were dropped."""
        self._retries.take(persistent, now)

    def on_retries(self, over: Iterable[Entry], now: float) -> list[Verdict]:
        """Peers whose block is over, but which never stopped: they are listed for longer."""
        entries: dict[Network, Entry] = {}
        for entry in over:
            packets = self._retries.by(entry.peer, now)
            if packets and entry.source == SCORE and self._lists.decisive(entry.peer) is None:
                why = f"went on while it was blocked: {packets} packets dropped"
                entries[entry.peer] = self._list(entry.peer, why, now)
        return self._with_sessions(entries)

    def forget(self, now: float) -> None:
        """Forget some of the blocks that count no more."""
        for network in list(islice(self.blocks, RECALLED)):
            times = self.blocks.pop(network)
            recent = [at for at in times if now - at <= self.policy.black_within]
            if recent:
                self.blocks[network] = recent  # to the end of the queue

    def _with_sessions(self, entries: dict[Network, Entry]) -> list[Verdict]:
        """Verdicts with the sessions to end, which count for nothing more from now on."""
        verdicts, left = list[Verdict](), TOGETHER
        for peer, entry in entries.items():
            sessions = self._owners.sessions_of(peer, left)
            left -= len(sessions)
            self._judge.ended.update(sessions)
            verdicts.append(Verdict(entry, sessions))
        return verdicts

    def _list(self, network: Network, why: str, now: float) -> Entry:
        before, size = self.blocks.setdefault(network, []), self._scores.size
        name, until, rank = self.policy.sentence(before, now)
        if rank > 1:
            why += f"; block {rank} within {span(self.policy.black_within)}"
        before.append(now)
        if size.is_peer(network):
            peer = self._scores.get(size.key(network.network_address.packed))
            if peer is not None:
                peer.listed = True
        entry = Entry(name, network, why, SCORE, now, until)
        self._lists.put(entry)
        return entry
