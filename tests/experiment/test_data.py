"""What an experiment's files hold, and where a run keeps its own."""

from itertools import combinations

import yaml

from steer_bench import shipped
from steer_bench.experiment.data import Data, TextSide
from steer_bench.experiment.folder import Folder
from steer_bench.experiment.reading import load_experiment

QUICKSTART = shipped("experiments") / "quickstart.yaml"


def data(tmp_path, **changes) -> Data:
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(QUICKSTART.read_text()) | changes))
    return Data(load_experiment(path), tmp_path)


def test_halves_are_disjoint_and_together_the_texts_for_vectors(tmp_path):
    found = data(tmp_path, concepts={"source": "concepts.jsonl", "held_out": 8, "halves": True})
    assert (found.source_half, found.native_half) == ("a", "b")
    whole, held_out = found.vector_and_held_out_texts["sea"]
    assert len(held_out.positives) == len(held_out.negatives) == 8
    assert not set(whole.positives) & set(held_out.positives)
    sides = {half: found.texts_by_side(["sea"], half) for half in ("", "a", "b")}
    for sign, texts in (("+", whole.positives), ("-", whole.negatives)):
        side = TextSide("sea", sign)
        assert sides[""][side] == texts
        assert not set(sides["a"][side]) & set(sides["b"][side])
        assert set(sides["a"][side]) | set(sides["b"][side]) == set(texts)
        assert len(sides["a"][side]) - len(sides["b"][side]) in (0, 1)


def test_without_halves_source_and_target_have_the_same_texts(tmp_path):
    found = data(tmp_path)
    assert not found.halves, "the quickstart's concepts have too few texts"
    assert (found.source_half, found.native_half) == ("", "")


def test_few_shot_sizes_are_those_that_every_measured_concept_has_texts_for(tmp_path):
    found = data(tmp_path, adapters=["native", {"few-shot": {"n": [1, 4, 1000]}}], claims=None)
    assert found.few_shot_sizes == (1, 4)


def test_every_path_of_a_run_is_within_it_and_two_models_never_share_one(tmp_path):
    folder = Folder(tmp_path / "run")
    names = ("org/a.b", "org/a.c", "/models/a.b")
    for place in (folder.arms, folder.evaluation, folder.shards, folder.vectors, folder.relay, folder.capability):
        assert len({place(name) for name in names}) == 3
        assert all(place(name).is_relative_to(folder.path) for name in names)
    assert folder.vectors("m", "source") == folder.path / "vectors" / "source" / "m.safetensors"
    assert folder.map("org/a.b", "c", "linear") == folder.path / "maps" / "org__a.b--c" / "linear.safetensors"
    assert folder.pair("org/a.b", "c") == folder.path / "maps" / "org__a.b--c.safetensors"


def test_no_text_has_two_purposes(tmp_path):
    """Neither the texts that doses are found on, those that damage is reported on, nor those of maps and vectors are each other's."""
    found = data(tmp_path)
    protocol = found.protocol
    neutral = found.neutral_texts
    scored = {neutral[item] for item in protocol.neutral}
    calibration = {neutral[item] for item in protocol.calibration}
    assert len(calibration) == found.experiment.dose.texts
    assert len(scored) >= 100
    maps = set(found.map_texts)
    vectors = {text for texts in found.texts_by_side(list(found.concepts)).values() for text in texts}
    for one, other in combinations((scored, calibration, maps, vectors), 2):
        assert not one & other or (one, other) == (
            maps,
            vectors,
        )  # maps may see what the vectors of fit concepts are made of
    asked = {prompt.instruction for prompt in protocol.yardstick}
    assert len(asked) >= 20
    assert not asked & {prompt.instruction for prompt in protocol.prompts}
