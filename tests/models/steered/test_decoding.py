"""Decoding: our loop gives the tokens of `generate`, a step in fixed memory those of a growing cache; other attention is left alone."""

import threading

import pytest
import torch
from steered import PROMPTS, make_arms, replies, sharpened, steer, steered_lm, tiny_pair
from tiny import tiny_llama
from transformers import AttentionInterface
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from steer_bench.models.load import Loaded
from steer_bench.models.steered.attention import NAME, grouped_attention, grouped_heads
from steer_bench.models.steered.cuda_graph import FixedStep, GraphStep, why_not
from steer_bench.models.steered.decoding import ROOM, PreallocatedLayer, RowSteering, greedy, new_cache, read_prompts
from steer_bench.models.steered.generator import Generator
from steer_bench.models.steered.model import SteeredModel
from steer_bench.models.steered.requests import ReplySettings
from steer_bench.models.steered.steering import Steering, VectorBank

FAMILIES = ("llama", "gemma3")
MIXED = [
    Steering("native", "", "sea", 1.0),
    Steering("linear", "other", "law", 2.0),
    Steering("native", "", "law", 0.5),
    Steering(),
    Steering("linear", "other", "sea", -1.0),
    Steering("linear", "other", "law", 1.0),
]


def steered(family: str) -> SteeredModel:
    return SteeredModel(Loaded("tiny", *tiny_pair(family)), VectorBank(make_arms()), batch_size=8)


@pytest.fixture(params=FAMILIES)
def model(request) -> SteeredModel:
    return steered(request.param)


def batch_of(model: SteeredModel, steerings: list[Steering]) -> dict:
    prompts = [model.encode(prompt) for prompt in PROMPTS[: len(steerings)]]
    starts = torch.ones(len(prompts), dtype=torch.long)
    steering = RowSteering(model.steerer, model.bank.rows(steerings), starts, model.blocks)
    return {"prompts": prompts, "pad": 0, "device": "cpu", "steering": steering}


def written(model: SteeredModel, call: dict, **options) -> list[list[int]]:
    with torch.inference_mode():
        read = read_prompts(model.model, **call)
        return [tokens for tokens, _ in greedy(read, **{"is_finished": lambda _: False, **options})]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_new_tokens", [1, 9, 24])  # 24 goes past the sliding window of the Gemma
