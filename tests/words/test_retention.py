"""What rules keep: read from a user's values, and decided for a list of checkpoints."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, strategies as st

from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.groups import GROUP_STRIDE
from ckpt_async.words.identity import TaskIdentity
from ckpt_async.words.keep_rules import BestRule, KeepRules
from ckpt_async.words.records import CheckpointRecord
from ckpt_async.words.retention import RetentionDecision, decide_retention, family_of

START_NS = 1_700_000_000 * 10**9
HOUR_NS = 3600 * 10**9


def save(
    version: int = 0, *, attempt: int = 0, name: str = "m", task: str = "1", at_ns: int | None = None, **more: Any
) -> CheckpointRecord:
    metadata = more.pop("metadata", {})
    return CheckpointRecord.of_save(
        TaskIdentity("Flow", "1", "train", task, attempt, "a" * 12, "b" * 12),
        name=name,
        version=version,
        size_bytes=1,
        metadata=metadata,
        storage_format="files",
        store_url="memory://",
        now_unix_ns=START_NS + (attempt * 1000 + version) * HOUR_NS if at_ns is None else at_ns,
        **more,
    )


def kept_of(records: list[CheckpointRecord], rules: KeepRules, **about: Any) -> list[tuple[int, int]]:
    return [record.order for record in decide_retention(records, rules, **about).kept]


def losses(*values: object) -> list[CheckpointRecord]:
    return [save(version, metadata={} if value is None else {"loss": value}) for version, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "rules", "text"),
    [
        ({}, KeepRules(), ""),
        ({"keep_last": None, "keep_best": "None", "keep_every": " "}, KeepRules(), ""),
        ({"keep_last": 3}, KeepRules(last=3), "keep_last=3"),
        ({"keep_last": " 3 "}, KeepRules(last=3), "keep_last=3"),
        ({"keep_best": "loss:min"}, KeepRules(best=(BestRule("loss", False),)), "keep_best=loss:min:1"),
        (
            {"keep_best": "val:loss:min:2, accuracy:max"},
            KeepRules(best=(BestRule("val:loss", False, 2), BestRule("accuracy", True))),
            "keep_best=val:loss:min:2,accuracy:max:1",
        ),
        ({"keep_every": "10"}, KeepRules(every_saves=10), "keep_every=10"),
        ({"keep_every": "1.5h"}, KeepRules(every_s=5400.0), "keep_every=5400s"),
        ({"keep_every": "30 MIN"}, KeepRules(every_s=1800.0), "keep_every=1800s"),
        ({"keep_every": "1d"}, KeepRules(every_s=86400.0), "keep_every=86400s"),
    ],
)
def test_rules_are_read_and_written(values: dict[str, Any], rules: KeepRules, text: str) -> None:
    read = KeepRules.read(**values)
    assert read == rules and str(read) == text and bool(read) == bool(text)
    assert KeepRules.read(keep_last=read.last, keep_best=read.best_text, keep_every=read.every_text) == read


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("keep_last", value) for value in (0, -1, True, 1.0, "1.5", "many", [], 10**10, "9" * 5000)),
        *(
            ("keep_best", value)
            for value in (3, True, "loss", "loss:low", ":min", "loss:min:0", "loss:min:x", "loss:min,", "min", ["a"])
        ),
        *(("keep_every", value) for value in (0, -5, 1.5, True, "0.1s", "h", "1 week", "1e3s", "20y", "99999d", "nan")),
    ],
)
def test_a_wrong_rule_is_refused_with_what_is_allowed(name: str, value: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        KeepRules.read(**{name: value})
    assert f"{name}=" in caught.value.on and "Allowed: " in caught.value.hint


def test_without_rules_everything_stays() -> None:
    records = losses(3, 1, None)
    assert decide_retention(records, KeepRules()).doomed == ()


def test_the_last_ones_over_all_attempts_and_each_name_by_itself() -> None:
    records = [save(version, attempt=attempt) for attempt in (0, 1) for version in range(4)] + [save(0, name="other")]
    random.Random(3).shuffle(records)
    kept = decide_retention(records, KeepRules(last=3)).kept
    assert sorted((record.name, *record.order) for record in kept) == [("m", 1, 1), ("m", 1, 2), ("m", 1, 3), ("other", 0, 0)]


def test_the_best_ones_and_of_equal_ones_the_older() -> None:
    records = losses(3.0, 1.0, 2.0, 1.0, 5.0)
    assert kept_of(records, KeepRules.read(keep_best="loss:min:2")) == [(0, 1), (0, 3), (0, 4)]
    assert kept_of(records, KeepRules.read(keep_best="loss:min:1")) == [(0, 1), (0, 4)]
    assert kept_of(records, KeepRules.read(keep_best="loss:max:2")) == [(0, 0), (0, 4)]


@pytest.mark.parametrize(
    ("value", "number"), [("0.25", 0.25), (2, 2.0), (float("nan"), float("inf")), (True, None), ([1], None), ("low", None)]
)
def test_what_counts_as_a_number(value: object, number: float | None) -> None:
    assert BestRule("loss", False).value_in(save(metadata={"loss": value})) == number


def test_one_without_the_number_is_judged_by_other_rules_alone() -> None:
    records = losses(1, None, 2, None, 3, None)
    assert kept_of(records, KeepRules.read(keep_best="loss:min")) == [(0, 0), (0, 1), (0, 3), (0, 5)]
    decision = decide_retention(records, KeepRules.read(keep_best="loss:min", keep_last=1))
    assert [record.order for record in decision.kept] == [(0, 0), (0, 5)] and decision.notices == ()


def test_a_metric_that_nothing_has_is_told() -> None:
    decision = decide_retention(losses(1, 2, 3), KeepRules.read(keep_best="los:min", keep_last=1))
    assert [record.order for record in decision.kept] == [(0, 2)]
    assert "'los'" in decision.notices[0] and "'m'" in decision.notices[0]


def test_every_so_manieth_of_each_attempt_and_node() -> None:
    records = [save(version, attempt=attempt) for attempt in (0, 1) for version in range(6)]
    assert kept_of(records, KeepRules(every_saves=3)) == [(0, 0), (0, 3), (1, 0), (1, 3), (1, 5)]
    gang = [save(version, num_nodes=2, node_index=version % 2) for version in range(12)]
    assert kept_of(gang, KeepRules(every_saves=3)) == [(0, 0), (0, 1), (0, 6), (0, 7), (0, 10), (0, 11)]
    groups = [save(GROUP_STRIDE * number, at_ns=START_NS, num_nodes=2, node_index=-1, group=True) for number in range(1, 6)]
    assert [version // GROUP_STRIDE for _, version in kept_of(groups, KeepRules(every_saves=3))] == [1, 4, 5]


def test_the_first_of_each_period_and_what_has_no_time() -> None:
    records = [save(version, at_ns=START_NS + version * HOUR_NS // 2) for version in range(7)]
    whole = {version: (START_NS + version * HOUR_NS // 2) // HOUR_NS for version in range(7)}
    firsts = {min(version for version in whole if whole[version] == hour) for hour in set(whole.values())}
    assert {version for _, version in kept_of(records, KeepRules.read(keep_every="1h"))} == firsts | {6}
    assert kept_of([save(0, at_ns=0), *records], KeepRules(every_s=1e9))[0] == (0, 0)


def test_nodes_are_judged_by_themselves_and_keep_what_a_retry_of_theirs_begins_with() -> None:
    gang = [save(version, num_nodes=2, node_index=version % 2, metadata={"loss": version}) for version in (0, 1, 2, 3, 4, 6)]
    assert kept_of(gang, KeepRules(last=1)) == [(0, 3), (0, 6)]
    assert kept_of(gang, KeepRules.read(keep_best="loss:min")) == [(0, 0), (0, 1), (0, 3), (0, 6)]


def test_whatever_the_rules_say_these_stay() -> None:
    records = [*losses(1, 2, 3, 4), save(9, latest=False, metadata={"loss": 9})]
    rules = KeepRules.read(keep_best="loss:min")
    decision = decide_retention(records, rules, latest_keys={records[1].key}, pinned_keys={records[2].key})
    reasons = {one.record.version_id: one.reasons for one in decision.judged}
    assert reasons == {0: ("best loss:min:1",), 1: ("latest",), 2: ("pinned",), 3: ("a retry begins with it",), 9: ()}


def test_what_does_not_verify_stays_and_counts_for_nothing() -> None:
    records = losses(*range(5))
    assert kept_of(records, KeepRules(last=2), damaged_keys={records[4].key}) == [(0, 2), (0, 3), (0, 4)]


def test_foreign_records_are_judged_by_what_they_tell() -> None:
    data = save(3).to_dict()
    for ours in ("manifest", "save_number", "saved_at_unix_ns", "latest", "format_version"):
        del data[ours]
    theirs = CheckpointRecord.from_dict({**data, "created_on": "long ago"}, source="")
    assert kept_of([theirs, save(4), save(5)], KeepRules(last=1)) == [(0, 5)]
    assert kept_of([theirs, save(4), save(5)], KeepRules(every_s=1e9)) == [(0, 3), (0, 4), (0, 5)]


@st.composite
def lists(draw: st.DrawFn) -> list[CheckpointRecord]:
    fields = st.tuples(
        st.integers(0, 2), st.integers(0, 40), st.sampled_from("ab"), st.sampled_from("12"), st.booleans(), st.integers(0, 2)
    )
    found = {}
    for attempt, version, name, task, latest, node in draw(st.lists(fields, max_size=25)):
        metadata = draw(st.sampled_from([{}, {"loss": 1}, {"loss": 2.5}, {"loss": "7"}, {"loss": float("nan")}]))
        group = {"num_nodes": 3, "node_index": node}
        record = save(version, attempt=attempt, name=name, task=task, latest=latest, metadata=metadata, **group)
        found[record.key] = record
    return list(found.values())


RULES = st.builds(
    KeepRules,
    last=st.none() | st.integers(1, 5),
    best=st.sampled_from([(), (BestRule("loss", False, 2),), (BestRule("loss", True), BestRule("loss", False))]),
    every_saves=st.none() | st.integers(1, 5),
    every_s=st.none() | st.sampled_from([3600.0, 36000.0]),
)


def chosen(data: st.DataObject, records: list[CheckpointRecord]) -> set[str]:
    return {record.key for record in records if data.draw(st.booleans())}


@given(data=st.data(), records=lists(), rules=RULES)
def test_what_holds_for_every_list(data: st.DataObject, records: list[CheckpointRecord], rules: KeepRules) -> None:
    about = {"latest_keys": chosen(data, records), "pinned_keys": chosen(data, records), "damaged_keys": chosen(data, records)}

    def decide(records: list[CheckpointRecord]) -> RetentionDecision:
        return decide_retention(records, rules, **about)

    decision = decide(records)
    kept = {record.key for record in decision.kept}
    doomed = {record.key for record in decision.doomed}
    # Nothing is left out, nothing is both; what is protected stays.
    assert [one.record for one in decision.judged] == records and not kept & doomed
    assert not doomed & set().union(*about.values())
    # Something of each task, name and node stays, and something that is not known to be damaged where there is such.
    sound = [record for record in records if record.key not in about["damaged_keys"]]
    assert {family_of(record) for record in sound} == {family_of(record) for record in sound if record.key in kept}
    # The newest that each node may begin with stays, the newest few too.
    for task, node in {(record.pathspec, record.node_index) for record in sound}:
        mine = [record for record in sound if (record.pathspec, record.node_index) == (task, node) and record.latest]
        assert not mine or max(mine, key=lambda record: (record.order, record.key)).key in kept
    if rules.last is not None:
        for record in sound:
            newer = [other for other in sound if family_of(other) == family_of(record) and other.order > record.order]
            assert record.key in kept or len(newer) >= rules.last
    # The order of the list means nothing; what is kept stays kept when the rest is gone.
    shuffled = data.draw(st.permutations(records))
    assert {record.key for record in decide(shuffled).kept} == kept
    assert decide(list(decision.kept)).doomed == ()
    # Without a rule, everything stays.
    assert rules or not doomed


@given(records=lists(), rules=RULES, count=st.integers(1, 5))
def test_a_further_rule_never_has_more_deleted(records: list[CheckpointRecord], rules: KeepRules, count: int) -> None:
    if rules.last is None:
        return
    more = KeepRules(rules.last + count, (*rules.best, BestRule("other", True)), rules.every_saves, rules.every_s)
    fewer = {record.key for record in decide_retention(records, KeepRules(last=rules.last)).kept}
    assert fewer <= {record.key for record in decide_retention(records, rules).kept}
    assert {record.key for record in decide_retention(records, rules).kept} <= {
        record.key for record in decide_retention(records, more).kept
    }
