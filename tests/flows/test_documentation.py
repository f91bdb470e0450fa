"""What the documentation shows is run: the Python blocks of a page, one after another, in one folder."""

from __future__ import annotations

import re
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.flows.harness import RUN_TIMEOUT_S, Place
from tests.integrations.frameworks import need

ROOT = Path(__file__).parent.parent.parent
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.MULTILINE | re.DOTALL)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def blocks(page: Path) -> list[str]:
    return [textwrap.dedent(body) for _, body in BLOCK.findall(page.read_text())]


PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if blocks(page)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(page: Path, local: Place) -> None:
    """A block is a flow, which is run, or a program, which finds what the blocks before it have left."""
    if any("import torch" in block for block in blocks(page)):
        need("torch")
    for number, block in enumerate(blocks(page)):
        if "def train(checkpoint):" in block:
            continue  # tests/integrations/test_documentation.py runs it
        program = local.folder / f"block_{number}.py"
        program.write_text(block)
        command = [local.python, program.name, *(["--no-pylint", "run"] if "(FlowSpec)" in block else [])]
        done = subprocess.run(
            command, cwd=local.folder, env=local.environment(), capture_output=True, text=True, timeout=RUN_TIMEOUT_S
        )
        assert done.returncode == 0, f"block {number + 1} of {page.name}:\n{block}\n{done.stdout}{done.stderr}"
    assert local.wait_until_clean() == []
