"""Checkpoints for training frameworks: a module for each, which imports its framework; nothing here is imported with the package."""
