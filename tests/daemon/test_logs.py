"""Who reads the log slowly delays nobody, and learns what he missed."""

import logging
import os
import time

from dpsd.daemon.logs import ROOM, Logs


def test_a_log_that_nobody_reads_delays_nobody() -> None:
    reading, writing = os.pipe()
    handler = Logs(writing)
    logger = logging.Logger("stalled")
    logger.addHandler(handler)
    began = time.monotonic()
    for number in range(3 * ROOM):
        logger.warning("line %d of a flood that fills the pipe and then the queue", number)
    assert time.monotonic() - began < 30  # it would be for ever
    text = b""
    while b"left out of the log" not in text:
        text += os.read(reading, 1 << 16)
        logger.warning("another")
    assert text.startswith(b"line 0 of a flood")
    os.close(reading)
    handler.close()
    os.close(writing)


def test_what_waits_is_written_at_the_end() -> None:
    reading, writing = os.pipe()
    handler = Logs(writing)
    logger = logging.Logger("ending")
    logger.addHandler(handler)
    logger.warning("the last words")
    handler.close()
    assert os.read(reading, 100) == b"the last words\n"
    os.close(reading)
    os.close(writing)
