"""The arena: attacks on a mail server in simulation, in seconds instead of minutes.

It uses the world of tests/day: every packet is told to the engine as the kernel would, and no
kernel is needed. A case is an attack (or several), honest senders and a server; from one seed.

    python -m tests.arena                          every case once
    python -m tests.arena --only 'hold*' --seeds 3
    python -m tests.arena --list
    python -m tests.arena --table FILE             a table in Markdown

`--kept-back` plays other cases, of kept.py, on seeds of their own (9001 to 9010). They exist to see
whether a change that was made with the other cases holds where nobody looked: never tune a number
by them, nor read one of them to find out why it fails.

What it can't tell:

- Loss, reordering and the time that a busy machine or a busy daemon takes: everybody acts on time.
- Postfix's own defences: its shorter timeouts under stress, its limits of rate and of errors.
- An accept queue that is full drops SYNs here, never the last packet of a handshake, as Linux may:
  that leaves sessions in conntrack which the server doesn't know.
- TLS and mails are lengths; windows, slow start and segmentation offload aren't there.
"""
