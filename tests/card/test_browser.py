"""The card in a real browser: what somebody sees who opens it, wide and narrow, and what changes while it is open."""

from __future__ import annotations

from pathlib import Path

import pytest

from ckpt_async import StoreAccessDenied, Wait
from metaflow_extensions.ckpt_async.plugins.checkpoint.card_model import MAX_ROWS, Ancestor, Facts, Origin
from tests.card.browser import Shown, components, data_of, page_of, see
from tests.card.facts import NOW, SIZE, adopted, facts, many_saves, save

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

HIT = '<img src=x onerror="hit=true"><script>hit=true</script> a|b `c`\n\n# <b>d</b>'
WIDE, NARROW = 1200, 480


def running() -> Facts:
    stored = [save(number, 300 - 20 * number, copied_bytes=900_000_000 if number else 0) for number in range(14)]
    return facts([*stored, save(14, 20, "uploading", done_bytes=SIZE * 43 // 100), save(15, 2, "queued")], 310)


def failed() -> Facts:
    denied = StoreAccessDenied(
        "upload", on="s3://bucket", cause="403 AccessDenied: " + "arn:aws:iam::123/" * 20, hint="Ask for access."
    )
    references = [save(0, 600), save(1, 540, "dropped", reason="given up for a later save"), save(2, 480, "failed", error=denied)]
    return facts(references, 640, ended=True, failed=True, step_ended_unix_s=NOW - 30, waits=[Wait(NOW - 30, 30.0)])


def resumed() -> Facts:
    ancestors = (Ancestor("older", "TrainFlow/1/train/2", 3), Ancestor(HIT, HIT, 0))
    origin = Origin(save(7, 5000, attempt=0, name=HIT).record, "eager", True, ancestors, "")
    references = [save(number, 100 - 30 * number, name=HIT, attempt=1) for number in range(3)]
    return facts(references, 110, origin=origin, adopted=[adopted(5, "uploading", SIZE // 2)], adopting=["0000"])


def test_what_a_browser_shows(tmp_path: Path) -> None:
    end = facts([save(number, 300 - 20 * number) for number in range(16)], 310, ended=True, step_ended_unix_s=NOW - 5)
    live = page_of(running(), live=True)
    seen = see(
        {
            "running": Shown(live, WIDE),
            "then ended": Shown(live, WIDE, data_of(components(end))),
            "failed": Shown(page_of(failed()), WIDE),
            "resumed": Shown(page_of(resumed()), WIDE),
            "many": Shown(page_of(facts(many_saves(10_000), 36_000)), WIDE),
            "empty": Shown(page_of(facts()), WIDE),
            "narrow": Shown(page_of(running()), NARROW),
            "narrow resumed": Shown(page_of(resumed()), NARROW),
            "between": Shown(page_of(failed()), 970),
        },
        tmp_path,
    )
    for name, one in seen.items():
        assert one["overflow"] == 0, f"{name} scrolls sideways"
        assert len(one["charts"]) == 2 and min(one["charts"]) > 300, f"{name} has charts {one['charts']}"
        assert not one["scripts"], f"{name} runs what somebody has named so"

    one = seen["running"]
    assert one["chip"] == "running" and one["title"].startswith("Checkpoints of TrainFlow/")
    assert [figure[0] for figure in one["figures"]] == ["GPU time saved", "save() took", "Saves in the datastore", "Not stored yet"]
    assert [figure[1] for figure in one["figures"]] == ["3 min", "12 ms", "14 of 16", "2 saves"]
    assert len(one["rows"]) == 16 and one["rows"][0][0].startswith("15 mfchckpt") and one["rows"][0][-1] == "snapshotted"
    assert [percent for percent, _, _ in one["bars"]] == [43, 43], "above, and in the table"
    for _, pixels, share in one["bars"]:
        assert pixels > 80 and share == pytest.approx(0.43, abs=0.01)
    # 1 time of training between each two waits, the waits, and the uploads, which touch nowhere.
    assert one["marks"][0] > 40 and one["marks"][1] == 2

    one = seen["then ended"]
    assert one["chip"] == "ended well; everything saved is in the datastore"
    assert [figure[1] for figure in one["figures"]][2:] == ["16 of 16", "no save"]
    assert {row[-1] for row in one["rows"]} == {"committed"} and one["bars"] == []

    one = seen["failed"]
    assert one["chip"] == "failed; 1 save not in the datastore"
    (trouble,) = one["troubles"]
    assert (
        trouble.startswith("Save 2 failed: 403 AccessDenied")
        and "Ask for access. What was saved stays on this machine's disk" in trouble
    )
    assert [row[-1].split("\n")[0] for row in one["rows"]] == ["failed", "dropped", "committed"]

    one = seen["resumed"]
    assert len(one["origin"]) == 3 and "loaded from this machine's disk" in one["origin"][0]
    assert "<script>" in one["origin"][0] and "older of TrainFlow/1/train/2, attempt 3" in one["origin"][1]
    assert [percent for percent, _, _ in one["bars"]] == [50, 50] and "left by attempt 0" in one["rows"][-1][0]

    assert len(seen["many"]["rows"]) == MAX_ROWS and seen["many"]["figures"][2][1] == "9996 of 10000"
    assert seen["empty"]["rows"] == [] and seen["empty"]["figures"][0][1] == "–"
    # One below the other, where a row would not fit.
    assert seen["narrow"]["lowest"] > 2 * seen["running"]["lowest"]
