"""Protocol: what a run measures, the same for every target: RUN/protocol.json.

    experiment -> [protocol] -> rows of the lm-eval tasks

Holds only held-out texts: nothing in it has been seen by a vector or a map.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from steer_bench.concepts.concept import Concept, Prompt
from steer_bench.concepts.draws import drawn
from steer_bench.concepts.rules.declared import rules_of
from steer_bench.concepts.rules.rule import Rule
from steer_bench.concepts.rules.table import named_rule
from steer_bench.files import write_whole
from steer_bench.harness.ifeval import ifeval_rule
from steer_bench.judge.config import JudgeConfig, judge_config


@dataclass(frozen=True)
class Protocol:
    """What is measured, the same for every target of a run: RUN/protocol.json."""

    concepts: Mapping[str, Concept]
    """Test concepts and rules, each with its *held-out* texts only: no vector and no map has seen them."""
    neutral: Mapping[str, str]
    """Neutral texts that are scored, by id: a pool from which every concept draws its own."""
    prompts: tuple[Prompt, ...]
    """Instructions that replies are scored on: a pool from which every concept draws its own."""
    levels: Mapping[str, tuple[float, ...]]
    """Levels of damage of each task, perplexity ratios; none for a task on a grid of factors."""
    factors: Mapping[str, tuple[float, ...]]
    """Factors of each task that is measured on a grid; the same for all arms."""
    judge: JudgeConfig
    calibration: Mapping[str, str] = field(default_factory=dict)
    """Neutral texts on which doses are found, of the same pool; none of them is scored."""
    yardstick: tuple[Prompt, ...] = ()
    """Instructions whose unsteered replies set the judge; nothing is scored on them."""
    seed: int = 0
    """Of the draws of the concepts' items."""
    chat: bool = True
    """Whether instructions go through a target's chat template, where it has one."""
    declared: tuple[Mapping[str, object], ...] = ()
    """Rules that the experiment declared (see `DeclaredRule`); "rules" in the file."""

    @cached_property
    def rules(self) -> Mapping[str, Rule]:
        """The shipped and the declared rules by name."""
        return rules_of(self.declared, ifeval_rule)

    def rule(self, concept: str) -> Rule:
        """Return the rule of a rule's concept. Raises ValueError where there is none of that name."""
        return named_rule(self.concepts[concept].rule, self.rules)

    def prompts_of(self, concept: str, n: int | None) -> list[Prompt]:
        """Return `n` instructions, all where n is None, in the concept's own order."""
        return list(drawn({prompt.id: prompt for prompt in self.prompts}, n, self.seed, "prompts", concept).values())

    def neutral_of(self, concept: str, n: int | None) -> dict[str, str]:
        """Return `n` neutral texts, all where n is None, in the concept's own order: id -> text."""
        return drawn(self.neutral, n, self.seed, "neutral", concept)

    def save(self, path: Path) -> None:
        """Write the protocol as JSON."""
        content = asdict(self) | {"judge": self.judge.model_dump(mode="json")}
        content["rules"] = content.pop("declared")
        write_whole(path, json.dumps(content, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, path: Path) -> Protocol:
        """Read a protocol. Raises ValueError where the file is missing or foreign."""
        try:
            content = json.loads(path.read_text())
            sides = ("positives", "negatives")
            concepts = {
                key: Concept(**{**value, **{side: tuple(value[side]) for side in sides}})
                for key, value in content["concepts"].items()
            }
            levels, factors = (
                {task: tuple(grid) for task, grid in content[key].items()} for key in ("levels", "factors")
            )
            return cls(
                concepts, content["neutral"], _prompts(content["prompts"]), levels, factors, judge_config(content["judge"]),
                content["calibration"], _prompts(content["yardstick"]), content["seed"], content["chat"], tuple(content["rules"]),
            )  # fmt: skip
        except FileNotFoundError:
            raise ValueError(
                f"{path}: no such file; it says what is measured and belongs to the arms file's run (steer-bench fit RUN writes "
                "it); give another with --metadata protocol=FILE"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path}: not a protocol of steer-bench ({error}); make it again with steer-bench fit RUN"
            ) from error


def _prompts(given: Iterable[Mapping[str, str]]) -> tuple[Prompt, ...]:
    return tuple(Prompt(**prompt) for prompt in given)
