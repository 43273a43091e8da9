"""Measured values: rows, what they say, how they are shown."""
