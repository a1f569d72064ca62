"""A session of a peer with the mail server, packet by packet, both sides in one script.

Whatever takes time is a generator that yields for how many seconds. When the other side ends the
session meanwhile, Ended or Closed comes out of it; `run` knows what a peer does then.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpsd.core.events import State
from tests.day.gone import Closed, Ended, Gone
from tests.day.table import ACK, FIN, PEER, RST, SERVER, SYN

if TYPE_CHECKING:
    from tests.day.world import Acts, Task, Trying, World

DELAYED = 0.04  # seconds after which an acknowledgement goes without data to ride on
SEGMENT = 1400  # bytes of data in a full packet
SYNS = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds until a SYN is sent again
SYNS_LINEAR = (1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 16.0)  # the same, from Linux 6.5 on
RETRIES = 9  # of a FIN that nobody answers, until the server's kernel gives up
RTO = 0.2  # seconds until the first of them; twice that until the next


@dataclass(slots=True)
class Peer:
    """Somebody's way to the server.

    rtt: seconds to the server and back; stamps: whether its packets carry timestamps; notices:
    seconds until it sees that the server has closed.
    """

    kind: str
    address: bytes
    rtt: float = 0.05
    stamps: bool = True
    notices: float = 0.0


Script = Callable[["Session"], "Acts"]


class Session:
    """One connection, from the packet that opens it."""

    def __init__(self, world: "World", peer: Peer, port: int = 25) -> None:
        self.world = world
        self.peer = peer
        self.task: Task | None = None  # that acts it
        self.waits = False
        self.lost = False  # its network is gone
        self.window = True  # whether the server's words can leave
        self.mail_is = ""  # "begun": the server waits for its end; "said": it takes it
        self.ready_at = 0.0  # when the server has its answer
        self.knocks = False  # connects only to close: it waits for no greeting
        self.ends = world.ends(peer.address, port)
        header = (20 if len(peer.address) == 4 else 40) + (32 if peer.stamps else 20)
        self.row = world.table.open(self.ends, header)
        world.sessions[self.row.key] = self
        seen = world.seen
        seen.sessions[peer.kind] += 1
        seen.versions[4 if len(peer.address) == 4 else 6] += 1
        key = world.config.peers.size.key(peer.address)
        seen.peers[peer.kind].add(key)
        world.kinds[key].add(peer.kind)

    def run(self, script: Script, patience: float = 300.0) -> "Trying":
        """Connect, wait for the greeting, and act. Returns whether it went as it should."""
        well = False
        self.task = self.world.current
        try:
            try:
                yield from self.handshake() if self.knocks else self.connect(patience)
                yield from script(self)
                well = True
            except Closed:
                self._leave()
                yield from self._fin_again() if self.lost else self.answers_fin()
        except Gone:
            pass
        self.over()
        return well

    def over(self) -> None:
        """The server has nothing of it any more."""
        self._leave()
        self.world.sessions.pop(self.row.key, None)

    # The pieces of a script

    def connect(self, patience: float) -> "Acts":
        """Shake hands, and wait for a slot and for the greeting."""
        yield from self.arrive()
        if not (yield from self.slot(patience)):
            yield from self._give_up()
        yield from self.greeting(patience)

    def arrive(self, patience: float = sum(SYNS)) -> "Acts":
        """Shake hands, when SYNs aren't dropped any more; Ended if that takes too long."""
        world = self.world
        for pause in world.syns:
            why = world.refuses(self.peer.address)
            if not why:
                yield from self.handshake()
                return
            world.seen.refused[self.peer.kind, why] += 1
            yield min(pause, patience)
            patience -= pause
            if patience <= 0:
                break
        raise Ended

    def slot(self, patience: float) -> "Trying":
        """Wait for a slot; whether there was one in time."""
        if self.world.server.enter(self):
            return True
        self.waits = True
        yield patience
        self.waits = False
        return self in self.world.server.busy  # unless nobody woke us

    def greeting(self, patience: float) -> "Acts":
        """Wait for the greeting."""
        greets = self.world.server.greeting()
        if greets > patience:
            yield patience
            yield from self._give_up()
        yield greets
        self._send(SERVER, ACK, self.world.server.greeted)

    def handshake(self) -> "Acts":
        """SYN, SYN and ACK, ACK."""
        self._send(PEER, SYN)
        self._send(SERVER, SYN)
        yield self.peer.rtt
        self._send(PEER, ACK)

    def says(self, words: int, think: float = 0.0) -> "Acts":
        """The peer says something, so long after it heard the server."""
        yield from self.silent(think)
        self._send(PEER, ACK, words, -(-words // SEGMENT))

    def silent(self, seconds: float) -> "Acts":
        """The peer says nothing for so long, and a way there and back."""
        seconds += self.peer.rtt
        acked = self.peer.rtt + DELAYED
        if seconds > acked:
            yield acked
            self._send(PEER, ACK)
            seconds -= acked
        timeout = self.world.server.timeout
        if seconds > timeout:
            yield timeout
            self.hang_up()
            raise Closed
        yield seconds

    def answers(self, words: int = 40, after: float | None = None) -> "Acts":
        """The server answers, when it is ready."""
        pause = self.world.server.pause() if after is None else after
        self.ready_at = self.world.now + pause
        if pause > DELAYED:
            yield DELAYED
            self._send(SERVER, ACK)
            pause -= DELAYED
        yield pause
        self._send(SERVER, ACK, words, -(-words // SEGMENT))

    def asks(self, words: int, think: float = 0.0, answer: int = 40) -> "Acts":
        """The peer says something and the server answers."""
        yield from self.says(words, think)
        yield from self.answers(answer)

    def hello(self, tls: bool = False) -> "Acts":
        """EHLO, and perhaps STARTTLS with what that takes; both in one at port 465."""
        chance = self.world.chance
        if self.ends.server_port == 465:
            yield from self.shake()
        yield from self.asks(chance.randint(14, 50), answer=180)
        if tls and self.ends.server_port != 465:
            yield from self.asks(10)
            yield from self.shake()
            yield from self.asks(chance.randint(40, 80), answer=200)
        if self.ends.server_port != 25:
            yield from self.asks(chance.randint(70, 120), answer=60)  # AUTH

    def shake(self) -> "Acts":
        """TLS: client hello, the server's certificates, finished."""
        yield from self.asks(self.world.chance.randint(250, 600), answer=3000)
        yield from self.says(80)

    def envelope(self, recipients: int = 1, pipelined: bool = True) -> "Acts":
        """MAIL FROM, RCPT TO."""
        chance = self.world.chance
        sender, recipient = chance.randint(30, 110), chance.randint(28, 50)
        if pipelined:
            yield from self.asks(sender + recipients * recipient, answer=30 + 30 * recipients)
            return
        yield from self.asks(sender)
        for _ in range(recipients):
            yield from self.asks(recipient)

    def mail(self, size: int, rate: float = 1e6, stalls: float = 0.0) -> "Acts":
        """DATA and a mail; rate: bytes a second; stalls: the share of pauses of 20 to 60 s."""
        yield from self.asks(6)
        self.mail_is = "begun"
        yield from self.upload(size, rate, stalls)
        self.mail_is = "said"
        yield from self.answers(60, self.world.server.taking())
        self.mail_is = ""

    def upload(self, size: int, rate: float, stalls: float = 0.0) -> "Acts":
        """Say much, at so many bytes a second, with pauses of 20 to 60 s now and then."""
        yield self.peer.rtt
        step = max(SEGMENT, min(size, int(rate * 0.7)))
        while size > 0:
            part = min(size, step)
            size -= part
            packets = -(-part // SEGMENT)
            yield part / rate
            self._send(PEER, ACK, part, packets)
            self._send(SERVER, ACK, 0, -(-packets // 2))
            if stalls and self.world.chance.random() < stalls * step / 4000:
                yield self.world.chance.uniform(20.0, 60.0)

    def goes_on(self, words: int, after: float) -> "Acts":
        """Say more after so many seconds, which the server only acknowledges."""
        yield after
        packets = -(-words // SEGMENT)
        self._send(PEER, ACK, words, packets)
        self._send(SERVER, ACK, 0, -(-packets // 2))

    def acknowledges(self) -> None:
        """The peer's system acknowledges what the server said."""
        self._send(PEER, ACK)

    def quit(self, manner: str = "wait", answer: int = 15) -> "Acts":
        """Take leave.

        wait: QUIT, the server closes first; hurry: QUIT and FIN in one go; reset: QUIT, and reset
        instead of a FIN; close: FIN without QUIT; abort: reset without QUIT.
        """
        if manner in ("close", "abort"):
            yield self.peer.rtt
        else:
            yield from self.says(6)
        if manner == "abort":
            self._send(PEER, RST)
            self._leave()
        elif manner in ("close", "hurry"):
            yield from self._hears_fin(answer if manner == "hurry" else 0)
            yield self.peer.rtt
            self._send(PEER, ACK)
        else:
            yield from self.answers(answer)
            self.hang_up(0)
            yield self.peer.rtt
            if manner == "reset":
                self._send(PEER, RST)
            else:
                yield from self._last_words()

    def vanish(self, unanswered: bool = False) -> "Acts":
        """The peer's network is gone. unanswered: while the server's words are on their way."""
        self.lost = True
        timeout = self.world.server.timeout
        if unanswered:
            # Its FIN stays behind the words that nobody acknowledges: the kernel never sends it.
            yield from self.answers()
            passed, pause = 0.0, RTO
            while passed + pause < timeout:
                yield pause
                self._send(SERVER, ACK, 40)
                passed, pause = passed + pause, pause * 2
            yield timeout - passed
            self._leave()
            return
        yield timeout
        self.hang_up()
        yield from self._fin_again()

    def vanish_closing(self) -> "Acts":
        """The peer closes, and its network is gone before the server's FIN is there."""
        yield self.peer.rtt
        self.lost = True
        yield from self._hears_fin(0)
        yield from self._fin_again()

    def _hears_fin(self, answer: int) -> "Acts":
        """The peer's FIN comes, behind a QUIT if there is an answer, and the server closes."""
        pause = self.world.server.pause()
        early = pause < DELAYED and self.world.chance.random() < 0.5
        if early and answer:  # it answered before the FIN was there
            self._send(SERVER, ACK, answer)
        self._send(PEER, FIN)
        if not early:
            yield min(pause, DELAYED)
            self._send(SERVER, ACK)
            pause -= min(pause, DELAYED)
        yield pause
        self.hang_up(0 if early else answer)

    # What happens to it

    def hang_up(self, words: int = 45) -> None:
        """The server closes, perhaps with a last word (421)."""
        if words:
            self._send(SERVER, ACK, words)
        self._send(SERVER, FIN)
        self._leave()

    def restarted(self) -> None:
        """The server ends, and closes all that it has."""
        self.hang_up()
        if self.task is not None:
            self.world.wake(self.task, Closed())

    def end(self) -> None:
        """dpsd ends it: the server's socket, if it has one still, is destroyed."""
        if self in self.world.server.busy or self.waits:
            self._send(SERVER, RST)
        self._leave()
        if self.task is not None:
            self.world.wake(self.task, Ended())

    def abandon(self) -> None:
        """The peer closes it, wherever it is; the server finds out when it comes to it."""
        self.waits = False
        self.world.start(self._abandoned())

    def _abandoned(self) -> "Acts":
        self.task = self.world.current
        try:
            if self in self.world.server.busy:
                self._send(PEER, FIN)
                yield max(0.0, self.ready_at - self.world.now) + self.world.server.pause()
                self.hang_up(0)
                yield self.peer.rtt
                self._send(PEER, ACK)
            elif self in self.world.server.waiting:
                yield from self._give_up()
            elif self.row.state in (State.SYN_RECV, State.ESTABLISHED):
                self._send(PEER, RST)
        except Gone:
            pass
        self.over()

    def _fin_again(self) -> "Acts":
        """Nobody acknowledges the server's FIN."""
        pause = RTO
        for _ in range(RETRIES):
            yield pause
            self._send(SERVER, FIN)
            pause *= 2

    def answers_fin(self) -> "Acts":
        """What a peer's system does with the server's FIN at once, and the peer some time later."""
        yield self.peer.rtt
        if self.peer.notices:
            self._send(PEER, ACK)
            yield self.peer.notices
        yield from self._last_words()

    def _last_words(self) -> "Acts":
        if self.world.chance.random() < 0.5:
            self._send(PEER, ACK)
            yield 0.0005
        self._send(PEER, FIN)
        self._send(SERVER, ACK)

    def _give_up(self) -> "Acts":
        """No greeting came: the peer closes, and the server finds out when it comes to it."""
        self._send(PEER, FIN)
        yield DELAYED
        self._send(SERVER, ACK)
        if self not in self.world.server.busy:
            self.world.server.waiting[self] = None
            self.waits = True
            while self not in self.world.server.busy:
                yield 600.0
            self.waits = False
        yield self.world.server.pause()
        self._send(SERVER, ACK, 40)
        self._leave()
        yield self.peer.rtt
        self._send(PEER, RST)
        raise Ended

    def _leave(self) -> None:
        self.waits = False
        self.world.server.leave(self)

    def _send(self, side: int, kind: int, words: int = 0, packets: int = 1) -> None:
        self.world.table.packet(self.row, side, kind, self.world.now, words, packets)
