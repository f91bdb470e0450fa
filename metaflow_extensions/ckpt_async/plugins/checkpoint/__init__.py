"""The step decorator `@checkpoint` and what it puts into `current`."""
