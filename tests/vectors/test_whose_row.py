"""Whose row is this: files that say something else than a reader might take them to say."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from steer_bench.vectors.arms import Arm, Arms
from steer_bench.vectors.convert import read_vectors
from steer_bench.vectors.store import VectorStore
from steer_bench.vectors.summary import apart, appended, describe, render
from steer_bench.vectors.tensor_file import load_tensors, save_tensors

V = torch.tensor([1.0, 2.0, 3.0])


# ------------------------------------------------------------------------------------------------ layers and shapes


@pytest.mark.parametrize(
    "key",
    [
        "{}",
        "layer_{}",
        "layer{}",
        "layers.{}",
        "model.layers.{}",
        "transformer.h.{}",
        "blocks.{}.hook_resid_post",
        "Layer-{}",
    ],
)
def test_a_mapping_whose_keys_name_layers_holds_layers_and_no_concepts(key, tmp_path):
    torch.save({key.format(9): V, key.format(10): 2 * V}, tmp_path / "v.pt")
    with pytest.raises(ValueError, match=r"holds 2 layers; choose one .*9, 10"):
        read_vectors(tmp_path / "v.pt")
    read = read_vectors(tmp_path / "v.pt", layer=10, concept="sea")
    assert (read.ids, read.layer, read.matrix.tolist()) == (("sea",), 10, [[2.0, 4.0, 6.0]])
    assert read.card["layers_in_file"] == [9, 10]


@pytest.mark.parametrize("key", ["sea", "concept-{}", "{}-sea", "row {}", "1e{}"])
def test_other_keys_are_ids(key, tmp_path):
    torch.save({key.format(9): V}, tmp_path / "v.pt")
    assert read_vectors(tmp_path / "v.pt").ids == (key.format(9),)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 1, 3)])
def test_a_vector_with_ones_before_its_width_is_a_vector(shape, tmp_path):
    lm_eval = {"layers.4": {"steering_vector": V.reshape(shape), "steering_coefficient": 1.0, "action": "add"}}
    for content, more in (
        (lm_eval, {}),
        ({"sea": V.reshape(shape)}, {}),
        ({4: V.reshape(shape)}, {"format": "steering-vectors"}),
    ):
        torch.save(content, tmp_path / "v.pt")
        assert read_vectors(tmp_path / "v.pt", **more).matrix.tolist() == [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("shape", [(3, 1), (2, 3), (1, 2, 3)])
def test_several_vectors_are_not_flattened_into_one(shape, tmp_path):
    matrix = torch.ones(shape)
    lm_eval = {"layers.4": {"steering_vector": matrix, "steering_coefficient": 1.0, "action": "add"}}
    for content in (lm_eval, {"sea": matrix}, {4: matrix}):
        torch.save(content, tmp_path / "v.pt")
        with pytest.raises(ValueError, match=r"a vector has \(d_model,\)"):
            read_vectors(tmp_path / "v.pt")


@pytest.mark.parametrize("coefficient", [2, 2.0, "2.0", torch.tensor(2.0), torch.tensor([2.0]), np.float32(2)])
def test_a_coefficient_is_what_float_makes_of_it_as_in_lm_eval(coefficient, tmp_path):
    if isinstance(coefficient, np.floating):
        coefficient = float(coefficient)
    torch.save(
        {"layers.4": {"steering_vector": V, "steering_coefficient": coefficient, "action": "add"}}, tmp_path / "v.pt"
    )
    assert read_vectors(tmp_path / "v.pt").matrix.tolist() == [[2.0, 4.0, 6.0]]


@pytest.mark.parametrize("coefficient", [True, "two", None, torch.ones(2), float("nan"), "inf"])
def test_a_coefficient_that_is_no_number_is_refused(coefficient, tmp_path):
    torch.save(
        {"layers.4": {"steering_vector": V, "steering_coefficient": coefficient, "action": "add"}}, tmp_path / "v.pt"
    )
    with pytest.raises(ValueError, match=r"steering_coefficient of layers.4 is"):
        read_vectors(tmp_path / "v.pt")


# ------------------------------------------------------------------------------------------------ control vectors


def control_vector(path: Path, **metadata: str) -> Path:
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "controlvector")
    for key, value in metadata.items():
        writer.add_string(key.replace("__", "."), value)
    writer.add_tensor("direction.9", V.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    "metadata",
    [
        {"glp__operation": "project"},
        {"acme__action": "ablate"},
        {"steer__mode": "clamp"},
        {"x__intervention": "orthogonalize"},
        {"x__projection": "true"},
    ],
)
def test_a_control_vector_that_is_not_to_be_added_is_refused_with_its_own_words(metadata, tmp_path):
    key, value = next(iter(metadata.items()))
    with pytest.raises(ValueError, match=f"asks for {key.replace('__', '.')} = '{value}', which is not adding"):
        read_vectors(control_vector(tmp_path / "v.gguf", **metadata))


@pytest.mark.parametrize(
    "metadata", [{}, {"repeng__method": "pca_diff"}, {"x__operation": "add"}, {"x__author": "projecting ltd"}]
)
def test_other_metadata_of_a_control_vector_is_kept(metadata, tmp_path):
    read = read_vectors(control_vector(tmp_path / "v.gguf", **metadata))
    assert read.matrix.tolist() == [[1.0, 2.0, 3.0]]
    assert read.card.get("metadata", {}) == {key.replace("__", "."): value for key, value in metadata.items()}


# ------------------------------------------------------------------------------------------------ cards


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scale", -4.0), ("scale", 0), ("scale", True), ("scale", "7"), ("scale", None), ("layer", True), ("layer", -1),
        ("layer", 2.5), ("layer", "3"), ("d_model", 0), ("d_model", True), ("d_model", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["arms", "vectors"])
def test_a_card_with_a_valid_seal_and_nonsense_is_refused_with_its_key(kind, key, value, tmp_path):
    path = tmp_path / "x.safetensors"
    if kind == "arms":
        Arms("m", 2, 4.0, {(Arm("native"), "sea"): V.numpy()}).save(path)
    else:
        VectorStore("m", 2, {"sea": V.numpy()}, 4.0).save(path)
    tensors, card, _ = load_tensors(path)
    save_tensors(path, tensors, {**card, key: value})
    with pytest.raises(ValueError, match=key):
        (Arms if kind == "arms" else VectorStore).load(path)


# ------------------------------------------------------------------------------------------------ files of other kinds


def test_files_that_are_no_vectors_are_called_what_they_are(tmp_path):
    from safetensors.torch import save_file

    np.savez(tmp_path / "sae.npz", W_enc=np.eye(2), W_dec=np.eye(2), b_dec=np.ones(2))
    np.savez(tmp_path / "many.npz", a=np.ones(2), b=np.ones(2))
    save_file({"W_enc": V, "W_dec": V + 1}, tmp_path / "sae.safetensors")
    save_file({"model.layers.0.weight": V}, tmp_path / "weights.safetensors")
    (tmp_path / "steer.csv").write_text("loader,action,coefficient\nsparsify,add,10\n")
    (tmp_path / "v.json").write_text('{"sea": [1.0, 2.0]}')
    for name, words in {
        "sae.npz": "a sparse autoencoder",
        "many.npz": r"an archive of NumPy arrays \(\.npz\), of a, b",
        "sae.safetensors": "a sparse autoencoder",
        "weights.safetensors": "a safetensors file of another tool, of model.layers.0.weight",
        "steer.csv": r"a text file \(\.csv\)",
        "v.json": r"a text file \(\.json\)",
    }.items():
        with pytest.raises(ValueError, match=f"{name}: {words}"):
            read_vectors(tmp_path / name)


def test_a_safetensors_header_that_claims_too_much_is_a_damaged_file(tmp_path):
    (tmp_path / "v.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + json.dumps({}).encode())
    with pytest.raises(ValueError, match="not a safetensors file written by steer-bench"):
        read_vectors(tmp_path / "v.safetensors")


# ------------------------------------------------------------------------------------------------ inspect


def saved(path: Path, rows: np.ndarray, ids: list[str] | None = None) -> Path:
    np.save(path, rows.astype(np.float32))
    if ids is not None:
        path.with_suffix(".ids.txt").write_text("\n".join(ids) + "\n")
    return path


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ([*range(10), *range(10)], ": rows 10-19 repeat rows 0-9; was the file appended to?"),
        ([*range(10), 3, 4, 5], ": rows 10-12 repeat rows 3-5; was the file appended to?"),
        ([*range(5), 7, *range(2)], ": rows 6-7 repeat rows 0-1; was the file appended to?"),
        ([0, 1, 2, 1], ""),
        ([*range(10)], ""),
    ],
)
def test_inspect_names_the_run_of_rows_that_repeats_another(order, words, tmp_path):
    summary = describe(saved(tmp_path / "v.npy", np.eye(12)[order]))
    assert appended(summary) == words
    assert words in render(summary)
    assert summary.n_duplicates == len(order) - len(set(order))


def test_inspect_of_two_files_says_where_their_rows_are_of_different_concepts(tmp_path):
    one = describe(saved(tmp_path / "one.npy", np.eye(3), ["sea", "law", "war"]))
    other = describe(saved(tmp_path / "two.npy", np.eye(3), ["sea", "war", "law"]))
    fewer = describe(saved(tmp_path / "few.npy", np.eye(3)[:2], ["sea", "law"]))
    wide = describe(saved(tmp_path / "wide.npy", np.eye(4)[:3], ["sea", "law", "war"]))
    assert apart(one, one) == ""
    assert f"row 1 is 'law' in {one.path} and 'war' in {other.path}" in apart(one, other)
    assert "has 3 rows" in apart(one, fewer)
    assert "of shape [(4,)]" in apart(one, wide)
