"""Self-test: before a run's first steered batch, is steering what it says? Two prompts, about a second, on the model itself.

    factor 0 changes nothing; what is added is the vector, at the intended positions only, once a forward pass; the logits
    change at every decode step; with the KV cache the numbers are those without; padded rows are the rows alone; afterwards
    the model is as it was

A failure stops the run: SelfTestError says which of these does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from steer_bench.models.blocks import states_of
from steer_bench.models.padding import left_padded
from steer_bench.models.steered.decoding import cache_name
from steer_bench.models.steered.steering import Steerer, Steering, VectorBank
from steer_bench.models.tokens import encode
from steer_bench.vectors.store import unit

PROMPTS = ("The weather was calm that morning, and", "Write a sentence.")
STEPS = 3
"""Decode steps that are followed, after the prompt's own pass."""
NEAR = {torch.float32: 0.02, torch.float64: 0.02}
HALF = 0.5
"""Two ways to the same logits may differ by this share of what steering changes: rounding by up to 0.15, a fault by about 1."""
STRENGTH = 0.4
"""Factor of the test, whatever the run's: at a small one rounding in bfloat16 is as large as the effect."""


class SelfTestError(RuntimeError):
    """Steering does not do what it says on this model."""


@torch.inference_mode()
def self_test(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    block: torch.nn.Module,
    steerer: Steerer,
    bank: VectorBank,
    steering: Steering,
) -> None:
    """Raise SelfTestError unless `steering` works on `model`, whose hook `steerer` stands on `block`."""
    found = bank.arms.find(steering.arm, steering.source, steering.concept)
    row = torch.from_numpy(unit(found) * np.float32(math.copysign(STRENGTH * bank.arms.scale, steering.factor)))
    checks = _Checks(model, tokenizer, block, steerer, row[None, None])
    hooks = len(block._forward_hooks)
    before = checks.logits(checks.ids[0])
    for check in (
        checks.one_bos, checks.factor_0_changes_nothing, checks.adds_the_vector_once, checks.every_step_is_steered,
        checks.padded_rows_are_the_rows_alone,
    ):  # fmt: skip
        check()
    _require(torch.equal(checks.logits(checks.ids[0]), before), "steering is still there after it ended")
    _require(len(block._forward_hooks) == hooks, "a hook is left on the model")


@dataclass
class _Checks:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    block: torch.nn.Module
    steerer: Steerer
    row: Tensor
    """(1, 1, d_model): what is added."""

    def __post_init__(self) -> None:
        self.device = next(self.model.get_input_embeddings().parameters()).device
        self.ids = [encode(self.tokenizer, prompt) for prompt in PROMPTS]
        self.share = NEAR.get(self.model.dtype, HALF)

    def logits(self, ids: list[int]) -> Tensor:
        """Return those of the last positions, (n, vocab) float32."""
        given = torch.tensor([ids], device=self.device)
        return self.model(input_ids=given, use_cache=False).logits[0].float()

    def steered_logits(self, ids: list[int], row: Tensor | None = None, start: int = 0) -> Tensor:
        """Return the same with the vector, or `row`, on every position from `start` on."""
        with self.steerer.steering(self.row if row is None else row, torch.tensor([start])):
            return self.logits(ids)

    def one_bos(self) -> None:
        bos = self.tokenizer.bos_token_id
        for ids in self.ids:
            _require(bos is None or ids.count(bos) <= 1, f"{ids.count(bos)} BOS tokens before a prompt")

    def factor_0_changes_nothing(self) -> None:
        ids = self.ids[0]
        plain = self.logits(ids)
        _require(bool(torch.isfinite(plain).all()), "the model's own logits are not finite")
        _require(
            torch.equal(self.steered_logits(ids, torch.zeros_like(self.row)), plain), "factor 0 changes the logits"
        )

    def adds_the_vector_once(self) -> None:
        """The block's output is its unsteered output plus the vector, from the first steered position on, to the bit."""
        ids, start, calls = self.ids[0], 2, self.steerer.calls
        plain = self._output(lambda: self.logits(ids))
        found = self._output(lambda: self.steered_logits(ids, start=start))
        expected = plain.clone()
        expected[:, start:] += self.row[0].to(plain.device, plain.dtype)
        _require(self.steerer.calls == calls + 1, f"{self.steerer.calls - calls} steerings in one forward pass")
        _require(torch.equal(found[:, :start], plain[:, :start]), "positions that should not be steered are changed")
        _require(torch.equal(found, expected), "what is added to the activations is not the vector, or not once")

    def every_step_is_steered(self) -> None:
        """A prompt and its first tokens, step by step with the cache: each step as in one pass without it."""
        for ids in self.ids:
            calls = self.steerer.calls
            with self.steerer.steering(self.row):
                given, steps = torch.tensor([ids], device=self.device), []
                past = {cache_name(type(self.model).forward): DynamicCache(config=self.model.config)}
                written: list[int] = []
                for _ in range(STEPS + 1):
                    steps.append(self.model(input_ids=given, use_cache=True, **past).logits[0, -1].float())
                    written.append(int(steps[-1].argmax()))
                    given = torch.tensor([written[-1:]], device=self.device)
            _require(self.steerer.calls == calls + STEPS + 1, "steering was not applied once in each decode step")
            whole = ids + written[:STEPS]
            plain = self.logits(whole)[-STEPS - 1 :]
            full = self.steered_logits(whole)[-STEPS - 1 :]
            for step, cached in enumerate(steps):
                change = _distance(full[step], plain[step])
                _require(change != 0, f"factor above 0 changes no logit at decode step {step}")
                if torch.isfinite(full[step]).all():  # a steering that overflows is found sample by sample
                    _require(
                        _distance(cached, full[step]) <= self.share * change,
                        f"with the KV cache the logits of decode step {step} are others than without",
                    )

    def padded_rows_are_the_rows_alone(self) -> None:
        """Both prompts in one left-padded batch, one of them steered."""
        ids, mask = left_padded(self.ids, self.tokenizer.pad_token_id or 0, self.device)
        padding = (mask == 0).sum(dim=1).tolist()
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        rows = torch.cat([torch.zeros_like(self.row), self.row])
        with self.steerer.steering(rows, torch.tensor([0, padding[1]])):
            found = self.model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=False)
        output = found.logits[:, -1].float()
        plain = [self.logits(row)[-1] for row in self.ids]
        alone = self.steered_logits(self.ids[1])[-1]
        if torch.isfinite(alone).all():
            change = _distance(alone, plain[1])
            _require(
                _distance(output[1], alone) <= self.share * change, "a steered row in a batch is not the row alone"
            )
            _require(_distance(output[0], plain[0]) <= self.share * change, "one row's steering reaches another row")

    def _output(self, run: Callable[[], object]) -> Tensor:
        """What the block gives, behind the steering hook: (1, n, d_model)."""
        caught: list[Tensor] = []
        handle = self.block.register_forward_hook(lambda _module, _args, output: caught.append(states_of(output)))
        try:
            run()
        finally:
            handle.remove()
        _require(len(caught) == 1, f"the steered block ran {len(caught)} times in one forward pass")
        return caught[0].clone()


def _distance(a: Tensor, b: Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b))


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise SelfTestError(
            f"self-test of steering failed: {what}; no number of this model can be believed. Try dtype=float32, or report it with "
            "the model's name and the versions that `steer-bench doctor` prints"
        )
