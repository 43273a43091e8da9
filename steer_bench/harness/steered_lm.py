"""SteeredLM: the lm-eval model `steer_bench`, an `hf` model that steers each request by its own vector and factor.

A request's steering is its third argument, {"steer": {"arm", "source", "concept", "factor"}}; a request without one is steered
by the model's default (`arm=…,source=…,concept=…,factor=…` in model_args), which is unsteered unless given. The three request
loops are our own, because lm-eval's merge requests of equal text whatever their steering, and have three faults of their own
(see the tests): they take the wrong positions for requests with equal context + continuation and another split, decide on BOS
by a batch's first text, and leave what follows a stop token in batched replies.
"""

from __future__ import annotations

from lm_eval.api.registry import register_model

from steer_bench.harness.answers import LogLikelihood, Reply, RollingLogLikelihood
from steer_bench.harness.generation import GeneratingLM
from steer_bench.harness.weightless import WeightsNeededError

__all__ = ["LogLikelihood", "Reply", "RollingLogLikelihood", "SteeredLM", "WeightsNeededError"]


@register_model("steer_bench")
class SteeredLM(GeneratingLM):
    """lm-eval's `hf` model with a steering vector per request.

    Besides the arguments of `hf`: `arms` (a file of RUN/arms/), a default steering `arm`, `source`, `concept`, `factor`;
    `layer` (only to check it is the file's), `positions` (text, generated, all), `strength` (scaled: factor times the
    target's median centred residual norm; raw: factor times the vector as stored), `records` (a SQLite file that keeps
    finished replies and log-likelihoods), `seed` (of sampled replies; see `sampling`), `alone` (no part in data parallelism),
    `weights` (False: answers come from the records only, and the first forward pass raises WeightsNeededError) and
    `keep_non_finite` (hand NaN to tasks of others, which take it for an answer, instead of raising). Raises ValueError for
    anything that does not fit, before the model is loaded.
    """
