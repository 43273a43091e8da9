"""SteeredLM: the lm-eval model `steer_bench`, an `hf` model that steers each request by its own vector and factor.

A request's steering is its third argument, {"steer": {"arm", "source", "concept", "factor"}}; a request without one is steered
by the model's default (`arm=…,source=…,concept=…,factor=…` in model_args), which is unsteered unless given. The three request
loops are our own, because lm-eval's merge requests of equal text whatever their steering, and have three faults of their own
(see the tests): they take the wrong positions for requests with equal context + continuation and another split, decide on BOS
by a batch's first text, and leave what follows a stop token in batched replies.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import postprocess_generated_text
from transformers import PretrainedConfig, PreTrainedModel

from steer_bench.harness import ranks
from steer_bench.harness.answers import LogLikelihood, ReplyText, RollingLogLikelihood, rolling_answer
from steer_bench.harness.asked import Asked, extra_of
from steer_bench.harness.hf_options import check_options, check_steering_options
from steer_bench.harness.pool import Pool
from steer_bench.harness.settings import reply_settings
from steer_bench.models.blocks import lean_head
from steer_bench.models.device import keep_freed_memory, sizes
from steer_bench.models.fingerprint import (
    BY_VALUE,
    IN_MEMORY,
    check_revision,
    fingerprint_of,
    tokenizer_digest,
    weights_digest,
    weights_of,
)
from steer_bench.models.load import Loaded, check_model, model_path, read_config
from steer_bench.models.records_only import model_without_weights
from steer_bench.models.steered.generator import Generator
from steer_bench.models.steered.model import SteeredModel
from steer_bench.models.steered.requests import ReplyRow, ReplySettings
from steer_bench.models.steered.scorer import Scorer
from steer_bench.models.steered.steering import POSITIONS, Steering, VectorBank
from steer_bench.records import Records, record_key
from steer_bench.vectors.arms import Arms

MARK_INVALID = frozenset({"capability_choices"})
"""Tasks without a steering of their own that mark samples with a non-finite log-likelihood as invalid."""
FINGERPRINT = "__steer_bench_fingerprint__"
"""Key in lm-eval's cache database of whose answers it holds."""


