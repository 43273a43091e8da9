"""Engines: where the stages of a run are run. An engine is a table of stages, each a function of a `Run`, with the same files.

open_engine("in-process") -> experiment.STAGES        open_engine("ray", address) -> the same names, run on a cluster
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from steer_bench.experiment.run import Run

Stages = Mapping[str, Callable[[Run], list[Path]]]

ENGINES = ("in-process", "ray")


def check_engine(name: str, address: str | None = None) -> None:
    """Raise ValueError for an engine that does not exist or is not installed, and for an address without Ray."""
    if name not in ENGINES:
        raise ValueError(f"--engine {name}: there are {', '.join(ENGINES)}")
    if name != "ray" and address is not None:
        raise ValueError(f"--address {address}: only --engine ray has one")
    if name == "ray" and find_spec("ray") is None:
        raise ValueError("--engine ray: Ray is not installed; pip install 'steer-bench[ray]'")


@contextmanager
def open_engine(name: str, address: str | None = None) -> Iterator[Stages]:
    """The stages on an engine. Raises ValueError as `check_engine`, and for a cluster that does not answer."""
    check_engine(name, address)
    if name == "ray":
        from steer_bench.experiment.ray_engine import ray_stages

        with ray_stages(address) as stages:
            yield stages
        return
    from steer_bench.experiment.stages import STAGES

    yield STAGES
