from __future__ import annotations

from hypothesis import given, settings, strategies as st

from ckpt_async.spool.admission import Admit, Drop, Limits, Queued, Refuse, SpoolLoad, Wait, decide

FAST = settings(max_examples=60, deadline=None, database=None)
amounts = st.integers(0, 30)


@st.composite
def loads(draw: st.DrawFn) -> SpoolLoad:
    sizes = draw(st.lists(amounts, max_size=5))
    droppable = tuple(Queued(f"{index:010d}", size) for index, size in enumerate(sizes) if draw(st.booleans()))
    return SpoolLoad(len(sizes), sum(sizes), draw(amounts), droppable)


limits_of_users = st.builds(
    Limits,
    st.integers(1, 5),
    st.none() | st.integers(1, 40),
    st.sampled_from(["block", "drop_oldest", "raise"]),
    reserve_bytes=amounts,
)


def fits(size_bytes: int, load: SpoolLoad, limits: Limits) -> bool:
    return (
        load.saves + 1 <= limits.max_pending
        and (limits.max_pending_bytes is None or load.size_bytes + size_bytes <= limits.max_pending_bytes)
        and size_bytes + limits.reserve_bytes <= load.free_bytes
    )


@FAST
@given(amounts, loads(), limits_of_users)
def test_exactly_what_fits_is_admitted(size_bytes: int, load: SpoolLoad, limits: Limits) -> None:
    assert isinstance(decide(size_bytes, load, limits), Admit) == fits(size_bytes, load, limits)


@FAST
@given(amounts, loads(), limits_of_users)
def test_what_could_never_fit_is_refused_and_nothing_is_given_up_for_it(size_bytes: int, load: SpoolLoad, limits: Limits) -> None:
    decision = decide(size_bytes, load, limits)
    if limits.max_pending_bytes is not None and size_bytes > limits.max_pending_bytes:
        assert isinstance(decision, Refuse) and decision.reason and decision.hint


@FAST
@given(amounts, loads(), limits_of_users)
def test_only_the_oldest_superseded_save_is_dropped_and_only_where_allowed(
    size_bytes: int, load: SpoolLoad, limits: Limits
) -> None:
    decision = decide(size_bytes, load, limits)
    if isinstance(decision, Drop):
        assert limits.on_full == "drop_oldest" and decision.entry == load.droppable[0].entry and decision.reason
    if isinstance(decision, Wait):
        assert limits.on_full != "raise" and decision.reason
        # Something is on its way that will free room: a wait has an end.
        assert load.saves > 0
        assert limits.on_full == "block" or not load.droppable


@FAST
@given(amounts, loads(), limits_of_users)
def test_dropping_and_waiting_come_to_an_end(size_bytes: int, load: SpoolLoad, limits: Limits) -> None:
    for _ in range(load.saves + 1):
        decision = decide(size_bytes, load, limits)
        if isinstance(decision, (Admit, Refuse)):
            return
        gone = load.droppable[0].size_bytes if isinstance(decision, Drop) else load.size_bytes // load.saves
        rest = load.droppable[1:] if isinstance(decision, Drop) else ()
        load = SpoolLoad(load.saves - 1, load.size_bytes - gone if load.saves > 1 else 0, load.free_bytes + gone, rest)
    raise AssertionError("neither admitted nor refused when the spool was empty")


def test_progress_at_risk_is_waited_for_and_nothing_is_given_up_for_it() -> None:
    load = SpoolLoad(1, 10, 10**12, (Queued("0000000001", 10),), lag_s=61.0)
    for on_full in ("block", "drop_oldest"):
        late = decide(10, load, Limits(4, None, on_full, max_lag_s=60))
        assert isinstance(late, Wait) and "61 s ago" in late.reason and "max_lag is 60 s" in late.reason
    assert isinstance(decide(10, load, Limits(4, None, "raise", max_lag_s=60)), Refuse)
    assert isinstance(decide(10, load, Limits(4, None, "block", max_lag_s=61)), Admit)
    assert isinstance(decide(10, load, Limits(1, None, "drop_oldest", max_lag_s=60)), Drop)


def test_the_numbers_are_told() -> None:
    refused = decide(3 * 10**9, SpoolLoad(0, 0, 10**9), Limits(4, None, "block"))
    assert isinstance(refused, Refuse) and "3 GB" in refused.reason and "1 GB" in refused.reason
    waits = decide(10, SpoolLoad(4, 400 * 10**6, 10**12), Limits(4, None, "block"))
    assert isinstance(waits, Wait) and "4 saves" in waits.reason
