"""Steering: vectors by name, the one hook, and the shared trunk."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from steered import make_arms, sharpened
from tiny import tiny_gemma2, tiny_gemma3, tiny_llama, tiny_qwen2, tiny_qwen3

from steer_bench.models.blocks import decoder_layers
from steer_bench.models.steered.steering import Steerer, Steering, VectorBank
from steer_bench.models.steered.trunk import shared_trunk
from steer_bench.vectors.arms import Arm, Arms

# ---------------------------------------------------------------------------------------------- steerings and vectors


def test_factor_zero_is_unsteered_whatever_the_arm():
    assert Steering("native", "m", "sea", 0) == Steering("linear", "", "law", 0.0) == Steering()
    assert not Steering("native", "m", "sea", 0).is_steered
    assert Steering("native", "", "sea", 0.1).is_steered
    assert Steering("native", "", "sea", -0.1).is_steered


@pytest.mark.parametrize("factor", [math.nan, math.inf, "1", None, True])
def test_a_factor_that_is_no_finite_number_is_refused(factor):
    with pytest.raises(ValueError, match="finite number"):
        Steering("native", "", "sea", factor)


def test_steering_from_a_request():
    given = {"arm": "linear", "source": "m", "concept": "sea", "factor": 1}
    assert Steering.from_mapping(given) == Steering("linear", "m", "sea", 1.0)
    assert Steering.from_mapping({}) == Steering()
    with pytest.raises(ValueError, match="unknown key 'facto'"):
        Steering.from_mapping({**given, "facto": 2})


def test_scaled_and_raw_strength():
    arms = make_arms(scale=3.0)
    vector = arms.find("native", "", "sea").astype(np.float64)
    steering = Steering("native", "", "sea", 0.5)
    scaled, raw = (VectorBank(arms, strength=strength).vector(steering) for strength in ("scaled", "raw"))
    np.testing.assert_allclose(scaled, 0.5 * 3.0 * vector / np.linalg.norm(vector), rtol=1e-6)
    np.testing.assert_allclose(raw, 0.5 * vector, rtol=1e-6)
    assert scaled.dtype == raw.dtype == torch.float32
    assert float(scaled.norm()) == pytest.approx(1.5)
    with pytest.raises(ValueError, match="scaled, raw"):
        VectorBank(arms, strength="loud")


def test_rows_of_a_batch():
    bank = VectorBank(make_arms())
    rows = bank.rows([Steering(), Steering("native", "", "law", 1.0), Steering("linear", "other", "sea", -2.0)])
    assert rows.shape == (3, 1, 32)
    assert not rows[0].any()
    assert torch.equal(rows[2, 0], -2 * bank.vector(Steering("linear", "other", "sea", 1.0)))


def test_digest_is_of_what_is_added_and_of_nothing_else():
    vector = np.arange(1, 5, dtype=np.float32)
    arms = Arms(
        "m",
        0,
        1.0,
        {(Arm("a"), "c"): vector, (Arm("b", source="s"), "c"): 7 * vector, (Arm("b", source="s"), "d"): -vector},
    )
    bank = VectorBank(arms)
    digest = bank.digest(Steering("a", "", "c", 1.0))
    assert digest == VectorBank(arms).digest(Steering("a", "", "c", 1))
    others = [Steering("a", "", "c", 2.0), Steering("b", "s", "d", 1.0), Steering()]
    assert len({digest, *map(bank.digest, others)}) == 4


@pytest.mark.parametrize(
    ("steering", "message"),
    [
        (Steering("nativ", "", "sea", 1.0), "unknown arm 'nativ' .*did you mean 'native'"),
        (Steering("native", "else", "sea", 1.0), "unknown source of arm 'native' 'else'"),
        (Steering("native", "", "seas", 1.0), "unknown concept 'seas'.*did you mean 'sea'"),
        (Steering("native", "", "zzz", 1.0), "there are: 'law', 'sea'"),
    ],
)
def test_unknown_names_say_what_there_is(steering, message):
    with pytest.raises(ValueError, match=message):
        VectorBank(make_arms()).vector(steering)


def test_a_zero_vector_has_no_direction_to_scale():
    arms = Arms("m", 0, 1.0, {(Arm("mean"), "c"): np.zeros(4, dtype=np.float32)})
    with pytest.raises(ValueError, match="no direction"):
        VectorBank(arms).vector(Steering("mean", "", "c", 1.0))


# ---------------------------------------------------------------------------------------------- the hook


class TupleBlock(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.extra = object()

    def forward(self, x):
        return x, self.extra


def rows_of(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None].expand(-1, 1, 2)


def test_each_row_gets_its_own_vector_from_its_own_start():
    block = torch.nn.Identity()
    steerer = Steerer(block)
    with steerer.steering(rows_of(1.0, 2.0, 3.0), torch.tensor([0, 2, 1])):
        first = block(torch.zeros(3, 3, 2))[..., 0]
        later = block(torch.zeros(3, 1, 2))[..., 0]  # a step with a KV cache: new tokens only
    assert first.tolist() == [[1, 1, 1], [0, 0, 2], [0, 3, 3]]
    assert later.tolist() == [[1], [2], [3]]
    assert steerer.calls == 2


def test_not_steering_returns_the_very_output():
    block = TupleBlock()
    steerer = Steerer(block)
    x = torch.zeros(1, 2, 2)
    out = block(x)
    assert out[0] is x
    assert steerer.calls == 0


def test_other_outputs_of_a_block_pass_through():
    block = TupleBlock()
    steerer = Steerer(block)
    with steerer.steering(rows_of(1.0)):
        hidden, extra = block(torch.zeros(1, 2, 2))
    assert extra is block.extra
    assert hidden.tolist() == [[[1, 1], [1, 1]]]


def test_the_block_s_own_output_is_not_written_to():
    block = torch.nn.Identity()
    steerer = Steerer(block)
    x = torch.zeros(1, 2, 2)
    with steerer.steering(rows_of(1.0)):
        block(x)
    assert not x.any()


def test_state_is_gone_after_an_exception():
    block = torch.nn.Identity()
    steerer = Steerer(block)
    with pytest.raises(RuntimeError, match="inside"), steerer.steering(rows_of(1.0), torch.tensor([1])):
        raise RuntimeError("inside")
    x = torch.zeros(4, 2, 2)
    assert block(x) is x


def test_several_samples_a_prompt_repeat_its_vector():
    block = torch.nn.Identity()
    steerer = Steerer(block)
    with steerer.steering(rows_of(1.0, 2.0), torch.tensor([0, 1])):
        out = block(torch.zeros(4, 2, 2))[..., 0]
        assert out.tolist() == [[1, 1], [1, 1], [0, 2], [0, 2]]
        with pytest.raises(RuntimeError, match="3 rows in the forward pass, steering prepared for 2"):
            block(torch.zeros(3, 2, 2))


def test_cast_once_after_the_factor_and_removed_for_good():
    block = torch.nn.Identity()
    steerer = Steerer(block)
    with steerer.steering(torch.full((1, 1, 2), 1.0 + 2**-12)):
        assert block(torch.zeros(1, 1, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
    steerer.remove()
    x = torch.zeros(1, 1, 2)
    with steerer.steering(rows_of(1.0)):
        assert block(x) is x


@pytest.mark.parametrize("make", [tiny_llama, tiny_gemma3])
def test_in_a_model_exactly_the_vector_is_added_once_a_pass(make):
    model = make()
    blocks = decoder_layers(model)
    steerer = Steerer(blocks[1])
    ids, added = torch.arange(3, 12).repeat(2, 1), torch.randn(2, 1, 32)
    plain = model(ids, output_hidden_states=True).hidden_states
    with steerer.steering(added, torch.tensor([1, 4])):
        steered = model(ids, output_hidden_states=True).hidden_states
    assert steerer.calls == 1
    assert torch.equal(steered[1], plain[1])  # after block 0
    change = steered[2] - plain[2]  # after block 1
    assert not change[0, :1].any()
    assert not change[1, :4].any()
    torch.testing.assert_close(change[0, 1:], added[0].expand(8, -1), atol=1e-5, rtol=0)
    torch.testing.assert_close(change[1, 4:], added[1].expand(5, -1), atol=1e-5, rtol=0)
    assert not torch.allclose(steered[3], plain[3])
    assert torch.equal(model(ids, output_hidden_states=True).hidden_states[-1], plain[-1])


# ---------------------------------------------------------------------------------------------- the shared trunk


def trunk_of(model, block, ids):
    caught = []
    handle = block.register_forward_hook(lambda _module, _args, output: caught.append(output))
    model(ids, use_cache=False)
    handle.remove()
    return caught[0]


MAKERS = {
    "llama": tiny_llama, "qwen2": tiny_qwen2, "qwen3": tiny_qwen3, "gemma2": tiny_gemma2,
    "gemma3": tiny_gemma3,
}  # fmt: skip


@pytest.mark.parametrize("layer", [0, 1, 3])
@pytest.mark.parametrize("family", MAKERS)
def test_shared_trunk_is_the_full_forward_pass(family, layer):
    """The text is longer than the sliding window (16) of the Gemma models."""
    model = sharpened(MAKERS[family]())
    blocks = list(decoder_layers(model))[: layer + 1]
    steerer = Steerer(blocks[-1])
    ids = torch.randint(3, 500, (1, 40), generator=torch.Generator().manual_seed(1))
    added = torch.randn(5, 1, 32, generator=torch.Generator().manual_seed(2)) * torch.arange(5.0)[:, None, None]
    starts = torch.ones(5, dtype=torch.long)
    with torch.inference_mode():
        with steerer.steering(added, starts):
            full = model(ids.expand(5, -1), use_cache=False).logits
        trunk = trunk_of(model, blocks[-1], ids)
        with shared_trunk(blocks, trunk), steerer.steering(added, starts):
            shared = model(ids.expand(5, -1), use_cache=False).logits
    assert full[0].std() > 0.5  # decisive logits: the comparison means something
    assert (full[0] - full[4]).abs().max() > 0.1
    torch.testing.assert_close(shared.log_softmax(-1), full.log_softmax(-1), atol=1e-5, rtol=0)


def test_blocks_of_the_trunk_are_not_computed_and_are_put_back():
    model = tiny_llama()
    blocks = list(decoder_layers(model))[:2]
    ids = torch.arange(3, 12)[None]
    plain = model(ids, use_cache=False).logits
    trunk, ran = trunk_of(model, blocks[-1], ids), []
    handles = [block.mlp.register_forward_hook(lambda *_: ran.append(1)) for block in decoder_layers(model)]
    with pytest.raises(RuntimeError, match="inside"), shared_trunk(blocks, trunk):  # noqa: PT012
        model(ids, use_cache=False)
        raise RuntimeError("inside")
    assert len(ran) == 2  # blocks 2 and 3
    for handle in handles:
        handle.remove()
    assert all("forward" not in block.__dict__ for block in blocks)
    assert torch.equal(model(ids, use_cache=False).logits, plain)


def test_trunk_of_a_block_that_returns_a_tuple():
    blocks = [TupleBlock(), TupleBlock()]
    steerer = Steerer(blocks[-1])
    extra = object()
    with shared_trunk(blocks, (torch.ones(1, 2, 2), extra)), steerer.steering(rows_of(1.0, 2.0)):
        hidden = torch.zeros(2, 2, 2)
        for block in blocks:
            hidden, other = block(hidden)
    assert hidden[..., 0].tolist() == [[2, 2], [3, 3]]
    assert other is extra
    assert "forward" not in blocks[0].__dict__
