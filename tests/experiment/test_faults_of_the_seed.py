"""The four faults of the experiment this project starts from, each fed to the harness: four clear errors."""

import numpy as np
import pytest
import yaml

from steer_bench import shipped
from steer_bench.experiment import run as runs
from steer_bench.results.rows import Row
from steer_bench.results.stats.unapplied import arms_without_effect
from steer_bench.transfer.pairs import check_unseen
from steer_bench.vectors.store import VectorCard, VectorStore, check_distinct, check_same_texts
from steer_bench.vectors.tensor_file import load_card

RNG = np.random.default_rng(0)
SEA, LAW, TEA = (RNG.standard_normal(16).astype(np.float32) for _ in range(3))


def store(model: str = "a", vectors: dict | None = None, **card) -> VectorStore:
    vectors = {"sea": SEA, "law": LAW} if vectors is None else vectors
    return VectorStore(
        model, 2, vectors, 1.0, VectorCard(**{"texts": {key: f"hash of {key}" for key in vectors}, **card})
    )


def test_fault_1_a_map_trained_on_the_test_concepts(tmp_path):
    content = yaml.safe_load((shipped("experiments") / "quickstart.yaml").read_text())
    content["splits"] = {"fit": ["sea", "law", "cooking"], "test": ["space", "sea"]}
    (tmp_path / "leak.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="concept 'sea' is in split 'test' and in split 'fit'; leave it in one"):
        runs.open_run(str(tmp_path / "leak.yaml"), tmp_path / "run")
    with pytest.raises(ValueError, match=r"fitted on the concept 'sea'.*only concepts of the fit split"):
        check_unseen(["law", "sea"], ["sea"])


def test_fault_2_a_vector_file_that_grew_by_appending(tmp_path):
    rows = [("sea", SEA), ("law", LAW), ("sea", SEA + 0.1)]
    with pytest.raises(ValueError, match="the concept id 'sea' has two vectors of a; was it saved by appending"):
        VectorStore.from_rows("a", 2, rows, 1.0)
    with pytest.raises(
        ValueError, match=r"'sea' and 'sea-2' are the same vector \(cosine 1\.00000\); one concept under two ids"
    ):
        VectorStore.from_rows("a", 2, [("sea", SEA), ("law", LAW), ("sea-2", 3 * SEA)], 1.0)
    path = tmp_path / "a.safetensors"
    store(vectors={"sea": SEA, "law": LAW}).save(path)
    store(vectors={"tea": TEA}).save(path)  # saving never adds
    assert list(VectorStore.load(path).vectors) == ["tea"]


def test_two_concepts_may_be_the_same_vector_where_that_is_said_by_name(tmp_path):
    alike = {"sea": SEA, "ocean": SEA.copy(), "law": LAW}
    with pytest.raises(ValueError, match=r"alike: \[\[ocean, sea\]\]"):
        store(vectors=alike)
    kept = store(vectors=alike, alike=[["sea", "ocean"]])
    kept.save(tmp_path / "a.safetensors")
    assert set(VectorStore.load(tmp_path / "a.safetensors").vectors) == set(alike)
    assert load_card(tmp_path / "a.safetensors")["alike"] == [["sea", "ocean"]]
    # cosine of (1, 0) with (1, x) is 0.999 at x = 0.04476
    one = np.array([1.0, 0.0])
    check_distinct({"a": one, "b": np.array([1.0, 0.0448])})
    with pytest.raises(ValueError, match="same vector"):
        check_distinct({"a": one, "b": np.array([1.0, 0.0447])})


def test_fault_3_rows_of_two_models_that_pair_different_concepts():
    check_same_texts(store("a"), store("b"))
    with pytest.raises(
        ValueError, match=r"concept 'law' of a and of b come from other texts .*would pair different concepts"
    ):
        check_same_texts(store("a"), store("b", texts={"sea": "hash of sea", "law": "hash of sea"}))
    with pytest.raises(ValueError, match="only b has a vector of 'tea'"):
        check_same_texts(store("a"), store("b", vectors={"sea": SEA, "law": LAW, "tea": TEA}))


def row(arm: str, item: str, value: float, task: str = "steered_perplexity", concept: str = "") -> Row:
    return Row(task, "b", "", arm, concept, 0.0 if arm == "unsteered" else 0.4, item, "neutral", value, 10)


def test_fault_4_a_vector_that_was_never_applied():
    rows = [row("unsteered", "n1", -3.0), row("unsteered", "n2", -2.0)]
    rows += [
        row("native", item, value, concept=c) for c in ("sea", "law") for item, value in (("n1", -3.0), ("n2", -2.0))
    ]
    rows += [row("linear", "n1", -3.0, concept="sea"), row("linear", "n2", -2.01, concept="sea")]
    assert arms_without_effect(rows) == [("steered_perplexity", "b", "native")]
    ratings = [row("unsteered", "p1", 1.0, "rule_following"), row("native", "p1", 1.0, "rule_following")]
    assert arms_without_effect(ratings) == []  # a reply may well obey as before
