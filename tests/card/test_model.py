"""What the card tells: pure functions of the saves."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from ckpt_async import CheckpointReference, Pending, SnapshotFailed, Status, StoreAccessDenied, StoreUnavailable, Wait
from metaflow_extensions.ckpt_async.plugins.checkpoint import card_model, card_series
from metaflow_extensions.ckpt_async.plugins.checkpoint.card_model import make_model
from metaflow_extensions.ckpt_async.plugins.checkpoint.card_series import Point, Segment, Span, backlog, timeline
from tests.card.facts import NOW, SIZE, adopted, facts, many_saves, save

DENIED = StoreAccessDenied("upload a part", on="s3://bucket/key", cause="403 AccessDenied", hint="Ask for s3:PutObject.")


class TestRows:
    def test_no_save(self) -> None:
        model = make_model(facts())
        assert model.rows == () and model.more == 0 and model.current is None and model.troubles == ()
        assert model.comparison.saved_s == 0 and model.oldest_s == 0
        assert model.timeline.training == (Segment(0.0, 600.0),)

    def test_one_save_as_it_comes_along(self) -> None:
        (row,) = make_model(facts([save(0, 10, "queued")])).rows
        assert (row.status, row.share, row.upload_s, row.bytes_per_s, row.reason) == ("queued", 0, None, None, "")
        model = make_model(facts([save(0, 10, "uploading", done_bytes=SIZE // 4)]))
        assert model.current == model.rows[0]
        assert model.rows[0].share == 0.25 and model.rows[0].upload_s == 10 and model.rows[0].bytes_per_s == SIZE / 40
        model = make_model(facts([save(0, 100, copied_bytes=SIZE // 2, sent_bytes=SIZE // 2)]))
        (row,) = model.rows
        assert model.current is None
        assert (row.number, row.attempt, row.status, row.share) == (0, 1, "committed", 1.0)
        assert (row.blocked_s, row.upload_s, row.bytes_per_s, row.copied_bytes) == (0.012, 14.0, SIZE // 2 / 14, SIZE // 2)
        assert row.methods == (("link", 3), ("packed", 12)) and row.size_bytes == SIZE

    def test_the_first_bytes_tell_nothing_of_the_speed(self) -> None:
        (row,) = make_model(facts([save(0, 10, "uploading", done_bytes=SIZE // 1000)])).rows
        assert row.upload_s == 10 and row.bytes_per_s is None

    def test_a_save_that_has_not_returned_yet_has_no_time(self) -> None:
        assert make_model(facts([save(0, 1, "queued", blocked_s=0.0)])).rows[0].blocked_s is None

    def test_newest_first_and_of_older_ones_what_somebody_should_look_at(self) -> None:
        references = [save(number, 5000 - number) for number in range(300)]
        for number, status in ((3, "failed"), (5, "dropped"), (7, "queued")):
            references[number].state.status = status
        model = make_model(facts(references, 5000))
        numbers = [row.number for row in model.rows]
        newest = card_model.MAX_ROWS
        assert numbers == [*range(299, 299 - newest, -1), 7, 3]
        assert model.more == 300 - newest - 2

    def test_however_many_fail_the_table_stays_small(self) -> None:
        references = [save(number, 9000 - number, "failed", error=DENIED) for number in range(2000)]
        model = make_model(facts(references, 9000))
        assert len(model.rows) == card_model.MAX_ROWS + card_model.MAX_OLDER_ROWS

    def test_what_earlier_attempts_left_comes_last_and_what_is_under_way_of_it_first(self) -> None:
        model = make_model(facts([save(0, 50)], adopted=[adopted(4, "committed"), adopted(5, "uploading", SIZE // 2)]))
        assert [(row.attempt, row.number, row.status) for row in model.rows] == [
            (1, 0, "committed"),
            (0, 5, "uploading"),
            (0, 4, "committed"),
        ]
        assert model.current == model.rows[1] and model.current.blocked_s is None

    def test_an_ended_attempt_uploads_nothing(self) -> None:
        model = make_model(facts([save(0, 10, "uploading", given_up="its task ended")], ended=True, step_ended_unix_s=NOW - 5))
        assert model.current is None and not model.storing
        assert [(one.what, one.cause) for one in model.troubles] == [("Save 0 not stored yet", "its task ended")]

    def test_a_state_of_a_later_version_is_shown_and_waited_for_by_nobody(self) -> None:
        model = make_model(facts([save(0, 100, "deleted", ended_unix_s=NOW - 50)]))
        assert model.rows[0].status == "deleted" and model.oldest_s == 0


class TestTroubles:
    def test_the_same_failure_of_several_saves_is_told_once_with_what_to_do(self) -> None:
        references = [save(0, 100), save(1, 90, "failed", error=DENIED), save(2, 80, "failed", error=DENIED)]
        model = make_model(facts(references))
        (trouble,) = model.troubles
        assert (trouble.what, trouble.cause, trouble.hint) == (
            "2 saves (1 to 2) failed",
            "403 AccessDenied",
            f"Ask for s3:PutObject. {card_model.KEPT}",
        )
        assert not trouble.being_retried and model.rows[0].reason == "403 AccessDenied"

    def test_of_a_save_that_is_lost_nothing_can_be_mended(self) -> None:
        lost = save(0, 100, "failed", error=SnapshotFailed("upload", cause="torn", hint="Save again."))
        assert [trouble.hint for trouble in make_model(facts([lost])).troubles] == ["Save again."]

    def test_many_failures_fill_no_card(self) -> None:
        errors = [StoreAccessDenied("upload", cause=f"no {number}") for number in range(50)]
        references = [save(number, 100 - number, "failed", error=error) for number, error in enumerate(errors)]
        assert len(make_model(facts(references)).troubles) == card_model.MAX_TROUBLES

    def test_what_is_retried_is_told_until_the_end(self) -> None:
        busy = StoreUnavailable("put", on="s3://bucket", cause="503 SlowDown", hint="It is tried again.")
        (trouble,) = make_model(facts(trouble=busy)).troubles
        assert trouble.being_retried and trouble.cause == "503 SlowDown"
        assert make_model(facts(trouble=busy, ended=True)).troubles == ()

    def test_what_was_dropped_has_its_reason_and_is_no_trouble(self) -> None:
        model = make_model(facts([save(0, 100, "dropped", reason="given up for a later save")]))
        assert model.rows[0].reason == "given up for a later save" and model.troubles == ()

    def test_what_an_earlier_attempt_left_and_nobody_can_store(self) -> None:
        (trouble,) = make_model(facts(left_errors={"a child process of attempt 0": DENIED})).troubles
        assert trouble.what == "What a child process of attempt 0 left could not be stored" and trouble.hint == DENIED.hint


class TestComparison:
    def test_waiting_would_have_cost_the_uploads(self) -> None:
        model = make_model(facts([save(0, 100), save(1, 50)]))
        assert model.comparison.held_up_s == pytest.approx(0.024)
        assert model.comparison.saved_s == pytest.approx(28.0)
        assert model.longest_s == 0.012

    def test_what_was_waited_for_is_not_saved(self) -> None:
        assert make_model(facts([save(0, 100, blocked_s=14.5)], waited_s=14.0)).comparison.saved_s == 0
        model = make_model(facts([save(0, 20)], waits=[Wait(NOW - 10, 10.0)]))
        assert model.comparison.saved_s == pytest.approx(4.0)
        assert make_model(facts([save(0, 20)], waits=[Wait(NOW - 20, 20.0)])).comparison.saved_s == 0


def edges(segments: tuple[Segment, ...]) -> list[tuple[float, float]]:
    return [(segment.begin_s, segment.end_s) for segment in segments]


class TestTimeline:
    def test_who_waits_does_not_train(self) -> None:
        found = timeline([Span(110, 112), Span(111, 113)], [Span(111, 120), Span(119, 125)], 100, 130, 140)
        assert edges(found.waiting) == [(10, 13), (30, 40)], "what comes after the step's end is waiting"
        assert edges(found.training) == [(0, 10), (13, 30)]
        assert edges(found.uploading) == [(11, 25)]

    def test_what_lies_outside_is_cut_off(self) -> None:
        found = timeline([Span(50, 105), Span(190, 300), Span(400, 500)], [], 100, 200, 200)
        assert edges(found.waiting) == [(0, 5), (90, 100)] and found.uploading == ()

    def test_very_many_spans_become_shares(self) -> None:
        spans = [Span(second, second + 0.25) for second in range(10_000)]
        found = timeline(spans, [], 0, 10_000, 10_000)
        assert len(found.waiting) <= card_series.MAX_SEGMENTS
        assert {segment.share for segment in found.waiting} == {0.25} and {segment.share for segment in found.training} == {0.75}
        assert found.waiting[0].begin_s == 0 and found.waiting[-1].end_s == pytest.approx(10_000)

    def test_rare_waits_stay_visible_among_very_many(self) -> None:
        spans = [Span(second, second + 1e-6) for second in range(10_000)]
        assert all(segment.share == 0.01 for segment in timeline(spans, [], 0, 10_000, 10_000).waiting)


class TestBacklog:
    def test_a_queue_comes_and_goes(self) -> None:
        references = [save(0, 100, upload_s=30), save(1, 90, upload_s=40), save(2, 20, "queued")]
        found = backlog([reference.state for reference in references], NOW - 110, NOW)
        assert found.points == (
            Point(0, 0, 0),
            Point(10, 0, 0),
            Point(10, 1, 0),
            Point(20, 1, 10),
            Point(20, 2, 10),
            Point(40, 2, 30),
            Point(40, 1, 20),
            Point(60, 1, 40),
            Point(60, 0, 0),
            Point(90, 0, 0),
            Point(90, 1, 0),
            Point(110, 1, 20),
        )
        assert found.oldest_s == 20

    def test_what_was_given_up_is_at_risk_until_a_later_save_is_stored(self) -> None:
        references = [save(0, 100, "dropped"), save(1, 80, upload_s=30)]
        found = backlog([reference.state for reference in references], NOW - 100, NOW)
        assert max(point.lag_s for point in found.points) == 50 and found.oldest_s == 0
        references[1].state.status = Status.QUEUED
        assert backlog([reference.state for reference in references], NOW - 100, NOW).oldest_s == 100

    def test_what_is_lost_is_waited_for_by_nobody(self) -> None:
        lost = save(0, 100, "failed", error=SnapshotFailed("upload", cause="torn"), ended_unix_s=NOW - 60)
        assert backlog([lost.state], NOW - 100, NOW).oldest_s == 0
        assert backlog([save(0, 100, "failed", error=DENIED).state], NOW - 100, NOW).oldest_s == 100

    @given(
        st.lists(
            st.tuples(
                st.floats(0, 1000), st.floats(0, 500), st.sampled_from(["queued", "committed", "dropped", "failed", "deleted"])
            ),
            max_size=30,
        )
    )
    def test_at_the_end_it_agrees_with_a_plain_count(self, told: list[tuple[float, float, str]]) -> None:
        told.sort()
        references = [save(number, 2000 - at_s, status, upload_s=took_s) for number, (at_s, took_s, status) in enumerate(told)]
        states = [reference.state for reference in references]
        for state, (at_s, took_s, _) in zip(states, told, strict=True):
            state.ended_unix_s = NOW - 2000 + at_s + took_s
        found = backlog(states, NOW - 2000, NOW)
        at_risk = [
            state
            for index, state in enumerate(states)
            if state.status in ("queued", "failed")
            or (state.status == "dropped" and not any(later.status in ("committed", "deleted") for later in states[index:]))
        ]
        assert found.points[-1].waiting == len(at_risk)
        assert found.oldest_s == pytest.approx(max((NOW - state.saved_unix_s for state in at_risk), default=0.0))
        assert all(earlier.at_s <= later.at_s for earlier, later in itertools.pairwise(found.points))
        assert all(point.waiting >= 0 and point.lag_s >= 0 for point in found.points)

    def test_peaks_survive_the_thinning(self) -> None:
        references = many_saves(10_000)
        states = [reference.state for reference in references]
        states[5000].ended_unix_s = states[5000].saved_unix_s + 7200
        found = backlog(states, NOW - 36_000, NOW)
        assert len(found.points) <= card_series.MAX_POINTS + 2
        assert max(point.lag_s for point in found.points) == pytest.approx(7200)
        assert found.points[-1].waiting == 4


def test_pending_and_stats_are_those_of_the_engine() -> None:
    references: list[CheckpointReference] = [save(0, 100), save(1, 5, "queued")]
    model = make_model(facts(references))
    assert model.pending == Pending(1, SIZE) and (model.stats.saves, model.stats.committed) == (2, 1)
