"""A job: fetch into the page log, load, reconcile, certify. The only place that wires the rooms together.

lock ─▶ staged pages of an earlier run ─▶ fetch ─▶ load + reconcile, in one transaction ─▶ certificate
                                           │             │  ▲
                                           │             ▼  │ missing parents, asked for by id
                                           │           rollback, fetch, again
                                           └ 50,000 staged records: the integrity window opens,
                                             and loading begins while fetching goes on
"""

from __future__ import annotations

from ingest.pipeline.comparing import compare
from ingest.pipeline.copying import copy
from ingest.pipeline.job import Job, open_job
from ingest.pipeline.preview import preview

__all__ = ["Job", "compare", "copy", "open_job", "preview"]
