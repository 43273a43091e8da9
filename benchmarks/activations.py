"""DiffMean of 32 concepts x 48 texts against the `steering-vectors` package (mean aggregator), and memory as texts grow.

The other side is measured on 2 concepts and multiplied. Needs: pip install steering-vectors

Run: python benchmarks/activations.py
"""

from common import arguments, compare, figure, grow, load_model, texts

from steer_bench.models.activations import mean_activations

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
        grow(
            f"DiffMean of {n} concepts x 48 texts",
            n * 48,
            lambda some=some: mean_activations(loaded, layer, some),
            given,
        )
    held = []
    for n in (1_000, 16_000):  # short texts: what is asked is whether anything is kept of each
        some = {"g": texts(n, words=8)}
        held.append(
            grow(f"mean activation of {n:,} texts", n, lambda some=some: mean_activations(loaded, layer, some), given)
        )
    figure("peak memory with 16,000 texts over that with 1,000, MB (to reach: under 50)", 16_000, held[1] - held[0])
