"""Choices: our own small multiple-choice task, `tasks/capability_choices.yaml`, and what makes a sample of it invalid.

    choices.jsonl -> questions -> log-likelihoods of the options -> right, wrong, or invalid

lm-eval takes the largest log-likelihood, and of NaN that is the first: a broken model would score the share of questions whose
first option is right. Here, and in the rows of a run's capability tasks, such a sample is invalid, counted and shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from steer_bench import shipped

Answers = Sequence[tuple[float, bool]]


def load(**_options: Any) -> Any:
    """The questions, as lm-eval's `custom_dataset` asks for them."""
    import datasets

    file = shipped("tasks") / "data" / "choices.jsonl"
    return datasets.DatasetDict({"test": datasets.Dataset.from_json(str(file))})


def rated(doc: Mapping[str, Any], answers: Answers) -> dict[str, float | None]:
    """acc: 1 where the right option has the largest log-likelihood, else 0; None where one of them is not finite.

    >>> rated({"answer": 1}, [(-3.0, False), (-1.0, True)]), rated({"answer": 0}, [(float("nan"), True), (-1.0, False)])
    ({'acc': 1.0, 'invalid': 0.0}, {'acc': None, 'invalid': 1.0})
    """
    values = [value for value, *_ in answers]
    if not all(map(math.isfinite, values)):
        return {"acc": None, "invalid": 1.0}
    return {"acc": float(max(range(len(values)), key=values.__getitem__) == doc["answer"]), "invalid": 0.0}


def mean_valid(values: Sequence[float | None]) -> float:
    """Mean over valid samples; NaN, which lm-eval prints, where there is none.

    >>> mean_valid([1.0, None, 0.0])
    0.5
    """
    valid = [value for value in values if value is not None]
    return math.fsum(valid) / len(valid) if valid else math.nan
