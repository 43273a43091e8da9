"""Folds: every concept is tested, each by maps and controls that did not see it."""

import numpy as np
import pytest
from small_run import small_experiment

from steer_bench.concepts.concept import Concept
from steer_bench.concepts.splits import fold_concepts
from steer_bench.experiment import run as runs
from steer_bench.experiment.data import Data
from steer_bench.experiment.engines import STAGES
from steer_bench.experiment.stages import fit
from steer_bench.results.board.header import facts_of
from steer_bench.results.file import load_results
from steer_bench.transfer.pair_vectors import ArmVectors, load_pair, united
from steer_bench.vectors.arms import Arm, Arms
from steer_bench.vectors.store import VectorStore
from steer_bench.vectors.tensor_file import load_tensors

LIMITS = {"max_texts": 2, "max_neutral": 2, "max_words": 8}


def concept(name: str, description: str = "", genre: str = "text") -> Concept:
    return Concept(name, description or f"word{name}", genre, (f"{name} is here",), ("nothing",))


CONCEPTS = [concept(f"c{i}", genre=("text", "code")[i % 2]) for i in range(10)]


def test_each_concept_is_tested_in_one_fold_and_fitted_on_in_all_others():
    for n in (2, 3, 5):
        folds = fold_concepts(CONCEPTS, n, select=["c3"], seed=1)
        assert len(folds) == n
        tested = [key for fold in folds for key in fold.test]
        assert sorted(tested) == sorted({one.id for one in CONCEPTS} - {"c3"})
        assert max(len(fold.test) for fold in folds) - min(len(fold.test) for fold in folds) <= 1
        assert all(set(fold.fit) == set(tested) - set(fold.test) and fold.select == ("c3",) for fold in folds)


def test_the_parts_hang_on_the_seed_alone_keep_like_concepts_together_and_are_alike_in_genres():
    like = [*CONCEPTS, concept("d0", "a harbour by the sea"), concept("d1", "the sea, a harbour")]
    folds = fold_concepts(like, 2, seed=3, kin=[("c0", "c1"), ("c0", "a rule")])
    for pair in ({"d0", "d1"}, {"c0", "c1"}):
        assert sum(pair <= set(fold.test) for fold in folds) == 1
    assert folds == fold_concepts(like[::-1], 2, seed=3, kin=[("c1", "c0")])
    assert len({tuple(fold.test for fold in fold_concepts(CONCEPTS, 2, seed=seed)) for seed in range(5)}) > 1
    code = [sum(int(key[1:]) % 2 for key in fold.test) for fold in fold_concepts(CONCEPTS, 2, seed=3)]
    assert sorted(code) == [2, 3]


def test_more_folds_than_there_are_unlike_concepts_are_refused():
    same = [concept(f"s{i}", "one and the same") for i in range(4)]
    with pytest.raises(ValueError, match="2 folds of 4 concepts leave a fold without one"):
        fold_concepts(same, 2)


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        ({"folds": 2, "test": 2}, "splits.test: folds test every concept"),
        ({"fit": 2}, "splits.test: this key is missing"),
        ({"folds": 1}, "splits.folds: Input should be greater than or equal to 2"),
        ({"folds": 7}, "7 folds of 6 concepts leave a fold without one"),
    ],
)
def test_faulty_folds_are_said(splits, said, tmp_path, models):
    with pytest.raises(ValueError, match=said):
        runs.open_run(str(small_experiment(tmp_path, models, splits=splits)), tmp_path / "run")


