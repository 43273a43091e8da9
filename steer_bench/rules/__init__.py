"""Rules: deterministic checks of a reply, each one row of a table.

    reply -> [rule] -> score in [0, 1], or None: unscored

No model and no judge: the same reply has the same score everywhere. A rule with a rewrite is also a concept
(`rule_concept`), so a vector for it is learned, transferred and scored like any other. Cheap to import.
"""

from steer_bench.rules.declared import declared_rule
from steer_bench.rules.ifeval import ifeval_ids, ifeval_rule
from steer_bench.rules.rule import Rule, strip_special_tokens
from steer_bench.rules.sentences import split_sentences
from steer_bench.rules.table import (
    RULES,
    add_rule,
    ask_for_rule,
    check_rule,
    check_suppressed,
    named_rule,
    rule_concept,
    rule_names,
)

__all__ = [
    "RULES",
    "Rule",
    "add_rule",
    "ask_for_rule",
    "check_rule",
    "check_suppressed",
    "declared_rule",
    "ifeval_ids",
    "ifeval_rule",
    "named_rule",
    "rule_concept",
    "rule_names",
    "split_sentences",
    "strip_special_tokens",
]
