"""How much the tests try: a little in `make test`, everything in `make test-all`, which sets STEER_BENCH_TESTS=all."""

import os

FULL = os.environ.get("STEER_BENCH_TESTS") == "all"


def examples(full: int) -> int:
    """Return how many random inputs a test tries: 25 at most, or as many as given when everything is tried."""
    return full if FULL else min(full, 25)
