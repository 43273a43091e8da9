"""The steered model: every row its own steering, and the same numbers as lm-eval's `hf` and `steered` where they are right."""

import json
import re

import pytest
import torch
from lm_eval.models.hf_steered import SteeredModel
from steered import PROMPTS, TEXTS, ask, hf_lm, likelihoods, make_arms, replies, rolling, steer, steered_lm, tiny_pair
from tiny import save_tiny

from steer_bench.harness.answers import LogLikelihood, ReplyText, RollingLogLikelihood
from steer_bench.harness.model import SteeredLM
from steer_bench.models.load import check_model, load_model
from steer_bench.models.steered.likelihood import token_scores
from steer_bench.models.steered.steering import Steering
from steer_bench.vectors.arms import Arm, Arms, ArmsCard, Dose

FAMILIES = ("llama", "gemma3")
MIXED = [
    steer(),
    steer("linear", "law", 2.0),
    steer("native", "law", 0.5),
    steer(factor=0.0),
    steer("linear", factor=-1.0),
]
PAIRS = [(text[:12], text[12:], MIXED[i % len(MIXED)]) for i, text in enumerate(TEXTS * 2)]


def score_rows(lm, pairs):
    """The rows of (context, continuation, steering), as the scorer takes them."""
    return [  # tokens by lm-eval's own rule: white space at the end of a context belongs to the continuation
        lm.scorer.row(*lm._encode_pair(context, continuation), Steering.from_mapping(steering["steer"]))
        for context, continuation, steering in pairs
    ]


@pytest.fixture(params=FAMILIES)
def lm(request):
    return steered_lm(*tiny_pair(request.param), make_arms())


def test_log_likelihoods_of_mixed_steering_in_one_batch_are_those_of_each_row_alone(lm, request):
    together = likelihoods(lm, PAIRS)
    for pair, (value, greedy) in zip(PAIRS, together, strict=True):
        fresh = steered_lm(lm.model, lm.tokenizer, make_arms(), batch_size=1)
        (alone,) = likelihoods(fresh, [pair])
        assert value == pytest.approx(alone[0], abs=5e-5)
        assert greedy == alone[1]
        fresh.steerer.remove()


def test_replies_of_mixed_steering_in_one_left_padded_batch_are_those_of_each_row_alone(lm):
    jobs = [(prompt, steering) for prompt in PROMPTS for steering in MIXED]
    together = replies(lm, jobs)
    fresh = steered_lm(lm.model, lm.tokenizer, make_arms(), batch_size=1)
    lm.steerer.remove()
    assert together == [replies(fresh, [job])[0] for job in jobs]
    assert len(set(together)) > len(PROMPTS)  # steering does change replies


def test_every_step_with_the_cache_is_the_full_forward_pass_under_the_same_steering(lm):
    for prompt, steering in [(PROMPTS[0], MIXED[0]), (PROMPTS[2], MIXED[1])]:
        (reply,) = replies(lm, [(prompt, steering)])
        ids = lm.tok_encode(prompt)
        spec = Steering.from_mapping(steering["steer"])
        start = torch.tensor([lm.steered.start(len(ids))])
        for _ in range(8):
            with torch.no_grad(), lm.steerer.steering(lm.bank.rows([spec]), start if start.any() else None):
                ids = [*ids, int(lm.model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())]
            if ids[-1] in lm.generator.stop_ids():
                ids = ids[:-1]
                break
        assert reply == lm.tok_decode(ids[len(lm.tok_encode(prompt)) :])


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_on_a_gpu_are_those_on_a_cpu(family):
    model, tokenizer = tiny_pair(family)
    lm = steered_lm(model, tokenizer, make_arms())
    on_cpu = likelihoods(lm, PAIRS)
    lm.steerer.remove()
    on_gpu = likelihoods(steered_lm(model.to("cuda"), tokenizer, make_arms()), PAIRS)
    for (value, greedy), (other, same) in zip(on_cpu, on_gpu, strict=True):
        assert other == pytest.approx(value, abs=1e-3)
        assert same == greedy


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_of_equal_largest_logits_the_first_is_greedy(device):
    logits = torch.tensor([[1.0, 3.0, 3.0], [1.0, 3.0, 3.0], [3.0, 1.0, 3.0], [1.0, 2.0, 0.0]], device=device)
    scores = token_scores(logits, torch.tensor([1, 2, 0, 0], device=device))
    assert scores.greedy.tolist() == [True, False, True, False]


