"""Numbers that change a verdict and aren't keys of the configuration.

Each has its unit, its reason, and the trial it comes from: "arena" is `python -m tests.arena`,
"days" is `python -m tests.day`, "lab" is `make evaluate`. What can be derived from another number,
or is written in a standard, isn't here.
"""

IDLE = 1 / 3
"""Share of the grace for a session that has delivered mail and then says nothing: to end it costs
its peer no more than a new connection. Arena: one mail, then silence."""

FADE = 3.0
"""Seconds of its own turn in which what a session said falls to half of its worth. Arena: longer,
and one mail buys a silent session too much; shorter, and a pause on a bad line costs an upload its
slot."""

DEMAND = 3.0
"""The price of a slot rises with this power of demand / slots. Arena: while 400 sessions want 100
slots, each has to say 2,000 bytes a second; in an honest rush of 130, only 70."""

DOUBLING = 1.0
"""Seconds in which the price doubles while sessions wait and those that pay it keep more than
SPARED of the slots; otherwise it falls, five times as slowly. Arena: payers of 100 to 8,000 bytes a
second."""

SPARED = 0.25
"""Share of the slots: for sessions whose mail or command may wait for a slow server, the oldest
ones, which stay; and how many slots those that pay the price may keep before it rises. Arena: a
content filter of 30 s against stalled DATA."""

REPLY_FACTOR = 2.0
"""A reply may take this many times as long as the slower replies lately took; then it is in doubt
whether one is due. Also the factor of the grace where no socket tells whose turn it is. Days with a
slow disk, or with a content filter."""

REPLY_SLACK = 0.5
"""Seconds that a reply may take beyond that: two looks at the table. While mails take longer, what
was said and heard in one look is no mail with its reply. Lab: half commands of 600 sources."""

OTHERS = 3
"""Sessions that came later than a doubtful one, and have their reply to as much: then that one was
never finished. Days: one or two come about by chance."""

DEFER_GROWS = 3.0
"""Each further deferral in a row lasts this many times as long as the one before, up to
policy.block_for: 5, 15, 45 s. Arena: stalled DATA on 20 slots."""

CROWDED = 2.0
"""Demand / slots from which on a peer with several sessions is deferred also when it delivered mail
in those that were ended. Arena: one mail, then silence, from 40 sources with ten sessions each."""

FEW_AT_ONCE, FEW_LATER = 1.35, 0.4
"""Cost factors of a useless session whose peer holds few: when it came back within DEFER seconds
after its deferral, and else. Lab: 600 sources; days: sites that lose their line."""

WHO_DELIVERED = 0.25
"""Share of one useless session's cost that a peer which ever delivered mail pays for all that are
ended before it comes back; a stranger pays it whole. Days: a carrier's NAT in honest overload."""

SLOWER = 0.3
"""Weight of a reply that took longer than the slower ones before: a few of them have to agree.
Days: one name server that doesn't answer."""

STOOD_STILL = 3.0
"""Seconds without a tick after which nobody is judged before the table was read again; and without
any reply after which the server answers nobody."""
