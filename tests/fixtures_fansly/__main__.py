"""Writes fixtures/fansly anew, and says what is in it."""

from __future__ import annotations

import shutil

from tests.fixtures_fansly import FOLDER, record, source

for name in ("check", *source().streams):
    shutil.rmtree(FOLDER / name, ignore_errors=True)
written = record(FOLDER)
for table, keys in written.stated.items():
    print(f"{table:24} {len(keys):6} stated {len(written.lost[table]):4} lost")
print(f"{len(written.asked)} pages, {sum(map(len, written.records.values()))} records")
