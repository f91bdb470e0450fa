"""Checkpoints and other libraries: a module for each, which imports its library; the package itself imports none of them."""
