"""Captures: what the kernel told, kept in a file, and what a policy makes of it.

file.py        the file: pcap, and what stands at its beginning
recording.py   the kernel into a file
anonymity.py   addresses under other names, with their prefixes kept
replaying.py   a file into an engine
comparing.py   what two policies make of the same file
"""

from dpsd.capture.comparing import compare
from dpsd.capture.recording import record
from dpsd.capture.replaying import replay

__all__ = ["compare", "record", "replay"]
