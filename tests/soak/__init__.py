"""What breaks on purpose, for as long as it takes: `make soak`, and short cuts of it as tests.

faulty.py    dpsd whose kernel, store and clock fail as a file says
field.py     a mail host with few slots, honest senders, attackers, and dpsd between them
faults.py    what is broken, how it is told, and what has to be so afterwards
kills.py     kill -9 at random moments while operators and verdicts change the lists
operators.py operators' commands, one after the other and very many
datagrams.py damaged datagrams for the decoder, as fast as it goes
hurried.py   dpsd for which time passes many times as fast
day.py       a day of traffic through it
"""
