"""Generation under a sweep: against lm-eval's `steered` cell by cell, and against the plain `hf` model.

The sweep is 8 concepts x 3 arms x 4 factors x 4 prompts with 24 new tokens. The other side of the sweep is a loop over cells
with the model loaded once, measured on CELLS cells and multiplied.

Run: python benchmarks/generation.py [--model NAME] [--device cuda]
"""

import tempfile

import torch
from common import Steering, VectorBank, arguments, ask, compare, grow, prompts, random_arms, spec
from lm_eval.models.hf_steered import SteeredModel
from lm_eval.models.huggingface import HFLM

from steer_bench.harness.model import SteeredLM

CELLS = 4
SETTINGS = {"until": [], "max_gen_toks": 24, "do_sample": False}

if __name__ == "__main__":
    given = arguments(__doc__)
    names, arms, factors = [f"c{i}" for i in range(8)], ("native", "linear", "random"), (0.05, 0.1, 0.15, 0.2)
    bank = random_arms(given.model, names, arms)
    cells = [Steering(arm, "", name, factor) for arm in arms for name in names for factor in factors]
    lm = SteeredLM(arms=bank, batch_size="auto", **given.hf)
    asked = prompts(4)
    if lm.tokenizer.chat_template is not None:  # without it an instruct model ends many replies at once
        asked = [lm.apply_chat_template([{"role": "user", "content": prompt}]) for prompt in asked]
    jobs = [ask("generate_until", prompt, SETTINGS, spec(cell)) for cell in cells for prompt in asked]

    def ours(requests=jobs):
        lm.records = type(lm.records)()  # nothing is remembered from one repeat to the next
        return lm.generate_until(requests, disable_tqdm=True)

    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        vector = VectorBank(bank).vector(cells[0])
        entry = {
            "steering_vector": vector,
            "steering_coefficient": 1.0,
            "action": "add",
            "bias": None,
            "head_index": None,
        }
        torch.save({f"layers.{bank.layer}": entry}, file.name)
        steered = SteeredModel(steer_path=file.name, batch_size=len(asked), **given.hf)
    added = steered.add

    def cell_by_cell():
        for cell in cells[:CELLS]:
            vector = VectorBank(bank).vector(cell).to(steered.device, steered.model.dtype)
            steered.hook_to_steer = {f"layers.{bank.layer}": lambda acts, v=vector: added(acts, v, None)}
            steered.generate_until([ask("generate_until", prompt, SETTINGS) for prompt in asked], disable_tqdm=True)

    replies = ours()
    full = sum(reply.n_tokens == SETTINGS["max_gen_toks"] for reply in replies)
    note = (
        f"{full} of {len(replies)} replies are 24 tokens long, {sum(reply.n_tokens for reply in replies)} tokens in all"
    )
    compare(
        "sweep of 8 concepts x 3 arms x 4 factors x 4 prompts, 24 new tokens, against lm-eval's `steered` in one process",
        ours, cell_by_cell, given, "4 times faster", times=len(cells) / CELLS, note=f"other side: {CELLS} of {len(cells)} cells, multiplied; {note}",
    )  # fmt: skip
    del steered
    hf = HFLM(batch_size=32, **given.hf)
    plain = [ask("generate_until", f"{prompt} ({i})", SETTINGS) for i in range(8) for prompt in asked]
    mixed = [ask("generate_until", r.args[0], SETTINGS, spec(cells[i * 3])) for i, r in enumerate(plain)]
    compare(
        "generation with another vector in every row, against plain `hf` at the same batch size (tokens a second, ours over theirs)",
        lambda: ours(mixed), lambda: hf.generate_until(plain, disable_tqdm=True), given, "at least 0.97",
        note="32 distinct prompts, so nothing is shared",
    )  # fmt: skip
    for n in (4, 16, 64):
        bank = random_arms(given.model, [f"c{i}" for i in range(n)], arms)
        lm = SteeredLM(arms=bank, batch_size="auto", **given.hf)
        some = [
            ask("generate_until", prompt, SETTINGS, spec(Steering(arm, "", f"c{i}", 0.1)))
            for i in range(n) for arm in arms for prompt in asked
        ]  # fmt: skip
        grow(
            f"replies under {n} concepts x 3 arms x 4 prompts, 24 new tokens",
            len(some),
            lambda some=some: ours(some),
            given,
        )
