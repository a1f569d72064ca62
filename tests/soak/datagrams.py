"""Damaged datagrams for the decoder, as fast as it goes, on all processors.

Each batch begins with a real kernel's messages, alone and in pairs. A byte of each datagram is
turned where the decoder reads values by their offset (addresses, ports, counters: which bytes these
are it shows itself), and of some anywhere, so that they are walked; the damage adds up over some
batches, and some are cut. A batch can be had again from its seed and number.
"""

import multiprocessing
import os
import resource
import time
from itertools import pairwise
from multiprocessing.pool import AsyncResult
from pathlib import Path

import numpy as np

from dpsd.core.events import BEGIN, DESTROY, END, ENTRY, LOST, UPDATE
from dpsd.kernel.ctnetlink import Decoder, endpoints, key_of

BATCH = 4096  # datagrams
SLOT = 640  # bytes for each
ADDS_UP = 6  # batches over which damage adds up
CLOSE_LOOK = 50  # one batch in so many is looked at event by event
ANYWHERE = 0.01  # share of the datagrams of a batch that are damaged anywhere: these are walked
CUT = 0.01
GROWS = 6.0  # MiB that a process may grow after its first twentieth
KINDS = {UPDATE, ENTRY, DESTROY, BEGIN, END, LOST}
Bytes = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def stored() -> list[bytes]:
    """A real kernel's messages, alone and in pairs."""
    path = Path(__file__).parents[1] / "kernel" / "messages.txt"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    found = [bytes.fromhex(line.split(": ")[1]) for line in lines]
    return [*found * 3, *(one + other for one, other in pairwise(found))]


class Batches:
    """Batch after batch from a seed."""

    def __init__(self, seed: int) -> None:
        self._chance = np.random.default_rng(seed)
        told = stored()
        self._rows = np.zeros((len(told), SLOT), np.uint8)
        for row, each in zip(self._rows, told, strict=True):
            row[: len(each)] = np.frombuffer(each, np.uint8)
        self._lengths = np.array([len(each) for each in told])
        values = [_values(each) for each in told]
        self._values = np.array([np.resize(each, SLOT) for each in values])
        self._starts = np.arange(BATCH) * SLOT
        self._number = 0
        self._buffer = np.zeros((BATCH, SLOT), np.uint8)
        self._ends = self._chosen = self._lengths[:0]

    def next(self) -> tuple[bytearray, list[tuple[int, int]]]:
        """A buffer, and where the datagrams lie in it."""
        chance = self._chance
        if self._number % ADDS_UP == 0:
            chosen = chance.integers(0, len(self._rows), BATCH)
            self._buffer, self._ends = self._rows[chosen], self._lengths[chosen]
            self._chosen = chosen
        self._number += 1
        which = chance.integers(0, SLOT, BATCH)
        self._turn(np.arange(BATCH), self._values[self._chosen, which])
        some = np.flatnonzero(chance.random(BATCH) < ANYWHERE)
        self._turn(some, chance.integers(0, np.maximum(self._ends[some], 1)))
        ends = np.where(chance.random(BATCH) < CUT, chance.integers(0, SLOT, BATCH), self._ends)
        spans = zip(self._starts.tolist(), (self._starts + ends).tolist(), strict=True)
        return bytearray(self._buffer.tobytes()), list(spans)

    def _turn(self, rows: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]",
              at: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> None:  # fmt: skip
        self._buffer[rows, at] = self._chance.integers(0, 256, len(rows), np.uint8)


def _values(told: bytes) -> list[int]:
    """The bytes of a datagram that may change without another look at its layout."""
    decoder = Decoder()
    decoder.decode(told, [(0, len(told))])
    learnt, found = sum(map(len, decoder._shapes.values())), list[int]()
    for at in range(len(told)):
        other = told[:at] + bytes([told[at] ^ 0xFF]) + told[at + 1 :]
        events = decoder.decode(other, [(0, len(told))])
        if not decoder.skipped and events and sum(map(len, decoder._shapes.values())) == learnt:
            found.append(at)
        else:
            decoder = Decoder()
            decoder.decode(told, [(0, len(told))])
    return found


def work(seed: int, datagrams: int) -> tuple[int, int, float, str]:
    """Decode so many; how many they were, how many made sense, by how many MiB the process grew,
    and what went wrong."""
    batches, decoder = Batches(seed), Decoder()
    done = events = number = 0
    before = 0.0
    while done < datagrams:
        buffer, spans = batches.next()
        number += 1
        try:
            skipped = decoder.skipped
            found = decoder.decode(buffer, spans)
            empty = sum(start == end for start, end in spans)
            assert len(found) + decoder.skipped - skipped + empty >= BATCH, (
                "some are unaccounted for"
            )
            if number % CLOSE_LOOK == 0:
                for kind, key, *_ in found:
                    assert kind in KINDS
                    assert key is None or key_of(endpoints(key)) == key
        except Exception as problem:  # noqa: BLE001 - any is one too many, and is told
            return done, events, 0.0, f"batch {number} of seed {seed}: {problem!r}"
        done += BATCH
        events += len(found)
        if not before and done >= datagrams / 20:
            before = _resident()
    grown = _resident() - before
    return done, events, grown, f"{grown:.1f} MiB more" if grown > GROWS else ""


def _resident() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


def run(seed: int, millions: float, processes: int = os.cpu_count() or 1) -> list[str]:
    """Decode so many millions; what went wrong."""
    share, began = int(millions * 1e6 / processes), time.monotonic()
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        works: list[AsyncResult[tuple[int, int, float, str]]] = [
            pool.apply_async(work, (seed + number, share)) for number in range(processes)
        ]
        told = [each.get() for each in works]
    done, events = sum(each[0] for each in told), sum(each[1] for each in told)
    took = time.monotonic() - began
    print(
        f"datagrams: {done:,} in {took:.0f} s on {processes} processors, {done / took:,.0f} a"
        f" second; {events:,} made sense; at most {max(each[2] for each in told):.1f} MiB more",
        flush=True,
    )
    return [each[3] for each in told if each[3]]
