"""The command line, ``ckpt-async``: a function for each command, above all the rest of the engine.

What typer and rich are needed for stays in here; `docs/cli.md` has every command with an example.
"""
