"""A model under vectors: one a row."""