@register_model("steer_bench")
class SteeredLM(HFLM):
    """lm-eval's `hf` model with a steering vector per request.

    Besides the arguments of `hf`: `arms` (a file of RUN/arms/), a default steering `arm`, `source`, `concept`, `factor` or
    `damage` (a perplexity ratio that the file has a dose for, such as 1.3);
    `layer` (only to check it is the file's), `positions` (text, generated, all), `strength` (scaled: factor times the
    target's median centred residual norm; raw: factor times the vector as stored), `records` (a SQLite file that keeps
    finished replies and log-likelihoods), `seed` (of sampled replies; see `sampling`), `alone` (no part in data parallelism),
    `weights` (False: answers come from the records only, and the first forward pass raises WeightsNeededError) and
    `keep_non_finite` (hand NaN to tasks of others, which take it for an answer, instead of raising). Raises ValueError for
    anything that does not fit, before the model is loaded.
    """

    def __init__(
        self,
        pretrained: str | PreTrainedModel,
        arms: str | Path | Arms | None = None,
        arm: str | None = None,
        source: str = "",
        concept: str = "",
        factor: float | None = None,
        damage: float | None = None,
        layer: int | None = None,
        positions: str = "text",
        strength: str = "scaled",
        records: str | Records | None = None,
        seed: int = 0,
        alone: bool = False,
        weights: bool = True,
        keep_non_finite: bool = False,
        **kwargs: Any,
    ) -> None:
        if positions not in POSITIONS:
            raise ValueError(f"positions={positions}: there are {', '.join(POSITIONS)}")
        given = pretrained if isinstance(pretrained, str) else None
        flags = {"alone": alone, "weights": weights, "keep_non_finite": keep_non_finite}
        check_options({**kwargs, **flags}, loaded=given is None)
        check_steering_options(
            arms=arms, arm=arm, source=source, concept=concept, factor=factor, damage=damage, layer=layer, positions=positions,
            strength=strength,
        )  # fmt: skip
        self.name = given or type(pretrained).__name__
        read = Arms.load(arms) if isinstance(arms, str | Path) else arms
        self.bank = VectorBank(read, strength=strength) if read else None
        if damage is not None and self.bank is not None:
            if not arm or factor:
                said = f"damage={damage}: give arm=… and concept=… with it, and no factor"
                raise ValueError(f"{said}: it takes the place of one")
            factor = self.bank.arms.dose(arm, str(source), str(concept), damage)
        if arm and self.bank is not None:  # also at factor 0: a misspelt name is never quietly unsteered
            self.bank.arms.find(arm, str(source), str(concept))
            if factor is None:
                raise ValueError(f"arm={arm}: give factor=… (or damage=…) with it; without one nothing is steered")
        self._default = Steering(arm, str(source), str(concept), factor or 0.0) if arm else Steering()
        if given is not None and not kwargs.get("gguf_file"):
            check_model(given)
            if self.bank is not None:
                check_revision(given, self.bank.arms.target, self.bank.arms.card.revision, kwargs)
                config = read_config(given)
                self.bank.check_fit(given, config.get("hidden_size"), config.get("num_hidden_layers"), layer)
        if not weights and any(kwargs.get(name) for name in BY_VALUE):
            raise ValueError(f"weights=False: it goes with none of {', '.join(BY_VALUE)}")
        self._weights = weights
        super().__init__(pretrained=pretrained if given is None else model_path(given), **kwargs)
        lean_head(self.model)
        if self.model.device.type == "cpu" and _is_lm_eval_command():
            keep_freed_memory()
        alone = alone or given is None or bool(kwargs.get("tp_plan"))
        self._rank, self._world_size = ranks.place(self.rank, self.world_size, alone=alone)
        if self.bank is not None:
            self.bank.check_fit(self.name, None, None, layer)
        if isinstance(self.think_end_token, str) and self.think_end_token in self.tokenizer.all_special_tokens:
            raise ValueError(
                f"think_end_token={self.think_end_token}: a special token of the tokenizer is in no reply's text"
            )
        if self.batch_size == "auto" and kwargs.get("max_batch_size"):
            self.batch_size_per_gpu = min(sizes(self.device).rows, int(kwargs["max_batch_size"]))
        loaded = Loaded(self.name, self.model, self.tokenizer)
        self._named = given is not None
        self._fingerprint = fingerprint_of(
            loaded, layer=self.bank.arms.layer if self.bank else None, positions=positions, max_length=self.max_length,
            options=kwargs, weights=weights_of(given, kwargs) or (IN_MEMORY if given is None and records is None else None),
        )  # fmt: skip
        self.steered = SteeredModel(
            loaded, self.bank, positions=positions, batch_size=self.batch_size, max_length=self.max_length,
            records=records if isinstance(records, Records) else Records(records), fingerprint=self._fingerprint,
            device=self.device, prefix=self.prefix_token_id,
        )  # fmt: skip
        if self.add_bos_token is not None:
            self.steered.encode = lambda text: tuple(HFLM.tok_encode(self, text))
        self.steerer = self.steered.steerer
        self.scorer = Scorer(self.steered, forward=self._model_call, softmax_dtype=self.softmax_dtype)
        self.generator = Generator(self.steered, seed=int(seed))
        self.keep_non_finite = keep_non_finite
        self.pool = Pool()

    def _create_model(self, pretrained: str, dtype: str | torch.dtype | None = "auto", **kwargs: Any) -> None:
        """As `hf`; without weights a model of the same shape that fails at its first forward pass."""
        if self._weights:
            super()._create_model(pretrained, dtype=dtype, **kwargs)
        else:
            self._model = model_without_weights(self.AUTO_MODEL_CLASS, pretrained, dtype)

    def _get_backend(
        self, config: PretrainedConfig, backend: str = "default", trust_remote_code: bool | None = False
    ) -> None:
        """As `hf`; ValueError for an encoder-decoder model, before it is loaded."""
        super()._get_backend(config, backend, trust_remote_code)
        if self.backend != "causal":
            raise ValueError(f"{self.name} is an encoder-decoder model; steer_bench reads decoder-only models")

    # ------------------------------------------------------------------------------------------ among other ranks

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensors of all ranks, concatenated; a single number counts as a tensor of one."""
        return ranks.all_gather(tensor) if self.world_size > 1 else tensor

    def gather_object(self, obj: object, dst: int = 0) -> list[object] | None:
        """Return lm-eval's samples and metrics of all ranks, as one rank alone would have them, on rank `dst`."""
        return ranks.gather(obj, dst) if self.world_size > 1 else [obj]

    def barrier(self) -> None:
        """Wait for all ranks."""
        ranks.wait(self.world_size)

    # ------------------------------------------------------------------------------------------ what this model is

    @property
    def records(self) -> Records:
        """Where finished answers are kept and found again."""
        return self.steered.records

    @records.setter
    def records(self, records: Records) -> None:
        self.steered.records = records

    @property
    def default(self) -> Steering:
        """The steering of requests that bring none."""
        return self._default

    @default.setter
    def default(self, steering: Steering) -> None:
        self._default = self.steered.check(steering)  # raises ValueError for an unknown arm, source or concept

    @property
    def fingerprint(self) -> str:
        """Hash of the model, its settings and its default steering: what lm-eval's own cache does not key."""
        bank = self.bank.fingerprint if self.bank else ""
        default = self.steered.digest(self._default)
        return record_key(**self._fingerprint, default=default, bank=bank, seed=self.generator.seed)

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval's request cache knows the chat template by."""
        return f"{super().tokenizer_name}-{tokenizer_digest(self.tokenizer)}"

    def get_model_info(self) -> dict[str, object]:
        """Return what lm-eval writes into its results file."""
        told = super().get_model_info() if self._named else {}
        info = {key: str(value) if isinstance(value, torch.dtype) else value for key, value in told.items()}
        return {**info, "steer_bench": {**self._fingerprint, "scale": self.bank.arms.scale if self.bank else None}}

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        """Refuse an `--use_cache` database of another model, vector file or default steering: its keys know none of them."""
        super().set_cache_hook(cache_hook)
        database = getattr(cache_hook, "dbdict", None)
        if database is None:
            return
        if self._fingerprint["revision"] == IN_MEMORY:
            self._fingerprint["revision"] = weights_digest(self.model)
        known = database.get(FINGERPRINT)
        if (known is None and len(database)) or (known is not None and known != self.fingerprint):
            raise ValueError(
                "--use_cache: this database was written by another model, vector file or default steering; give another path"
            )
        database[FINGERPRINT] = self.fingerprint
        database.commit()

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """As `hf`, with exactly one BOS where the tokenizer uses one, decided for each text alone."""
        if add_special_tokens is None and not kwargs:
            return list(self.steered.encode(string))
        return super().tok_encode(string, add_special_tokens=add_special_tokens, **kwargs)

    # ------------------------------------------------------------------------------------------ requests

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[LogLikelihood]:
        """Return (log-likelihood of the continuation in nats, whether greedy decoding gives it), each under its own steering."""
        return self.pool.ask(self._loglikelihood, requests, disable_tqdm, self._default)

    def _loglikelihood(self, requests: list[Instance], quiet: bool) -> list[LogLikelihood]:
        if self.enable_thinking:
            raise ValueError("enable_thinking=True: log-likelihoods of texts have no thoughts; leave it out")
        rows = []
        for request in requests:
            asked = self._asked(request)
            rows.append(
                self.scorer.row(*self.scorer.split(*request.args[:2]), asked.steering, kl=asked.kl, as_hf=asked.as_hf)
            )
        scores = self.scorer.score_rows(rows, quiet=quiet or self.rank != 0)
        answers = [LogLikelihood(score.log_likelihood, score.is_greedy, score.n_tokens) for score in scores]
        self._refuse_non_finite(requests, [answer[0] for answer in answers])
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[RollingLogLikelihood]:
        """Return log-likelihoods of whole texts in nats, in windows of the model's length, each under its own steering.

        The first token is predicted from one BOS. (lm-eval's `hf` puts a second one where the tokenizer adds its own.)
        """
        return self.pool.ask(self._loglikelihood_rolling, requests, disable_tqdm, self._default)

    def _loglikelihood_rolling(self, requests: list[Instance], quiet: bool) -> list[RollingLogLikelihood]:
        rows, owners = [], []
        for index, request in enumerate(requests):
            asked = self._asked(request)
            for window in self.scorer.windows(self.tok_encode(request.args[0])):
                rows.append(self.scorer.row(*window, asked.steering, kl=asked.kl, as_hf=asked.as_hf))
                owners.append(index)
        scores = self.scorer.score_windows(rows, owners, len(requests), quiet=quiet or self.rank != 0)
        answers = [rolling_answer(score) for score in scores]
        self._refuse_non_finite(requests, answers)
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[object, list[int], list[int]]], disable_tqdm: bool = False, **_kwargs: object
    ) -> list[tuple[float, bool]]:
        """Answer lm-eval's inner interface, for callers that tokenise themselves: all under the default steering."""
        rows = [
            self.scorer.row(context, continuation, self._default, as_hf=True) for _, context, continuation in requests
        ]
        return [score[:2] for score in self.scorer.score_rows(rows, quiet=disable_tqdm or self.rank != 0)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[ReplyText]:
        """Return replies, each under its own steering; rows of different vectors and factors share batches."""
        return self.pool.ask(self._generate_until, requests, disable_tqdm, self._default)

    def _generate_until(self, requests: list[Instance], quiet: bool) -> list[ReplyText]:
        jobs: dict[ReplySettings, dict[int, ReplyRow]] = {}
        for i, request in enumerate(requests):
            asked, settings = self._asked(request), self.settings(request.args[1])
            row = self.generator.row(self.tok_encode(request.args[0]), settings, asked.steering, asked.perplexity)
            jobs.setdefault(settings, {})[i] = row._replace(sample=asked.sample) if settings.sampling else row
        replies: dict[int, ReplyText] = {}
        for settings, mine in jobs.items():
            rows = self.generator.numbered(list(mine.values())) if settings.sampling else list(mine.values())
            found = self.generator.generate_rows(rows, settings, quiet=quiet or self.rank != 0)
            for i, reply in zip(mine, found, strict=True):
                text = postprocess_generated_text(reply.text, None, self.think_end_token)
                replies[i] = ReplyText(text, *reply[1:])
                self._refuse_non_finite([requests[i]], [math.nan if reply.invalid else 0.0])
                self.cache_hook.add_partial("generate_until", requests[i].args, replies[i])
        return [replies[i] for i in range(len(requests))]

    def settings(self, gen_kwargs: dict[str, Any]) -> ReplySettings:
        """Return lm-eval's generation arguments as settings."""
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False) if self.eot_token_id is not None else ""
        return reply_settings(gen_kwargs, self.model.generation_config, eos=eos, max_gen_toks=self.max_gen_toks)

    def _asked(self, request: Instance) -> Asked:
        """Return what a request asks for beside its text."""
        given = extra_of(request)
        if given is None:
            return Asked(self._default, as_hf=True)
        flags = bool(given.get("perplexity")), bool(given.get("kl")), int(given.get("sample", 0))
        return Asked(self.steered.check(Steering.from_mapping(given["steer"])), *flags, as_hf=not given.get("compared"))

    def _refuse_non_finite(self, requests: Sequence[Instance], values: Sequence[float]) -> None:
        """Stop where a request of a task that knows no invalid samples got NaN or Inf: lm-eval would make a score of it.

        Our own tasks say their steering in the last argument, and show such a sample as invalid.
        """
        if self.keep_non_finite:
            return
        ours = [extra_of(request) is not None or request.task_name in MARK_INVALID for request in requests]
        bad = sum(not own and not math.isfinite(value) for own, value in zip(ours, values, strict=True))
        if bad:
            raise FloatingPointError(
                f"{bad} of {len(requests)} results are not finite: the model's activations overflow under this steering, and "
                "lm-eval would count them as wrong or right; give a smaller factor, or dtype=float32 (keep_non_finite=True keeps them)"
            )


def _is_lm_eval_command() -> bool:
    """Return whether this process is lm-eval's command, not a program that uses it."""
    command = Path(sys.argv[0]) if sys.argv else Path()
    return command.parent.name == "lm_eval" or command.stem in ("lm_eval", "lm-eval")
