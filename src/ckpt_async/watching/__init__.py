"""Watch mode: what is written into a folder becomes a checkpoint by itself, once it is complete."""
