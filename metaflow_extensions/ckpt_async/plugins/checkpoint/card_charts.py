"""The card's charts as Vega-Lite: specifications that never change but for their values, and the unit of time."""

from __future__ import annotations

from typing import Any

from .card_series import Backlog, Segment, Timeline

__all__ = ["backlog_spec", "timeline_spec"]

_SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"

_CONFIG: dict[str, Any] = {
    "view": {"stroke": None},
    "axis": {
        "labelColor": "#6b6f76",
        "titleColor": "#6b6f76",
        "titleFontWeight": "normal",
        "domain": False,
        "tickColor": "#d5d8dc",
    },
    "legend": {"labelColor": "#44484e"},
    "title": {"anchor": "start", "frame": "bounds", "fontSize": 15, "color": "#333", "offset": 10, "subtitleColor": "#6b6f76"},
}

#: Room beside both charts, in pixels: so that one moment is at one place in both.
LEFT_AXIS, RIGHT_AXIS = 60, 50

SAVES_COLOR, LAG_COLOR = "#326cde", "#a05a0c"

_TIME_AXIS = {"grid": False, "tickCount": 8}

#: The rows of the timeline, from above, with their colours.
_LANES = (("training", "#8fbf9f"), ("waiting", "#cf483e"), ("uploading", "#326cde"))


def timeline_spec(timeline: Timeline) -> dict[str, Any]:
    """Return the chart of who was busy when."""
    lanes = {"training": timeline.training, "waiting": timeline.waiting, "uploading": timeline.uploading}
    end_s = max((segment.end_s for segments in lanes.values() for segment in segments), default=0.0)
    unit, unit_s = _unit(end_s)
    values = [_bar(name, segment, unit_s) for name, segments in lanes.items() for segment in segments]
    names = [name for name, _ in _LANES]
    colors = [color for _, color in _LANES]
    return {
        "$schema": _SCHEMA,
        "title": {"text": "What went on", "subtitle": "red: the step stood still for its checkpoints"},
        "height": {"step": 30},
        "padding": {"left": 0, "top": 5, "right": RIGHT_AXIS, "bottom": 5},
        "config": _CONFIG,
        "data": {"values": values},
        "mark": {"type": "bar", "height": 18},
        "encoding": {
            "y": {
                "field": "lane",
                "type": "nominal",
                "title": None,
                "scale": {"domain": names},
                "axis": {"ticks": False, **_extent(LEFT_AXIS)},
            },
            "x": {
                "field": "from",
                "type": "quantitative",
                "title": f"{unit} since the step began",
                "scale": {"domainMin": 0, "nice": False},
                "axis": _TIME_AXIS,
            },
            "x2": {"field": "to"},
            "color": {"field": "lane", "type": "nominal", "legend": None, "scale": {"domain": names, "range": colors}},
            "stroke": {"field": "lane", "type": "nominal", "legend": None, "scale": {"domain": names, "range": colors}},
            # So that what took milliseconds in a run of hours is seen.
            "strokeWidth": {"condition": {"test": "datum.share < 1", "value": 0}, "value": 1},
            "opacity": {"field": "share", "type": "quantitative", "legend": None, "scale": {"domain": [0, 1], "range": [0.1, 1]}},
            "tooltip": [
                {"field": "lane", "title": "what"},
                {"field": "from", "title": f"from ({unit})"},
                {"field": "to", "title": f"to ({unit})"},
                {"field": "share", "title": "share of this stretch", "format": ".1%"},
            ],
        },
    }


def _bar(lane: str, segment: Segment, unit_s: float) -> dict[str, Any]:
    begin, end = (float(f"{edge_s / unit_s:.5g}") for edge_s in (segment.begin_s, segment.end_s))
    return {"lane": lane, "from": begin, "to": end, "share": segment.share}


def backlog_spec(backlog: Backlog) -> dict[str, Any]:
    """Return the chart of what was not in the datastore: how many saves, and how old the oldest."""
    unit, unit_s = _unit(backlog.points[-1].at_s if backlog.points else 0.0)
    lag, lag_s = _unit(max((point.lag_s for point in backlog.points), default=0.0))
    values = [
        {"at": float(f"{point.at_s / unit_s:.5g}"), "saves": point.waiting, "lag": float(f"{point.lag_s / lag_s:.4g}")}
        for point in backlog.points
    ]
    most = max((point.waiting for point in backlog.points), default=0) or 1
    saves_axis = {"grid": False, "format": "d", "tickCount": min(4, most), "labelColor": SAVES_COLOR, **_extent(LEFT_AXIS)}
    lag_axis = {"grid": False, "tickCount": 4, "labelColor": LAG_COLOR, **_extent(RIGHT_AXIS)}
    time = {
        "field": "at",
        "type": "quantitative",
        "title": f"{unit} since the step began",
        "scale": {"domainMin": 0, "nice": False},
        "axis": _TIME_AXIS,
    }
    tooltip = [
        {"field": "at", "title": f"after ({unit})"},
        {"field": "saves", "title": "saves not in the datastore"},
        {"field": "lag", "title": f"age of the oldest ({lag})"},
    ]
    return {
        "$schema": _SCHEMA,
        "title": {"text": "Queue and lag", "subtitle": f"blue: saves not in the datastore; brown: age of the oldest, in {lag}"},
        "height": 110,
        "padding": {"left": 0, "top": 5, "right": 0, "bottom": 5},
        "config": _CONFIG,
        "data": {"values": values},
        "encoding": {"x": time, "tooltip": tooltip},
        "layer": [
            {
                "mark": {"type": "area", "interpolate": "step-after", "color": SAVES_COLOR, "opacity": 0.25},
                "encoding": {
                    # Not stacked: two points of one moment are a step.
                    "y": {"field": "saves", "type": "quantitative", "title": None, "stack": None, "axis": saves_axis}
                },
            },
            {
                "mark": {"type": "line", "color": LAG_COLOR, "strokeWidth": 1.5},
                "encoding": {"y": {"field": "lag", "type": "quantitative", "title": None, "axis": lag_axis}},
            },
        ],
        "resolve": {"scale": {"y": "independent"}},
    }


def _extent(pixels: int) -> dict[str, int]:
    return {"minExtent": pixels, "maxExtent": pixels}


def _unit(longest_s: float) -> tuple[str, float]:
    """Return the unit in which people would tell such a time, and its length in seconds."""
    if longest_s < 180:
        return "seconds", 1.0
    return ("minutes", 60.0) if longest_s < 3 * 3600 else ("hours", 3600.0)
