"""Checkpoints for training frameworks: a module for each, which imports its framework. Nothing here is imported by itself."""
