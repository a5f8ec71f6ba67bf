"""Bugs that were planted: a piece of source, what stands in its place, and the tests that must notice."""

from __future__ import annotations

from typing import NamedTuple


class Bug(NamedTuple):
    """One mistake that somebody might make."""

    name: str
    #: the file, below the root
    file: str
    #: a piece of it that stands there once
    source: str
    #: what is planted in its place
    planted: str
    #: node ids; each must fail
    tests: tuple[str, ...]


def _in(file: str, *names: str) -> tuple[str, ...]:
    return tuple(f"tests/{file}.py::{name}" for name in names)


#: planted for every change: one of each kind, whose tests are fast
OFTEN = (
    Bug(
        "precedence flipped",
        "ingest/load/merge.py",
        "if rank > self.ranks.get(name, NEVER):",
        "if self.ranks.get(name, NEVER) in (NEVER, rank) or rank < self.ranks[name]:",
        _in("unit/test_merge", "test_a_column_keeps_the_value_of_its_highest_rank_whoever_speaks_last"),
    ),
    Bug(
        "guard dropped",
        "ingest/engines/conflict.py",
        "where = None if newer is None else newer(statement.excluded)",
        "where = None",
        _in("unit/test_store", "test_a_bulk_load_writes_the_same_rows_counts_the_same_and_refuses_the_same"),
    ),
    Bug(
        "mark outside the transaction",
        "ingest/load/loader.py",
        "        fresh = self._note(connection, pages, batch, log)\n",
        '        connection.exec_driver_sql("COMMIT")\n'
        '        connection.exec_driver_sql("BEGIN IMMEDIATE")\n'
        "        fresh = self._note(connection, pages, batch, log)\n",
        _in("unit/test_store", "test_a_load_that_fails_leaves_nothing"),
    ),
    Bug(
        "gap merged",
        "ingest/fetch/coverage.py",
        "    if index and (met or not upper.records):\n        lower = ground[index - 1]\n",
        "    if index and (met or not upper.records):\n        lower = ground[index - 1]\n"
        '        lower.hole = "whole"\n',
        _in(
            "unit/test_coverage",
            "test_every_record_that_was_not_seen_lies_in_a_hole_and_every_hole_is_filled",
        ),
    ),
    Bug(
        "touched key forgotten",
        "ingest/load/store.py",
        "for stated in (*(before.where(one) for one in changing), after):",
        "for stated in (after,):",
        _in(
            "unit/test_store",
            "test_touched_keys_are_the_rows_and_their_parents_as_they_were_and_as_they_are",
        ),
    ),
    Bug(
        "tombstone ignored by a late copy",
        "ingest/load/merge.py",
        "return life.version <= self.version and life.asked < self.stamp",
        "return life.version < self.version and life.asked < self.stamp",
        _in("unit/test_merge", "test_a_tombstone_voids_what_is_neither_newer_nor_asked_for_later"),
    ),
    Bug(
        "cursor ring not noticed",
        "ingest/fetch/trail.py",
        "if following in self._cursors:",
        "if following in self._cursors and following is None:",
        _in("unit/test_fetcher", "test_a_ring_of_cursors_is_an_error_and_no_loop"),
    ),
    Bug(
        "truncated gzip accepted",
        "ingest/fetch/body.py",
        "if self._stream is not None or self._held or self._members == 0:",
        "if self._held or (self._stream is None and self._members == 0):",
        _in("unit/test_body", "test_a_compressed_body_without_its_end_is_noticed"),
    ),
    Bug(
        "redaction skipped",
        "ingest/replay/writing.py",
        "body = self._redaction.data(page.body, where)",
        "body = page.body",
        _in("unit/test_replay_writing", "test_a_credential_in_a_body_is_replaced_however_it_is_spelled"),
    ),
    Bug(
        "cross-origin URL followed",
        "ingest/fetch/client.py",
        "if origin(url) != origin(self._base) and not self.source.source.rebase:",
        "if url.scheme != self._base.scheme and not self.source.source.rebase:",
        _in("unit/test_client", "test_a_url_of_another_origin_is_not_asked"),
    ),
)

