"""What the tests of the steered model share: models with decisive logits, arms, and lm-eval requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tiny import tiny_gemma3, tiny_llama, tiny_tokenizer

from steer_bench.harness.model import SteeredLM
from steer_bench.vectors.arms import Arm, Arms, ArmsCard

TEXTS = (
    "The sea was grey that morning, and the boats stayed in the harbour until the wind had gone down.",
    "She put the onions into the pan first.",
    "In the second half the home side scored three times, which nobody who had seen the first half expected.",
    "The court adjourned at noon; the witness had still not been found, and the judge was plainly tired of waiting.",
    "Two cups of flour, an egg.",
    "A comet that comes back every seventy years is a good thing to tell a child about.",
)
PROMPTS = ("Tell me a story about", "Write", "What is the best way to cook rice?", "The sea was grey and")


def sharpened(model: Any, gain: float = 12.0) -> Any:
    """The model with larger output weights: log-likelihoods and greedy tokens then depend on every block."""
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(gain)
    return model


def tiny_pair(family: str, **options: Any) -> tuple[Any, Any]:
    """(model, tokenizer): a Llama whose tokenizer adds no BOS, or a Gemma 3 whose tokenizer adds one."""
    tokenizer = tiny_tokenizer(TEXTS * 4, bos=family == "gemma3")
    make = {"llama": tiny_llama, "gemma3": tiny_gemma3}[family]
    return sharpened(make(**options)), tokenizer


def make_arms(
    d_model: int = 32,
    *,
    layer: int = 1,
    scale: float = 4.0,
    entries: Sequence[tuple[str, str]] = (("native", ""), ("linear", "other")),
    concepts: Sequence[str] = ("sea", "law"),
    seed: int = 0,
    card: ArmsCard | None = None,
    sha256: str = "",
) -> Arms:
    """Arms with random vectors of different norms."""
    random = np.random.default_rng(seed)
    vectors = {
        (Arm(arm, source=source), concept): (random.standard_normal(d_model) * random.uniform(1, 5)).astype(np.float32)
        for arm, source in entries
        for concept in concepts
    }
    return Arms("tiny", layer, scale, vectors, card or ArmsCard(), sha256)


def steered_lm(model: Any, tokenizer: Any, arms: Arms | None = None, **options: Any) -> SteeredLM:
    return SteeredLM(pretrained=model, tokenizer=tokenizer, arms=arms, **{"batch_size": 8, **options})


def hf_lm(model: Any, tokenizer: Any, **options: Any) -> HFLM:
    return HFLM(pretrained=model, tokenizer=tokenizer, **{"batch_size": 8, **options})


def steer(arm: str = "native", concept: str = "sea", factor: float = 1.0, source: str | None = None) -> dict[str, Any]:
    """The third argument of a request."""
    source = ("other" if arm == "linear" else "") if source is None else source
    return {"steer": {"arm": arm, "source": source, "concept": concept, "factor": factor}}


def ask(kind: str, *arguments: Any) -> Instance:
    """A request of one of lm-eval's three kinds."""
    return Instance(kind, {}, arguments, 0)


def likelihoods(lm: Any, pairs: Sequence[tuple[Any, ...]]) -> list[tuple[float, bool]]:
    return lm.loglikelihood([ask("loglikelihood", *pair) for pair in pairs])


def rolling(lm: Any, texts: Sequence[tuple[Any, ...]]) -> list[float]:
    return lm.loglikelihood_rolling([ask("loglikelihood_rolling", *text) for text in texts])


def replies(lm: Any, prompts: Sequence[tuple[Any, ...]], **settings: Any) -> list[str]:
    """(prompt,) or (prompt, steering): all with the same settings."""
    settings = {"until": [], "max_gen_toks": 8, "do_sample": False, **settings}
    return lm.generate_until([ask("generate_until", prompt, settings, *rest) for prompt, *rest in prompts])
