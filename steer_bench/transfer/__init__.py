"""Transfer: make the arms of a target from vectors of a source (or of the target alone).

    vectors(A), vectors(B), paired activations(A, B) -> [transfer map] -> vectors for B

`adapters` reads the YAML that names an arm (and imports no torch), `measure_pair` makes what a fit needs, `fits` find maps, `maps`
are functions between residual spaces, `controls` the arms that need no source, `pair_vectors` and `target_arms` what comes of
it, `geometry` compares vectors. Imports no lm_eval.
"""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Package(ModuleType):
    """Lets `steer_bench.transfer(fitted, vectors)` be called, though this package has the same name."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return importlib.import_module("steer_bench.transfer.fitted").transfer(*args, **options)


sys.modules[__name__].__class__ = _Package
