"""The arms of a target: each has the vectors that its adapter made, as they were made."""

import numpy as np
import pytest
import torch

from steer_bench.transfer.adapters import load_adapters
from steer_bench.transfer.pair_vectors import ArmVectors
from steer_bench.transfer.pairs import ModelSide
from steer_bench.transfer.target_arms import make_arms
from steer_bench.vectors.arms import Arm
from steer_bench.vectors.store import VectorStore

WIDTH = 8
CONCEPTS = [f"c{i}" for i in range(6)]
FIT, TEST = CONCEPTS[:3], CONCEPTS[3:]


def vectors(seed: int, keys=TEST) -> dict[str, torch.Tensor]:
    drawn = torch.randn(len(CONCEPTS), WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {key: drawn[i] for i, key in enumerate(CONCEPTS) if key in keys}


@pytest.fixture(scope="module")
def given():
    """{(arm, source): concept -> vector} that the arms of target b must have."""
    own = vectors(0, CONCEPTS)
    made = {
        (Arm(adapter, source=source), "b"): ArmVectors(vectors(seed))
        for seed, (adapter, source) in enumerate(
            [(adapter, source) for adapter in ("identity", "linear", "mlp") for source in ("a", "z")], start=1
        )
    }
    made |= {(Arm("linear", source="a"), "a"): ArmVectors(vectors(50))}  # of another target
    stores = {
        name: VectorStore(
            name, 2, {key: vector.float().numpy() for key, vector in vectors(seed, CONCEPTS).items()}, 3.0
        )
        for name, seed in (("a", 60), ("z", 61), ("b", 0))
    }
    adapters = load_adapters(["native", "identity", "linear", "mlp", {"wrong-concept": {"n": 1}}, "mean"])
    arms = make_arms(
        [(ModelSide("b", own, tuple(FIT), WIDTH), TEST)], stores, adapters, made, {"published": vectors(70)},
        sources=["a", "z"], test=TEST,
    )  # fmt: skip
    expected = {(arm.adapter, arm.source): one.vectors for (arm, of), one in made.items() if of == "b"}
    expected |= {("native", ""): {key: own[key] for key in TEST}, ("published", ""): vectors(70)}
    expected |= {("mean", ""): dict.fromkeys(TEST, torch.stack([own[key] for key in FIT]).mean(0))}
    expected |= {("wrong-concept", ""): {key: own[other] for key, other in zip(TEST, TEST[1:] + TEST[:1], strict=True)}}
    return arms, expected


def test_every_arm_has_the_vectors_that_were_made_for_it_with_their_sign(given):
    arms, expected = given
    found = {(arm.name, arm.source, concept) for arm, concept in arms.vectors}
    assert found == {(*arm, concept) for arm, made in expected.items() for concept in made}
    for (arm, concept), vector in arms.vectors.items():
        wanted = expected[arm.name, arm.source][concept].numpy()
        cosine = wanted @ vector / np.linalg.norm(wanted) / np.linalg.norm(vector)
        assert cosine == pytest.approx(1.0, abs=1e-6), (arm, concept)


def test_the_layer_and_the_unit_of_factors_are_the_targets(given):
    arms, _ = given
    assert (arms.target, arms.layer, arms.scale) == ("b", 2, 3.0)
