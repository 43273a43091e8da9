"""Everybody's vectors: read and written in the formats of other tools, with a card that says where they come from.

    file of any tool -> [VectorFile] -> file of any tool, or arms to steer with

No file runs code: PyTorch files are read as tensors and values only, pickles by an allow-list. Knows nothing of models; torch is
imported by the formats that need it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from steer_bench.vectors.formats.formats import (
    FORMATS,
    Format,
    NamingFile,
    check_name,
    format_of,
    read_vectors,
    write_vectors,
)
from steer_bench.vectors.formats.ours import scale_like, to_arms
from steer_bench.vectors.formats.summary import DUPLICATE, Cosines, Duplicate, Entry, Summary, describe, render
from steer_bench.vectors.formats.vector_file import LAYER_CONVENTION, VectorFile, positive, steered


def convert(
    source: Path,
    to: str,
    out: Path,
    *,
    from_format: str | None = None,
    arm: str | None = None,
    source_model: str | None = None,
    concept: str | None = None,
    factor: float = 1.0,
    ids: Path | None = None,
    allow_pickle: bool = False,
    model: str | None = None,
    layer: int | None = None,
    scale: float | None = None,
    like: Path | None = None,
) -> Path:
    """Read `source`, write `out` in format `to`: `steer-bench convert`.

    arm, source_model: which arm of an arms file; for `to="arms"` from another format, what to call the arm ("native").
    concept: which vector to write, or the name of one that comes without. ids: names of the rows of a matrix.
    factor: for formats that hold one steering (lm-eval, gguf, steering-vectors): what is written is factor * S * unit vector,
    exactly what this package adds; factor * vector where the source does not know S.
    model, layer: where the source does not say, or holds several layers. scale, like: S, or a vectors or arms file of the same
    model to take it from. Raises ValueError as `read_vectors` and `write_vectors`.
    """
    check_name(out, to)
    one_steering = FORMATS[to].layers is not None
    if out.resolve() == source.resolve():
        raise ValueError(f"{out}: is the source itself; give another file to write")
    if scale is not None and like is not None:
        raise ValueError("scale and like both say S; give one of them")
    if factor != 1 and not one_steering:
        raise ValueError(
            f"format {to} holds vectors, not one steering: leave out the factor, or steer by it when they are used"
        )

    format = format_of(source, from_format)
    of_arms = format in ("arms", "steer-bench")
    vectors = read_vectors(
        source, format, ids=ids, concept=concept, model=model, layer=layer, allow_pickle=allow_pickle,
        arm=arm if of_arms else None, source=source_model if of_arms else None,
    )  # fmt: skip
    if like is not None:
        scale = scale_like(like, vectors.model, vectors.layer, vectors.d_model)
    card = dict(vectors.card)
    if scale is not None:
        card["scale"] = positive(scale)
    if to == "arms" and not of_arms:
        card |= {"arm": arm or "native", "source": source_model or ""}
    vectors = replace(vectors, card=card)
    with NamingFile(source, format):
        if one_steering:
            vectors = steered(vectors, concept, factor)
        elif concept is not None:
            vectors = vectors.only(concept)
    return write_vectors(out, to, vectors)


__all__ = [
    "DUPLICATE",
    "FORMATS",
    "LAYER_CONVENTION",
    "Cosines",
    "Duplicate",
    "Entry",
    "Format",
    "Summary",
    "VectorFile",
    "convert",
    "describe",
    "read_vectors",
    "render",
    "steered",
    "to_arms",
    "write_vectors",
]
