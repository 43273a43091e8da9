"""Provenance: what an arm is stands in it, and nothing is read out of an arm's name."""

import pytest
from pydantic import ValidationError

from steer_bench.results.provenance import ArmInfo, Provenance


def arm(name: str, adapter: str, variant: str = "", kind: str = "control", method: str = "random") -> ArmInfo:
    return ArmInfo.model_validate({"arm": name, "adapter": adapter, "variant": variant, "kind": kind, "method": method})


RUN = Provenance(
    name="r",
    arms=(
        arm("noise-1", "noise", "1"),
        arm("noise-2", "noise", "2"),
        arm("random-3", "random-3", kind="transfer", method="imported"),
        arm("own-16", "own", "16", "baseline", "few-shot"),
        arm("few-shot-4", "few-shot-4", kind="transfer", method="ridge"),
    ),
)


def test_arms_of_one_adapter_with_other_seeds_are_shown_as_one_whatever_their_names():
    assert RUN.pooled == {
        "noise-1": "noise", "noise-2": "noise", "random-3": "random-3", "own-16": "own-16", "few-shot-4": "few-shot-4",
    }  # fmt: skip
    assert (RUN.kind_of("noise"), RUN.kind_of("random-3"), RUN.kind_of("unsteered")) == (
        "control",
        "transfer",
        "unsteered",
    )


def test_a_few_shot_arm_is_known_by_its_method():
    assert RUN.few_shot == {"own-16": 16}


def test_an_arm_that_is_not_listed_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="rows of an arm 'noize' that it does not list; did you mean 'noise'"):
        RUN.kind_of("noize")


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"kind": "foe"}, "kind"), ({"kind": "control", "extra": 1}, "extra"), ({}, "kind")],
)
def test_an_unknown_kind_or_key_is_refused(changes, key):
    with pytest.raises(ValidationError, match=key):
        ArmInfo.model_validate({"arm": "a", "adapter": "a", "method": "m", **changes})


def test_what_is_dumped_is_what_is_loaded():
    assert Provenance.model_validate_json(RUN.model_dump_json(), strict=True) == RUN
