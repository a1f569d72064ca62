"""The store: the truth for lists, and the only channel between the command line and the daemon.

store.py      every query
queries.py    parts of them
opened.py     the connection, its transactions, the claim
records.py    what goes in and comes out
schema.py     the tables, and the way to them from older ones
connecting.py the URL, the connection, faults told in words
files.py      the files and their owner; no link is followed
claim.py      one daemon to a store
"""

from dpsd.store.connecting import file_of as path_of
from dpsd.store.records import Action, Committed, Node, PeerRow, Pruned, Record, Recorded
from dpsd.store.rows import evidence_json, evidence_of
from dpsd.store.schema import SCHEMA
from dpsd.store.store import Store

__all__ = [
    "SCHEMA",
    "Action",
    "Committed",
    "Node",
    "PeerRow",
    "Pruned",
    "Record",
    "Recorded",
    "Store",
    "evidence_json",
    "evidence_of",
    "path_of",
]
