"""The vocabulary of the engine: plain values that every layer shares. Standard library only."""
