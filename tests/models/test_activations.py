"""Activations: what is read is what a plain forward pass computes; pairs have seen the same text; sums lose no digits."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_gemma3, tiny_llama, tiny_qwen2, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from steer_bench.models import activations
from steer_bench.models.activations import batches, centred_norm, layer_means, mean_activations, stream
from steer_bench.models.blocks import decoder_layers
from steer_bench.models.device import ON_CPU
from steer_bench.models.load import Loaded
from steer_bench.models.tokens import MAX_TOKENS, Tokens, ends_of, tokenize
from steer_bench.transfer.moments import MomentAccumulator, PairedMoments, paired, shared_ends

TEXTS = [
    "The sea was grey that morning, and the boats stayed in the harbour until the wind had gone down.",
    "She put the onions into the pan first 🙂 and then, café style, the garlic.",
    "In the second half the home side scored three times.\n\nNobody had expected it: 3–0!",
    "Two cups of flour, an egg.",
    "a",
]
LAYER = 2


def metaspace_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """As Llama 2's and Gemma's: spaces belong to the word after them, unknown characters fall back to bytes, BOS first."""
    specials = ["<pad>", "<bos>", "<eos>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    of_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    ascii_only = [text.encode("ascii", "ignore").decode() for text in texts]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=specials + of_bytes, show_progress=False)
    tokenizer.train_from_iterator(ascii_only, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    named = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named)


BYTES = tiny_tokenizer(TEXTS * 4)
BYTES_BOS = tiny_tokenizer(["the sea and the pan", *TEXTS[:1]], bos=True, vocab_size=300)
METASPACE = metaspace_tokenizer(TEXTS * 4)


@pytest.fixture(scope="module")
def llama() -> Loaded:
    return Loaded("llama", tiny_llama(32, n_layers=4, seed=1), BYTES)


@pytest.fixture(scope="module")
def gemma() -> Loaded:
    return Loaded("gemma", tiny_gemma3(48, n_layers=5, seed=2), METASPACE)


def plain(loaded: Loaded, text: str, layer: int = LAYER) -> torch.Tensor:
    """(n_tokens - 1, d_model) float64: block `layer`'s output for one text alone, by Hugging Face, without position 0."""
    ids = torch.tensor([loaded.tokenizer(text).input_ids])
    with torch.inference_mode():
        hidden = loaded.model(ids, output_hidden_states=True).hidden_states[layer + 1]
    return hidden[0, 1:].double()


def close(value: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(value, expected, atol=2e-5 * float(expected.abs().max()), rtol=0, check_dtype=False)


# ------------------------------------------------------------------------------------------------ tokens


@pytest.mark.parametrize("tokenizer", [BYTES_BOS, METASPACE], ids=["byte-level", "metaspace"])
def test_tokenize_gives_exactly_one_bos_also_where_the_text_begins_with_it(tokenizer):
    plain_text, begins = tokenize(Loaded("", None, tokenizer), ["The sea", "<bos>The sea"])
    for tokens in (plain_text, begins):
        assert tokens.ids.count(tokenizer.bos_token_id) == 1
        assert tokens.ids[0] == tokenizer.bos_token_id
        assert len(tokens.ids) == len(tokens.ends)
    assert begins.ends[-1] == plain_text.ends[-1] + len("<bos>")


def test_tokenize_adds_nothing_where_the_tokenizer_has_no_bos():
    (tokens,) = tokenize(Loaded("", None, BYTES), [TEXTS[0]])
    assert BYTES.decode(tokens.ids) == TEXTS[0]
    assert all(BYTES.decode(tokens.ids[: i + 1]) == TEXTS[0][:end] for i, end in enumerate(tokens.ends))


def test_long_texts_are_cut():
    (tokens,) = tokenize(Loaded("", None, BYTES), ["z 1" * 1000])
    assert len(tokens.ids) == MAX_TOKENS == 512


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 120))
def test_batches_hold_every_text_once_longest_first_within_the_budget(lengths, budget):
    made = list(batches(lengths, budget))
    order = [index for batch in made for index in batch]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in made)


