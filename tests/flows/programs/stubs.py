"""Writes what `metaflow develop stubs` makes of Metaflow and its extensions into the folder that is named."""

import sys

from metaflow.cmd.develop.stub_generator import StubGenerator

StubGenerator(sys.argv[1]).write_out()
