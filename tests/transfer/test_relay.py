"""The relay: the source writes under its own vectors, the target's means of what it wrote make the vectors."""

import json

import numpy as np
import pytest
import torch
from steered import TEXTS
from tiny import tiny_gemma3, tiny_llama, tiny_tokenizer

from steer_bench import shipped
from steer_bench.models.activations import mean_activations
from steer_bench.models.load import Loaded
from steer_bench.models.steered.steering import Steerer
from steer_bench.transfer import relay as module
from steer_bench.transfer.relay import relay, write_texts
from steer_bench.vectors.store import VectorStore

WRITTEN = {"": ["the sea is wide", "a law"], "sea": ["the sea and the sea", "waves come", "the wide sea"]}


@pytest.fixture(scope="module")
def source():
    return Loaded("source", tiny_llama(32), tiny_tokenizer(TEXTS))


@pytest.fixture(scope="module")
def vectors():
    direction = np.random.default_rng(0).standard_normal(32).astype(np.float32)
    return VectorStore("source", 1, {"sea": direction}, scale=20.0)


def test_vectors_are_the_targets_means_of_what_the_source_wrote(source, vectors, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "write_texts", lambda *_args, **_kwargs: WRITTEN)
    target = Loaded("target", tiny_gemma3(48), tiny_tokenizer(TEXTS, bos=True))
    made, fewest = relay(source, vectors, target, 2, ["sea"], kept=tmp_path / "kept.jsonl")
    of_concept, of_none = (mean_activations(target, 2, {"": WRITTEN[key]})[""][""].value for key in ("sea", ""))
    torch.testing.assert_close(made["sea"], of_concept - of_none)
    assert fewest == 2
    lines = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert lines == [{"concept": key, "text": text} for key, texts in WRITTEN.items() for text in texts]


def test_a_concept_of_which_nothing_was_written_is_refused_by_name(source, vectors, monkeypatch):
    monkeypatch.setattr(module, "write_texts", lambda *_args, **_kwargs: {"": ["a b"] * 3, "sea": ["a b"]})
    with pytest.raises(ValueError, match=r"source wrote nothing for .sea. at factor 0\.4; give a smaller factor"):
        relay(source, vectors, source, 2, ["sea"])


def test_the_source_writes_under_each_vector_and_without_and_again_the_same(source, vectors):
    options = {"texts": 6, "max_new_tokens": 12, "seed": 3}
    strong, again = (write_texts(source, vectors, ["sea"], factor=1.0, **options) for _ in range(2))
    none = write_texts(source, vectors, ["sea"], factor=0.0, **options)
    assert strong == again
    assert none["sea"] == none[""] == strong[""]
    assert strong["sea"] != strong[""]
    assert all(len(text.split()) > 1 for texts in strong.values() for text in texts)
    assert source.model.model.layers[1]._forward_hooks == {}


def test_padding_and_bos_of_a_prompt_are_not_steered(vectors, monkeypatch):
    source = Loaded("source", tiny_llama(32), tiny_tokenizer(TEXTS, bos=True))
    steered = []
    whole = Steerer.steering
    monkeypatch.setattr(
        Steerer, "steering", lambda self, rows, starts=None: steered.append((rows, starts)) or whole(self, rows, starts)
    )
    write_texts(source, vectors, ["sea"], texts=4, factor=1.0, max_new_tokens=2, seed=0)
    ((added, starts),) = [(rows, starts) for rows, starts in steered if len(rows) == 4]
    subjects = (shipped("tasks") / "data" / "subjects.txt").read_text().split("\n")[:4]
    prompts = [module.PROMPT.format(subject=subject) + "\n\n" for subject in subjects]
    lengths = sorted((len(source.tokenizer(prompt).input_ids) for prompt in prompts), reverse=True)
    assert starts.tolist() == [max(lengths) - length + 1 for length in lengths]
    assert added.shape == (4, 1, 32)
