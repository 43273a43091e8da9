"""DiffMean of 32 concepts x 48 texts against the `steering-vectors` package (mean aggregator), and memory as texts grow.

The other side is measured on 2 concepts and multiplied. Needs: pip install steering-vectors

Run: python benchmarks/activations.py
"""

import json
import resource

from common import arguments, compare, load_model, texts, timed

from steer_bench.activations import mean_activations

if __name__ == "__main__":
    given = arguments(__doc__)
    loaded = load_model(given.model, dtype=given.dtype, device=given.device)
    layer = loaded.model.config.num_hidden_layers // 2
    from steering_vectors import train_steering_vector

    chosen = texts(32 * 48, words=24)
    groups = {
        f"{sign}{c}": chosen[c * 48 + side * 24 : c * 48 + side * 24 + 24]
        for c in range(32)
        for side, sign in enumerate("+-")
    }
    pairs = {c: list(zip(groups[f"+{c}"], groups[f"-{c}"], strict=True)) for c in range(2)}

    def theirs():
        for c in range(2):
            train_steering_vector(
                loaded.model, loaded.tokenizer, pairs[c], layers=[layer], batch_size=8, read_token_index=-1
            )

    compare(
        "DiffMean of 32 concepts x 48 texts, against the steering-vectors package", lambda: mean_activations(loaded, layer, groups),
        theirs, given, "2 times faster", times=16, note="other side: 2 of 32 concepts, multiplied; it reads one token a text, we read all",
    )  # fmt: skip
    for n in (4, 16, 64):
        some = {f"g{c}": texts(n * 48, words=24)[c * 48 : c * 48 + 48] for c in range(n)}
        seconds = timed(lambda some=some: mean_activations(loaded, layer, some), given.device)
        print(
            json.dumps({"growth": f"DiffMean of {n} concepts x 48 texts", "rows": n * 48, "seconds": seconds}),
            flush=True,
        )
    held = {}
    for n in (1_000, 16_000):  # short texts: what is asked is whether anything is kept of each
        some = {"g": texts(n, words=8)}
        mean_activations(loaded, layer, some)
        held[n] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    grown = held[16_000] - held[1_000]
    print(
        json.dumps(
            {
                "growth": "peak memory from 1,000 to 16,000 texts, MB more (to reach: under 50)",
                "rows": 16_000,
                "seconds": grown,
            }
        ),
        flush=True,
    )
