"""Control vectors of llama.cpp and repeng: GGUF, architecture "controlvector", a tensor direction.N a layer.

N is the 0-based index of a decoder block, and the vector is added to that block's output: our convention, no shift. So it is in
repeng 0.4.0 (`ControlModel` wraps `layers[N]`; it reads `hidden_states[N + 1]`) and in llama.cpp (`apply_to(ctx, cur, il)` at the
end of block il; `direction.1` is the first, for block 0 is never steered, and `direction.0` is refused). Both add the vectors of
all layers, coefficient times the vector as stored.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np

from steer_bench.files import written_whole
from steer_bench.vectors.formats.vector_file import NO_LABEL, Label, Layered, VectorFile, label_of

MAGIC = b"GGUF"
_CARD = "steer_bench.card"
_OPERATION = re.compile(
    r"(^|[._-])(operation|action|op|mode|intervention|method|project(ion|ed)?|ablat\w*|clamp\w*)$", re.IGNORECASE
)
_ADDS = re.compile(
    r"(add(ition|itive|ing)?|sum|plus|steer(ing)?|diff_?mean|pca(_diff)?|mean|false|none|0|)", re.IGNORECASE
)
"""What a key that names an operation may say: that a vector is added, or how it was made."""
_DIRECTION = re.compile(r"direction\.(\d{1,6})")


def read(path: Path, **_: object) -> Layered:
    """Read all directions of a control vector. Raises ValueError for a GGUF file of anything else."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    with path.open("rb") as file:
        header = file.read(24)
    if len(header) < 24 or header[:4] != MAGIC:
        raise ValueError("not a GGUF file")
    _, n_tensors, n_fields = struct.unpack("<IQQ", header[4:])
    if (n_tensors + n_fields) * 12 > path.stat().st_size:
        raise ValueError("a damaged GGUF file: the header claims more than it holds")
    reader = GGUFReader(path)
    architecture = _text(reader, "general.architecture")
    if architecture != "controlvector":
        raise ValueError(f"a GGUF file of architecture {architecture!r}, not a control vector")
    further = _further(reader)
    vectors: dict[int, np.ndarray] = {}
    for tensor in reader.tensors:
        found = _DIRECTION.fullmatch(tensor.name)
        if found is None or len(tensor.shape) != 1 or int(found[1]) in vectors:
            raise ValueError(
                f"tensor {tensor.name!r} of {len(tensor.shape)} dimensions is no direction.N of (d_model,), or the second"
            )
        vectors[int(found[1])] = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
    card = _text(reader, _CARD)
    label = Label.parse(card) if card else NO_LABEL
    card_with_hint = {**label.card, "model_hint": _text(reader, "controlvector.model_hint"), **further}
    return Layered(vectors, label.model_copy(update={"card": card_with_hint}))


def _further(reader: object) -> dict[str, dict[str, str]]:
    """Return the metadata that other tools wrote into the file, as texts. Raises ValueError where it asks for more than adding."""
    known = ("GGUF.", "general.", "controlvector.", "steer_bench.")
    found = {
        key: str(field.contents())
        for key, field in reader.fields.items()  # type: ignore[attr-defined]
        if not key.startswith(known)
    }
    for key, value in found.items():
        if _OPERATION.search(key) and not _ADDS.fullmatch(value.strip()):
            raise ValueError(
                f"its metadata asks for {key} = {value[:60]!r}, which is not adding a vector; only vectors that are added are read"
            )
    return {"metadata": found} if found else {}


def _text(reader: object, key: str) -> str:
    found = reader.get_field(key)  # type: ignore[attr-defined]
    content = found.contents() if found else ""
    return content if isinstance(content, str) else ""


def write(path: Path, one: VectorFile) -> None:
    """Write one vector as a control vector of one layer, to be added with strength 1.

    Raises ValueError for no layer, and block 0, which llama.cpp cannot steer.
    """
    from gguf import GGUFWriter

    layer = one.needed_layer("gguf")
    if layer == 0:
        raise ValueError(
            "llama.cpp never steers block 0 and refuses direction.0; take another layer, or another format"
        )
    with written_whole(path) as part:
        writer = GGUFWriter(part, "controlvector")
        try:
            writer.add_string("controlvector.model_hint", str(one.card.get("model_hint") or one.model or "unknown"))
            writer.add_uint32("controlvector.layer_count", 1)
            writer.add_string(_CARD, label_of(one))
            writer.add_tensor(f"direction.{layer}", one.matrix[0].copy())
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
