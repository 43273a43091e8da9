"""Concepts: what steering should bring out, with texts that do and do not show it.

    [concepts] -> activations -> vectors -> transfer -> steering

Reads JSON Lines, AxBench data (Wu et al. 2025, arXiv 2501.17148) and Hugging Face data sets, checks and splits them.
Knows nothing of models: light to import, and everything here is decided by the texts and a seed.
"""
