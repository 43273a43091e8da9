"""Replies with their ratings, for the tests of the page, and text that tries to be markup in every format."""

from collections.abc import Iterable

import numpy as np
from synthetic_rows import FACTORS, WITHOUT_SOURCE

from steer_bench.results.samples import Origin, Sample, Samples

WORDS = (
    "sea",
    "harbour",
    "boat",
    "wind",
    "law",
    "court",
    "judge",
    "night",
    "bread",
    "rain",
    "letter",
    "garden",
    "stone",
)
HOSTILE = (
    "<script>window.hacked=1</script></script><img src=x onerror=window.hacked=2>|`x`\n# y [z](javascript:alert(2)) "
    '" onerror="alert(3)" <!-- ]]> \x1b]0;title\x07\x1b[31m \u202etxet $a$ {{ 7*7 }} & \u2028 \''
)


def make_samples(
    run: str = "toy",
    *,
    target: str = "target-model",
    source: str = "source-model",
    arms: Iterable[str] = ("native", "linear", "identity", "random", "wrong-concept-0"),
    n_concepts: int = 3,
    n_prompts: int = 4,
    n_words: int = 30,
    text: str = "",
    seed: int = 0,
) -> Samples:
    """Every arm, concept, level of damage and prompt; `text` stands before each reply, prompt, description and judge's word."""
    rng = np.random.default_rng(seed)
    samples = []
    for concept in [f"c{index:02d}" for index in range(n_concepts)]:
        for item in range(n_prompts):
            keys = {"target": target, "concept": concept, "item": f"p{item}", "role": "score" if item % 2 else "select"}
            for arm in ("unsteered", *arms):
                for level in FACTORS if arm != "unsteered" else (0.0,):
                    said = f"{text}{arm} at {level:g} of {concept}: " + " ".join(rng.choice(WORDS, n_words))
                    unscored = arm == "linear" and item == 1 and level == 1.3
                    samples.append(
                        Sample(
                            task="concept_steering",
                            source="" if arm in (*WITHOUT_SOURCE, "unsteered") else source,
                            arm=arm,
                            factor=FACTORS.get(level, 0.0),
                            level=level,
                            prompt=f"{text}Tell me about number {item}.",
                            reply=said,
                            value=None if unscored else float(rng.uniform(0, 2)),
                            reason="parse" if unscored else "",
                            ratings={} if unscored else {"concept": 1.0, "instruction": 2.0, "fluency": 1.5},
                            words={"concept": f"{text}It speaks of {concept}.", "fluency": "Reads well."},
                            **keys,
                        )
                    )
    concepts = {
        f"c{index:02d}": Origin(
            f"{text}concept number {index}", "passage", (f"{text}A text that shows it.",), (f"{text}Not.",)
        )
        for index in range(n_concepts)
    }
    return Samples(run, "a judge", tuple(samples), concepts, len(samples))
