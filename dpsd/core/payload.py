"""Payload: what was said, from counters of packets and bytes that include the headers."""

from dpsd.core.events import Measure

# Bytes of IP and TCP headers in a packet by IP version, with timestamps (RFC 7323) and without; and
# by how much a SYN is longer, with the options that today's systems send.
_STAMPED, _STAMPED_SYN = {4: 52, 6: 72}, 8
_SHAKE = {version: header + _STAMPED_SYN for version, header in _STAMPED.items()}
_BARE, _BARE_SYN = {4: 40, 6: 60}, 12
CERTIFICATES = 1200  # bytes of a reply that are a server's certificates in TLS
HANDSHAKE = 1000  # bytes that a peer says more then


def payload(octets: int, packets: int, version: int) -> int:
    """Bytes said in so many packets of one side. 0 for a handshake without data.

    Whether the packets carry timestamps shows only when they are shorter than that; where it
    doesn't show, and they have none, it is less than was said, by up to 12 bytes a packet.
    """
    header, syn = _STAMPED[version], _STAMPED_SYN
    if octets < header * packets:
        header, syn = _BARE[version], _BARE_SYN
    return max(0, octets - header * packets - syn)


def said(measure: Measure, version: int) -> int:
    """Bytes that the peer said."""
    return payload(measure.octets or 0, measure.packets or 0, version)


def answered(measure: Measure, version: int) -> int:
    """Bytes that the server said; none in its half of the handshake, however often it sent that."""
    packets = measure.reply_packets or 0
    if packets > 1 and measure.reply_octets == packets * _SHAKE[version]:  # shakes_again()
        return 0
    return payload(measure.reply_octets or 0, measure.reply_packets or 0, version)


def shakes_again(measure: Measure, version: int) -> bool:
    """Whether all that the server sent is its half of the handshake (SYN and ACK), several times.

    Then it doesn't have the session: it hasn't got the last packet of the handshake, or has dropped
    it, since its accept queue is full. Each of these packets is longer than others by its options,
    which would count for words.
    """
    packets = measure.reply_packets or 0
    return packets > 1 and measure.reply_octets == packets * _SHAKE[version]


def is_mail(spoken: int, reply: int, least: int) -> bool:
    """Whether a peer that said and heard so many bytes may have said a mail, of `least` bytes.

    A TLS handshake is as long as a small one (X25519MLKEM768 alone is 1,216 bytes from the peer,
    draft-ietf-tls-ecdhe-mlkem); it shows by the server's certificates.
    """
    return spoken >= least + (HANDSHAKE if reply >= CERTIFICATES else 0)
