"""How the card looks, as text: what others have named changes nothing, and ten thousand saves keep it small."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from ckpt_async import StoreAccessDenied
from metaflow_extensions.ckpt_async.plugins.checkpoint.card_model import Ancestor, Origin, make_model
from metaflow_extensions.ckpt_async.plugins.checkpoint.card_view import head_text, origin_text, table_text, views
from tests.card.facts import NOW, PATHSPEC, SIZE, adopted, facts, many_saves, save

#: What HTML, Markdown, or the block that Markdown makes of HTML could trip over.
NASTY = "<script>alert(1)</script> a|b `c` *d* [e](f) &amp; \n\n# g \" ' <!-- \\"

#: Elements without an end.
VOID = {"br", "wbr"}


class Elements(HTMLParser):
    """Checks that all that is opened is closed, in order, and collects the text."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.seen: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Elements:
    """Read one piece of the card; an empty line would end the HTML for Markdown."""
    assert "" not in [line.strip() for line in text.split("\n")]
    parser = Elements()
    parser.feed(text)
    parser.close()
    assert parser.opened == []
    return parser


def texts(model_facts: Any) -> tuple[Elements, Elements, Elements]:
    head, origin, _, _, table = views(make_model(model_facts))
    return read(head), read(origin), read(table)


@pytest.mark.parametrize("name", [NASTY, "", "\n", "x" * 5000, "ü — 检查点"])
def test_names_and_texts_of_others_change_nothing(name: str) -> None:
    error = StoreAccessDenied("upload", on=name, cause=name, hint=name)
    record = save(0, 100, name=NASTY).record
    references = [save(0, 100, name=name), save(1, 90, "failed", name=name, error=error), save(2, 80, "dropped", reason=name)]
    origin = Origin(record, "fresh", False, (Ancestor(name, name, 3),), name)
    for part in texts(facts(references, origin=origin, trouble=error)):
        assert part.seen <= {
            *("div", "style", "h2", "h3", "span", "b", "i", "strong", "code", "ol", "li", "p", "table", "thead", "tbody"),
            *("tr", "th", "td", "br", "wbr"),
        }


def test_a_name_is_shown_as_it_is() -> None:
    _, _, table = texts(facts([save(0, 100, name="<b>a|b</b> `c`")]))
    assert "<b>a|b</b> `c`" in table.text


def test_a_key_may_be_broken_and_is_copied_as_one_piece() -> None:
    record = save(0, 100).record
    text = origin_text(Origin(record, "fresh"))
    (key,) = re.findall("<code>(.*)</code>", text)
    assert html.unescape(key.replace("<wbr>", "")) == record.key


def test_where_it_began() -> None:
    assert "load_policy=eager" in read(origin_text(Origin(None, "eager"))).text
    record = save(7, 100, name="epoch").record
    chain = (Ancestor("older", "TrainFlow/1/train/2", 3), Ancestor("oldest", "TrainFlow/0/train/2", 0))
    told = read(origin_text(Origin(record, "fresh", True, chain))).text
    assert f"epoch number 7 of {PATHSPEC}, attempt 1; loaded from this machine's disk" in told
    assert "which had begun from older of TrainFlow/1/train/2, attempt 3" in told and told.index("older") < told.index("oldest")
    assert "not known" not in told
    told = read(origin_text(Origin(record, "fresh", False, (), "MetaflowNotFound: no such task"))).text
    assert "loaded from the datastore" in told and "not known: MetaflowNotFound: no such task." in told


def test_the_numbers_that_matter() -> None:
    head, _, _ = texts(facts([save(0, 100, copied_bytes=SIZE), save(1, 50), save(2, 10, "uploading", done_bytes=SIZE // 2)]))
    for told in (
        *(f"Checkpoints of {PATHSPEC}", "attempt 1", "running", "GPU time saved28 s", "save() took12 ms"),
        *("held up for 36 ms; waiting for each upload would have taken 28 s", "Saves in the datastore2 of 3"),
        *("4.5 GB, 1.5 GB of it not sent again", "Not stored yet1 save", "save 2: 50%, 75 MB/s, 10 s to go"),
    ):
        assert told in head.text, told


def test_saves_that_nobody_called_for_take_no_time_and_spoil_no_average() -> None:
    watched = [save(number, 100 - number, blocked_s=0.0) for number in range(3)]
    head, _, _ = texts(facts(watched))
    assert "save() took–" in head.text and "nothing was held up by it" in head.text
    head, _, _ = texts(facts([*watched, save(3, 50)]))
    assert "save() took12 ms" in head.text


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "running"),
        ({"step_ended_unix_s": NOW - 5}, "storing the last saves"),
        ({"step_ended_unix_s": NOW - 5, "ended": True}, "ended well; everything saved is in the datastore"),
        ({"step_ended_unix_s": NOW - 5, "ended": True, "failed": True}, "failed; everything saved is in the datastore"),
    ],
)
def test_how_the_attempt_is(more: dict[str, Any], told: str) -> None:
    assert told in read(head_text(make_model(facts([save(0, 100)], **more)))).text


def test_an_end_with_saves_that_are_not_stored() -> None:
    head, _, _ = texts(facts([save(0, 100), save(1, 50, "queued")], ended=True, failed=True, step_ended_unix_s=NOW - 5))
    assert "failed; 1 save not in the datastore" in head.text


def test_rows_of_every_state() -> None:
    error = StoreAccessDenied("upload", cause="403 AccessDenied", hint="Ask.")
    references = [
        save(0, 100, copied_bytes=SIZE // 3),
        save(1, 90, "incomplete"),
        save(2, 80, "dropped", reason="given up for a later save"),
        save(3, 70, "failed", error=error),
        save(4, 60, "uploading", done_bytes=SIZE // 4),
        save(5, 50, "queued"),
        save(6, 40, "deleted"),
    ]
    table = table_text(make_model(facts(references, adopted=[adopted(9, "uploading", SIZE // 2)])))
    rows = [read(row).text for row in re.findall("<tr>(?:(?!</tr>).)*</td></tr>", table)]
    assert [row.split(" mfchckpt")[0] for row in rows] == ["6", "5", "4", "3", "2", "1", "0", "9"]
    assert rows[0].endswith("deleted") and rows[1].endswith("12 mssnapshotted") and rows[2].endswith("uploading25%")
    assert rows[3].endswith("failed403 AccessDenied") and rows[4].endswith("droppedgiven up for a later save")
    assert rows[5].endswith("incomplete")
    assert rows[6].endswith("1.5 GBfiles: 3 linked, 12 packed12 ms14 s107 MB/s500 MBcommitted")
    assert "left by attempt 0" in rows[7] and rows[7].endswith("uploading50%")
    assert table.count('role="progressbar"') == 2


def test_ten_thousand_saves_keep_the_card_small() -> None:
    pieces = views(make_model(facts(many_saves(10_000), 36_000)))
    assert len(json.dumps(pieces)) < 100_000
    assert "9920 saves more" in pieces[4] or "9940 saves more" in pieces[4]


def test_charts_change_in_nothing_but_values_and_units() -> None:
    def frame(spec: dict[str, Any]) -> str:
        text = json.dumps({**spec, "data": None})
        return re.sub("seconds|minutes|hours", "UNIT", re.sub('"tickCount": [1-4]', "", text))

    few = views(make_model(facts([save(0, 10)], 20)))
    many = views(make_model(facts(many_saves(10_000), 36_000)))
    for index in (2, 3):
        assert frame(few[index]) == frame(many[index])  # type: ignore[arg-type]
