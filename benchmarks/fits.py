"""A linear map by its closed form, against Adam on an `nn.Linear`; and the time of the MLP's fit.

Pairs are drawn: y = x W + noise, W of a decaying spectrum, so that the best possible held-out error is known (1 a coordinate).
The other side runs EPOCHS of 100 epochs, and is multiplied; its error is that after EPOCHS, and told apart after 100 of a smaller fit.

Run: python benchmarks/fits.py [--pairs 50000]
"""

import torch
from common import arguments, compare, figure, grow

from steer_bench.transfer.moments import MomentAccumulator
from steer_bench.transfer.network import mlp
from steer_bench.transfer.pairs import ModelSide, Pair, ridge

EPOCHS, OF = 2, 100
BATCH = 256


def drawn(n: int, d_source: int, d_target: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, d_source), (n, d_target) float32: noise of variance 1 in every target coordinate"""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(d_source, d_target, generator=random) / d_source**0.5
    scales = torch.logspace(1, -1, d_source)
    x = torch.randn(n, d_source, generator=torch.Generator().manual_seed(seed + 1)) * scales
    noise = torch.randn(n, d_target, generator=torch.Generator().manual_seed(seed + 2))
    return x, x @ weight + noise


def pair_of(x: torch.Tensor, y: torch.Tensor) -> Pair:
    """A pair of models from activations, a tenth of them held out."""
    cut = len(x) - len(x) // 10
    sums = []
    for part in (slice(None, cut), slice(cut, None)):
        accumulator = MomentAccumulator()
        for a, b in zip(x[part].split(2048), y[part].split(2048), strict=True):
            accumulator.add(a, b)
        sums.append(accumulator.moments())
    sides = [ModelSide(name, {}, (), part.shape[1]) for name, part in (("source", x), ("target", y))]
    return Pair(sides[0], sides[1], sums[0], sums[1], (x[:cut], y[:cut]), (x[cut:], y[cut:]), 0)


def adam(x: torch.Tensor, y: torch.Tensor, epochs: int) -> torch.nn.Linear:
    """The usual way: Adam at 1e-3 on batches of BATCH, mean squared error."""
    layer = torch.nn.Linear(x.shape[1], y.shape[1])
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            (layer(x[part]) - y[part]).pow(2).mean().backward()
            optimizer.step()
    return layer


def error(predicted: torch.Tensor, y: torch.Tensor) -> float:
    return float((predicted - y).pow(2).mean())


if __name__ == "__main__":
    given = arguments(__doc__)
    given.torch_dtype = torch.float32
    for n, d_source, d_target, epochs, of in ((50_000, 2304, 4096, EPOCHS, OF), (10_000, 256, 512, OF, OF)):
        given.repeats = 1 if n == 50_000 else 3
        x, y = drawn(n, d_source, d_target)
        cut, fits = n - n // 10, {}

        def ours(x=x, y=y, fits=fits):
            fits["ours"] = ridge(pair_of(x, y)).map

        def theirs(x=x[:cut], y=y[:cut], fits=fits, epochs=epochs):
            torch.manual_seed(0)
            fits["theirs"] = adam(x, y, epochs)

        given.model = "drawn"
        line = compare(
            f"linear fit, {n} pairs, width {d_source} to {d_target}, sums of products and 5 strengths included, against Adam for {of} epochs",
            ours, theirs, given, "20 times faster", times=of / epochs, note=f"other side: {epochs} of {of} epochs" + (", multiplied" if of > epochs else ""),
        )  # fmt: skip
        with torch.no_grad():
            for name, fitted in fits.items():
                what = f"held-out error, width {d_source} to {d_target}, {name}{f' after {epochs} epochs' if name == 'theirs' else ''}; 1 is the noise"
                figure(what, n - cut, error(fitted(x[cut:]), y[cut:]))
        del x, y, fits
    x, y = drawn(55_556, 640, 640)
    pair = pair_of(x, y)
    report: dict = {}
    grow("MLP fit, 50,000 pairs, width 640", 50_000, lambda: report.update(mlp(pair).report), given)
    figure("epochs of that fit", report["n"], report["epochs"])
