"""How the card looks: turns its model into the texts and charts that Metaflow shows.

Markdown in cards may hold HTML, which Metaflow's own viewer passes on as it is, in every version that we work with: so a table has
bars and two lines in a cell, and numbers stand in boxes. Two rules keep it whole: what others have named is escaped, and no line is
empty, for an empty line ends a block of HTML in Markdown.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from ckpt_async import Status, readable_bytes, readable_seconds, saves_words

from .card_charts import backlog_spec, timeline_spec
from .card_model import Ancestor, CardModel, Origin, Row, Trouble
from .output import time_text

__all__ = ["head_text", "origin_text", "table_text", "views"]

#: Longer texts of others are cut: an error may quote a whole answer of a server.
MAX_TEXT = 400

#: In the table, whose head says it in full.
MAX_REASON = 120

#: Of a checkpoint's name.
MAX_NAME = 60

_METHODS = {"copy": "copied", "link": "linked", "packed": "packed", "reflink": "cloned"}

#: What the card calls the states, and the class that colours them.
_STATES = {
    Status.QUEUED: ("snapshotted", "wait"),
    Status.UPLOADING: ("uploading", "busy"),
    Status.COMMITTED: ("committed", "good"),
    Status.INCOMPLETE: ("incomplete", "wait"),
    Status.DROPPED: ("dropped", "gone"),
    Status.DELETED: ("deleted", "gone"),
    Status.FAILED: ("failed", "bad"),
}

_STYLE = """<style>
.ck{font-size:14px;line-height:1.4;text-align:left;container-type:inline-size}
.ck *{box-sizing:border-box}
.ck h2{font-size:20px;margin:0 0 4px;overflow-wrap:anywhere}
.ck h3{font-size:15px;margin:0 0 8px}
.ck .sub{color:#6b6f76;font-size:12px}
.ck .figures{display:flex;flex-wrap:wrap;gap:12px;margin-top:12px}
.ck .figure{flex:1 1 170px;min-width:0;border:1px solid #e3e5e8;border-radius:8px;padding:12px 14px;background:#fff}
.ck .figure b{display:block;font-size:21px;line-height:1.25;font-weight:700;margin:2px 0}
.ck .figure.lead{background:#eef4ff;border-color:#c9dcfb}
.ck .figure.bad{background:#fdf0ef;border-color:#f0c4c0}
.ck .chip{display:inline-block;border-radius:10px;padding:1px 9px;font-size:12px;background:#eceef0;color:#44484e}
.ck .chip.good{background:#e3f4e7;color:#1c6b33}
.ck .chip.busy{background:#e4edfd;color:#1a52b3}
.ck .chip.wait{background:#fdf2d9;color:#7a5400}
.ck .chip.bad{background:#fbe0de;color:#a1261d}
.ck .bar{display:block;height:6px;border-radius:3px;background:#dfe6f2;margin:5px 0 2px;overflow:hidden}
.ck .bar i{display:block;height:100%;border-radius:3px;background:#326cde}
.ck .trouble{border-left:4px solid #cf483e;background:#fdf0ef;padding:10px 14px;margin-top:12px;border-radius:0 8px 8px 0;
overflow-wrap:anywhere}
.ck .trouble.retried{border-color:#e0a100;background:#fdf6e3}
.ck table{width:100%;min-width:0;border-collapse:collapse;table-layout:auto}
.ck th{position:static;text-align:left;font-size:12px;font-weight:400;color:#6b6f76;padding:4px 8px;border-bottom:1px solid #d5d8dc;
white-space:nowrap;background:none}
.ck td{text-align:left;vertical-align:top;padding:7px 8px;border-bottom:1px solid #eceef0;background:none;overflow-wrap:anywhere}
.ck .num{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
.ck .num .sub{white-space:normal}
.ck td:first-child .sub{white-space:nowrap}
.ck td.state{min-width:120px}
.ck td.state .sub{overflow-wrap:anywhere}
.ck ol{list-style:none;margin:0;padding:0}
.ck li{padding:3px 0 3px 16px;border-left:2px solid #c9dcfb;margin-left:6px;position:relative;overflow-wrap:anywhere}
.ck li::before{content:"";position:absolute;left:-5px;top:9px;width:8px;height:8px;border-radius:50%;background:#fff;
border:2px solid #326cde}
.ck li.first::before{background:#326cde}
.mf-card .vega-embed{display:block;width:100%}
@media (max-width:60rem){.ck,.mf-card .vega-embed{margin-bottom:28px}}
@container (max-width:590px){
.ck thead{display:none}
.ck tr{display:block;padding:8px 0;border-bottom:1px solid #d5d8dc}
.ck td,.ck td.num{display:flex;justify-content:space-between;gap:16px;border:0;padding:2px 0;text-align:right;white-space:normal}
.ck td::before{content:attr(data-label);color:#6b6f76;font-size:12px;flex:none;text-align:left}
.ck td.empty{display:none}
.ck td:first-child .sub{white-space:normal}
.ck td>div{min-width:0;max-width:75%}
}
</style>"""


def views(model: CardModel) -> tuple[str, str, dict[str, Any], dict[str, Any], str]:
    """Return what the card's five pieces show: head, origin, the two charts, and the table."""
    charts = timeline_spec(model.timeline), backlog_spec(model.backlog)
    return head_text(model), origin_text(model.origin), *charts, table_text(model)


def head_text(model: CardModel) -> str:
    """Return the title, the numbers that matter, and what is wrong."""
    state, kind = _attempt_state(model)
    parts = [
        _STYLE,
        '<div class="ck">',
        f"<h2>Checkpoints of {_safe(model.pathspec)}</h2>",
        f'<span class="sub">attempt {model.attempt}</span> <span class="chip {kind}">{state}</span>',
        f'<div class="figures">{"".join(_figures(model))}</div>',
        *map(_trouble, model.troubles),
        "</div>",
    ]
    return _block(parts)


def _attempt_state(model: CardModel) -> tuple[str, str]:
    open_saves = model.pending.saves
    if not model.ended:
        return ("storing the last saves", "busy") if model.storing else ("running", "busy")
    ended = "failed" if model.failed else "ended well"
    if open_saves:
        return f"{ended}; {saves_words(open_saves)} not in the datastore", "bad"
    return f"{ended}; everything saved is in the datastore", "wait" if model.failed else "good"


def _figures(model: CardModel) -> list[str]:
    stats, comparison = model.stats, model.comparison
    saved = readable_seconds(comparison.saved_s) if stats.committed else "–"
    compared = (
        f"held up for {readable_seconds(comparison.held_up_s)}; "
        f"waiting for each upload would have taken {readable_seconds(comparison.waiting_s)}"
    )
    figures = [_figure("GPU time saved", saved, compared if stats.committed else "known once a save is stored", "lead")]
    took = readable_seconds(stats.blocked_s / model.called) if model.called else "–"
    detail = "nothing was held up by it" if stats.saves else "nothing saved yet"
    if model.called:
        detail = f"each, on average; the longest {readable_seconds(model.longest_s)}"
    figures.append(_figure("save() took", took, detail))
    detail = readable_bytes(stats.saved_bytes) if stats.saves else "nothing saved yet"
    detail += f", {readable_bytes(stats.copied_bytes)} of it not sent again" if stats.copied_bytes else ""
    figures.append(_figure("Saves in the datastore", f"{stats.committed} of {stats.saves}", detail))
    return [*figures, _waiting_figure(model)]


def _waiting_figure(model: CardModel) -> str:
    pending, stats = model.pending, model.stats
    gone = [f"{stats.failed} failed"] if stats.failed else []
    gone += [f"{stats.dropped} given up"] if stats.dropped else []
    if model.current is not None:
        row = model.current
        left_s = _left_s(row)
        detail = f"{_speed(row)}{f', {readable_seconds(left_s)} to go' if left_s else ''}"
        whose = "" if row.attempt == model.attempt else f" of attempt {row.attempt}"
        told = f"{_bar(row.share)}save {row.number}{whose}: {row.share:.0%}{f', {detail}' if detail else ''}"
    elif pending.saves:
        told = f"{readable_bytes(pending.size_bytes)}; the oldest was made {readable_seconds(model.oldest_s)} ago"
    elif model.adopting:
        told = "what an earlier attempt left is being stored"
    else:
        told = "everything is stored" if stats.saves else "nothing saved yet"
    told = f"{told}; {', '.join(gone)}" if gone else told
    value = saves_words(pending.saves) if pending.saves else "no save"
    return _figure("Not stored yet", value, told, "bad" if stats.failed or (pending.saves and model.ended) else "")


def _left_s(row: Row) -> float | None:
    """Return how long an upload will take, as far as it can be told."""
    if not row.upload_s or not row.bytes_per_s:
        return None
    return row.upload_s * (1 - row.share) / row.share


def _figure(label: str, value: str, detail: str, kind: str = "") -> str:
    return f'<div class="figure {kind}"><span class="sub">{label}</span><b>{value}</b><span class="sub">{detail}</span></div>'


def _trouble(trouble: Trouble) -> str:
    retried = " It is being retried." if trouble.being_retried else ""
    hint = f"<br>{_text(trouble.hint)}" if trouble.hint else ""
    kind = "trouble retried" if trouble.being_retried else "trouble"
    return f'<div class="{kind}"><strong>{_text(trouble.what)}:</strong> {_sentence(trouble.cause)}{retried}{hint}</div>'


def origin_text(origin: Origin) -> str:
    """Return what the attempt began with, and what that came from."""
    record = origin.record
    if record is None:
        told = f"Nothing was loaded (<code>load_policy={_safe(origin.load_policy)}</code>): the step began afresh."
        return _block(['<div class="ck">', "<h3>Where it began</h3>", f"<div>{told}</div>", "</div>"])
    place = "from this machine's disk" if origin.from_disk else "from the datastore"
    first = (
        f'<li class="first"><strong>{_name(record.name)}</strong> number {record.version_id} of {_safe(record.pathspec)}, '
        f"attempt {record.attempt}; loaded {place}<br>"
        f'<span class="sub">{readable_bytes(record.size_bytes)}, saved at {_safe(time_text(record.created_on))}<br>'
        f"{_breakable(record.key)}</span></li>"
    )
    parts = ['<div class="ck">', "<h3>Where it began</h3>", "<ol>", first, *map(_ancestor, origin.ancestors)]
    if origin.unknown:
        parts.append(f'<li><span class="sub">What that began from is not known: {_sentence(origin.unknown)}</span></li>')
    return _block([*parts, "</ol>", "</div>"])


def _ancestor(ancestor: Ancestor) -> str:
    whose = f"{_safe(ancestor.pathspec)}, attempt {ancestor.attempt}"
    return f"<li>which had begun from <strong>{_name(ancestor.name)}</strong> of {whose}</li>"


_HEADINGS = (("Save", ""), ("Size", "num"), ("save() took", "num"), ("Upload", "num"), ("Not sent", "num"), ("State", ""))


def table_text(model: CardModel) -> str:
    """Return the table of the saves, newest first."""
    if not model.rows:
        return _block(['<div class="ck">', "<h3>Saves</h3>", "<div>No checkpoint has been saved yet.</div>", "</div>"])
    headings = "".join(f'<th class="{kind}">{heading}</th>' for heading, kind in _HEADINGS)
    more = f'<p class="sub">{saves_words(model.more)} more, older ones, not shown.</p>' if model.more > 0 else ""
    rows = [_row(row, model.attempt) for row in model.rows]
    parts = ['<div class="ck">', "<h3>Saves</h3>", f"<table><thead><tr>{headings}</tr></thead><tbody>", *rows, "</tbody></table>"]
    return _block([*parts, more, "</div>"])


def _row(row: Row, attempt: int) -> str:
    if row.created_on:
        saved = f"attempt {row.attempt}, {_safe(time_text(row.created_on))}"
    else:
        saved = "left by a child process" if row.attempt == attempt else f"left by attempt {row.attempt}"
    upload = f"{readable_seconds(row.upload_s)}" if row.upload_s is not None else ""
    cells = [
        ("", f"<strong>{row.number}</strong> {_name(row.name)}", saved),
        ("num", readable_bytes(row.size_bytes), _methods_text(row.methods)),
        ("num", readable_seconds(row.blocked_s) if row.blocked_s is not None else "", ""),
        ("num", upload, _speed(row)),
        ("num", readable_bytes(row.copied_bytes) if row.copied_bytes else "", ""),
    ]
    told = "".join(_cell(heading, kind, main, sub) for (heading, _), (kind, main, sub) in zip(_HEADINGS, cells, strict=False))
    return f"<tr>{told}{_state_cell(row)}</tr>"


def _cell(heading: str, kind: str, main: str, sub: str) -> str:
    classes = f"{kind}{'' if main else ' empty'}".strip()
    second = f'<br><span class="sub">{sub}</span>' if sub else ""
    return f'<td class="{classes}" data-label="{heading}"><div>{main}{second}</div></td>'


def _state_cell(row: Row) -> str:
    word, kind = _STATES.get(row.status, (_safe(row.status), "gone"))
    inner = f'<span class="chip {kind}">{word}</span>'
    if row.status == Status.UPLOADING and not row.reason:
        inner += f'{_bar(row.share)}<span class="sub">{row.share:.0%}</span>'
    if row.reason:
        inner += f'<div class="sub">{_text(row.reason, MAX_REASON)}</div>'
    return f'<td class="state" data-label="State"><div>{inner}</div></td>'


def _bar(share: float) -> str:
    percent = round(100 * share)
    role = f'role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}"'
    return f'<span class="bar" {role}><i style="width:{percent}%"></i></span>'


def _speed(row: Row) -> str:
    return f"{readable_bytes(row.bytes_per_s)}/s" if row.bytes_per_s else ""


def _methods_text(methods: Iterable[tuple[str, int]]) -> str:
    """Return how many files of a save were taken in which way."""
    known = [(count, _METHODS.get(name, name)) for name, count in methods]
    if not known:
        return ""
    if len(known) == 1:
        count, method = known[0]
        return f"{count} {'file' if count == 1 else 'files'} {_safe(method)}"
    return "files: " + ", ".join(f"{count} {_safe(method)}" for count, method in known)


def _safe(text: str) -> str:
    """Return what somebody has named, as HTML that means nothing but the text."""
    return html.escape(" ".join(str(text).split()))


def _sentence(text: str) -> str:
    told = _text(text)
    return told if told.endswith((".", "!", "?", "…")) else f"{told}."


def _text(text: str, longest: int = MAX_TEXT) -> str:
    return _safe(text if len(text) <= longest else f"{text[:longest]}…")


def _name(name: str) -> str:
    return _text(name, MAX_NAME)


def _breakable(key: str) -> str:
    """Return a key that may be broken after each slash, and is copied as one piece all the same."""
    return f"<code>{_safe(key).replace('/', '/<wbr>')}</code>"


def _block(parts: Sequence[str]) -> str:
    """Return one block of HTML: lines, none of them empty."""
    return "\n".join(part for part in parts if part)
