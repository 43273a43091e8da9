"""What a number depends on is in the key of lm-eval's cache and of the records, and a batch changes no number."""

import dataclasses

import pytest
from steered import TEXTS, likelihoods, make_arms, replies, steered_lm, tiny_pair

ARMS = make_arms()
CHANGES = {
    "strength": {"strength": "raw"},
    "scale": {"arms": dataclasses.replace(ARMS, scale=5.0)},
    "layer": {"arms": dataclasses.replace(ARMS, layer=2)},
    "vectors": {"arms": make_arms(seed=1)},
    "positions": {"positions": "all"},
    "default": {"arm": "native", "concept": "sea", "factor": 0.5},
    "length": {"max_length": 99},
    "seed": {"seed": 1},
    "softmax": {"softmax_dtype": "float64"},
    "thoughts": {"think_end_token": "</think>"},
}


def key(model, tokenizer, **options):
    lm = steered_lm(model, tokenizer, **{"arms": ARMS, **options})
    lm.set_cache_hook(type("Hook", (), {"dbdict": type("Data", (dict,), {"commit": lambda _: None})()})())
    lm.steerer.remove()
    return lm.fingerprint


def test_whatever_changes_a_number_changes_the_key_of_lm_evals_cache():
    model, tokenizer = tiny_pair("llama")
    keys = {"as it is": key(model, tokenizer)} | {
        name: key(model, tokenizer, **change) for name, change in CHANGES.items()
    }
    keys["weights"] = key(tiny_pair("llama", seed=1)[0], tokenizer)
    keys["config"] = key(tiny_pair("llama", rms_norm_eps=0.01)[0], tokenizer)
    model.generation_config.repetition_penalty = 1.3
    keys["generation"] = key(model, tokenizer)
    tokenizer.chat_template = "{{ messages }}"
    keys["template"] = key(model, tokenizer)
    assert len(set(keys.values())) == len(keys)
    assert keys["as it is"] == key(*tiny_pair("llama"), batch_size=2)  # which changes no number


ROPE = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
    "longrope": {
        "rope_type": "longrope", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 24,
        "long_factor": [9.0, 5.0, 3.0, 2.0], "short_factor": [1.0] * 4,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ROPE)
def test_rows_of_a_model_that_scales_by_the_batch_have_the_numbers_of_each_alone(kind):
    model, tokenizer = tiny_pair("llama", rope_parameters=ROPE[kind])
    model.config.max_position_embeddings = 24
    model.model.rotary_emb.max_seq_len_cached = model.model.rotary_emb.original_max_seq_len = 24
    pairs = [("The sea", " was grey"), (TEXTS[0], TEXTS[2] * 2), ("She", " put the onions"), (TEXTS[3], TEXTS[4])]
    together = likelihoods(steered_lm(model, tokenizer, max_length=256), pairs)
    for pair, found in zip(reversed(pairs), reversed(together), strict=True):
        assert likelihoods(steered_lm(model, tokenizer, max_length=256, batch_size=1), [pair])[0] == found


def test_repeats_of_a_sampled_request_are_draws_of_their_own_in_a_sweep():
    lm = steered_lm(*tiny_pair("llama", seed=3), ARMS)
    plain = replies(lm, [("The sea",)] * 4, do_sample=True, temperature=2.0)
    lm.pool.steerings = (lm.default,)
    pooled = replies(lm, [("The sea",)] * 4, do_sample=True, temperature=2.0)
    assert len(set(pooled)) > 1
    assert pooled == plain
