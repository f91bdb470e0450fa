"""The benchmarks run: the cheapest ones, in small. What they measure is nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "options", "expected"),
    [
        ("upload.py", ["--servers", "sink", "--cases", "1", "--clients", "ckpt-async"], {"variant": "ckpt-async", "requests": 10}),
        ("scaling.py", ["--axes", "size", "--largest", "1"], {"axis": "size", "value": 1}),
    ],
)
def test_a_quick_run(tmp_path: Path, program: str, options: list[str], expected: dict[str, object]) -> None:
    answer = subprocess.run(
        [sys.executable, str(BENCHMARKS / program), "--quick", *options, "--scratch", str(tmp_path), "--results", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    [results] = tmp_path.glob("*.json")
    [measured] = json.loads(results.read_text())["measurements"]
    assert expected.items() <= {**measured, "requests": min(10, measured.get("requests", 0))}.items()
    assert list(tmp_path.iterdir()) == [results]


@pytest.mark.slow
def test_imports() -> None:
    """Whatever the programs import is there."""
    names = sorted(path.stem for path in BENCHMARKS.glob("*.py") if not path.stem.endswith("_flow"))
    code = f"import {', '.join(names)}"
    answer = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, timeout=100)
    assert answer.returncode == 0, answer.stderr
