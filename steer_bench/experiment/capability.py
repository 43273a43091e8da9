"""Capability: any lm-eval tasks under chosen arms, in the process and with the model of the run; RUN/evaluation/TARGET/capability.jsonl.

unsteered, arms x concepts at one factor -> lm-eval -> samples -> rows
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steer_bench.experiment.config import CapabilityConfig
from steer_bench.files import write_whole
from steer_bench.harness.model import SteeredLM
from steer_bench.harness.sweep import sweep, task_manager
from steer_bench.models.steered.steering import Steering
from steer_bench.results.rows import Row

PREFERRED = ("acc", "exact_match", "prompt_level_strict_acc")
"""Metrics of a sample that go before others; else the first that is a number."""


def measure_capability(lm: SteeredLM, config: CapabilityConfig, concepts: list[str], file: Path, seed: int) -> None:
    """Run the tasks unsteered and under every chosen arm and concept, and write their rows, one JSON per line.

    concepts: those measured, in order. A sample with a log-likelihood that is not finite becomes a row without a value.
    """
    tasks = task_manager(config.tasks).load(list(config.tasks))
    pool, before = list(_steerings(lm, config, concepts)), (lm.default, lm.keep_non_finite)
    target = lm.bank.arms.target if lm.bank else lm.name
    rows: list[Row] = []
    try:
        lm.keep_non_finite = True
        for steering, results in sweep(lm, tasks, pool, limit=config.limit, log_samples=True, seed=seed):
            rows.extend(_rows(results, steering, target))
    finally:
        lm.default, lm.keep_non_finite, lm.pool.steerings = *before, ()
    write_whole(file, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def _steerings(lm: SteeredLM, config: CapabilityConfig, concepts: list[str]) -> Iterator[Steering]:
    yield Steering()
    known = list(lm.bank.arms.vectors) if lm.bank else []
    for arm in dict.fromkeys(arm for arm, _ in known):
        if config.arms is None or arm.name in config.arms:
            mine = {concept for other, concept in known if other == arm}
            for concept in [name for name in concepts if name in mine][: config.max_concepts]:
                yield Steering(arm.name, arm.source, concept, config.factor)


def _rows(results: Mapping[str, Any], steering: Steering, target: str) -> Iterator[Row]:
    groups = {task: group for group, members in results.get("group_subtasks", {}).items() for task in members}
    for task, samples in results["samples"].items():
        first = samples[0]["filter"] if samples else ""  # a task's further filters score the same replies again
        for sample in (sample for sample in samples if sample["filter"] == first):
            name = groups.get(task, task)
            item = str(sample["doc_id"]) if name == task else f"{task}-{sample['doc_id']}"
            value = _value(sample) if _finite(sample["resps"]) else None
            yield Row(
                task=name, target=target, source=steering.source, arm=steering.arm, concept=steering.concept,
                factor=steering.factor, item=item, role="score", value=value, reason="" if value is not None else "non_finite",
            )  # fmt: skip


def _value(sample: Mapping[str, Any]) -> float | None:
    """Return the sample's score by the metric that counts."""
    numbers = {name: sample[name] for name in sample["metrics"] if isinstance(sample.get(name), bool | int | float)}
    found = next((numbers[name] for name in (*PREFERRED, *numbers) if name in numbers), None)
    return None if found is None or not math.isfinite(found) else float(found)


def _finite(responses: object) -> bool:
    """Return whether every number in nested lists of a sample's responses is finite.

    >>> _finite([[(-1.0, True)], [(float("nan"), False)]]), _finite([["text"]])
    (False, True)
    """
    if isinstance(responses, list | tuple):
        return all(map(_finite, responses))
    return not isinstance(responses, float) or math.isfinite(responses)