# ------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize("make", [tiny_llama, tiny_gemma3, tiny_qwen2])
@pytest.mark.parametrize("layer", [0, 2])
def test_the_mean_is_over_the_hidden_states_of_a_plain_forward_without_position_0_and_padding(make, layer):
    loaded = Loaded("m", make(n_layers=4), METASPACE)
    groups = {"sea": TEXTS[:3], "pan": TEXTS[1:]}
    means = mean_activations(loaded, layer, groups)[""]
    for group, texts in groups.items():
        expected = torch.cat([plain(loaded, text, layer) for text in texts])
        assert means[group].n_tokens == len(expected)
        close(means[group].value, expected.mean(dim=0))
        assert means[group].value.dtype == torch.float64


def test_of_the_last_layer_the_block_s_output_is_read_before_the_final_norm(llama):
    mean = mean_activations(llama, 3, {"": TEXTS[:1]}, maps={"norm": llama.model.model.norm})["norm"][""]
    close(mean.value, plain(llama, TEXTS[0], 3).mean(dim=0))  # Hugging Face's last hidden state is normed


@pytest.mark.parametrize(("budget", "n_batches"), [(1, 5), (40, 4), (100_000, 1)])
def test_the_mean_does_not_depend_on_batches_or_order(llama, monkeypatch, budget, n_batches):
    expected = mean_activations(llama, LAYER, {"": TEXTS})[""][""]
    shapes = []
    monkeypatch.setattr(activations, "sizes", lambda _device: replace(ON_CPU, tokens=budget))
    handle = llama.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    mean = mean_activations(llama, LAYER, {"": TEXTS[::-1]})[""][""]
    handle.remove()
    assert len(shapes) == n_batches
    assert all(rows == 1 or rows * width <= budget for rows, width in shapes)
    assert mean.n_tokens == expected.n_tokens
    close(mean.value, expected.value)


def test_every_map_is_applied_to_each_activation_before_the_mean(llama):
    maps = {"square": torch.square, "first": lambda h: h[:, :1], "": lambda h: h}
    means = mean_activations(llama, LAYER, {"": TEXTS}, maps=maps)
    states = torch.cat([plain(llama, text) for text in TEXTS])
    close(means["square"][""].value, states.square().mean(dim=0))
    close(means["first"][""].value, states[:, :1].mean(dim=0))
    close(means[""][""].value, states.mean(dim=0))


def test_a_shared_text_is_run_once_and_counts_in_each_of_its_groups(llama):
    rows = []
    handle = llama.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: rows.extend(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    means = mean_activations(llama, LAYER, {"+": TEXTS[:3], "-": TEXTS[1:4], "twice": [TEXTS[0]] * 2})[""]
    handle.remove()
    assert len(rows) == 4
    assert means["twice"].n_tokens == 2 * len(plain(llama, TEXTS[0]))
    close(means["twice"].value, plain(llama, TEXTS[0]).mean(dim=0))


def test_blocks_after_the_layer_and_the_output_layer_are_not_run(llama):
    calls: Counter[object] = Counter()
    parts = {**dict(enumerate(decoder_layers(llama.model))), "head": llama.model.get_output_embeddings()}
    handles = [m.register_forward_pre_hook(lambda _m, _a, key=key: calls.update([key])) for key, m in parts.items()]
    mean_activations(llama, 1, {"": TEXTS[:4]})
    for handle in handles:
        handle.remove()
    assert calls == {0: 1, 1: 1}  # one batch


def hooks(loaded: Loaded) -> int:
    """Hooks of ours; those that Hugging Face's output_hidden_states leaves behind are not counted."""
    found = [hook for block in decoder_layers(loaded.model) for hook in block._forward_hooks.values()]
    return sum(hook.__module__.startswith(("steer_bench", __name__)) for hook in found)


def test_the_model_is_left_as_it_was_also_when_reading_is_given_up(llama):
    ids = torch.tensor([BYTES(TEXTS[0]).input_ids])
    with torch.inference_mode():
        before = llama.model(ids).logits
        reading = stream(llama, LAYER, tokenize(llama, TEXTS))
        next(reading)
        reading.close()
        torch.testing.assert_close(llama.model(ids).logits, before, atol=0, rtol=0)
    assert hooks(llama) == 0


def test_an_error_in_the_model_is_not_taken_for_the_end_of_the_reading(llama):
    def fail(_module, _args, _output):
        raise RuntimeError("out of memory, say")

    handle = decoder_layers(llama.model)[0].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        mean_activations(llama, LAYER, {"": TEXTS})
    handle.remove()
    assert hooks(llama) == 0


def test_activations_that_are_not_finite_are_refused():
    model = tiny_llama(n_layers=2)
    model.model.layers[0].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="broken, layer 1: activations are not finite; try dtype float32"):
        mean_activations(Loaded("broken", model, BYTES), 1, {"": TEXTS})


