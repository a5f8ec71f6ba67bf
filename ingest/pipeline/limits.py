"""How much of a run happens at once."""

from __future__ import annotations

#: staged records beyond which loading begins before fetching has ended
BULK = 50_000
#: staged records beyond which fetching waits for loading
BACKLOG = 4 * BULK
#: records, and bytes of bodies, loaded in one transaction
BATCH = 50_000
BATCH_BYTES = 128 * 2**20
#: pages read from the log at once
READ = 50
#: times that unique values and references are settled in turn, where each waits for the other
ROUNDS = 10
#: staged records from which on a second process decodes, and bytes of bodies that it is given ahead
MUCH = 2 * BULK
AHEAD_BYTES = 16 * 2**20