def test_a_text_under_many_steerings_is_tokenised_once(lm, monkeypatch):
    seen = []
    monkeypatch.setattr("steer_bench.models.steered.model.encode", lambda _, text: seen.append(text) or [1, 5, 6, 7])
    rolling(lm, [(text, steering) for steering in MIXED for text in TEXTS])
    assert sorted(seen) == sorted(set(TEXTS))


def test_a_prompt_goes_through_the_blocks_before_the_steering_once(lm):
    likelihoods(lm, [("The self", " test", steer())])  # its passes are not the ones counted here
    rows = []
    mlp = lm.steered.blocks[0].mlp  # within the first block: not run where the block is skipped
    handle = mlp.register_forward_pre_hook(lambda _module, args: rows.append(args[0].shape[0]))
    late = list(lm.model.model.layers)[-1].register_forward_pre_hook(lambda _m, args: rows.append(-args[0].shape[0]))
    replies(lm, [(PROMPTS[0], steering) for steering in MIXED if steering != steer(factor=0.0)], max_gen_toks=1)
    handle.remove()
    late.remove()
    assert rows == [1, -len(MIXED) + 1]


def test_texts_of_a_batch_share_trunks_and_are_scored_as_by_the_full_pass(lm):
    pairs = [(text[:9], text[9:], steering) for text in TEXTS for steering in MIXED if steering != steer(factor=0.0)]
    rows = score_rows(lm, pairs)
    for (value, greedy, *_), (full, same, *_) in zip(lm.scorer.on_trunk(rows), lm.scorer.padded(rows), strict=True):
        assert value == pytest.approx(full, rel=1e-5, abs=1e-5)
        assert greedy == same
    assert lm.steerer.calls == 2  # one pass each: what was added is added once


def test_answers_of_one_token_are_read_off_one_pass_a_steering(lm):
    likelihoods(lm, [("The self", " test", steer())])  # its passes are not the ones counted here
    rows = []
    letters = ["q", "x", "z", "w"]
    assert {score.n_tokens for score in lm.scorer.score([("The sea", letter) for letter in letters])} == {1}
    jobs = [("The sea", letter, steer(factor=factor)) for letter in letters for factor in (1.0, 2.0)]
    handle = list(lm.model.model.layers)[-1].register_forward_pre_hook(lambda _m, args: rows.append(args[0].shape[0]))
    together = likelihoods(lm, jobs)
    handle.remove()
    assert rows == [2]
    fresh = steered_lm(lm.model, lm.tokenizer, make_arms())
    for job, (value, greedy) in zip(jobs, together, strict=True):
        alone = likelihoods(fresh, [job])[0]
        lm.steerer.remove()
        assert value == pytest.approx(alone[0], abs=5e-5)
        assert greedy == alone[1]


def test_what_generate_needs_settings_for_is_left_to_generate(lm):
    assert lm.generator.is_plain
    lm.model.generation_config.repetition_penalty = 1.3
    fresh = steered_lm(lm.model, lm.tokenizer)
    assert not fresh.generator.is_plain
    assert replies(fresh, [(PROMPTS[0],)]) == replies(hf_lm(lm.model, lm.tokenizer), [(PROMPTS[0],)])


def test_one_text_under_different_steering_in_one_call_gets_different_values(lm):
    values = [value for value, _ in likelihoods(lm, [(TEXTS[0][:9], TEXTS[0][9:], steering) for steering in MIXED])]
    assert len(set(values)) == len(MIXED)


@pytest.mark.parametrize("family", FAMILIES)
def test_unsteered_is_hf_to_the_bit(family):
    model, tokenizer = tiny_pair(family)
    pairs = [(text[:12], text[12:]) for text in TEXTS]
    ours, hf = steered_lm(model, tokenizer, make_arms()), hf_lm(model, tokenizer)
    assert [tuple(answer) for answer in likelihoods(ours, pairs)] == likelihoods(hf, pairs)
    zero = [(*pair, steer(factor=0.0)) for pair in pairs]
    assert [tuple(answer) for answer in likelihoods(ours, zero)] == likelihoods(hf, pairs)
    prompts = [(prompt,) for prompt in PROMPTS]
    assert replies(ours, prompts) == replies(hf, prompts)
    if family == "llama":  # where the tokenizer adds a BOS, hf's rolling windows hold two
        assert rolling(ours, [(text,) for text in TEXTS]) == rolling(hf, [(text,) for text in TEXTS])


