"""Exported vectors in the tools they are for: the same log-likelihoods as ours, and the real packages where they can be had."""

import sys

import numpy as np
import pytest
import torch
from lm_eval.models.hf_steered import SteeredModel
from steered import TEXTS, likelihoods, make_arms, tiny_pair
from tiny import save_tiny

from steer_bench.harness.model import SteeredLM
from steer_bench.vectors.convert import convert

PAIRS = [(" ".join(text.split()[:3]), " " + " ".join(text.split()[3:])) for text in TEXTS if len(text.split()) > 3]


@pytest.fixture
def target(tmp_path):
    """A tiny Llama's folder and its arms file."""
    folder = save_tiny(tmp_path / "model", *tiny_pair("llama"))
    arms = make_arms()
    arms.save(tmp_path / "arms.safetensors")
    return folder, tmp_path / "arms.safetensors"


def ours(folder, arms, factor=0.8, **options):
    lm = SteeredLM(
        folder, arms=str(arms), arm="native", concept="sea", factor=factor, positions="all", device="cpu", batch_size=4, **options
    )  # fmt: skip
    values = [value for value, _ in likelihoods(lm, PAIRS)]
    lm.steerer.remove()
    return values


def test_lm_evals_steered_model_says_the_same_under_the_exported_file(target, tmp_path):
    folder, arms = target
    file = convert(arms, "lm-eval", tmp_path / "v.pt", arm="native", concept="sea", factor=0.8)
    theirs = SteeredModel(folder, steer_path=str(file), device="cpu", batch_size=4)
    assert ours(folder, arms) == pytest.approx([value for value, _ in likelihoods(theirs, PAIRS)], abs=1e-4)


@pytest.mark.slow
def test_repeng_says_the_same_under_its_own_export_and_under_ours(target, tmp_path, monkeypatch):
    """`pip install --no-deps repeng==0.4.0`; its saes.py names a NumPy type that NumPy 2 has not."""
    monkeypatch.setattr(np, "float_", np.float64, raising=False)
    repeng = pytest.importorskip("repeng")
    folder, arms = target
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def theirs(vector):
        model = repeng.ControlModel(AutoModelForCausalLM.from_pretrained(folder), [1])
        model.set_control(vector)
        tokenizer, values = AutoTokenizer.from_pretrained(folder), []
        for context, continuation in PAIRS:
            ids = tokenizer(context + continuation, return_tensors="pt").input_ids
            n = len(tokenizer(context).input_ids)
            with torch.no_grad():
                logs = model(ids).logits[0].log_softmax(-1)
            values.append(float(sum(logs[i - 1, ids[0, i]] for i in range(n, ids.shape[1]))))
        return values

    exported = convert(arms, "gguf", tmp_path / "ours.gguf", arm="native", concept="sea", factor=0.8)
    steered = ours(folder, arms)
    assert theirs(repeng.ControlVector.import_gguf(exported)) == pytest.approx(steered, abs=1e-3)

    direction = np.random.default_rng(3).standard_normal(32).astype(np.float32)
    repeng.ControlVector("llama", {1: direction}).export_gguf(tmp_path / "theirs.gguf")
    imported = convert(
        tmp_path / "theirs.gguf", "arms", tmp_path / "theirs.safetensors", concept="sea", model=str(folder), layer=1, scale=1.0
    )  # fmt: skip
    raw = ours(folder, imported, factor=1.0, strength="raw")
    assert raw == pytest.approx(theirs(repeng.ControlVector("llama", {1: direction})), abs=1e-3)
    assert raw != pytest.approx(steered, abs=1e-1)
    assert "repeng" in sys.modules
