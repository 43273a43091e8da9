"""Vectors: what a concept is in one model; their files."""