def test_rolling_scores_a_text_after_exactly_one_bos():
    model, tokenizer = tiny_pair("gemma3")
    ours = steered_lm(model, tokenizer)
    ids = tokenizer(TEXTS[0]).input_ids
    assert ids.count(tokenizer.bos_token_id) == 1
    with torch.no_grad():
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = sum(float(logs[i, token]) for i, token in enumerate(ids[1:]))
    (value,) = rolling(ours, [(TEXTS[0],)])
    assert value == pytest.approx(expected, abs=1e-3)
    assert value.n_tokens == len(ids) - 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_rolling_request_is_steered_as_the_text_is_after_an_empty_context(family):
    model, tokenizer = tiny_pair(family)
    ours = steered_lm(model, tokenizer, make_arms())
    steered, plain = rolling(ours, [(TEXTS[0], steer(factor=1.0)), (TEXTS[0],)])
    assert abs(steered - plain) > 0.1
    if family == "gemma3":  # a rolling window and an empty context begin with the same BOS
        ((value, _),) = likelihoods(ours, [("", TEXTS[0], steer(factor=1.0))])
        assert steered == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_constant_vector_is_lm_evals_own_steered_model(family, tmp_path):
    model, tokenizer = tiny_pair(family)
    path, arms = save_tiny(tmp_path / "model", model, tokenizer), make_arms()
    arms.save(tmp_path / "arms.safetensors")
    lm = SteeredLM(
        path, arms=str(tmp_path / "arms.safetensors"), arm="linear", source="other", concept="sea", factor=1.5,
        positions="all", device="cpu", batch_size=8,
    )  # fmt: skip
    added = lm.bank.vector(lm.default)
    entry = {"steering_vector": added, "steering_coefficient": 1.0, "action": "add", "bias": None, "head_index": None}
    torch.save({f"layers.{arms.layer}": entry}, tmp_path / "steer.pt")
    theirs = SteeredModel(path, steer_path=str(tmp_path / "steer.pt"), device="cpu", batch_size=8)
    pairs = [(text[:12], text[12:]) for text in TEXTS]
    for (ours, _), (other, _) in zip(likelihoods(lm, pairs), likelihoods(theirs, pairs), strict=True):
        assert ours == pytest.approx(other, abs=1e-4)


def test_equal_text_with_another_split_keeps_its_own_positions(lm):
    text = TEXTS[0]
    pairs = [(text[:8], text[8:]), (text[:40], text[40:])]
    together = likelihoods(lm, pairs)
    for pair, answer in zip(pairs, together, strict=True):
        fresh = steered_lm(lm.model, lm.tokenizer)
        assert answer[0] == pytest.approx(likelihoods(fresh, [pair])[0][0], abs=5e-5)


def test_bos_is_decided_for_each_text_alone():
    model, tokenizer = tiny_pair("gemma3")
    lm = steered_lm(model, tokenizer)
    mixed = [(tokenizer.bos_token + PROMPTS[0],), (PROMPTS[2],)]
    for order in (mixed, mixed[::-1]):
        fresh = steered_lm(model, tokenizer)
        assert replies(fresh, order) == [replies(lm, [job])[0] for job in order]
    assert lm.tok_encode(mixed[0][0]) == lm.tok_encode(PROMPTS[0])


def test_nothing_after_a_stop_token_is_left_in_a_batched_reply():
    model, tokenizer = tiny_pair("llama")
    lm = steered_lm(model, tokenizer)
    ids = torch.tensor([lm.tok_encode(PROMPTS[0])])
    tokens = model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :].tolist()
    at = next(i for i in range(1, 6) if tokens[i] not in tokens[:i])
    model.generation_config.eos_token_id = [2, tokens[at]]
    cut, other = replies(steered_lm(model, tokenizer), [(PROMPTS[0],), (PROMPTS[2],)], max_gen_toks=12)
    assert cut == tokenizer.decode(tokens[:at])
    assert other == replies(steered_lm(model, tokenizer), [(PROMPTS[2],)], max_gen_toks=12)[0]


def test_out_of_memory_halves_the_batch_and_changes_no_number(monkeypatch):
    model, tokenizer = tiny_pair("llama")
    expected = [tuple(answer) for answer in likelihoods(steered_lm(model, tokenizer), [pair[:2] for pair in PAIRS])]
    lm, whole, sizes = steered_lm(model, tokenizer), model.forward, []

    def small(*args, **kwargs):
        sizes.append((kwargs.get("input_ids") if not args else args[0]).shape[0])
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(*args, **kwargs)

    monkeypatch.setattr(model, "forward", small)
    for answer, before in zip(likelihoods(lm, [pair[:2] for pair in PAIRS]), expected, strict=True):
        assert answer[0] == pytest.approx(before[0], abs=1e-5)
    assert max(sizes[-3:]) <= 2  # remembered


