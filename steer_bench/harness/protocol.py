"""Protocol: what a run measures, the same for every target: RUN/protocol.json.

    experiment -> [protocol] -> rows of the lm-eval tasks

Holds only held-out texts: nothing in it has been seen by a vector or a map.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from steer_bench.concepts.concept import Concept, Prompt
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
    """Neutral texts for perplexity, by id."""
    prompts: tuple[Prompt, ...]
    factors: Mapping[str, tuple[float, ...]]
    """Factor grid of each task; the same for all arms."""
    judge: JudgeConfig
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
            prompts = tuple(Prompt(**prompt) for prompt in content["prompts"])
            factors = {task: tuple(grid) for task, grid in content["factors"].items()}
            return cls(
                concepts, content["neutral"], prompts, factors, judge_config(content["judge"]), content["chat"],
                tuple(content.get("rules", ())),
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
