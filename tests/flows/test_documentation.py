"""What the documentation shows is run: the Python blocks and the commands of a page, one after another, in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.flows.harness import RUN_TIMEOUT_S, Place
from tests.integrations.frameworks import need

ROOT = Path(__file__).parent.parent.parent
BLOCK = re.compile(r"^( *)```(python|console)([^\n]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
TITLE = re.compile(r'title="([^"]+)"')

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Step:
    """What is done for a block: a file is written, or a command is run; both for a program without a name of its own."""

    text: str
    file: str = ""
    command: tuple[str, ...] = ()


def steps(page: Path) -> Iterator[Step]:
    """What the blocks of a page ask for.

    A Python block with a title is a file of that name, one without is run: as a flow where it is one, else as a program. Of a
    console block the lines behind ``$`` are commands, in a shell.
    """
    for number, (_, language, words, body) in enumerate(BLOCK.findall(page.read_text())):
        text = textwrap.dedent(body)
        title = TITLE.search(words)
        if language == "console":
            commands = re.findall(r"^\$ ((?:.*\\\n)*.*)$", text, re.MULTILINE)
            yield Step(text, command=("bash", "-euo", "pipefail", "-c", "\n".join(commands)))
        elif title:
            yield Step(text, file=title[1])
        else:
            name = f"block_{number}.py"
            yield Step(text, file=name, command=("python", name, *(["--no-pylint", "run"] if "(FlowSpec)" in text else [])))


#: Speaks of a store that its own test makes: tests/cli/test_documented.py.
ELSEWHERE = {ROOT / "docs" / "cli.md"}

PAGES = [
    page for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if page not in ELSEWHERE and list(steps(page))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).with_suffix("").as_posix())
def test_the_blocks_of_a_page_run(page: Path, local: Place) -> None:
    if any("import torch" in step.text for step in steps(page)):
        need("torch")
    environment = local.environment()
    environment["PATH"] = os.pathsep.join([os.path.dirname(local.python), environment.get("PATH", os.defpath)])
    for step in steps(page):
        if "def train(checkpoint):" in step.text:
            continue  # tests/integrations/test_documentation.py runs it
        if step.file:
            (local.folder / step.file).write_text(step.text)
        if not step.command:
            continue
        done = subprocess.run(
            step.command, cwd=local.folder, env=environment, capture_output=True, text=True, timeout=RUN_TIMEOUT_S
        )
        assert done.returncode == 0, f"{page.name}:\n{step.text}\n{done.stdout}{done.stderr}"
    assert local.wait_until_clean() == []
