"""Judges: rate replies on concept, instruction and fluency, 0 to 2 each, or say why they could not.

    replies -> cases -> [judge] -> judgements -> rows

Importing this loads neither torch nor openai; a judge loads what it needs when it is made or first asked.
"""

from steer_bench.judge.check import CheckRow, check_judge, split_references
from steer_bench.judge.embedding import EmbeddingJudge, Reference
from steer_bench.judge.load import judge_id, load_judge, read_judge
from steer_bench.judge.local import LocalJudge
from steer_bench.judge.openai_judge import OpenAIJudge, Price, Usage
from steer_bench.judge.rating import (
    ASPECTS,
    AspectJudge,
    Case,
    Judge,
    JudgeError,
    Judgement,
    distinct_2,
    harmonic_mean,
    parse_rating,
)
from steer_bench.judge.replies import Ratings, Reply, judgements_of, load_ratings, rate_replies
from steer_bench.judge.store import JudgementStore, StoredJudge

__all__ = [
    "ASPECTS",
    "AspectJudge",
    "Case",
    "CheckRow",
    "EmbeddingJudge",
    "Judge",
    "JudgeError",
    "Judgement",
    "JudgementStore",
    "LocalJudge",
    "OpenAIJudge",
    "Price",
    "Ratings",
    "Reference",
    "Reply",
    "StoredJudge",
    "Usage",
    "check_judge",
    "distinct_2",
    "harmonic_mean",
    "judge_id",
    "judgements_of",
    "load_judge",
    "load_ratings",
    "parse_rating",
    "rate_replies",
    "read_judge",
    "split_references",
]
