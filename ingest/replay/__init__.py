"""Recorded pages: a folder of exchanges, what answers from it, and how it is written.

pages.jsonl       {"request": {…}, "status": 200, "headers": {…}, "file": "rooms/0001.json"}   a line each
rooms/0001.json   the bodies, a file each: JSON indented where that loses nothing, the rest as it came

A request is answered by what was recorded for the same method, path, query and body: the pairs of the
query in any order, a JSON body by its value. What was recorded for one request several times comes in
that order, and then the last of it stays.
"""

from ingest.replay.answering import Recording, ReplayTransport, Unrecorded
from ingest.replay.exchange import INDEX, Exchange, read_exchanges
from ingest.replay.redaction import MARKER, Redaction, credentials
from ingest.replay.writing import write_exchanges

__all__ = [
    "INDEX",
    "MARKER",
    "Exchange",
    "Recording",
    "Redaction",
    "ReplayTransport",
    "Unrecorded",
    "credentials",
    "read_exchanges",
    "write_exchanges",
]
