"""Measures: what each task measures and how its values are read, in one table.

    name of a task -> [measure] -> heading, whether replies, whether judged, which way is better

Tasks of lm-eval that are not ours have the measure of the default: a score of their own, higher is better.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

LIKELIHOOD = "concept_likelihood"
PERPLEXITY = "steered_perplexity"
STEERING = "concept_steering"
RULES = "rule_following"
SPECIFICITY = "specificity"
SUPPRESSION = "rule_suppression"

RATED = {"concept": (0.0, 2.0), "instruction": (0.0, 2.0), "fluency": (0.0, 2.0), "distinct_2": (0.0, 1.0)}
"""Rating of a reply -> the least and the most it can be."""


@dataclass(frozen=True)
class Measure:
    """What a task measures."""

    name: str
    """Name of the lm-eval task."""
    heading: str = ""
    """Its name in the tables; the task's name where there is none."""
    value: str = "value"
    """Heading of the column of its values."""
    meaning: str = ""
    """What a value is, for the reader of a table."""
    axis: str = ""
    """Label of its values in figures; tasks without one have no figures and give no run its verdicts."""
    subject: Literal["topic", "rule", "suppress", "any"] = "any"
    """The kind of concepts that it is measured on."""
    replies: bool = False
    """Whether its values are of generated replies."""
    judged: bool = False
    """Whether a judge rates the replies."""
    scores_arms: bool = True
    """Whether it has a column in the arm tables; others have tables beside them."""
    higher_is_better: bool = True
    bounds: tuple[float, float] | None = None
    """The least and the most a value can be; None where there is no limit."""
    default: bool = False
    """Whether an experiment that names no tasks measures it."""

    @property
    def title(self) -> str:
        """Its name in headings of tables."""
        return self.heading or self.name


MEASURES = {
    measure.name: measure
    for measure in (
        Measure(
            LIKELIHOOD,
            heading="likelihood",
            value="dC",
            meaning="change of log-likelihood on held-out texts of the concept, steered minus unsteered, nats a token",
            axis="change of log-likelihood (nats/token)",
            subject="topic",
            default=True,
        ),
        Measure(PERPLEXITY, scores_arms=False, higher_is_better=False, default=True),
        Measure(
            STEERING,
            heading="steering",
            value="score",
            meaning="harmonic mean of the judge's three ratings of a reply (concept, instruction, fluency), 0 to 2",
            axis="concept score (harmonic mean, 0 to 2)",
            bounds=(0.0, 2.0),
            subject="topic",
            replies=True,
            judged=True,
            default=True,
        ),
        Measure(
            RULES,
            heading="rules",
            value="share",
            meaning="share of replies that obey the rule without being asked to",
            axis="share of replies that obey the rule",
            bounds=(0.0, 1.0),
            subject="rule",
            replies=True,
            default=True,
        ),
        Measure(SPECIFICITY, subject="topic", scores_arms=False),
        Measure(
            SUPPRESSION,
            heading="suppression",
            value="share",
            meaning="share of replies that break a rule that the instruction asks for, its vector subtracted",
            bounds=(0.0, 1.0),
            subject="suppress",
            replies=True,
        ),
    )
}
"""Name -> measure of our tasks, in the order in which tables show them."""

DAMAGE = (1.1, 1.3, 1.6)
"""Levels of damage of a task, perplexity ratios, where an experiment names none."""


def headline_level(levels: Iterable[float]) -> float:
    """Return the level of the main tables and verdicts: the one nearest 1.3; 0 where there is none.

    >>> headline_level([1.1, 1.25, 1.6]), headline_level([])
    (1.25, 0.0)
    """
    return min(levels, key=lambda level: (abs(level - 1.3), level), default=0.0)


TASKS = tuple(MEASURES)
DEFAULT_TASKS = tuple(name for name, measure in MEASURES.items() if measure.default)
REPLIES = tuple(name for name, measure in MEASURES.items() if measure.replies)
JUDGED = next(name for name, measure in MEASURES.items() if measure.judged)
"""The task whose replies a judge rates."""
DRAWN = tuple(name for name, measure in MEASURES.items() if measure.axis)
"""Tasks with figures."""
HEADLINES = tuple(sorted(DRAWN, key=lambda name: MEASURES[name].judged))
"""The first of these tasks in a run gives its verdicts: those without a judge come first."""


def measure_of(task: str) -> Measure:
    """Return the measure of a task of ours, or the default for any other lm-eval task."""
    return MEASURES.get(task) or Measure(task)


def in_order(tasks: Iterable[str]) -> list[str]:
    """Return our tasks in the order of the table, then others by name.

    >>> in_order(["hellaswag", "rule_following", "concept_likelihood"])
    ['concept_likelihood', 'rule_following', 'hellaswag']
    """
    present = set(tasks)
    return [task for task in MEASURES if task in present] + sorted(present - MEASURES.keys())
