"""Everybody's vectors: read and written in the formats of other tools, with a card that says where they come from.

    file of any tool -> [VectorFile] -> file of any tool, or arms to steer with

No file runs code: PyTorch files are read as tensors and values only, pickles by an allow-list. Knows nothing of models.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypedDict, Unpack

from steer_bench.names import known, listed
from steer_bench.vectors.formats import axbench, gguf_vectors, lmeval, ours, pickled, plain
from steer_bench.vectors.formats.torch_files import load_torch
from steer_bench.vectors.formats.vector_file import (
    Layered,
    VectorFile,
    full_card,
    positive,
    read_sidecar,
    steered,
    write_sidecar,
)
from steer_bench.vectors.tensor_file import load_card


class ReadOptions(TypedDict, total=False):
    """What a file may not say itself, or holds several of. Each reader takes what it knows."""

    ids: Path | None
    """Text file with one id per line, or the metadata.jsonl of AxBench."""
    concept: str | None
    """Id of the vector, where a format holds one vector without a name."""
    model: str | None
    layer: int | None
    arm: str | None
    """Which arm of an arms file."""
    source_model: str | None
    """Source of that arm, where it has several."""
    allow_pickle: bool
    """Read pickles of the steering-vectors package. Even then nothing but its class and tensors is built."""
    numbered: bool
    """Rows without ids are called "row 0", "row 1", …, in place of an error."""


class Format(NamedTuple):
    """How a format is read and written."""

    read: Callable[..., VectorFile | Layered]
    """(path, **ReadOptions)"""
    write: Callable[[Path, VectorFile], None]
    suffixes: tuple[str, ...]
    """Ends of a file's name, one of which it has to have: the tools go by them."""
    layers: bool = False
    """Whether a file holds one steering: a vector per layer, to be added as it is."""
    rows: bool = False
    """Whether a file holds rows without names, for which ids are given."""
    sidecar: bool = False
    """Whether our card stands beside the file, which has no place for it."""


FORMATS = {
    "steer-bench": Format(ours.read, ours.write_store, (".safetensors",)),
    "arms": Format(ours.read, ours.write_arms, (".safetensors",)),
    "axbench": Format(axbench.read, axbench.write, (axbench.WEIGHT,), rows=True, sidecar=True),
    "lm-eval": Format(lmeval.read, lmeval.write, (".pt", ".pth"), layers=True),
    "gguf": Format(gguf_vectors.read, gguf_vectors.write, (".gguf",), layers=True),
    "steering-vectors": Format(pickled.read, pickled.write, (".pt", ".pth", ".pkl"), layers=True, sidecar=True),
    "npy": Format(plain.read_npy, plain.write_npy, (".npy",), rows=True, sidecar=True),
    "pt": Format(plain.read_pt, plain.write_pt, (".pt", ".pth"), rows=True, sidecar=True),
}


def convert(
    source: Path, to: str, out: Path, *, from_format: str | None = None, factor: float = 1.0, scale: float | None = None,
    like: Path | None = None, **options: Unpack[ReadOptions],
) -> Path:  # fmt: skip
    """Read `source`, write `out` in format `to`: `steer-bench convert`.

    factor: for formats that hold one steering (lm-eval, gguf, steering-vectors): what is written is factor * S * unit vector,
    exactly what this package adds; factor * vector where the source does not know S. scale, like: S, or a vectors or arms file
    of the same model to take it from. options: as of `read_vectors`; concept also says which vector to write, and arm ("native"),
    source_model what to call the arm of an arms file made from another format. Raises ValueError as `read_vectors` and `write_vectors`.
    """
    check_name(out, to)
    if out.resolve() == source.resolve():
        raise ValueError(f"{out}: is the source itself; give another file to write")
    if scale is not None and like is not None:
        raise ValueError("scale and like both say S; give one of them")
    if factor != 1 and not FORMATS[to].layers:
        raise ValueError(
            f"format {to} holds vectors, not one steering: leave out the factor, or steer by it when they are used"
        )

    format, concept = format_of(source, from_format), options.get("concept")
    vectors = read_vectors(source, format, **options)
    card = dict(vectors.card)
    if like is not None:
        scale = ours.scale_like(like, vectors.model, vectors.layer, vectors.d_model)
    if scale is not None:
        card["scale"] = positive(scale)
    if to == "arms" and format not in ("arms", "steer-bench"):
        card |= {"arm": options.get("arm") or "native", "source": options.get("source_model") or ""}
    vectors = replace(vectors, card=card)
    with _naming(source, format):
        if FORMATS[to].layers:
            vectors = steered(vectors, concept, factor)
        elif concept is not None:
            vectors = vectors.only(concept)
    return write_vectors(out, to, vectors)


def read_vectors(path: str | Path, format: str | None = None, **options: Unpack[ReadOptions]) -> VectorFile:
    """Read the vectors of a file of any format, with a full card.

    Raises ValueError, naming the file and how to go on: unknown format, damaged file, ids that are missing or stand twice,
    several layers or arms and none chosen, a pickle that was not allowed or asks for code (it is never run).
    """
    path = Path(path)
    name = format_of(path, format)
    found = read_raw(path, name, **options)
    with _naming(path, name):
        if isinstance(found, Layered):
            found = found.pick(path, **options)
        layer = options.get("layer")
        model, layer = options.get("model") or found.model, found.layer if layer is None else layer
        return full_card(replace(found, model=model, layer=layer), path, name)


