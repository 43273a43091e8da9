"""The table of formats, and reading and writing by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from steer_bench.names import known
from steer_bench.vectors.formats.axbench import WEIGHT, read_axbench, write_axbench
from steer_bench.vectors.formats.gguf_vectors import MAGIC, layers_of_gguf, read_gguf, write_gguf
from steer_bench.vectors.formats.lmeval import layers_of_lmeval, read_lmeval, write_lmeval
from steer_bench.vectors.formats.ours import read_ours, write_arms, write_store
from steer_bench.vectors.formats.pickled import is_pickled, layers_of_pickled, read_pickled, write_pickled
from steer_bench.vectors.formats.plain import read_npy, read_pt, write_npy, write_pt
from steer_bench.vectors.formats.torch_files import load_torch
from steer_bench.vectors.formats.vector_file import Layered, ReadOptions, VectorFile, full_card
from steer_bench.vectors.tensor_file import load_card


class Format(NamedTuple):
    """How a format is read and written."""

    read: Callable[[Path, ReadOptions], VectorFile]
    write: Callable[[Path, VectorFile], None]
    suffixes: tuple[str, ...]
    """Ends of a file's name, one of which it has to have: the tools go by them."""
    about: str
    layers: Callable[[Path, ReadOptions], Layered] | None = None
    """Where the format holds one steering (a vector a layer, to be added as it is): all layers."""


FORMATS: dict[str, Format] = {
    "steer-bench": Format(read_ours, write_store, (".safetensors",), "vectors of a model, our own"),
    "arms": Format(read_ours, write_arms, (".safetensors",), "arms of a target, our own"),
    "axbench": Format(read_axbench, write_axbench, (WEIGHT,), "AxBench: NAME_weight.pt, NAME_bias.pt, metadata.jsonl"),
    "lm-eval": Format(read_lmeval, write_lmeval, (".pt", ".pth"), "lm-eval --model steered", layers_of_lmeval),
    "gguf": Format(read_gguf, write_gguf, (".gguf",), "control vector of llama.cpp and repeng", layers_of_gguf),
    "steering-vectors": Format(
        read_pickled,
        write_pickled,
        (".pt", ".pth", ".pkl"),
        "the steering-vectors package: a pickle",
        layers_of_pickled,
    ),
    "npy": Format(read_npy, write_npy, (".npy",), "NumPy matrix, ids in NAME.ids.txt"),
    "pt": Format(read_pt, write_pt, (".pt", ".pth"), "PyTorch tensor, ids in NAME.ids.txt"),
}


def read_vectors(path: str | Path, format: str | None = None, **options: Any) -> VectorFile:
    """The vectors of a file of any format, with a full card. `options`: the fields of `ReadOptions`.

    Raises ValueError, naming the file and how to go on: unknown format, damaged file, ids that are missing or stand twice,
    several layers or arms and none chosen, a pickle that was not allowed or asks for code (it is never run).
    """
    path = Path(path)
    chosen = ReadOptions(**options)
    name = format_of(path, format)
    if chosen.ids is not None and name not in ("axbench", "npy", "pt"):
        raise ValueError(
            f"{path}: format {name} names its vectors itself; leave out the ids (--ids), or name one with --concept"
        )
    with NamingFile(path, name):
        return full_card(FORMATS[name].read(path, chosen), path, name)


def read_layers(path: Path, format: str, options: ReadOptions) -> Layered:
    """All layers of a format that holds one vector a layer. Raises ValueError as `read_vectors`."""
    layers = FORMATS[format].layers
    assert layers is not None
    with NamingFile(path, format):
        return layers(path, options)


def write_vectors(path: str | Path, format: str, vectors: VectorFile) -> Path:
    """Write vectors, as they are, with their card in the file or beside it.

    Raises ValueError for an unknown format, another file name than its tools read, and what the format cannot hold.
    """
    path = Path(path)
    check_name(path, format)
    with NamingFile(path, format):
        FORMATS[format].write(path, vectors)
    return path


def check_name(path: Path, format: str) -> None:
    """Raise ValueError for an unknown format, and a file name that the tools of the format do not read."""
    suffixes = FORMATS[known(format, FORMATS, "format")].suffixes
    if not path.name.endswith(suffixes):
        raise ValueError(f"{path}: a file of format {format} has to end in {' or '.join(suffixes)}; give another name")


def guess_format(path: Path) -> str:
    """The format of a file by its content. Raises ValueError where it shows none."""
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(MAGIC):
        return "gguf"
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return "arms" if load_card(path).get("kind") == "arms" else "steer-bench"
    if path.name.endswith(WEIGHT):
        return "axbench"
    if is_pickled(path):
        return "steering-vectors"
    content = load_torch(path)
    if not isinstance(content, dict):
        return "pt"
    if content and all(isinstance(entry, dict) and "steering_vector" in entry for entry in content.values()):
        return "lm-eval"
    return "steering-vectors" if content and all(isinstance(key, int) for key in content) else "pt"


def format_of(path: Path, format: str | None) -> str:
    """`format`, or what the file shows. Raises ValueError for an unknown format and a file that is not there."""
    if format is not None:
        known(format, FORMATS, "format")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a file of one of the formats {', '.join(FORMATS)}")
    if format is not None:
        return format
    with NamingFile(path, "any"):
        return guess_format(path)


class NamingFile:
    """Within the block any error becomes a ValueError that names the file: parsers raise every kind for damaged files."""

    def __init__(self, path: Path, format: str) -> None:
        self.path, self.format = path, format

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: Any, error: BaseException | None, _traceback: Any) -> None:
        if error is None or not isinstance(error, Exception):
            return
        if isinstance(error, ValueError) and type(error) is ValueError:
            if str(self.path) in str(error):
                return
            raise ValueError(f"{self.path}: {error}") from error
        said = " ".join(str(error).split())[:200]
        what = "a known format" if self.format == "any" else f"format {self.format}"
        raise ValueError(
            f"{self.path}: not readable as {what} ({type(error).__name__}: {said}); name its format (--from): {', '.join(FORMATS)}"
        ) from error
