"""A twin under calibration: made, mapped to the model on true and on shuffled pairs, its vectors taken through, and gone."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steer_bench.experiment.calibration.bench import NATIVE, SHUFFLED_PAIRS, Bench, Vectors, cosine
from steer_bench.experiment.calibration.scoring import Job, score
from steer_bench.experiment.calibration.twins import rotated_twin
from steer_bench.models.load import Loaded
from steer_bench.models.tokens import encode
from steer_bench.results.rows import Row
from steer_bench.results.stats.grid import ArmKey
from steer_bench.transfer.adapters import load_adapter
from steer_bench.transfer.fits import FITS, transfer
from steer_bench.transfer.moments import MomentAccumulator, paired
from steer_bench.transfer.pairs import Fit, ModelSide, Pair


@dataclass(frozen=True)
class Twin:
    """What was found out with a twin, which itself is gone."""

    name: str
    logits: float
    """Largest difference of its logits from the model's, both computed in float64."""
    cosine: float
    """Smallest cosine of its vectors with Q v."""
    likelihood: float
    """Largest difference of a text's log-likelihood a token, twin steered by its own vector against model by its own."""
    arms: Mapping[ArmKey, Vectors]
    """Its vectors of the steered concepts through each map to the model."""
    refused: Mapping[str, str]
    """Adapters that could not be fitted on shuffled pairs, and why."""


@dataclass(frozen=True)
class Pairs:
    """Paired activations of a twin and the model."""

    x: Tensor
    """(n, d_model) of the twin"""
    y: Tensor
    """(n, d_model) of the model"""
    document: Tensor
    """(n,): number of the text"""

    def shuffled(self, seed: int) -> Pairs:
        """Every x with the y of another: y moves along one random cycle, so no pair is kept."""
        order = torch.randperm(len(self.y), generator=torch.Generator().manual_seed(seed))
        moved = torch.empty_like(self.y)
        moved[order] = self.y[order.roll(1)]
        return replace(self, y=moved)

    def pair(self, source: ModelSide, target: ModelSide, seed: int) -> Pair:
        """What maps are fitted on: every tenth text held out."""
        held = self.document % 10 == 9
        moments = []
        for part in (~held, held):
            accumulator = MomentAccumulator()
            accumulator.add(self.x[part], self.y[part])
            moments.append(accumulator.moments())
        samples = [(self.x[part], self.y[part]) for part in (~held, held)]
        last = torch.cat([self.document[1:] != self.document[:-1], torch.tensor([True])]) & ~held
        ends = self.x[last], self.y[last]
        return Pair(source, target, moments[0], moments[1], samples[0], samples[1], seed, ends)


def make_twin(bench: Bench, name: str, q: Tensor, adapters: Sequence[str], shuffled: Sequence[str] = ()) -> Twin:
    """Make a twin, fit maps from it to the model on true and on shuffled pairs, and take its vectors through them."""
    twin = Loaded(name, rotated_twin(bench.loaded.model, q), bench.loaded.tokenizer)
    pairs = _paired(bench, twin)
    false_pairs = pairs.shuffled(bench.seed)
    target = bench.side(bench.loaded.name, bench.vectors)
    network = None
    if "mlp" in shuffled:  # fitted before the vectors are had: it is activations that go through it
        network = _fit("mlp", false_pairs.pair(bench.side(name, {}), target, bench.seed))
    vectors, pushed = bench.extract(twin, network.map if network else None)
    source = bench.side(name, vectors)
    true_pair = pairs.pair(source, target, bench.seed)
    fits = {ArmKey(name, adapter): _fit(adapter, true_pair) for adapter in adapters}
    following = dict(zip(bench.fit, (*bench.fit[1:], *bench.fit[:1]), strict=True))
    others = {**vectors, **{concept: vectors[other] for concept, other in following.items()}}
    false_pair = false_pairs.pair(bench.side(name, others), target, bench.seed)
    refused = {}
    for adapter in shuffled:
        try:
            fitted = network if network and adapter == "mlp" else _fit(adapter, false_pair)
            fits[ArmKey(SHUFFLED_PAIRS, adapter)] = fitted
        except ValueError as error:
            refused[adapter] = str(error)
    tested = {concept: vectors[concept] for concept in bench.test}
    return Twin(
        name,
        _logit_difference(bench, q),
        min(cosine(q @ bench.vectors[concept], vectors[concept]) for concept in bench.vectors),
        _likelihood_difference(bench, twin, vectors),
        {arm: transfer(fitted.map, tested, pushed) for arm, fitted in fits.items()},
        refused,
    )


def _paired(bench: Bench, twin: Loaded) -> Pairs:
    found = list(paired(twin, bench.layer, bench.loaded, bench.layer, bench.map_texts, desc=f"pairs of {twin.name}"))
    documents = torch.cat([torch.full((len(x),), index) for index, x, _ in found])
    return Pairs(torch.cat([x.cpu() for _, x, _ in found]), torch.cat([y.cpu() for _, _, y in found]), documents)


def _fit(name: str, pair: Pair) -> Fit:
    """A shipped adapter with its own options; procrustes at full rank, since a rotation leaves no direction out."""
    adapter = load_adapter(name)
    options = {"ranks": (pair.source.d_model,)} if adapter.method == "procrustes" else adapter.options
    return FITS[adapter.method](pair, **options)


@torch.inference_mode()
def _logit_difference(bench: Bench, q: Tensor) -> float:
    """Largest over the neutral texts, of model and twin in float64 (on the CPU: not every device has it).

    In float32 rounding alone reaches 1e-3: the twin's massive dimensions are spread over all of its coordinates, and Gemma's
    are a thousand times the others. Norms and softmax of transformers compute in float32 all the same, which leaves 1e-4.
    """
    exact = copy.deepcopy(bench.loaded.model).to("cpu", torch.float64)
    twin = rotated_twin(exact, q)
    texts = [torch.tensor([encode(bench.loaded.tokenizer, text)]) for text in bench.scored[""]]
    return max(float((twin(ids).logits - exact(ids).logits).abs().max()) for ids in texts)


def _likelihood_difference(bench: Bench, twin: Loaded, vectors: Vectors) -> float:
    """Largest over the texts of one concept, twin and model each steered by its own vector at the largest factor."""
    concept, factor = bench.test[0], bench.sizes.factors[-1]
    jobs = [Job(NATIVE, concept, factor, "concept", i, text) for i, text in enumerate(bench.scored[concept])]
    mine = score(bench, bench.loaded, {NATIVE: {concept: bench.vectors[concept]}}, jobs)
    its = score(bench, twin, {NATIVE: {concept: vectors[concept]}}, jobs)
    return max(abs(_value(a) - _value(b)) for a, b in zip(mine, its, strict=True))


def _value(row: Row) -> float:
    assert row.value is not None
    return row.value
