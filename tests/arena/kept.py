"""Cases that are kept back, to see whether a change holds where nobody looked.

Don't tune by them: whoever reads one to learn why it fails makes it one of the others, and has to
put another in its place.
"""

from dataclasses import replace
from math import inf

from tests.arena.attackers import Attack
from tests.arena.case import Case

SEEDS = range(9001, 9011)

_ATTACKS: tuple[tuple[Attack, ...], ...] = (
    (Attack("trickle", 25, 12, rate=180.0),),
    (Attack("trickle", 90, 3, rate=55.0, pause=0.3),),
    (Attack("trickle", 260, 1, rate=900.0, pause=3.0, waits=inf),),
    (Attack("trickle", 12, 30, rate=5200.0),),
    (Attack("hold", 70, 5, pause=2.0), Attack("trickle", 12, 8, rate=260.0)),
    (Attack("mailhold", 60, 4, waits=20.0), Attack("slowmails", 60, 2)),
    (Attack("rcpt", 55, 5, words=50), Attack("noop", 80, 1)),
    (Attack("stall", 85, 2), Attack("hold", 200, 1, pause=0.2)),
    (Attack("louder", 30, 8, rate=25.0, family="46"),),
    (Attack("shifter", 110, 2, rate=150.0, pause=0.5),),
    (Attack("mover", 50, 4, rotate=6, family="6"), Attack("drip", 100, 1)),
    (Attack("helobyte", 30, 6), Attack("half_hello", 30, 4, port=465)),
    (
        Attack("buys_mails", 30, 2, block=70, after=-45.0, until=0.0),
        Attack("mailhold", 30, 10, block=70),
    ),
    (Attack("quit", 130, 2, waits=inf), Attack("trickle", 60, 1, rate=700.0, after=20.0)),
    (Attack("hold", 300, 1, until=20.0), Attack("trickle", 40, 6, rate=120.0, after=25.0)),
)
_SERVERS = (
    Case("100"),
    Case("20", slots=20),
    Case("300", slots=300, filter=2.0),
    Case("60", slots=60, load=0.5, sockets=False),
    Case("100, far", rtt="far"),
)
KEPT = tuple(
    replace(
        _SERVERS[number % len(_SERVERS)],
        name=f"kept {number + 1:02}",
        attacks=attacks,
        peace=50.0 if any(each.after < 0 for each in attacks) else 10.0,
    )
    for number, attacks in enumerate(_ATTACKS)
)