def read_raw(path: Path, format: str, **options: Unpack[ReadOptions]) -> VectorFile | Layered:
    """Read what a file holds, all layers where it holds one vector per layer. Raises ValueError as `read_vectors`."""
    kind = FORMATS[format]
    if options.get("ids") is not None and not kind.rows:
        raise ValueError(
            f"{path}: format {format} names its vectors itself; leave out the ids (--ids), or name one with --concept"
        )
    with _naming(path, format):
        found = kind.read(path, **options)
        if not kind.sidecar:
            return found
        label = read_sidecar(path)
        if isinstance(found, Layered):
            return replace(found, label=label)
        return replace(found, model=label.model, layer=label.layer, card={**label.card, **found.card})


def write_vectors(path: str | Path, format: str, vectors: VectorFile) -> Path:
    """Write vectors, as they are, with their card in the file or beside it.

    Raises ValueError for an unknown format, another file name than its tools read, and what the format cannot hold.
    """
    path = Path(path)
    check_name(path, format)
    with _naming(path, format):
        if FORMATS[format].layers:
            vectors = vectors.only(None)
        FORMATS[format].write(path, vectors)
        if FORMATS[format].sidecar:
            write_sidecar(path, vectors)
    return path


def check_name(path: Path, format: str) -> None:
    """Raise ValueError for an unknown format, and a file name that the tools of the format do not read."""
    suffixes = FORMATS[known(format, FORMATS, "format")].suffixes
    if not path.name.endswith(suffixes):
        raise ValueError(f"{path}: a file of format {format} has to end in {' or '.join(suffixes)}; give another name")


def format_of(path: Path, format: str | None) -> str:
    """Return `format`, or what the file shows. Raises ValueError for an unknown format and a file that is not there."""
    if format is not None:
        known(format, FORMATS, "format")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; give a file of one of the formats {', '.join(FORMATS)}")
    if format is not None:
        return format
    with _naming(path, "any"):
        return guess_format(path)


def guess_format(path: Path) -> str:
    """Return the format of a file by its content. Raises ValueError where it shows none."""
    with path.open("rb") as file:
        start = file.read(2048)
    if other := _other_kind(path, start):
        raise ValueError(f"{other}; save the vectors you want as .npy or .pt, one (d_model,) row each")
    if start.startswith(gguf_vectors.MAGIC):
        return "gguf"
    if start.startswith(b"\x93NUMPY"):
        return "npy"
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return "arms" if load_card(path).get("kind") == "arms" else "steer-bench"
    if path.name.endswith(axbench.WEIGHT):
        return "axbench"
    if pickled.is_pickled(path):
        return "steering-vectors"
    content = load_torch(path)
    if not isinstance(content, dict):
        return "pt"
    if content and all(isinstance(entry, dict) and "steering_vector" in entry for entry in content.values()):
        return "lm-eval"
    return "steering-vectors" if content and all(isinstance(key, int) for key in content) else "pt"


def _other_kind(path: Path, start: bytes) -> str:
    """Return what a file is that people take for one of vectors; "" where it may be one."""
    if start.startswith(b"PK") and zipfile.is_zipfile(path):
        names = zipfile.ZipFile(path).namelist()
        if all(name.endswith(".npy") for name in names):
            return _holds("an archive of NumPy arrays (.npz)", [name.removesuffix(".npy") for name in names])
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        try:
            size = struct.unpack("<Q", start[:8])[0]
            header = json.loads(path.read_bytes()[8 : 8 + size]) if size < path.stat().st_size else {}
        except (ValueError, struct.error):
            return ""
        if isinstance(header, dict) and header and "steer_bench" not in header.get("__metadata__", {}):
            return _holds("a safetensors file of another tool", sorted(header.keys() - {"__metadata__"}))
    if (
        path.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".txt", ".md")
        and b"\0" not in start
    ):
        return f"a text file ({path.suffix}), not a file of vectors"
    return ""


def _holds(kind: str, names: Sequence[str]) -> str:
    if {"W_enc", "W_dec"} <= {name.rpartition(".")[2] for name in names}:
        return f"a sparse autoencoder ({kind.partition(' (')[0]} of W_enc, W_dec, …), of which each row of W_dec is a direction"
    return f"{kind}, of {listed(names)}"


@contextmanager
def _naming(path: Path, format: str) -> Iterator[None]:
    """Make any error within the block a ValueError that names the file: parsers raise every kind for damaged files."""
    try:
        yield
    except Exception as error:
        if type(error) is ValueError:
            if str(path) in str(error):
                raise
            raise ValueError(f"{path}: {error}") from error
        said = " ".join(str(error).split())[:200]
        what = "a known format" if format == "any" else f"format {format}"
        raise ValueError(
            f"{path}: not readable as {what} ({type(error).__name__}: {said}); name its format (--from): {', '.join(FORMATS)}"
        ) from error
