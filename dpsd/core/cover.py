"""Disjoint cover: overlapping prefixes with their own expiries as elements that don't overlap.

A kernel interval set refuses elements that overlap, yet an administrator may block 10.0.0.0/8 for
an hour and 10.1.0.0/16 for a day. Prefixes nest or are disjoint, never half-overlapping, so a
wider one is cut around the narrower ones that outlast it, and the others are absorbed.
"""

from collections.abc import Mapping

from dpsd.core.peers import Network


def disjoint(prefixes: Mapping[Network, float | None]) -> dict[Network, float | None]:
    """Elements of one IP version that cover the same addresses until the same instants.

    Every address of the input lies in exactly one element of the result, whose expiry is the
    latest of the prefixes that cover the address (None: never).
    """
    cover: dict[Network, float | None] = {}
    lengths: set[int] = set()
    for network in sorted(prefixes, key=lambda n: n.prefixlen):  # the wide ones first
        until = prefixes[network]
        around = _element_around(cover, lengths, network)
        if around is None:
            cover[network] = until
        elif _outlasts(until, cover[around]):
            rest = cover.pop(around)
            if around != network:
                for piece in around.address_exclude(network):  # type: ignore[arg-type]
                    cover[piece] = rest
                    lengths.add(piece.prefixlen)
            cover[network] = until
        lengths.add(network.prefixlen)
    return cover


def _element_around(
    cover: Mapping[Network, float | None], lengths: set[int], network: Network
) -> Network | None:
    for length in lengths:  # elements are disjoint, so at most one of them is around
        if length <= network.prefixlen:
            wider = network.supernet(new_prefix=length)
            if wider in cover:
                return wider
    return None


def _outlasts(a: float | None, b: float | None) -> bool:
    return b is not None and (a is None or a > b)