def test_what_is_recorded_is_not_computed_again_and_another_vector_is(tmp_path, monkeypatch):
    model, tokenizer = tiny_pair("llama")
    first = steered_lm(model, tokenizer, make_arms(), records=str(tmp_path / "records.sqlite"))
    values, said = likelihoods(first, PAIRS), replies(first, [(PROMPTS[0], MIXED[0])])
    first.steerer.remove()
    calls = []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    again = steered_lm(model, tokenizer, make_arms(), records=str(tmp_path / "records.sqlite"))
    assert likelihoods(again, PAIRS) == values
    assert replies(again, [(PROMPTS[0], MIXED[0])]) == said
    assert not calls
    again.steerer.remove()
    other = steered_lm(model, tokenizer, make_arms(seed=1), records=str(tmp_path / "records.sqlite"))
    assert likelihoods(other, PAIRS[:1]) != values[:1]
    assert calls
    handle.remove()


def test_models_given_as_objects_share_no_records_though_they_state_one_name(tmp_path):
    (first, tokenizer), (second, _) = tiny_pair("llama"), tiny_pair("llama")
    with torch.no_grad():
        second.lm_head.weight.mul_(1.5)
    first.name_or_path = second.name_or_path = "some/model"
    found = [
        likelihoods(steered_lm(m, tokenizer, make_arms(), records=str(tmp_path / "r")), PAIRS) for m in (first, second)
    ]
    alone = [likelihoods(steered_lm(m, tokenizer, make_arms()), PAIRS) for m in (first, second)]
    assert found == alone
    assert all(one[0] != other[0] for one, other in zip(*found, strict=True))
    again = steered_lm(first, tokenizer, make_arms(), records=str(tmp_path / "r"))
    with torch.no_grad():
        first.lm_head.weight.zero_()  # the answers come from the records
    assert likelihoods(again, PAIRS) == found[0]


def test_a_cache_of_another_vector_file_is_refused():
    from types import SimpleNamespace

    class Store(dict):
        def commit(self):
            pass

    model, tokenizer = tiny_pair("llama")
    database = Store()
    hook = SimpleNamespace(dbdict=database, add_partial=lambda *_: None)
    arms = {seed: make_arms(seed=seed, sha256=str(seed)) for seed in (0, 1)}
    steered_lm(model, tokenizer, arms[0]).set_cache_hook(hook)
    steered_lm(model, tokenizer, arms[0]).set_cache_hook(hook)
    with pytest.raises(ValueError, match="another model, vector file"):
        steered_lm(model, tokenizer, arms[1]).set_cache_hook(hook)


def test_the_perplexity_of_a_reply_is_that_of_its_tokens_under_the_unsteered_model(lm):
    settings = {"until": [], "max_gen_toks": 6, "do_sample": False}
    wanted = {**MIXED[0], "perplexity": True}
    (reply,) = lm.generate_until([ask("generate_until", PROMPTS[2], settings, wanted)])
    assert isinstance(reply, ReplyText)
    prompt = lm.tok_encode(PROMPTS[2])
    tokens = lm.tokenizer(str(reply), add_special_tokens=False).input_ids
    if lm.tok_decode(tokens) != reply or len(tokens) != reply.n_tokens:
        pytest.skip("the reply's text does not give its tokens back in this tokenizer")
    with torch.no_grad():
        logs = lm.model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
    mean = sum(float(logs[len(prompt) - 1 + i, token]) for i, token in enumerate(tokens)) / len(tokens)
    assert reply.perplexity == pytest.approx(float(torch.tensor(-mean).exp()), rel=1e-3)


