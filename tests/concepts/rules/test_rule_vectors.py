"""Rule vectors on a real model: DiffMean of rewritten texts makes SmolLM2 obey, natively, at a perplexity ratio below 2."""

import json
import math

import pytest

from steer_bench import shipped
from steer_bench.concepts.load import load_texts
from steer_bench.concepts.rules.table import RULES, rule_concept

NAMES = ("all-lower-case", "exclamation", "emoji", "question")
FACTOR, TOKENS, LAYER = 0.4, 32, 15


@pytest.mark.real
@pytest.mark.slow
def test_vectors_of_four_rules_raise_rule_following_by_0_3_at_a_ratio_below_2():
    from steered import replies, rolling, steer

    from steer_bench.harness.model import SteeredLM
    from steer_bench.models.activations import centred_norm, mean_activations
    from steer_bench.models.load import load_model
    from steer_bench.vectors.arms import Arm, Arms

    data = shipped("tasks") / "data"
    texts = load_texts(data / "neutral.jsonl")
    loaded = load_model("smollm2-135m-instruct", dtype="float32", device="cpu")  # bfloat16: other replies on other CPUs
    concepts = {rule: rule_concept(RULES[rule], texts[:24]) for rule in NAMES}
    groups = {
        f"{side}{rule}": getattr(c, name)
        for rule, c in concepts.items()
        for side, name in (("+", "positives"), ("-", "negatives"))
    }
    means = mean_activations(loaded, LAYER, groups)[""]
    vectors = {
        (Arm("native"), rule): (means[f"+{rule}"].value - means[f"-{rule}"].value).float().numpy() for rule in NAMES
    }
    scale = centred_norm(loaded, LAYER, texts[:24])
    arms = Arms("smollm2", LAYER, scale, vectors)
    lm = SteeredLM(loaded.model, tokenizer=loaded.tokenizer, arms=arms, batch_size=32)

    held_out = [" ".join(text.split()[:32]) for text in texts[24:30]]
    instructions = [json.loads(line)["instruction"] for line in (data / "instructions.jsonl").read_text().splitlines()][
        ::3
    ]
    template = loaded.tokenizer.apply_chat_template
    prompts = [
        template([{"role": "user", "content": i}], tokenize=False, add_generation_prompt=True) for i in instructions
    ]

    # All rules in one batch, each row with its own vector: a step reads the weights once for 80 replies.
    steerings = [(), *((steer(concept=rule, factor=FACTOR),) for rule in NAMES)]
    written = replies(lm, [(prompt, *how) for how in steerings for prompt in prompts], max_gen_toks=TOKENS)
    scored = rolling(lm, [(text, *how) for how in steerings for text in held_out])
    plain, *steered = (written[i : i + len(prompts)] for i in range(0, len(written), len(prompts)))
    plain_scores, *steered_scores = (scored[i : i + len(held_out)] for i in range(0, len(scored), len(held_out)))

    def obeyed(rule, answers):
        return sum(RULES[rule].score(str(a), cut=a.n_tokens >= TOKENS) or 0.0 for a in answers) / len(answers)

    for rule, answers, scores in zip(NAMES, steered, steered_scores, strict=True):
        ratio = math.exp((sum(plain_scores) - sum(scores)) / sum(score.n_tokens for score in scores))
        gained = obeyed(rule, answers) - obeyed(rule, plain)
        assert gained >= 0.3, (rule, gained)
        assert ratio < 2, (rule, ratio)