def test_a_group_with_nothing_to_read_is_refused_by_name(llama):
    with pytest.raises(ValueError, match=r"no token to read in the texts of \+sea"):
        mean_activations(llama, LAYER, {"+sea": ["a"], "-sea": TEXTS})  # "a" is one token, and the first is never read


def test_bfloat16_is_summed_in_float64(monkeypatch):
    loaded = Loaded("m", tiny_llama(n_layers=2).bfloat16(), BYTES)
    mean = mean_activations(loaded, 0, {"": TEXTS * 50})[""][""]
    # one text a batch: the same rounding as alone
    monkeypatch.setattr(activations, "sizes", lambda _: replace(ON_CPU, tokens=1))
    seen = [hidden[1:].double() for _, hidden in stream(loaded, 0, tokenize(loaded, TEXTS))]
    torch.testing.assert_close(mean.value, torch.cat(seen).mean(dim=0), atol=0.02, rtol=0.02)


# ------------------------------------------------------------------------------------------------ memory


class _Alive:
    """How many outputs of a block are alive at once."""

    def __init__(self, block) -> None:
        self.refs: list[weakref.ref] = []
        self.peak = 0
        self.handle = block.register_forward_hook(self)

    def __call__(self, _module, _args, output) -> None:
        self.refs.append(weakref.ref(output))
        self.peak = max(self.peak, self.now)

    @property
    def now(self) -> int:
        return sum(ref() is not None for ref in self.refs)


@pytest.mark.parametrize("n_texts", [20, 60])
def test_memory_does_not_grow_with_the_texts(llama, monkeypatch, n_texts):
    monkeypatch.setattr(activations, "sizes", lambda _: replace(ON_CPU, tokens=1))  # a text a pass
    alive = _Alive(decoder_layers(llama.model)[LAYER])
    mean_activations(llama, LAYER, {"": [f"{TEXTS[0]} {i}" for i in range(n_texts)]})
    alive.handle.remove()
    assert len(alive.refs) == n_texts
    assert alive.peak <= 2  # the batch that is read and the one before it
    assert alive.now == 0


@pytest.mark.parametrize("n_texts", [130, 200])
def test_pairing_holds_two_chunks_of_texts_at_most(llama, gemma, monkeypatch, n_texts):
    monkeypatch.setattr(activations, "sizes", lambda _: replace(ON_CPU, tokens=1))  # a text a pass
    alive, moments = _Alive(decoder_layers(llama.model)[LAYER]), MomentAccumulator()
    for _, x, y in paired(llama, LAYER, gemma, LAYER, [f"The sea {i}." for i in range(n_texts)]):
        moments.add(x, y)
    del x, y
    alive.handle.remove()
    assert len(alive.refs) == n_texts
    assert alive.peak <= 2 * 64
    assert alive.now == 0