def test_answers_survive_pickling():
    import pickle

    answer = pickle.loads(pickle.dumps(LogLikelihood(-1.5, True, 3)))
    assert (tuple(answer), answer.n_tokens) == ((-1.5, True), 3)
    reply = pickle.loads(pickle.dumps(ReplyText("a", 2.0, 4)))
    assert (reply, reply.perplexity, reply.n_tokens, reply.invalid) == ("a", 2.0, 4, "")
    rolling = pickle.loads(pickle.dumps(RollingLogLikelihood(-6.0, 3, 0.5)))
    assert (rolling, rolling.n_tokens, rolling.kl) == (-6.0, 3, 0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arm": "linaer", "concept": "sea"}, "did you mean 'linear'"),
        ({"arm": "linear", "source": "other", "concept": "se"}, "did you mean 'sea'"),
        ({"positions": "some"}, "positions=some"),
        ({"layer": 3}, "layer=3"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_model_is_loaded(change, said, tmp_path):
    path = save_tiny(tmp_path / "m", *tiny_pair("llama"))
    (tmp_path / "m" / "model.safetensors").unlink()  # loading would fail
    make_arms().save(tmp_path / "arms.safetensors")
    with pytest.raises(ValueError, match=said):
        SteeredLM(path, arms=str(tmp_path / "arms.safetensors"), device="cpu", **change)
    make_arms(48).save(tmp_path / "wide.safetensors")
    with pytest.raises(ValueError, match="d_model 48"):
        SteeredLM(path, arms=str(tmp_path / "wide.safetensors"), device="cpu")


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "gemma-3-270m"])
def test_on_the_real_models_mixed_batches_are_rows_alone_and_the_trunk_is_the_full_pass(name):
    check_model(name)
    loaded = load_model(name, dtype="float32", device="cpu")
    width = loaded.model.config.hidden_size
    layer = loaded.model.config.num_hidden_layers // 2
    scale = 1300.0 if "gemma" in name else 110.0
    vectors = {
        (Arm("native"), concept): torch.randn(width, generator=torch.Generator().manual_seed(i)).numpy()
        for i, concept in enumerate(("sea", "law"))
    }
    arms = Arms(name, layer, scale, vectors, {})
    steerings = [steer(concept=c, factor=f) for c in ("sea", "law") for f in (0.1, 0.3)]
    pairs = [(text[:12], text[12:], s) for text in TEXTS[:3] for s in steerings]
    jobs = [(prompt, s) for prompt in PROMPTS[:3] for s in steerings[:3]]
    lm = SteeredLM(loaded.model, tokenizer=loaded.tokenizer, arms=arms, batch_size=6)
    together, said = likelihoods(lm, pairs), replies(lm, jobs)
    padded = lm.scorer.padded(score_rows(lm, pairs))
    for (value, _), (full, *_) in zip(together, padded, strict=True):
        assert value == pytest.approx(full, rel=1e-5, abs=1e-3)
    lm.steerer.remove()
    alone = SteeredLM(loaded.model, tokenizer=loaded.tokenizer, arms=arms, batch_size=1)
    for pair, (value, _) in zip(pairs[:4], together[:4], strict=True):
        assert value == pytest.approx(likelihoods(alone, [pair])[0][0], abs=2e-3)
    assert said == [replies(alone, [job])[0] for job in jobs]
    json.dumps(alone.get_model_info())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_both_sides_of_a_difference_are_computed_alike_so_that_a_factor_of_nothing_changes_nothing(dtype):
    """In bfloat16 `hf` takes the softmax in bfloat16: up to 0.02 nats a token off on a single text."""
    model, tokenizer = tiny_pair("llama")
    ours = steered_lm(model.to(dtype), tokenizer, make_arms())
    compared = [{**steer(factor=factor), "compared": True} for factor in (0.0, 1e-7)]
    for ask_, of_text in ((rolling, lambda text: (text,)), (likelihoods, lambda text: ("", text))):
        found = ask_(ours, [(*of_text(text), extra) for extra in compared for text in TEXTS])
        values = [value[0] if isinstance(value, tuple) else float(value) for value in found]
        plain, nothing = values[: len(TEXTS)], values[len(TEXTS) :]
        assert nothing == pytest.approx(plain, abs=1e-5)
        assert nothing != plain or dtype == torch.bfloat16


def test_damage_takes_the_place_of_a_factor_where_the_arms_have_the_dose():
    model, tokenizer = tiny_pair("llama")
    known = {"arm": "native", "source": "", "concept": "sea"}
    card = ArmsCard(
        doses=(Dose(**known, level=1.3, factor=0.7), Dose(**known, level=1.6, factor=None, reason="too weak"))
    )
    arms = make_arms(card=card)
    by_dose = steered_lm(model, tokenizer, arms, arm="native", concept="sea", damage=1.3)
    by_factor = steered_lm(model, tokenizer, arms, arm="native", concept="sea", factor=0.7)
    texts = [("", text) for text in TEXTS]
    assert likelihoods(by_dose, texts) == likelihoods(by_factor, texts)
    for damage, said in (
        (1.6, "does not reach damage 1.6 for concept 'sea': too weak"),
        (1.2, "no dose of 'native' for damage 1.2; there are: 1.3, 1.6"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            steered_lm(model, tokenizer, arms, arm="native", concept="sea", damage=damage)
    with pytest.raises(ValueError, match=r"damage=1\.3: give arm=… and concept=… with it, and no factor"):
        steered_lm(model, tokenizer, arms, arm="native", concept="sea", damage=1.3, factor=0.2)
