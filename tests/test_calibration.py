"""Calibration on a tiny trained model: every case passes, and the command says when one does not."""

import json
import random

import pytest
import torch
from tiny import save_tiny, tiny_llama, tiny_tokenizer, train_tiny

from steer_bench import calibration
from steer_bench.calibration import Sizes, calibrate
from steer_bench.cli.app import app

SIZES = Sizes(concepts=10, positives=24, negatives=48, scored=6, words=20, factors=(0.3, 0.6), pairs=40, map_texts=60)
SYLLABLES = [a + b for a in "bdfgklmnprst" for b in "aeiou"]


def made_up_language(n_concepts: int = 16) -> tuple[list[dict], list[str], list[str]]:
    """(concepts, shared negatives, neutral texts): a concept is six words of its own among words that all texts have."""
    dice = random.Random(0)
    words = sorted({"".join(dice.choices(SYLLABLES, k=2)) for _ in range(400)})
    dice.shuffle(words)
    common, own = words[:40], [words[40 + 6 * i : 46 + 6 * i] for i in range(n_concepts)]

    def text(special: list[str]) -> str:
        return " ".join(dice.choice(special if special and dice.random() < 0.7 else common) for _ in range(20))

    concepts = [
        {
            "id": f"c{i}",
            "description": f"words such as {' '.join(mine[:2])}",
            "positives": [text(mine) for _ in range(60)],
        }
        for i, mine in enumerate(own)
    ]
    return concepts, [text([]) for _ in range(120)], [text([]) for _ in range(20)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(folder of a trained Llama of width 32, folder of its data)."""
    torch.set_num_threads(1)
    concepts, negatives, neutral = made_up_language()
    folder = tmp_path_factory.mktemp("tiny")
    lines = [*concepts, {"genre": "text", "negatives": negatives}]
    (folder / "concepts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    texts = [json.dumps({"id": f"n{i}", "text": text}) + "\n" for i, text in enumerate(neutral)]
    (folder / "neutral.jsonl").write_text("".join(texts))
    corpus = [text for concept in concepts for text in concept["positives"]] + negatives
    tokenizer = tiny_tokenizer(corpus, vocab_size=600)
    model = train_tiny(tiny_llama(32, n_layers=3, vocab_size=600), tokenizer, corpus, steps=160)
    return save_tiny(folder / "model", model, tokenizer), folder


@pytest.fixture(scope="module")
def found(tiny):
    model, data = tiny
    return calibrate(model, sizes=SIZES, device="cpu", dtype="float32", data=data)


def test_every_case_passes_on_a_tiny_model(found):
    assert [str(check) for check in found if not check.passed] == []


def test_it_holds_every_case_of_the_list(found):
    names = " | ".join(check.name for check in found)
    for case in (
        "same model: identity recovers native", "rotated twin: same logits", "rotated twin, linear: finds Q",
        "rotated twin, procrustes: recovers native", "rotated twin, identity: vectors look random",
        "permuted twin, linear: finds Q", "permuted twin, identity: no transfer", "shuffled pairs", "dead concepts",
        "false positives: 20 random arms",
    ):  # fmt: skip
        assert case in names


def test_the_command_exits_with_1_when_a_case_fails(monkeypatch):
    from typer.testing import CliRunner

    checks = [calibration.Check("one", True, "1", "1"), calibration.Check("two", False, "0.5", "1")]
    monkeypatch.setattr(calibration, "calibrate", lambda model: checks)
    done = CliRunner().invoke(app, ["calibrate"])
    assert done.exit_code == 1
    assert done.output == "pass  one: 1 (expected 1)\nFAIL  two: 0.5 (expected 1)\n"
    monkeypatch.setattr(calibration, "calibrate", lambda model: checks[:1])
    assert CliRunner().invoke(app, ["calibrate"]).exit_code == 0