# ------------------------------------------------------------------------------------------------ S


def test_centred_norm_by_hand(monkeypatch):
    # Norms per text: 1, 1, 5, 1 (median 1: 5 is the limit and stays) and 1, 1, 6 (6 is a sink and goes). Position 0 goes too.
    rows = {
        0: [[900, 900], [1, 0], [0, 1], [3, 4], [-1, 0]],
        1: [[0, 0], [1, 0], [0, -1], [6, 0]],
    }

    def fake(_loaded, _layer, _tokens):
        yield from ((i, [torch.tensor(states, dtype=torch.float32)]) for i, states in rows.items())

    monkeypatch.setattr(activations, "stream_layers", fake)
    monkeypatch.setattr(activations, "tokenize", lambda _loaded, texts: texts)
    # Left: (1,0) (0,1) (3,4) (-1,0) (1,0) (0,-1); mean (4/6, 4/6). Squared distances to it, times 9:
    # (1,0): 1+4=5   (0,1): 4+1=5   (3,4): 49+100=149   (-1,0): 25+4=29   (1,0): 5   (0,-1): 4+25=29
    # sorted 5 5 5 29 29 149: torch's median is the lower of the middle two, 5 / 9.
    assert centred_norm(None, 0, ["", ""]) == pytest.approx((5 / 9) ** 0.5, rel=1e-6)


def with_sink(loaded: Loaded, text: str, gain: float = 200.0) -> Loaded:
    """The model with a huge embedding for the tokens of `text`: they become attention sinks wherever they stand."""
    model = tiny_llama(32, n_layers=4, seed=1)
    ids = loaded.tokenizer(text, add_special_tokens=False).input_ids
    model.get_input_embeddings().weight[ids] *= gain
    return Loaded("sink", model, loaded.tokenizer)


def test_centred_norm_of_a_model_leaves_its_sinks_out(llama):
    sink = with_sink(llama, ",")
    texts = [TEXTS[0], TEXTS[3]]
    expected, left_out = [], 0
    for text in texts:
        states = plain(sink, text)
        norms = states.norm(dim=1)
        keep = norms <= 5 * norms.median()
        expected.append(states[keep])
        left_out += int((~keep).sum())
    assert left_out == 2  # the comma of either text
    states = torch.cat(expected)
    norm = float((states - states.mean(dim=0)).norm(dim=1).median())
    assert centred_norm(sink, LAYER, texts) == pytest.approx(norm, rel=1e-4)


# ------------------------------------------------------------------------------------------------ pairs


def test_of_the_tokens_of_one_character_only_the_last_has_read_it_and_a_space_put_in_front_has_read_nothing():
    (of_bytes,) = tokenize(Loaded("", None, BYTES), ["🙂 a"])
    (of_words,) = tokenize(Loaded("", None, METASPACE), ["🙂 a"])
    assert of_bytes.ends[-3:] == (1, 2, 3)  # the last of the emoji's bytes, " ", "a"
    assert not any(of_bytes.ends[:-3])  # however many tokens the other bytes make: that hangs on the trained merges
    assert of_words.ends == (0, 0, 0, 0, 0, 1, 3)  # <bos>, "▁", four bytes, "▁a"
    last = len(of_bytes.ends) - 1
    assert shared_ends(of_bytes, of_words) == ([last - 2, last], [5, 6])
    (of_words,) = tokenize(Loaded("", None, METASPACE), ["\n\na"])
    assert METASPACE.convert_ids_to_tokens(list(of_words.ids)) == ["<bos>", "▁", "\n\n", "a"]
    assert of_words.ends == (0, 0, 2, 3)  # the tokenizer's own offset of "▁" ends at 1


def test_special_tokens_at_the_end_neither_pair_nor_hide_the_token_before_them():
    assert ends_of([(0, 0), (0, 3), (3, 5), (0, 0)]) == (0, 3, 5, 0)
    assert shared_ends(Tokens((1, 5, 2), (0, 3, 0)), Tokens((1, 6, 2), (0, 3, 0))) == ([1], [1])


