"""The main job: save every second count, fail now and then, and never count again what was saved."""

from __future__ import annotations

import base64
import dataclasses
import re
import stat

import pytest

from tests.flows.harness import Place

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("datastore", "mode", "more"),
    [
        ("local", "False", ()),
        ("local", "True", ("--with", "card")),
        ("local", "True", ()),
        # With async_upload on S3: tests/flows/test_matrix.py.
        ("s3", "False", ()),
    ],
    ids=["local-sync", "local-async-with-card", "local-async", "s3-sync"],
)
def test_never_counts_again_what_it_saved(local: Place, on_s3: Place, datastore: str, mode: str, more: tuple[str, ...]) -> None:
    # Both are arguments, so that the server starts before the leak check looks.
    place = local if datastore == "local" else on_s3
    place = dataclasses.replace(place, variables={**place.variables, "COUNTER_ASYNC": mode, "COUNTER_CARD": str(bool(more))})
    result = place.run("counter.py", *more)
    assert result.code == 0, result.text
    assert result.numbers("counted") == [1, 2, 3, 3, 4, 5, 6, 7, 7, 8, 9, 10]
    assert result.numbers("resumed at") == [2, 6]
    assert result.numbers("ended at") == [10]
    assert place.wait_until_clean() == []
    if more:
        check_cards(place)
        return  # what is stored does not depend on cards
    task = place.look("CounterFlow")["start/0"]
    counters = [[record["metadata"]["counter"] for record in attempt["_task_checkpoints"]] for attempt in task["attempts"]]
    assert counters == [[2], [6, 4], [10, 8]]
    for attempt in task["attempts"]:
        newest = attempt["_task_checkpoints"][0]
        assert attempt["_task_latest_checkpoint"] == newest
        assert attempt["type of newest"] == "dict"
        assert attempt["newest"] == newest
    assert task["loaded"] == [1, 0]
    assert [record["metadata"]["counter"] for record in task["listed"]] == [10, 8]
    assert task["metadata"]["checkpoint-load-attempt"] == "1"
    assert task["metadata"]["checkpoint-load-name"] == "mfchckpt"


def check_cards(place: Place) -> None:
    """Each attempt has a card that is complete by itself, also one that has failed."""
    found = {}
    for path in place.folder.glob("**/mf.cards/**/cards/*task_checkpoints*.html"):
        text = path.read_text()
        # Without this line a viewer waits for data that a later update of the task would bring.
        assert "window.metaflow_card_update = undefined" in text
        (data,) = re.findall('__MF_DATA__\\["[^"]*"\\] = "([^"]*)"', text)
        told = base64.b64decode(data).decode()
        found[int(re.findall("attempt ([0-9]+)</span>", told)[0])] = told
    assert sorted(found) == [0, 1, 2]
    for attempt, told in found.items():
        ended = "ended well" if attempt == 2 else "failed"
        assert f"{ended}; everything saved is in the datastore" in told
        assert told.count("<tr><td") == (1, 2, 2)[attempt]
    assert "the step began afresh" in found[0]
    assert "attempt 0; loaded from the datastore" in found[1] and "which had begun from" not in found[1]
    assert "attempt 1; loaded from the datastore" in found[2] and found[2].count("which had begun from") == 1


@pytest.mark.slow
def test_every_branch_of_a_foreach_resumes_its_own(local: Place) -> None:
    result = local.run("branches.py")
    assert result.code == 0, result.text
    assert result.after("branches") == ["a1 a2 b1 b2"], result.text
    assert result.after("identifiers") == ["4"]
    assert local.wait_until_clean() == []


def test_children_of_a_task_save_for_it(local: Place) -> None:
    result = local.run("children.py")
    assert result.code == 0, result.text
    assert result.after("child saved") == ["child ['child', 'task']"]
    assert result.after("listed") == ["['child', 'task']"]
    assert result.after("child key") == ["True"]
    assert result.after("keys") == ["2"]
    assert result.after("scope") == ["2"]
    assert result.after("attempt 3") == ["[]"]
    assert result.after("by name") == ["1"]
    assert result.after("loaded") == ["from the child"]
    assert result.after("restored") == ["from the task"]
    assert result.after("refused") == ["LoadTargetNotEmpty"]
    assert local.wait_until_clean() == []
    attempt = local.look("ChildrenFlow")["start/0"]["attempts"][0]
    assert [record["name"] for record in attempt["_task_checkpoints"]] == ["child", "task"]
    assert attempt["_task_latest_checkpoint"] == attempt["_task_checkpoints"][0]


@pytest.mark.slow
def test_eager_goes_on_from_another_run_and_attributes_arrive_as_text(local: Place) -> None:
    eager, nothing = (f"checkpoint:show_card=False,load_policy={policy}" for policy in ("eager", "None"))
    runs = [
        local.run("plain.py", "--with", eager),
        local.run("plain.py", "--with", eager),
        local.run("plain.py", "--with", f"{nothing},async_upload=True,max_pending=3,max_pending_bytes=2MB"),
        local.run("plain.py", "--with", eager, "--tag", "checkpoint:elsewhere"),
    ]
    assert [run.after("began with") for run in runs] == [["None"], ["content"], ["None"], ["None"]], runs[1].text
    assert runs[2].code == 0 and runs[2].after("settings") == ["True 3 2000000"], runs[2].text
    assert stat.S_IMODE(local.scratch.stat().st_mode) == 0o700, "spools are private"


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ("max_pending=none", "@checkpoint(max_pending='none'): the value is not allowed. Allowed: a whole number, 1 or more."),
        ("colour=blue", "@checkpoint(colour='blue'): there is no such attribute. There are: load_policy, "),
    ],
)
def test_a_wrong_attribute_is_refused_before_any_task(local: Place, attributes: str, message: str) -> None:
    result = local.run("plain.py", "--with", f"checkpoint:{attributes}")
    assert result.code == 1
    assert message in result.text
    assert "Traceback" not in result.text
    assert "Workflow starting" not in result.text


def test_a_step_that_never_saves_pays_for_nothing_that_saving_needs(local: Place) -> None:
    result = local.run("idle.py")
    assert result.code == 0, result.text
    first, second = result.after("imported")
    assert first == "[]"
    # Its sidecar may be there already: then the first save() must not wait for an import.
    assert second in ("[]", "['ckpt_async.disk.snapshot']")
    assert result.after("cards") == ["[False, False, True]"]
