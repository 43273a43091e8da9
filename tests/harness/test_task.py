"""Tasks as lm-eval holds them: each with the protocol of its own run."""

import pytest
import yaml
from steered import make_arms

from steer_bench import shipped
from steer_bench.concepts.concept import Concept, Prompt
from steer_bench.experiment.run import open_run
from steer_bench.harness.answers import ReplyText
from steer_bench.harness.protocol import Protocol
from steer_bench.harness.task import SteerTask
from steer_bench.judge.config import EmbeddingConfig

TEXTS = ("It is raining again.", "They left at noon.", "He paid and went home.", "The bus was late.")


def tea(pattern: str) -> dict:
    """A declared rule of the name that all tests here share."""
    return {
        "name": "tea",
        "description": f"{pattern} is offered",
        "pattern": pattern,
        "rewrite": {"append": f" Have some {pattern}."},
    }


def of_rule(declared: dict) -> Protocol:
    """A protocol with one rule, to follow and to suppress."""
    concepts = {
        f"{kind}-tea": Concept(f"{kind}-tea", "tea", "text", ("tea",), ("no",), kind, "tea")
        for kind in ("rule", "suppress")
    }
    prompts = (Prompt("p", "What now?"),)
    grids = {"rule_following": (0.2,), "rule_suppression": (0.2,)}
    return Protocol(concepts, {"n": "A text."}, prompts, {}, grids, EmbeddingConfig(), declared=(declared,))


def task(folder, declared: dict, rows: str = "rule_following") -> SteerTask:
    """The task on the arms of a run that declares the rule."""
    of_rule(declared).save(folder / "protocol.json")
    names = ("rule-tea", "suppress-tea")
    arms = make_arms(concepts=names, entries=[("native", "")])
    arms.save(folder / "arms" / "tiny.safetensors")
    content = yaml.safe_load((shipped("tasks") / f"{rows}.yaml").read_text().replace("!function ", ""))
    return SteerTask(config={**content, "metadata": {"arms": str(folder / "arms" / "tiny.safetensors")}})


def test_two_tasks_whose_runs_declare_one_name_differently_score_each_by_its_own(tmp_path):
    tasks = {pattern: task(tmp_path / pattern, tea(pattern)) for pattern in ("tea", "mate")}
    for pattern, one in tasks.items():
        doc = next(doc for doc in one.test_docs() if doc["factor"])
        scores = {
            reply: one.process_results(doc, [ReplyText(reply, None, 3)])["native"]["value"]
            for reply in ("tea?", "mate?")
        }
        assert scores == {"tea?": float(pattern == "tea"), "mate?": float(pattern == "mate")}


def test_two_tasks_that_suppress_ask_each_for_its_own_rule(tmp_path):
    for pattern in ("tea", "mate"):
        one = task(tmp_path / pattern, tea(pattern), "rule_suppression")
        assert {doc["asked"] for doc in one.test_docs()} == {
            f"What now? Write your reply so that this holds: {pattern} is offered."
        }
        doc = next(doc for doc in one.test_docs() if doc["factor"])
        assert one.process_results(doc, [ReplyText(pattern, None, 3)])["native"]["value"] == 0.0


def test_a_protocol_read_again_has_its_declared_rules_and_a_rule_that_is_not_there_is_named(tmp_path):
    of_rule(tea("mate")).save(tmp_path / "protocol.json")
    assert Protocol.load(tmp_path / "protocol.json").rule("rule-tea").score("mate") == 1.0
    lost = Protocol(of_rule(tea("mate")).concepts, {}, (), {}, {}, EmbeddingConfig())
    with pytest.raises(ValueError, match="no rule named 'tea'"):
        lost.rule("rule-tea")


def test_two_runs_in_one_process_declare_one_name_differently(tmp_path):
    content = yaml.safe_load((shipped("experiments") / "quickstart.yaml").read_text())
    found = {}
    for pattern in ("tea", "mate"):
        said = {**content, "name": pattern, "rules": ["all-capitals", tea(pattern)], "suppress": ["tea"]}
        said["tasks"] = {**content["tasks"], "rule_following": {}, "rule_suppression": {}}
        (tmp_path / f"{pattern}.yaml").write_text(yaml.safe_dump(said))
        found[pattern] = open_run(str(tmp_path / f"{pattern}.yaml"), tmp_path / pattern).data.protocol
    for pattern, one in found.items():
        assert all(text.endswith(f"Have some {pattern}.") for text in one.concepts["rule-tea"].positives)
        assert [one.rule("rule-tea").score(reply) for reply in ("tea", "mate")] == [
            float(pattern == "tea"),
            float(pattern == "mate"),
        ]
        assert one.concepts["suppress-tea"].rule == "tea"