def test_tokens_that_start_but_do_not_end_together_are_no_pair():
    assert shared_ends(Tokens((0, 1), (0, 4)), Tokens((0, 1, 2), (0, 2, 5))) == ([], [])


WORDS = [
    "The",
    " sea",
    " was",
    " grey",
    ",",
    " 🙂",
    "🙂",
    "👩‍👩‍👧",
    " café",
    "é",
    "\n\n",
    "  ",
    "3–0",
    "z",
    " onions",
    "日本",
    "\t",
]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map("".join))
@settings(max_examples=examples(200), deadline=None)
@pytest.mark.parametrize(("first", "second"), [(BYTES, METASPACE), (BYTES, BYTES_BOS), (BYTES_BOS, METASPACE)])
def test_paired_tokens_have_read_exactly_the_same_text(first, second, text):
    sides = [tokenize(Loaded("", None, tokenizer), [text])[0] for tokenizer in (first, second)]
    ends, read = [], []
    for tokenizer, tokens, positions in zip((first, second), sides, shared_ends(*sides), strict=True):
        assert 0 not in positions
        ends.append([tokens.ends[position] for position in positions])
        read.append({_bare(tokenizer.decode(tokens.ids[: i + 1])): i for i in range(1, len(tokens.ids))})
        for position, end in zip(positions, ends[-1], strict=True):
            assert _bare(tokenizer.decode(tokens.ids[: position + 1])) == _bare(text[:end])
    assert ends[0] == ends[1] == sorted(set(ends[0]))
    both = {end for end in range(1, len(text) + 1) if all(_bare(text[:end]) in of_side for of_side in read)}
    assert set(ends[0]) - {1} == both - {1}  # none is missed; text[:1] may be the space that METASPACE drops


def _bare(text: str) -> str:
    return text.removeprefix("<bos>").removeprefix(" ")


def test_paired_yields_the_plain_activations_of_tokens_that_have_read_the_same_text(llama, gemma):
    seen = {}
    for i, x, y in paired(llama, LAYER, gemma, 3, TEXTS):
        assert i not in seen
        seen[i] = (x, y)
    assert sorted(seen) == [0, 1, 2, 3]  # "a" is one token for the first tokenizer, and that is never read

    def reads(loaded: Loaded, text: str) -> dict[str, int]:
        """Text read so far -> position of the last token that had read just that; position 0 left out."""
        ids = loaded.tokenizer(text).input_ids
        decoded = [
            loaded.tokenizer.decode(ids[: i + 1]).removeprefix("<bos>").removeprefix(" ") for i in range(len(ids))
        ]
        return {so_far: i for i, so_far in enumerate(decoded) if i > 0 and text.startswith(so_far)}

    for i, (x, y) in seen.items():
        ours, theirs = reads(llama, TEXTS[i]), reads(gemma, TEXTS[i])
        both = sorted(ours.keys() & theirs.keys(), key=len)
        source = plain(llama, TEXTS[i])[[ours[text] - 1 for text in both]]
        target = plain(gemma, TEXTS[i], 3)[[theirs[text] - 1 for text in both]]
        assert len(both) > 5
        keep = torch.ones(len(both), dtype=torch.bool)
        for states in (source, target):
            norms = states.norm(dim=1)
            keep &= norms <= 5 * norms.median()
        close(x, source[keep])
        close(y, target[keep])


