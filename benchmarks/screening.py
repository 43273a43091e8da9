"""Screening 1,000 vectors on 64 texts: the time in plain passes over the same texts, and how well it ranks.

The bank is made of differences between activations of texts, as real steering vectors are. Run: python benchmarks/screening.py
"""

import torch
from common import arguments, figure, load_model, texts, timed, told

from steer_bench.models.activations import centred_norm, stream
from steer_bench.models.steered.screening import _Lifts, screen
from steer_bench.models.tokens import tokenize

if __name__ == "__main__":
    given = arguments(__doc__)
    loaded = load_model(given.model, dtype=given.dtype, device=given.device)
    layer = loaded.model.config.num_hidden_layers // 2
    chosen, pool = texts(64), texts(200, words=24)[64:]
    means = torch.stack([h[1:].mean(0).cpu() for _, h in stream(loaded, layer, tokenize(loaded, pool))])
    scale, random = centred_norm(loaded, layer, pool[:40]), torch.Generator().manual_seed(0)
    pairs = torch.stack([torch.randperm(len(means), generator=random)[:2] for _ in range(1000)])
    bank = torch.nn.functional.normalize(means[pairs[:, 0]] - means[pairs[:, 1]], dim=1)

    # a plain pass: the whole model over the same texts, with the log-likelihood of every token
    def plain():
        lifts = _Lifts(loaded, layer, chosen)
        try:
            return lifts.value(None)
        finally:
            lifts.steerer.remove()

    for points, target in ((1, "at most 6"), (3, "at most 6, by choice")):
        passes, times = [], []
        for _ in range(given.repeats):
            passes.append(timed(plain, given.device))
            times.append(
                timed(
                    lambda n=points: screen(loaded, layer, chosen, 0.1 * scale * bank, top=1, sample=0, points=n),
                    given.device,
                )
            )
        told(
            f"screening of 1,000 vectors on 64 texts, {points} gradient{'s' * (points > 1)}, in plain passes over the texts",
            times, passes, given, target, note="two exact values included", of_ours=True,
        )  # fmt: skip
    for factor in (0.05, 0.1, 0.15, 0.3):
        for points in (1, 3):
            found = screen(loaded, layer, chosen[:16], factor * scale * bank, points=points, top=1, sample=24)
            figure(
                f"rank correlation of {points}-gradient screening with the exact lifts at factor {factor}, 16 texts",
                24,
                found.correlation,
            )
