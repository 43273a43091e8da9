"""Log-likelihood of 64 texts under 32 vectors at half depth, against 32 passes of the plain `hf` model.

The other side is one pass, multiplied by 32. Also: the share of the machine's own matrix-product peak that scoring reaches.

Run: python benchmarks/likelihood.py [--model NAME] [--device cuda]
"""

import json

from common import Steering, arguments, ask, compare, grow, peak, random_arms, spec, texts, timed
from lm_eval.models.huggingface import HFLM

from steer_bench.harness.model import SteeredLM
from steer_bench.models.device import keep_freed_memory

if __name__ == "__main__":
    given = arguments(__doc__)
    keep_freed_memory()  # as `steer-bench` and `lm_eval --model steer_bench` do
    names = [f"c{i}" for i in range(32)]
    bank = random_arms(given.model, names)
    lm, hf = SteeredLM(arms=bank, batch_size=32, **given.hf), HFLM(batch_size=32, **given.hf)
    chosen = texts(64)
    jobs = [
        ask("loglikelihood_rolling", text, spec(Steering("native", "", name, 0.1))) for text in chosen for name in names
    ]
    once = [ask("loglikelihood_rolling", text) for text in chosen]

    def ours(requests=jobs):
        lm.records = type(lm.records)()
        return lm.loglikelihood_rolling(requests, disable_tqdm=True)

    ours(jobs[:32])
    compare(
        "log-likelihood of 64 texts under 32 vectors at half depth, against 32 passes of `hf` (our time over theirs)",
        ours, lambda: hf.loglikelihood_rolling(once, disable_tqdm=True), given, "at most 0.6", times=32, of_ours=True,
        note="other side: 1 of 32 passes, multiplied",
    )  # fmt: skip
    for n in (1, 8, 64):
        some = [f"c{i}" for i in range(min(n, 32))]
        part = [ask("loglikelihood_rolling", t, spec(Steering("native", "", c, 0.1 * (1 + i // 32)))) for t in chosen[:16]
                for i, c in enumerate(some * (2 if n == 64 else 1))]  # fmt: skip
        grow(f"log-likelihood of 16 texts, {n} vectors a text", len(part), lambda part=part: ours(part), given)
    tokens = sum(len(lm.tok_encode(text)) for text in chosen)
    config = lm.model.config
    head = config.vocab_size * config.hidden_size
    blocks = sum(p.numel() for n, p in lm.model.named_parameters() if "layers" in n)
    done = config.num_hidden_layers - bank.layer - 1
    flops = 2 * tokens * 32 * (head + blocks * done / config.num_hidden_layers)
    del hf
    lm = SteeredLM(arms=bank, batch_size="auto", **given.hf)
    ours()
    seconds, best = min(timed(ours, given.device) for _ in range(given.repeats)), peak(given.torch_dtype, given.device)
    print(json.dumps({
        "what": "scoring: model FLOPs over the machine's matrix-product peak", "ratio": flops / seconds / best, "low": None, "high": None,
        "ours": flops / seconds / 1e9, "theirs": best / 1e9, "target": "0.5", "note": "columns in GFLOP/s; batch size auto, the best of the repeats",
        "model": given.model, "dtype": str(given.torch_dtype).removeprefix("torch."), "threads": given.threads, "device": given.device,
    }), flush=True)  # fmt: skip
