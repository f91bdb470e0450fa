"""The plots of docs/scale.md."""

from __future__ import annotations

from pathlib import Path

from .counting import count_save, writes_in
from .tables import CONTENTS, GBIT, INTERVAL_S
from .timing import StoreModel, service_of

COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")


def draw_all(folder: Path) -> list[Path]:
    """Draw into a folder; returns what was drawn."""
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and two runs with the same numbers give the same file.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ckpt-async", "font.size": 10})
    folder.mkdir(exist_ok=True, parents=True)
    return [_draw_partitions(folder), _draw_lines(folder)]


def _finish(figure: object, area: object, path: Path) -> Path:
    from matplotlib import pyplot

    area.set(xscale="log", yscale="log")  # type: ignore[attr-defined]
    area.grid(alpha=0.3)  # type: ignore[attr-defined]
    area.spines[["top", "right"]].set_visible(False)  # type: ignore[attr-defined]
    # Above the axes, where no line can be.
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)  # type: ignore[attr-defined]
    figure.savefig(path, metadata={"Date": None})  # type: ignore[attr-defined]
    pyplot.close(figure)  # type: ignore[arg-type]
    return path


def _draw_partitions(folder: Path) -> Path:
    """Writes a second over tasks, and what one partition takes."""
    from matplotlib import pyplot

    figure, area = pyplot.subplots(figsize=(7.0, 4.4), layout="constrained")
    tasks = [1, 10, 100, 1000, 10_000]
    for (name, content), color in zip(CONTENTS.items(), COLORS, strict=True):
        writes = writes_in(count_save(content, first=False).requests)
        area.plot(tasks, [number * writes / INTERVAL_S for number in tasks], marker="o", color=color, label=name.replace("`", ""))
    area.axhline(StoreModel.writes_per_s, color="#555555", linestyle="--", label="one partition of S3: 3,500 writes a second")
    area.set(xlabel="tasks that save every 10 minutes", ylabel="writes a second")
    area.set_xticks(tasks, [f"{number:,}" for number in tasks])
    return _finish(figure, area, folder / "scale-partitions.svg")


def _draw_lines(folder: Path) -> Path:
    """How long an upload takes over the line of the host."""
    from matplotlib import pyplot

    figure, area = pyplot.subplots(figsize=(7.0, 4.4), layout="constrained")
    gbits = [0.1, 0.3, 1, 3, 10, 30, 100]
    for (name, content), color in zip(CONTENTS.items(), COLORS, strict=True):
        counted = count_save(content, first=False)
        taken = [service_of(content, counted, gbit * GBIT, StoreModel()).seconds for gbit in gbits]
        area.plot(gbits, taken, marker="o", color=color, label=name.replace("`", ""))
    area.axhline(INTERVAL_S, color="#555555", linestyle="--", label="the interval of 10 minutes")
    area.set(xlabel="line of the host, Gbit/s", ylabel="until a save is stored, seconds")
    area.set_xticks(gbits, [f"{gbit:g}" for gbit in gbits])
    return _finish(figure, area, folder / "scale-line.svg")