def test_what_folds_made_is_united_and_their_reports_are_averaged():
    one, other = Arm("linear", source="m"), Arm("mlp", source="m")
    found = united(
        [
            {(one, "t"): ArmVectors({"a": 1}, {"r2": 0.2, "n": 3}), (other, "t"): ArmVectors({"a": 5}, {"r2": 1})},
            {(one, "t"): ArmVectors({"b": 2}, {"r2": 0.6}), (other, "t"): ArmVectors({}, refused="too few")},
        ]
    )
    assert found[one, "t"] == ArmVectors({"a": 1, "b": 2}, {"r2": pytest.approx(0.4)})
    assert found[other, "t"].refused == "fold 2: too few"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny models, made once."""
    from small_run import small_models

    return small_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, models):
    """A finished run of two folds, with what its maps were fitted on: [(fit concepts, texts)] of each fold."""
    folder = tmp_path_factory.mktemp("folds")
    path = small_experiment(
        folder, models, pairs=[[models[1], models[0]]], splits={"folds": 2, "select": 1}, damage=[1.02],
        adapters=["native", "linear", "mlp", "nearest-concept", "mean", {"wrong-concept": {"n": 1}}, "random-covariance"],
        tasks={"concept_likelihood": LIMITS}, factors=[],
    )  # fmt: skip
    run, seen = runs.open_run(str(path), folder / "run"), []
    measured = fit.measure_pair

    def recorded(*given, **more):
        seen.append((given[3][0].fit, given[4]))
        return measured(*given, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "measure_pair", recorded)
        for stage in ("extract", "fit", "dose", "evaluate", "judge"):
            STAGES[stage](run)
        from steer_bench.experiment.stages.report import report

        report(run, figures=False)
        STAGES["fit"](run)
        assert len(seen) == 2, "what is fitted is not fitted again"
    return run, seen


def test_every_concept_has_rows_and_its_folds_maps_did_not_see_it(finished):
    run, seen = finished
    folds, topics = run.data.folds, {topic.id: topic for topic in run.data.topics}
    assert list(folds) == [1, 2]
    assert sorted(run.data.splits.test) == sorted(folds[1].test + folds[2].test)
    assert len(run.data.splits.test) == 5
    for fold, (fitted, texts) in zip(folds.values(), seen, strict=True):
        assert fitted == fold.fit == folds[3 - next(n for n in folds if folds[n] is fold)].test
        assert not {text for key in fold.test for text in topics[key].positives} & set(texts)
        assert {text for key in fold.fit for text in topics[key].positives} <= set(texts)
    results = load_results(run.folder.results)
    assert results.run.splits.folds == tuple(fold.test for fold in folds.values())
    assert results.run.complete
    measured = {(row.arm, row.concept) for row in results.rows if row.concept}
    for arm in ("linear", "mean", "nearest-concept"):
        unreached = {line.concept for line in results.run.unreached if line.arm == arm}
        assert {concept for name, concept in measured if name == arm} | unreached >= set(run.data.splits.test)
    assert "1 tests" in dict(facts_of(results, []))["folds"]


def test_each_vector_of_the_arms_file_is_from_its_own_folds_maps(finished):
    run, _ = finished
    source, target = run.models[1], run.models[0]
    arms = Arms.load(run.folder.arms(target))
    native = VectorStore.load(run.folder.vectors(target)).vectors
    of_source = VectorStore.load(run.folder.vectors(source, "source")).vectors
    r2 = []
    for number, fold in run.data.folds.items():
        made, covariances = load_pair(run.folder.pair(*fit.pairs(run)[0], number))
        for one in made.values():
            assert set(one.vectors) == set(run.data.measured_in(number))
        weight = load_tensors(run.folder.map(source, target, "linear", number)).tensors["weight"]
        for key in run.data.measured_in(number):
            vector = arms.vectors[Arm("linear", source=source), key]
            np.testing.assert_allclose(vector, of_source[key] @ weight, rtol=1e-3, atol=1e-4)
            mean = np.mean([native[other] for other in fold.fit], axis=0)
            np.testing.assert_allclose(arms.vectors[Arm("mean"), key], mean, rtol=1e-4, atol=1e-5)
        for key in fold.test:
            nearest = arms.vectors[Arm("nearest-concept", source=source), key]
            assert any(np.allclose(nearest, native[other], atol=1e-5) for other in fold.fit)
        r2.append(made[Arm("linear", source=source), target].report["r2"])
        assert set(covariances) == {source, target}
    assert not list((run.folder.path / "maps").glob("*.safetensors"))
    line = next(line for line in arms.card.geometry if line.arm == "linear")
    assert line.r2 == pytest.approx(np.mean(r2))
    assert r2[0] != r2[1]


def test_a_concept_that_its_own_folds_maps_have_seen_is_an_error(finished, monkeypatch):
    run, _ = finished
    fit.check_vectors(run)
    monkeypatch.setattr(Data, "measured_in", lambda self, fold: self.measured)
    with pytest.raises(ValueError, match="the map was fitted on the concept"):
        fit.check_vectors(run)
