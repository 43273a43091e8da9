"""The steering-vectors package: a pickled `SteeringVector(layer_activations={layer: tensor}, layer_type="decoder_block")`.

Its layers count decoder blocks from 0 and it adds to a block's output: our convention. A pickle can run any code when loaded, so
these files are read on request only, and then by a reader that builds that one class and tensors, and refuses all else. The
package itself is not needed.
"""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steer_bench.vectors.formats.torch_files import as_float32, load_torch, save_torch
from steer_bench.vectors.formats.vector_file import Layered, VectorFile

_MODULE = "steering_vectors.steering_vector"


@dataclass
class SteeringVector:
    """What the package's class holds, under its name in the file."""

    layer_activations: dict[int, Any]
    layer_type: str = "decoder_block"


SteeringVector.__module__ = _MODULE  # pickle writes a class as module and name


def is_pickled(path: Path) -> bool:
    """Tell whether a file names the package's class. Reads no pickle."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            return _MODULE.encode() in archive.read(name)
    except (zipfile.BadZipFile, StopIteration, OSError, RuntimeError, NotImplementedError, EOFError):
        return _MODULE.encode() in path.read_bytes()


def read(path: Path, *, allow_pickle: bool = False, **_: object) -> Layered:
    """Read all layers of a file. Raises ValueError without `allow_pickle`, and for layers that are not decoder blocks."""
    if allow_pickle and not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            content = _Unpickler(file).load()
    else:
        content = load_torch(path, ((SteeringVector, f"{_MODULE}.SteeringVector"),) if allow_pickle else ())
    if isinstance(content, dict):  # the bare layer_activations, which need no pickle
        content = SteeringVector(content)
    if not isinstance(content, SteeringVector) or not isinstance(getattr(content, "layer_activations", None), dict):
        raise ValueError(f"holds {type(content).__name__}, not a SteeringVector of the steering-vectors package")
    kind = getattr(content, "layer_type", "decoder_block")
    if kind != "decoder_block":
        raise ValueError(f"steers layer_type {kind!r}; only decoder_block is the residual stream")
    vectors = {}
    for layer, tensor in content.layer_activations.items():
        if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
            raise ValueError(f"layer {layer!r} is not the index of a decoder block, counted from 0")
        vectors[layer] = as_float32(tensor, f"layer {layer}", path, vector=True)
    return Layered(vectors)


class _Unpickler(pickle.Unpickler):
    """Builds SteeringVector and tensors; anything else in a pickle is an error before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        import torch

        allowed = {
            (_MODULE, "SteeringVector"): SteeringVector,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
            ("torch.storage", "_load_from_bytes"): lambda content: torch.load(
                io.BytesIO(content), map_location="cpu", weights_only=True
            ),
        }
        if (module, name) not in allowed:
            raise ValueError(
                f"a pickle that asks for code ({module}.{name}), which is never run; save tensors only, or as .npy"
            )
        return allowed[module, name]


def write(path: Path, one: VectorFile) -> None:
    """Write one vector as the package's own object, for `torch.load` where the package is installed. Raises ValueError for no layer."""
    import torch

    content = SteeringVector({one.needed_layer("steering-vectors"): torch.from_numpy(one.matrix[0].copy())})
    modules = {name: types.ModuleType(name) for name in (_MODULE.split(".")[0], _MODULE)}
    modules[_MODULE].SteeringVector = SteeringVector  # type: ignore[attr-defined]
    before = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)  # pickle looks a class up before it writes its name
    try:
        save_torch(path, content)
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(before)
