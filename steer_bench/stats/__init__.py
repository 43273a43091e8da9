"""Statistics: from rows to effects with intervals, tests and verdicts.

    rows -> effects (matched or selected factor) -> paired bootstrap -> verdicts -> leaderboard

numpy and scipy only; knows nothing of models, judges or tables.
"""

from steer_bench.stats.agreement import Agreement, agreement, auroc
from steer_bench.stats.bootstrap import REPLICATES, Bootstrap, Estimate, hierarchical_bootstrap
from steer_bench.stats.effects import (
    DAMAGE_LIMIT,
    LIKELIHOOD,
    PERPLEXITY,
    SAMPLE_MARK,
    UNSTEERED,
    Arm,
    Curve,
    Matched,
    Measured,
    likelihood_curves,
    matched_factor,
    measure_generation,
    measure_likelihood,
    nan_mean,
    selected_factor,
)
from steer_bench.stats.verdict import (
    ALPHA,
    MARGIN,
    Comparison,
    Equivalence,
    Verdict,
    holm,
    sign_flip_p,
    tost,
    verdict,
    verdicts,
)

__all__ = [
    "ALPHA",
    "DAMAGE_LIMIT",
    "LIKELIHOOD",
    "MARGIN",
    "PERPLEXITY",
    "REPLICATES",
    "SAMPLE_MARK",
    "UNSTEERED",
    "Agreement",
    "Arm",
    "Bootstrap",
    "Comparison",
    "Curve",
    "Equivalence",
    "Estimate",
    "Matched",
    "Measured",
    "Verdict",
    "agreement",
    "auroc",
    "hierarchical_bootstrap",
    "holm",
    "likelihood_curves",
    "matched_factor",
    "measure_generation",
    "measure_likelihood",
    "nan_mean",
    "selected_factor",
    "sign_flip_p",
    "tost",
    "verdict",
    "verdicts",
]