def test_a_token_that_is_a_sink_in_either_model_is_left_out_of_the_pairs(llama):
    sink = with_sink(llama, ",")
    commas = TEXTS[0].count(",")
    assert commas == 1
    ((_, all_x, _),) = paired(llama, LAYER, llama, LAYER, TEXTS[:1])
    ((_, x, sink_y),) = paired(llama, LAYER, sink, LAYER, TEXTS[:1])
    ((_, sink_x, y),) = paired(sink, LAYER, llama, LAYER, TEXTS[:1])
    assert len(all_x) == len(plain(llama, TEXTS[0]))
    assert len(x) == len(sink_x) == len(all_x) - commas
    torch.testing.assert_close(x, y, atol=1e-5, rtol=0)
    torch.testing.assert_close(sink_x, sink_y, atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------ moments


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_moments_are_numpy_s_in_float64_whatever_the_batches_and_the_mean(mean):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4001, 5)) * [1, 2, 3, 1e-2, 10] + mean
    y = x[:, :3] @ rng.normal(size=(3, 4)) + rng.normal(size=(4001, 4)) + 3 * mean
    accumulator = MomentAccumulator()
    for start, end in [(0, 1), (1, 1000), (1000, 1017), (1017, 4001)]:
        accumulator.add(torch.from_numpy(x[start:end]), torch.from_numpy(y[start:end]))
    moments = accumulator.moments()
    together = np.cov(np.hstack([x, y]), rowvar=False, bias=True) * len(x)
    assert moments.n == 4001
    np.testing.assert_allclose(moments.source_mean, x.mean(axis=0), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(moments.target_mean, y.mean(axis=0), rtol=1e-11, atol=1e-12)
    scale = np.sqrt(np.outer(together.diagonal(), together.diagonal()))
    for found, expected in (
        (moments.source_source, np.s_[:5, :5]),
        (moments.source_target, np.s_[:5, 5:]),
        (moments.target_target, np.s_[5:, 5:]),
    ):
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found.numpy() / scale[expected], together[expected] / scale[expected], atol=1e-9)


def test_float32_activations_are_summed_in_float64():
    x = torch.full((200_000, 1), 0.1)  # a float32 sum of these is off in the fourth digit
    x[::2] += 1
    accumulator = MomentAccumulator()
    for part in x.split(1000):
        accumulator.add(part, part)
    moments = accumulator.moments()
    exact = x.double().numpy()
    np.testing.assert_allclose(moments.source_mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.source_source, [[exact.var() * len(exact)]], rtol=1e-12)


def test_reversed_moments_are_those_of_the_pairs_the_other_way():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, 3, generator=rng), torch.randn(50, 2, generator=rng)
    there, back = MomentAccumulator(), MomentAccumulator()
    there.add(x, y)
    back.add(y, x)
    swapped, expected = there.moments().reversed(), back.moments()
    assert isinstance(swapped, PairedMoments)
    assert swapped.n == expected.n
    for name in ("source_mean", "target_mean", "source_source", "source_target", "target_target"):
        torch.testing.assert_close(getattr(swapped, name), getattr(expected, name), atol=1e-12, rtol=1e-12)


def test_no_pairs_at_all_is_an_error():
    with pytest.raises(ValueError, match="share no pairs"):
        MomentAccumulator().moments()


def test_several_layers_in_one_pass_are_what_each_alone_gives(llama, monkeypatch):
    passes = []
    run = llama.model.forward
    monkeypatch.setattr(llama.model, "forward", lambda *args, **kwargs: passes.append(1) or run(*args, **kwargs))
    groups = {"+": TEXTS[:3], "-": TEXTS[1:4]}
    found = layer_means(llama, [0, 2, 3], groups)
    together, passes[:] = len(passes), []
    assert list(found) == [0, 2, 3]
    for layer, means in found.items():
        alone = mean_activations(llama, layer, groups)[""]
        for group, mean in means.items():
            assert torch.equal(mean.value, alone[group].value)
            assert mean.n_tokens == alone[group].n_tokens
    assert len(passes) == 3 * together


@pytest.mark.parametrize("layers", [[], [2, 1], [1, 1]])
def test_layers_out_of_order_are_refused(llama, layers):
    with pytest.raises(ValueError, match="each once, ascending"):
        layer_means(llama, layers, {"": TEXTS})