#: the rest, planted at night
SELDOM = (
    Bug(
        "rank ignored",
        "ingest/load/merge.py",
        "if rank > self.ranks.get(name, NEVER):",
        "if rank[1:] > self.ranks.get(name, NEVER)[1:]:",
        _in("unit/test_merge", "test_a_higher_version_beats_a_later_page"),
    ),
    Bug(
        "equal record skipped out of order",
        "ingest/load/merge.py",
        "may_skip = skip_equal and lives",
        "may_skip = lives",
        _in(
            "unit/test_merge",
            "test_an_equal_statement_raises_the_rank_while_an_earlier_page_may_still_come",
        ),
    ),
    Bug(
        "mention restores",
        "ingest/load/merge.py",
        "        if statement.top:\n",
        "        if True:\n",
        _in("unit/test_merge", "test_only_top_level_statements_prove_life"),
    ),
    Bug(
        "ranks of partial records forgotten",
        "ingest/load/merge.py",
        "        if stated.ranks.get(name) != stated.rank\n",
        "        if stated.ranks.get(name) is None\n",
        _in("unit/test_store", "test_a_partial_record_keeps_the_ranks_of_its_own_columns"),
    ),
    Bug(
        "stamp used again",
        "ingest/staging/writer.py",
        "return max(self.top, self.identity.generation * GENERATION)",
        "return self.top",
        _in(
            "conformance/test_page_log",
            "test_a_generation_begins_above_what_the_ledger_has_seen",
        ),
    ),
    Bug(
        "second fetcher not refused",
        "ingest/staging/entries.py",
        "if entry.after == head:",
        "if entry.after <= head:",
        _in(
            "conformance/test_page_log",
            "test_a_page_that_does_not_follow_the_last_of_its_partition_is_refused",
        ),
    ),
    Bug(
        "page loaded twice",
        "ingest/load/loader.py",
        "return list({page.stamp: page for page in pages if page.stamp not in marked}.values())",
        "return list({page.stamp: page for page in pages}.values())",
        _in("unit/test_store", "test_a_page_that_is_marked_is_passed_over"),
    ),
    Bug(
        "dead letter dropped",
        "ingest/load/loader.py",
        "if not _is_known(connection, letter)",
        "if not _is_known(connection, letter) and letter.key is None",
        _in(
            "unit/test_store",
            "test_a_row_that_violates_a_constraint_is_a_letter_alone_with_its_own_bytes",
        ),
    ),
    Bug(
        "dead letter said twice",
        "ingest/load/loader.py",
        "if not _is_known(connection, letter)",
        "if True",
        _in(
            "unit/test_store",
            "test_meeting_a_refused_record_again_rejects_it_again_and_adds_no_second_letter",
        ),
    ),
    Bug(
        "rejected records not counted",
        "ingest/load/loader.py",
        "rejected=batch.rejected + refused,",
        "rejected=batch.rejected,",
        _in("unit/test_store", "test_every_record_is_written_kept_or_rejected"),
    ),
    Bug(
        "accounting not checked",
        "ingest/reconcile/verify.py",
        "if records != written + kept + rejected:",
        "if records < written + kept:",
        _in("unit/test_verify", "test_counts_that_do_not_add_up_are_said_in_words"),
    ),
    Bug(
        "counter off by one",
        "ingest/reconcile/derived.py",
        "sa.select(sa.func.count())\n            .select_from(child)",
        "sa.select(sa.func.count() + 1)\n            .select_from(child)",
        _in("unit/test_derived", "test_children_are_counted_whether_they_come_before_or_after_their_parent"),
    ),
    Bug(
        "pointer tie left open",
        "ingest/reconcile/derived.py",
        "order = [engine.newest_first(as_of(part, child)) for part in one.by]",
        "order = [engine.newest_first(as_of(part, child)) for part in one.by[:1]]",
        _in("unit/test_derived", "test_of_equals_the_greatest_key_is_pointed_at"),
    ),
    Bug(
        "counter never goes back to nought",
        "ingest/reconcile/derived.py",
        "sa.update(parent.sql).where(looked_at, column.is_distinct_from(value))",
        "sa.update(parent.sql).where(looked_at, column < value)",
        _in("unit/test_derived", "test_a_parent_whose_last_child_went_goes_back_to_null_and_nought"),
    ),
    Bug(
        "withheld value lost",
        "ingest/reconcile/references.py",
        "        self._engine.insert(connection, WITHHELD, WITHHELD.c.keys(), entries, new_only=True)\n"
        "        for reference, dangling",
        "        for reference, dangling",
        _in("unit/test_references", "test_null_shows_null_and_the_stated_value_comes_back_with_its_parent"),
    ),
    Bug(
        "digest without a column",
        "ingest/digest.py",
        "if column.name not in LEDGER_COLUMNS]",
        "if column.name not in LEDGER_COLUMNS][:-1]",
        _in("unit/test_digest", "test_another_value_in_any_one_cell_is_another_digest"),
    ),
    Bug(
        "digest without what is withheld",
        "ingest/digest.py",
        "    _add_withheld(connection, engine, catalog, whole)\n    return",
        "    return",
        _in("unit/test_digest", "test_every_withheld_value_is_another_digest"),
    ),
    Bug(
        "lock's epoch unchecked",
        "ingest/lock.py",
        "if held is None or held.epoch != epoch:",
        "if held is None:",
        _in("unit/test_lock", "test_a_holder_that_wakes_after_a_take_over_writes_nothing_more"),
    ),
    Bug(
        "lock of a living process taken",
        "ingest/lock.py",
        "    if host != socket.gethostname():\n        return True",
        "    if host != socket.gethostname():\n        return False",
        _in("unit/test_lock", "test_a_holder_on_another_machine_is_never_taken_for_dead"),
    ),
    Bug(
        "window closed with a remainder",
        "ingest/pipeline/run.py",
        "if proven.holds and all_loaded:",
        "if proven.holds:",
        _in(
            "integration/test_hard_cases", "test_a_remainder_is_in_the_certificate_and_leaves_the_window_open"
        ),
    ),
    Bug(
        "drift unnoticed",
        "ingest/pipeline/drift.py",
        "if there.get(stamp, mark) != mark or (",
        "if there.get(stamp, mark)[0] != mark[0] or (",
        _in("integration/test_drift", "test_two_logs_that_went_on_from_one_are_told_apart"),
    ),
    Bug(
        "another mirror's log taken",
        "ingest/pipeline/drift.py",
        "if loaded.top is None and loaded.highest and top:",
        "if loaded.top is None and loaded.highest and not top:",
        _in("integration/test_drift", "test_another_mirrors_log_is_refused"),
    ),
    Bug(
        "tie at a seam passed over",
        "ingest/fetch/coverage.py",
        "comparable[-1] < under.until)",
        "comparable[-1] <= under.until)",
        _in("unit/test_coverage", "test_a_page_meets_the_floor_where_everything_after_is_known"),
    ),
    Bug(
        "strict filter loses the ties",
        "ingest/fetch/coverage.py",
        "text = _time(int(key.value) - 1).text if strict else key.text",
        "text = key.text",
        _in("unit/test_coverage", "test_what_is_asked_for_includes_every_record_with_the_key"),
    ),
    Bug(
        "short page taken for the last",
        "ingest/fetch/paginate.py",
        "    if value is ABSENT:\n        return None\n",
        "    if value is ABSENT or not records:\n        return None\n",
        _in("unit/test_paginate", "test_a_short_or_empty_page_with_a_token_does_not_end_the_walk"),
    ),
    Bug(
        "cursor of the page before not noticed",
        "ingest/fetch/paginate.py",
        "if not _is_tail(paged) and _repeats(stream, request, value):",
        "if not _is_tail(paged) and _repeats(stream, request, value) and not records:",
        _in("unit/test_paginate", "test_a_cursor_that_repeats_is_an_error"),
    ),
    Bug(
        "stated wait ignored",
        "ingest/fetch/retry.py",
        "return max(backoff, _error(state).after or 0.0)",
        "return backoff",
        _in("unit/test_client", "test_the_server_says_how_long_to_wait"),
    ),
    Bug(
        "error with status 200 taken for a page",
        "ingest/fetch/answer.py",
        "            if not _is_error(stated, answer.json):\n",
        "            if not _is_error(stated, answer.json) or answer.status == 200:\n",
        _in("unit/test_client", "test_a_source_says_what_an_error_in_a_200_looks_like"),
    ),
    Bug(
        "credential sent to whoever is asked",
        "ingest/fetch/courier.py",
        "        if origin(request.url) != self._home:\n            raise ForeignOrigin\n",
        "",
        _in("unit/test_auth", "test_the_last_step_before_the_wire_sends_credentials_home_only"),
    ),
    Bug(
        "credential kept where a server repeats it",
        "ingest/fetch/auth.py",
        "body = pattern.sub(ECHO_MASK, body)",
        "body = pattern.sub(ECHO_MASK, body, count=1)",
        _in("unit/test_auth", "test_a_body_that_repeats_a_credential_is_stored_without_it"),
    ),
    Bug(
        "credential in a traceback",
        "ingest/fetch/client.py",
        "hushed = self._credentials.hushed(error)",
        "hushed = error",
        _in("unit/test_auth", "test_a_bug_that_says_a_login_s_token_is_told_without_it"),
    ),
    Bug(
        "sweep on an unproven listing",
        "ingest/load/sweeps.py",
        "            if pages is not None and sound >= pages:\n",
        "            if pages is not None:\n",
        _in("unit/test_sweeps", "test_a_listing_with_a_record_that_cannot_be_stored_proves_nothing"),
    ),
    Bug(
        "late old copy of a swept row restored",
        "ingest/load/sweeps.py",
        "        store.engine.insert(connection, SWEEPS, SWEEPS.c.keys(), [row])\n",
        "",
        _in("unit/test_sweeps", "test_late_old_copies_do_not_bring_a_swept_row_back"),
    ),
    Bug(
        "budget ignored",
        "ingest/reconcile/deletes.py",
        "return spent.had > 0 and",
        "return spent.had < 0 and",
        _in("integration/test_deletes", "test_too_many_deletes_are_held_until_somebody_allows_them"),
    ),
    Bug(
        "a killed run's deletes forgotten",
        "ingest/reconcile/deletes.py",
        "        many += spent.deleted\n",
        "",
        _in("integration/test_deletes", "test_a_run_that_was_killed_counts_for_the_next_one"),
    ),
    Bug(
        "cascades not counted",
        "ingest/reconcile/deletes.py",
        'if reference.ondelete == "CASCADE" or not reference.nullable:',
        "if False:",
        _in("integration/test_deletes", "test_what_would_go_with_a_few_rows_counts_too"),
    ),
    Bug(
        "signatures become one",
        "ingest/replay/redaction.py",
        'f"{MARKER}-{len(self._numbers) + 1}"',
        'f"{MARKER}-1"',
        _in("unit/test_replay_writing", "test_what_a_server_signs_its_urls_with_is_numbered"),
    ),
)

BUGS = (*OFTEN, *SELDOM)