def test_our_greedy_loop_gives_the_tokens_of_generate_whatever_finishes_when(family, max_new_tokens):
    model = steered(family)
    generator, plain = Generator(model), ReplySettings((), max_new_tokens)
    rows = [generator.row(model.encode(prompt), plain, steering) for prompt in PROMPTS for steering in MIXED]
    every = [tokens for tokens, _ in generator.by_generate(rows, plain)]
    common = {reply[len(reply) // 2] for reply in every[::5]}  # these end some replies early and others not at all
    model.model.generation_config.eos_token_id = sorted(common | {2})
    with torch.inference_mode():
        theirs, ours = generator.by_generate(rows, plain), generator.greedily(rows, plain)
        assert ours == theirs
        assert max_new_tokens == 1 or len({len(tokens) for tokens, _ in ours}) > 1
        model.model.generation_config.eos_token_id = [2]
        stopped = ReplySettings(("e",), max_new_tokens)  # a stop string: both end a row at the token that holds it
        assert generator.by_generate(rows, stopped) == generator.greedily(rows, stopped)
    assert all("e" not in reply.text for reply in generator.generate_rows(rows, stopped))


def test_a_sampled_reply_ends_at_its_stop_string_whatever_else_its_batch_writes():
    model = steered("llama")
    settings = ReplySettings(("e",), 24, sampling='{"temperature": 1.0}')
    replies = Generator(model).generate([model.encode(p) for p in PROMPTS], settings, perplexity=True)
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        alone = Generator(SteeredModel(model.loaded, batch_size=1)).generate([prompt], settings, perplexity=True)[0]
        assert (alone.text, alone.n_tokens) == (reply.text, reply.n_tokens)
        assert alone.perplexity == pytest.approx(reply.perplexity, rel=1e-4)
    assert len({reply.n_tokens for reply in replies}) > 1


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_in_fixed_memory_give_the_tokens_of_a_growing_cache_for_one_batch_after_another(family):
    model = steered(family)
    graph, given = GraphStep(model.model, model.steerer), []
    options = {"max_new_tokens": 9, "is_finished": lambda reply: reply[-1] % 7 == 0}
    if family == "gemma3":  # its window is shorter than any fixed memory
        model.model.config.sliding_window = 512
    for factors in ((0.5, 2.0, -1.0), (1.0, 0.0, 3.0)):
        call = batch_of(model, [Steering("native", "", "sea", factor) for factor in factors])
        plain = written(model, call, **options)
        assert written(model, call, faster=lambda *a: given.append(graph.step(*a)) or given[-1], **options) == plain
    assert graph.refused == ""
    assert given[0] is given[1] is not None  # the same step for other vectors and factors


def test_a_fixed_step_that_is_wrong_or_cannot_be_had_is_left_out_with_the_reason(model, caplog, monkeypatch):
    call = batch_of(model, [Steering()] * 4) | {"steering": None}
    monkeypatch.setattr(FixedStep, "__call__", lambda self, tokens: self._forward() * 1.2)
    graph = GraphStep(model.model, None)
    model.model.config.sliding_window = 512
    assert written(model, call, max_new_tokens=5, faster=graph.step) == written(model, call, max_new_tokens=5)
    assert "its logits differ from the plain step's" in graph.refused
    assert caplog.text.count("decoding without a captured step") == 1
    assert "not less than the sliding window of 16" in why_not(new_cache(tiny_pair("gemma3")[0]), 64)


def test_rows_without_finite_logits_say_nothing_about_a_fixed_step(model):
    model.model.config.sliding_window = 512
    graph, made = GraphStep(model.model, model.steerer), []
    for bad in (range(4), [0], []):
        call = batch_of(model, [Steering()] * 4)
        call["steering"].added[list(bad)] = float("nan")
        plain = written(model, call, max_new_tokens=3)
        faster = lambda *a: made.append(graph.step(*a)) or made[-1]  # noqa: E731
        assert written(model, call, max_new_tokens=3, faster=faster) == plain
    assert graph.refused == ""
    assert [found is not None for found in made] == [False, True, True]


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_on_a_gpu_steps_are_one_graph_for_all_vectors_and_replies_are_those_without(family):
    model, tokenizer = tiny_pair(family)
    model.config.sliding_window = 512
    lm = steered_lm(model.to("cuda"), tokenizer, make_arms())
    jobs = [(prompt, steer(factor=factor)) for factor in (0.5, 2.0, -1.0) for prompt in PROMPTS]
    with_graph = replies(lm, jobs)
    assert lm.generator.graph.refused == ""
    assert lm.generator.graph.kept.graph is not None
    other = steered_lm(lm.model, lm.tokenizer, make_arms())
    other.generator.__dict__["graph"] = None
    lm.steerer.remove()
    assert replies(other, jobs) == with_graph


def test_a_cache_with_room_holds_what_transformers_own_holds_and_copies_only_new_tokens():
    ours, theirs = PreallocatedLayer(), DynamicLayer()
    random = torch.Generator().manual_seed(0)

    def step(rows: int, tokens: int) -> None:
        keys, values = torch.randn(2, rows, 2, tokens, 4, generator=random)
        for found, expected in zip(ours.update(keys, values), theirs.update(keys, values), strict=True):
            assert torch.equal(found, expected)

    step(3, 5)
    step(3, 1)
    place = ours.keys.data_ptr()
    step(3, 2)
    assert ours.keys.data_ptr() == place
    for layer in (ours, theirs):
        layer.batch_select_indices(torch.tensor([2, 0]))
    step(2, 1)
    for layer in (ours, theirs):
        layer.crop(-2)
    step(2, ROOM + 3)
    step(2, ROOM + 3)
    assert ours.get_seq_length() == theirs.get_seq_length() == 5 + 1 + 2 + 1 - 2 + 2 * (ROOM + 3)


@pytest.mark.parametrize("masked", [False, True])
def test_heads_that_share_keys_attend_as_one_with_the_same_result(masked):
    module = torch.nn.Module()
    module.num_key_value_groups, module.is_causal = 3, True
    query, key, value = torch.randn(4, 6, 1, 8), torch.randn(4, 2, 9, 8), torch.randn(4, 2, 9, 8)
    mask = torch.arange(9)[None, None, None] >= torch.arange(4)[:, None, None, None] if masked else None
    expected, _ = AttentionInterface()["sdpa"](module, query, key, value, mask, scaling=0.3)
    found, _ = grouped_attention(module, query, key, value, mask, scaling=0.3)
    assert found.shape == expected.shape == (4, 1, 6, 8)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_decoding_changes_attention_for_no_other_model_nor_thread():
    model = steered("llama")
    other = sharpened(tiny_llama(seed=3))
    table, ids = dict(ALL_ATTENTION_FUNCTIONS._global_mapping), torch.arange(3, 12)[None]
    expected, seen, names = other(ids).logits, [], []

    def look(*_):
        """What stands in transformers' table while a step of the decoding model runs, as another thread sees it."""
        names.append(model.model.config._attn_implementation)
        thread = threading.Thread(
            target=lambda: seen.append(
                (ALL_ATTENTION_FUNCTIONS._global_mapping == table, other.config._attn_implementation, other(ids).logits)
            )
        )
        thread.start()
        thread.join()

    model.model.register_forward_pre_hook(look)
    Generator(model).generate([model.encode(PROMPTS[0])], ReplySettings((), 3))
    assert NAME in names
    assert all(same and name == "sdpa" and torch.equal(logits, expected) for same, name, logits in seen)
    assert model.model.config._attn_implementation == "sdpa"
    model.model.config._attn_implementation = "eager"
    with grouped_heads(model.model):  # what is not sdpa is left alone
        assert model.model.config._attn_implementation == "eager"
