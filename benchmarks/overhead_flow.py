"""A step that never saves, with the decorator that the environment asks for; for ``overhead.py``."""

from __future__ import annotations

import json
import os

from metaflow import FlowSpec, step

if "BENCH_ATTRIBUTES" in os.environ:
    from metaflow import checkpoint

    decorate = checkpoint(**json.loads(os.environ["BENCH_ATTRIBUTES"]))
else:

    def decorate(function):
        return function


class OverheadFlow(FlowSpec):
    """Does nothing."""

    @decorate
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    OverheadFlow()
