"""Stopping: Ctrl-C, SIGTERM and SIGUSR2 (a time limit of Slurm) end a run after the batch in flight, so that what was computed
is kept; a second one at once.

    with stoppable():            # the command line: the signals are ours
        while ...:
            with finish_before_stop():        # the model's loops: one batch computed and recorded
                ...

A stop is a KeyboardInterrupt, raised at the end of the `finish_before_stop()` block, or at once outside of one. Knows nothing else.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class _State:
    wanted = False
    depth = 0


@contextmanager
def stoppable() -> Iterator[None]:
    """Have these signals stop after the batch in flight, while entered; does nothing outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _stop) for number in SIGNALS}
    _State.wanted, _State.depth = False, 0
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: object) -> None:
    if _State.depth == 0 or _State.wanted:  # nothing in flight, or asked twice
        raise KeyboardInterrupt
    _State.wanted = True
    logger.warning(
        "%s: stopping after the batch in flight; once more stops at once and loses it", signal.Signals(number).name
    )


@contextmanager
def finish_before_stop() -> Iterator[None]:
    """Finish what happens within before a stop takes effect (where the signals are ours: see `stoppable`)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
    if _State.wanted and _State.depth == 0:
        _State.wanted = False
        raise KeyboardInterrupt
