"""Shows cards in a real browser, and tells what is seen: several in one page, each in a frame of its own width."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from metaflow.cards import BlankCard, Markdown, VegaChart
from metaflow.plugins.cards.card_modules.basic import SectionComponent

from metaflow_extensions.ckpt_async.plugins.checkpoint.card_model import Facts, make_model
from metaflow_extensions.ckpt_async.plugins.checkpoint.card_view import views
from tests.card.facts import PATHSPEC

TIMEOUT_S = 100.0

#: In the browser's own time, which runs as fast as it has nothing to do.
SETTLED_MS = 6000

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--disable-dev-shm-usage"),
    # Cards ask for a font of a web site: nothing outside is to be asked for.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)

_LOOK = """
function look(frame) {
  const page = frame.contentDocument, view = frame.contentWindow, all = (what) => [...page.querySelectorAll(what)];
  const wide = (one) => Math.max(0, one.scrollWidth - one.clientWidth);
  return {
    overflow: Math.max(0, page.documentElement.scrollWidth - view.innerWidth, ...all(".ck, .ck *").map(wide)),
    title: all("h2").map((one) => one.innerText).join(),
    chip: all("h2 ~ .chip").map((one) => one.innerText).join(),
    figures: all(".figure").map((one) => one.innerText.split("\\n").filter((line) => line.trim())),
    troubles: all(".trouble").map((one) => one.innerText),
    origin: all(".ck li").map((one) => one.innerText),
    rows: all("tbody tr").map((one) => [...one.cells].map((cell) => cell.innerText)),
    lowest: Math.max(0, ...all("tbody tr").map((one) => one.getBoundingClientRect().height)),
    bars: all("[role=progressbar]").map((one) => {
      const whole = one.getBoundingClientRect().width;
      return [Number(one.getAttribute("aria-valuenow")), whole, one.firstChild.getBoundingClientRect().width / whole];
    }),
    charts: all("svg.marks, canvas.marks").map((one) => one.getBoundingClientRect().width),
    marks: all("svg.marks").map((one) => one.querySelectorAll(".mark-rect path, .mark-area path, .mark-line path").length),
    scripts: view.hit === true,
  };
}
"""


@dataclass(frozen=True)
class Shown:
    """One frame: a card, how wide its window is, and which data it is sent after a while, as a viewer does it."""

    page: str
    width: int
    update: dict[str, Any] | None = None


def chromium() -> str:
    """Return the browser's program."""
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None and "CKPT_ASYNC_NEEDS_CHROMIUM" not in os.environ:
        pytest.skip("this test shows cards in Chromium, which is not installed here (Debian: apt-get install chromium)")
    assert found is not None, "CI has to have Chromium: see .ci/run"
    return found


def components(told: Facts) -> list[dict[str, Any]]:
    """Return what Metaflow makes of the card's pieces."""
    kinds = (Markdown, Markdown, VegaChart, VegaChart, Markdown)
    pieces = [kind(content) for kind, content in zip(kinds, views(make_model(told)), strict=True)]
    for number, piece in enumerate(pieces):
        piece.component_id = f"piece_{number}"
    return [piece.render() for piece in pieces]


def page_of(told: Facts, *, live: bool = False) -> str:
    """Return the card as Metaflow writes it; `live` as it does while the task runs."""
    section = SectionComponent(contents=components(told)).render()
    page: str = BlankCard().render(SimpleNamespace(pathspec=PATHSPEC), components=[section], runtime=live)
    return page


def see(frames: dict[str, Shown], folder: Path) -> dict[str, dict[str, Any]]:
    """Show the frames in one browser; return what is seen in each."""
    # "</" would end the script; a card is nearly all script, and the same in each.
    given = {name: [frame.page, frame.width, frame.update] for name, frame in frames.items()}
    text = json.dumps(given).replace("</", "<\\/")
    (folder / "all.html").write_text(
        f"""<!DOCTYPE html><html><body><script>{_LOOK}
        const given = {text}, frames = {{}};
        for (const [name, [page, width]] of Object.entries(given)) {{
          const frame = frames[name] = document.createElement("iframe");
          frame.style.width = width + "px"; frame.style.height = "1500px"; frame.style.border = "0";
          frame.srcdoc = page;
          document.body.append(frame);
        }}
        setTimeout(() => {{
          for (const [name, [page, width, update]] of Object.entries(given))
            if (update) frames[name].contentWindow.metaflow_card_update(update);
        }}, {SETTLED_MS // 2});
        setTimeout(() => {{
          const seen = Object.fromEntries(Object.entries(frames).map(([name, frame]) => [name, look(frame)]));
          Object.values(frames).forEach((frame) => frame.remove());
          const told = document.createElement("pre");
          told.id = "seen"; told.innerText = JSON.stringify(seen);
          document.body.replaceChildren(told);
        }}, {SETTLED_MS});
        </script></body></html>"""
    )
    arguments = [*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--virtual-time-budget={2 * SETTLED_MS}", "--dump-dom"]
    shown = subprocess.run(
        [chromium(), *arguments, (folder / "all.html").as_uri()], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    match = re.search('<pre id="seen">(.*?)</pre>', shown.stdout, re.DOTALL)
    assert match, shown.stderr[-3000:]
    seen: dict[str, dict[str, Any]] = json.loads(html.unescape(match.group(1)).replace("<br>", ""))
    return seen


def data_of(pieces: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return what Metaflow sends to whoever has a live card open."""
    return {piece["id"]: piece for piece in pieces}
