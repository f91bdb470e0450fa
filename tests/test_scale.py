"""The counts that the simulation of scale rests on are those of the engine at work: request by request, byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from scale import counting
from scale.counting import BY_KEY, BY_TASK, Content, Requests, count_deletion, count_list, count_load, count_save, plan_of, record_of
from scale.sinking import Bench, SaveSeen

MIB = 1024 * 1024

CASES = {
    "one file of many parts": Content(1, 5 * 16 * MIB + 1),
    "one file of which a part changes": Content(1, 4 * 16 * MIB, changed=0.25),
    "files of one part, some unchanged": Content(8, 2 * MIB, changed=0.25),
    "many small files": Content(1005, 700),
    "small files in an archive": Content(1005, 700, "tar"),
    "an archive of parts": Content(3, 12 * MIB, "tar"),
}


def _expected(content: Content, version: int) -> tuple[Requests, int, int]:
    record = record_of(content, version=version)
    count = count_save(content, first=not version, record=record)
    return count.requests, count.sent_bytes + tar_bytes(content) * (not version or content.changed == 1.0), count.text_bytes


def tar_bytes(content: Content) -> int:
    return 0
