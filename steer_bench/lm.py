"""SteeredLM: the lm-eval model `steer_bench`, an `hf` model that steers each request by its own vector and factor.

A request's steering is its third argument, {"steer": {"arm", "source", "concept", "factor"}}; a request without one is steered
by the model's default (`arm=…,source=…,concept=…,factor=…` in model_args), which is unsteered unless given. The three request
loops are our own, because lm-eval's merge requests of equal text whatever their steering, and have three faults of their own
(see the tests): they take the wrong positions for requests with equal context + continuation and another split, decide on BOS
by a batch's first text, and leave what follows a stop token in batched replies.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from lm_eval import utils
from lm_eval.api.instance import Instance
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.models.utils_hf import stop_sequences_criteria
from torch import Tensor
from tqdm.auto import tqdm

import steer_bench
from steer_bench.models import check_model, decoder_layers, encode, model_path, read_config, revision
from steer_bench.records import Records, record_key
from steer_bench.steering import POSITIONS, STRENGTHS, Steerer, Steering, VectorBank, shared_trunk
from steer_bench.vectors import Arms

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

LOGITS_BYTES = 512 << 20
"""Float32 logits computed at once when scoring under steering."""
AUTO_ROWS = 64
"""Rows of a batch when batch_size is auto; halved when memory runs out, and remembered."""


class Reply(str):
    """A reply, with what the unsteered model makes of it. Compares and prints as its text."""

    perplexity: float | None = None
    """Of the generated tokens under the unsteered model; None when not asked for or there is no token."""
    n_tokens: int = 0

    def __new__(cls, text: str, perplexity: float | None = None, n_tokens: int = 0) -> Reply:  # noqa: D102
        reply = super().__new__(cls, text)
        reply.perplexity, reply.n_tokens = perplexity, n_tokens
        return reply

    def __getnewargs__(self) -> tuple[str, float | None, int]:  # type: ignore[override]
        return str(self), self.perplexity, self.n_tokens


class LogLikelihood(tuple[float, bool]):
    """lm-eval's (log-likelihood, is greedy), with the number of tokens it is the sum over."""

    n_tokens: int

    def __new__(cls, value: float, greedy: bool, n_tokens: int) -> LogLikelihood:  # noqa: D102
        answer = super().__new__(cls, (value, greedy))
        answer.n_tokens = n_tokens
        return answer

    def __getnewargs__(self) -> tuple[float, bool, int]:
        return self[0], self[1], self.n_tokens


class RollingLogLikelihood(float):
    """The log-likelihood of a whole text, with the number of tokens it is the sum over."""

    n_tokens: int

    def __new__(cls, value: float, n_tokens: int) -> RollingLogLikelihood:  # noqa: D102
        answer = super().__new__(cls, value)
        answer.n_tokens = n_tokens
        return answer

    def __getnewargs__(self) -> tuple[float, int]:  # type: ignore[override]
        return float(self), self.n_tokens


class Scored(NamedTuple):
    """Tokens to score: log p(continuation | context) under a steering."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    steering: Steering
    start: int
    """First position that is steered."""

    @property
    def input(self) -> tuple[int, ...]:
        """What the model reads: everything but the last token."""
        return (*self.context, *self.continuation)[:-1]


class Generation(NamedTuple):
    """A prompt to continue under a steering."""

    prompt: tuple[int, ...]
    steering: Steering
    start: int
    perplexity: bool
    """Whether the reply's perplexity under the unsteered model is wanted."""


@dataclass(frozen=True)
class _Settings:
    """Generation settings of a group of requests."""

    until: tuple[str, ...]
    max_new_tokens: int
    kwargs: str
    """Anything else `generate` takes, as canonical JSON."""

    @property
    def samples(self) -> bool:
        """Whether equal requests may get different replies."""
        return bool(json.loads(self.kwargs).get("do_sample"))


@register_model("steer_bench")
class SteeredLM(HFLM):
    """lm-eval's `hf` model with a steering vector per request.

    Besides the arguments of `hf`: `arms` (a file of RUN/arms/), a default steering `arm`, `source`, `concept`, `factor`;
    `layer` (only to check it is the file's), `positions` (text, generated, all), `strength` (scaled: factor times the
    target's median centred residual norm; raw: factor times the vector as stored) and `records` (a SQLite file that keeps
    finished replies and log-likelihoods). Raises ValueError for anything that does not fit, before the model is loaded.
    """

    def __init__(
        self,
        pretrained: str | Any,
        arms: str | Arms | None = None,
        arm: str | None = None,
        source: str = "",
        concept: str = "",
        factor: float = 0.0,
        layer: int | None = None,
        positions: str = "text",
        strength: str = "scaled",
        records: str | None = None,
        **kwargs: Any,
    ) -> None:
        for given, known, name in ((positions, POSITIONS, "positions"), (strength, STRENGTHS, "strength")):
            if given not in known:
                raise ValueError(f"{name}={given}: there are {', '.join(known)}")
        loaded_arms = Arms.load(arms) if isinstance(arms, str | Path) else arms
        if loaded_arms is None and (arm or factor):
            raise ValueError(
                "arm=… and factor=… need arms=FILE, the arms file of the target (RUN/arms/MODEL.safetensors)"
            )
        self.bank = VectorBank(loaded_arms, strength=strength) if loaded_arms else None
        self.positions = positions
        self._default = Steering(arm, str(source), str(concept), factor) if arm else Steering()
        if arm and loaded_arms is not None:  # also at factor 0: a misspelt name is never quietly unsteered
            loaded_arms.find(arm, str(source), str(concept))
        if isinstance(pretrained, str):
            check_model(pretrained)
            if loaded_arms is not None:
                _check_fit(loaded_arms, read_config(pretrained), layer, pretrained)
        self.name = pretrained if isinstance(pretrained, str) else type(pretrained).__name__
        super().__init__(pretrained=model_path(pretrained) if isinstance(pretrained, str) else pretrained, **kwargs)
        if loaded_arms is not None:
            config = self.model.config.get_text_config(decoder=True)
            _check_fit(
                loaded_arms,
                {"hidden_size": config.hidden_size, "num_hidden_layers": config.num_hidden_layers},
                layer,
                self.name,
            )
            self._blocks = list(decoder_layers(self.model))[: loaded_arms.layer + 1]
            self.steerer = Steerer(self._blocks[-1])
        self.records = Records(records)
        self._rows_at_once: dict[str, int] = {}
        self._trunk_checked: bool | None = None
        self._fingerprint = self._describe()

    # ------------------------------------------------------------------------------------------ what this model is

    def _describe(self) -> dict[str, Any]:
        """Everything a result depends on, but the request itself and its vector."""
        import transformers

        own = isinstance(self.name, str) and isinstance(self.pretrained_name, str)
        return {
            "model": self.name,
            "revision": revision(self.name) if own else "in memory",
            "dtype": str(self.model.dtype),
            "layer": self.bank.arms.layer if self.bank else None,
            "positions": self.positions,
            "max_length": self.max_length,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "steer_bench": steer_bench.__version__,
        }

    @property
    def pretrained_name(self) -> str | None:
        """Name the model was loaded by; None for a model object."""
        return self.name if getattr(self.model, "name_or_path", "") else None

    @property
    def default(self) -> Steering:
        """The steering of requests that bring none."""
        return self._default

    @property
    def fingerprint(self) -> str:
        """Hash of the model, its settings and its default steering: what lm-eval's own cache does not key."""
        steering = self.bank.digest(self._default) if self.bank and self._default.is_steered else ""
        arms = self.bank.arms.card.get("sha256", "") if self.bank else ""
        return record_key(**self._fingerprint, default=steering, arms=arms)

    def get_model_info(self) -> dict[str, Any]:
        """lm-eval writes this into its results file."""
        info = dict(super().get_model_info()) if self.pretrained_name else {}
        return {**info, "steer_bench": {**self._fingerprint, "scale": self.bank.arms.scale if self.bank else None}}

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse an `--use_cache` database of another model, vector file or default steering: its keys know none of them."""
        super().set_cache_hook(cache_hook)
        database = getattr(cache_hook, "dbdict", None)
        if database is None:
            return
        key = "__steer_bench_fingerprint__"
        known = database.get(key)
        if (known is None and len(database)) or (known is not None and known != self.fingerprint):
            raise ValueError(
                "--use_cache: this database was written by another model, vector file or default steering; give another path"
            )
        database[key] = self.fingerprint
        database.commit()

    # ------------------------------------------------------------------------------------------ requests

    def _steering(self, request: Instance) -> tuple[Steering, bool]:
        """The steering of a request and whether it wants its reply's perplexity."""
        if len(request.args) < 3:
            return self._default, False
        given = request.args[-1]
        steering = Steering.from_mapping(given["steer"])
        if steering.is_steered and self.bank is None:
            raise ValueError(
                f"a request asks for arm {steering.arm!r}: give arms=FILE in model_args (RUN/arms/MODEL.safetensors)"
            )
        return steering, bool(given.get("perplexity"))

    def _start(self, ids: Sequence[int], n_context: int) -> int:
        """First steered position of a row whose context is `n_context` tokens long."""
        if self.positions == "all":
            return 0
        first = 1 if ids and ids[0] in (self.tokenizer.bos_token_id, self.prefix_token_id) else 0
        return first if self.positions == "text" else max(first, n_context - 1)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """As `hf`, with exactly one BOS where the tokenizer uses one, decided for each text alone."""
        if add_special_tokens is None and self.add_bos_token is None and not kwargs:
            return encode(self.tokenizer, string)
        return super().tok_encode(string, add_special_tokens=add_special_tokens, **kwargs)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[LogLikelihood]:
        """(log-likelihood of the continuation in nats, whether greedy decoding gives it), each under its own steering."""
        rows = []
        for request in requests:
            context, continuation = request.args[:2]
            steering, _ = self._steering(request)
            context_ids, continuation_ids = self._split(context, continuation)
            rows.append(self._scored(context_ids, continuation_ids, steering))
        scores = self._score(rows, "log-likelihoods", disable_tqdm)
        answers = [LogLikelihood(*score, len(row.continuation)) for score, row in zip(scores, rows, strict=True)]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, answer)
        return answers

    def _split(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Token ids of context and continuation; an empty context is the prefix token (BOS)."""
        if context:
            return self._encode_pair(context, continuation)
        ids = self.tok_encode(continuation, add_special_tokens=False)
        return ([self.prefix_token_id], ids) if ids[0] != self.prefix_token_id else (ids[:1], ids[1:])

    def _scored(self, context: Sequence[int], continuation: Sequence[int], steering: Steering) -> Scored:
        context = list(context)[-(self.max_length + 1 - len(continuation)) :]
        return Scored(tuple(context), tuple(continuation), steering, self._start(context, len(context)))

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[RollingLogLikelihood]:
        """Log-likelihood of whole texts in nats, in windows of the model's length, each under its own steering.

        The first token is predicted from one BOS. (lm-eval's `hf` puts a second one where the tokenizer adds its own.)
        """
        rows, owners = [], []
        for index, request in enumerate(requests):
            steering, _ = self._steering(request)
            ids = self.tok_encode(request.args[0])
            ids = ids[1:] if ids[:1] == [self.prefix_token_id] else ids
            windows = utils.get_rolling_token_windows(
                ids, self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            for context, continuation in map(utils.make_disjoint_window, windows):
                rows.append(self._scored(context, continuation, steering))
                owners.append(index)
        totals, lengths = [0.0] * len(requests), [0] * len(requests)
        scores = self._score(rows, "rolling log-likelihoods", disable_tqdm)
        for index, row, (value, _) in zip(owners, rows, scores, strict=True):
            totals[index] += value
            lengths[index] += len(row.continuation)
        answers = [RollingLogLikelihood(total, n) for total, n in zip(totals, lengths, strict=True)]
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return answers

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, **_kwargs: Any
    ) -> list[tuple[float, bool]]:
        """lm-eval's inner interface, for callers that tokenise themselves: all under the default steering."""
        rows = [self._scored(context, continuation, self._default) for _, context, continuation in requests]
        return self._score(rows, "log-likelihoods", disable_tqdm)

    # ------------------------------------------------------------------------------------------ scoring

    def _score(self, rows: Sequence[Scored], what: str, quiet: bool) -> list[tuple[float, bool]]:
        """Score rows in any order of computation; equal rows once; each result recorded before the next batch."""
        keys = {row: self._score_key(row) for row in dict.fromkeys(rows)}
        known = self.records.get(keys.values())
        missing = [row for row, key in keys.items() if key not in known]
        with tqdm(
            total=len(missing), desc=f"{what} of {self.name}", disable=quiet or self.rank != 0 or None, unit="row"
        ) as bar:

            def keep(done: Sequence[Scored], answers: Iterable[tuple[float, bool]]) -> None:
                values = {keys[row]: [value, greedy] for row, (value, greedy) in zip(done, answers, strict=True)}
                self.records.add({key: [_plain(value), greedy] for key, (value, greedy) in values.items()})
                known.update(values)
                bar.update(len(done))

            self._score_unsteered([row for row in missing if not row.steering.is_steered], keep)
            self._score_steered([row for row in missing if row.steering.is_steered], keep)
        return [(float(known[keys[row]][0]), bool(known[keys[row]][1])) for row in rows]

    def _score_key(self, row: Scored) -> str:
        vector = self.bank.digest(row.steering) if self.bank and row.steering.is_steered else ""
        start = row.start if vector else 0
        split = len(row.context)
        return record_key(
            kind="score",
            **self._fingerprint,
            ids=[*row.context, *row.continuation],
            split=split,
            vector=vector,
            start=start,
        )

    def _score_unsteered(self, rows: Sequence[Scored], keep: Callable[..., None]) -> None:
        """As lm-eval's `hf` computes it, batch by batch in the same order, so that the numbers are the same bits."""
        groups: dict[tuple[int, ...], list[Scored]] = {}
        for row in rows:
            groups.setdefault(row.input, []).append(row)
        ordered = sorted(groups, key=lambda ids: (-len(ids), (*groups[ids][0].context, *groups[ids][0].continuation)))

        def run(batch: Sequence[tuple[int, ...]]) -> list[tuple[float, bool]]:
            width = max(map(len, batch))
            padded = torch.zeros(len(batch), width, dtype=torch.long)
            for i, ids in enumerate(batch):
                padded[i, : len(ids)] = torch.tensor(ids)
            logits = torch.nn.functional.log_softmax(
                self._model_call(padded.to(self.device)), dim=-1, dtype=self.softmax_dtype
            )
            answers = []
            for i, ids in enumerate(batch):
                for row in groups[ids]:
                    n = len(row.continuation)
                    part, wanted = (
                        logits[i, len(ids) - n : len(ids)],
                        torch.tensor(row.continuation, device=logits.device),
                    )
                    picked = part.gather(1, wanted[:, None])[
                        None, :, 0
                    ]  # (1, n): summed as `hf` sums, so the same bits
                    answers.append((float(picked.sum()), bool((part.argmax(dim=-1) == wanted).all())))
            return answers

        self._in_batches(
            "score", ordered, run, lambda batch, answers: keep([row for ids in batch for row in groups[ids]], answers)
        )

    def _score_steered(self, rows: Sequence[Scored], keep: Callable[..., None]) -> None:
        """Texts under several steerings on a shared trunk; texts under one in padded batches."""
        groups: dict[tuple[tuple[int, ...], int], list[Scored]] = {}
        for row in rows:
            groups.setdefault((row.input, row.start), []).append(row)
        alone = [group[0] for group in groups.values() if len(group) == 1]
        alone.sort(key=lambda row: -len(row.input))
        self._in_batches("steered", alone, self._padded, keep)
        for (ids, _), group in sorted(groups.items(), key=lambda item: -len(item[0][0])):
            if len(group) > 1:
                self._on_trunk(ids, group, keep)

    def _padded(self, batch: Sequence[Scored]) -> list[tuple[float, bool]]:
        """Different texts in one right-padded batch, each under its own steering."""
        width = max(len(row.input) for row in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        for i, row in enumerate(batch):
            ids[i, : len(row.input)] = torch.tensor(row.input)
        with self._steered(batch):
            logits = self._model_call(ids.to(self.device))
        out = []
        for i, row in enumerate(batch):
            n = len(row.continuation)
            out.extend(_log_likelihoods(logits[i : i + 1, len(row.input) - n : len(row.input)], [row]))
        return out

    def _on_trunk(self, ids: tuple[int, ...], group: Sequence[Scored], keep: Callable[..., None]) -> None:
        """One text under many steerings: blocks up to the steered one are computed once (see `shared_trunk`)."""
        text = torch.tensor([ids], device=self.device)
        longest = max(len(row.continuation) for row in group)
        with torch.inference_mode():
            trunk = self._trunk(text)

            def run(batch: Sequence[Scored]) -> list[tuple[float, bool]]:
                with torch.inference_mode(), shared_trunk(self._blocks, trunk), self._steered(batch):
                    output = self.model(
                        input_ids=text.expand(len(batch), -1), use_cache=False, logits_to_keep=longest
                    ).logits
                out = []
                for i, row in enumerate(batch):
                    out.extend(_log_likelihoods(output[i : i + 1, longest - len(row.continuation) :], [row]))
                return out

            limit = max(1, LOGITS_BYTES // (4 * longest * self.model.config.get_text_config(decoder=True).vocab_size))
            self._in_batches("trunk", group, run, keep, limit=limit)

    def _trunk(self, text: Tensor) -> Any:
        """Output of the steered block for one text (batch 1), unsteered."""
        caught: list[Any] = []
        handle = self._blocks[-1].register_forward_hook(lambda _module, _args, output: caught.append(output))
        try:
            self.model(input_ids=text, use_cache=False, logits_to_keep=1)
        finally:
            handle.remove()
        return caught[0]

    def _steered(self, batch: Sequence[Scored | Generation], padding: Sequence[int] | None = None) -> Any:
        """The context in which a forward pass over `batch` is steered, row by row."""
        assert self.bank is not None
        starts = torch.tensor([row.start for row in batch])
        if padding is not None:
            starts = starts + torch.tensor(padding)
        rows = self.bank.rows([row.steering for row in batch])
        return self.steerer.steering(rows, starts if starts.any() else None)

    def _in_batches(
        self,
        kind: str,
        items: Sequence[T],
        run: Callable[[Sequence[T]], list[R]],
        keep: Callable[..., None],
        limit: int | None = None,
    ) -> None:
        """Run items in batches; when memory runs out halve the batch, remember that, and go on with the same items."""
        done = 0
        while done < len(items):
            size = self._rows_at_once.get(kind) or (AUTO_ROWS if self.batch_size == "auto" else int(self.batch_size))
            batch = items[done : done + min(size, limit or size)]
            try:
                with torch.inference_mode():
                    answers = run(batch)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error) or len(batch) == 1:
                    raise
                self._rows_at_once[kind] = max(1, len(batch) // 2)
                logger.warning("out of memory with %d rows; going on with %d", len(batch), self._rows_at_once[kind])
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            keep(batch, answers)
            done += len(batch)

    # ------------------------------------------------------------------------------------------ generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Replies, each under its own steering; rows of different vectors and factors share batches."""
        jobs: list[tuple[_Settings, Generation]] = []
        for request in requests:
            steering, perplexity = self._steering(request)
            settings = self._settings(request.args[1])
            room = self.max_length - settings.max_new_tokens
            if room < 1:
                raise ValueError(
                    f"max_gen_toks {settings.max_new_tokens}: the model's whole length is {self.max_length}"
                )
            prompt = self.tok_encode(request.args[0])[-room:]
            jobs.append((settings, Generation(tuple(prompt), steering, self._start(prompt, len(prompt)), perplexity)))
        replies: list[Reply | None] = [None] * len(jobs)
        for settings in dict.fromkeys(settings for settings, _ in jobs):
            mine = [i for i, (other, _) in enumerate(jobs) if other == settings]
            for i, reply in zip(mine, self._generate([jobs[i][1] for i in mine], settings, disable_tqdm), strict=True):
                replies[i] = reply
                self.cache_hook.add_partial("generate_until", requests[i].args, reply)
        return [reply for reply in replies if reply is not None]

    def _settings(self, gen_kwargs: dict[str, Any]) -> _Settings:
        kwargs = normalize_gen_kwargs(dict(gen_kwargs), self.max_gen_toks)
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        until = handle_stop_sequences(kwargs.pop("until", None), eos=eos)
        max_new_tokens = kwargs.pop("max_gen_toks")
        kwargs.pop("max_length", None)
        temperature = kwargs.pop("temperature", 0.0)
        if temperature and kwargs.get("do_sample") is not False:
            kwargs.update(do_sample=True, temperature=temperature)
        else:
            kwargs["do_sample"] = False
        return _Settings(tuple(until), max_new_tokens, json.dumps(kwargs, sort_keys=True))

    def _generate(self, rows: Sequence[Generation], settings: _Settings, quiet: bool) -> list[Reply]:
        places = list(enumerate(rows)) if settings.samples else list(enumerate(dict.fromkeys(rows)))
        keys = [self._generation_key(row, settings, i if settings.samples else 0) for i, row in places]
        known = self.records.get(keys)
        missing = [(key, row) for key, (_, row) in zip(keys, places, strict=True) if key not in known]
        missing.sort(key=lambda item: (-len(item[1].prompt), item[1].prompt))
        with tqdm(
            total=len(missing), desc=f"replies of {self.name}", disable=quiet or self.rank != 0 or None, unit="reply"
        ) as bar:

            def keep(batch: Sequence[tuple[str, Generation]], answers: Sequence[list[Any]]) -> None:
                values = {key: answer for (key, _), answer in zip(batch, answers, strict=True)}
                self.records.add(values)
                known.update(values)
                bar.update(len(batch))

            self._in_batches(
                "generate", missing, lambda batch: self._continue([row for _, row in batch], settings), keep
            )
        ordered = (
            keys
            if settings.samples
            else [dict(zip((row for _, row in places), keys, strict=True))[row] for row in rows]
        )
        return [Reply(*known[key]) for key in ordered]

    def _generation_key(self, row: Generation, settings: _Settings, sample: int) -> str:
        vector = self.bank.digest(row.steering) if self.bank and row.steering.is_steered else ""
        return record_key(
            kind="reply", **self._fingerprint, ids=list(row.prompt), vector=vector, start=row.start if vector else 0,
            perplexity=row.perplexity, until=list(settings.until), tokens=settings.max_new_tokens, kwargs=settings.kwargs,
            sample=sample,
        )  # fmt: skip

    def _continue(self, batch: Sequence[Generation], settings: _Settings) -> list[list[Any]]:
        """[text, perplexity under the unsteered model or None, number of tokens] of each reply."""
        width = max(len(row.prompt) for row in batch)
        padding = [width - len(row.prompt) for row in batch]
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        ids = torch.tensor(
            [[pad] * n + list(row.prompt) for n, row in zip(padding, batch, strict=True)], device=self.device
        )
        mask = torch.tensor(
            [[0] * n + [1] * len(row.prompt) for n, row in zip(padding, batch, strict=True)], device=self.device
        )
        strings = [stop for stop in settings.until if self._stop_id(stop) is None]
        call = dict(
            input_ids=ids, attention_mask=mask, max_new_tokens=settings.max_new_tokens, use_cache=True, pad_token_id=pad,
            eos_token_id=self._stop_ids(settings.until), **json.loads(settings.kwargs),
        )  # fmt: skip
        if strings:
            call["stopping_criteria"] = stop_sequences_criteria(self.tokenizer, strings, width, len(batch))
        if any(row.steering.is_steered for row in batch):
            with self._steered(batch, padding):
                out = self.model.generate(**call)
        else:
            out = self.model.generate(**call)
        stop_ids = set(self._stop_ids(settings.until))
        texts, tokens = [], []
        for generated in out[:, width:].tolist():
            end = next((i for i, token in enumerate(generated) if token in stop_ids), len(generated))
            text = self.tok_decode(generated[:end])
            for stop in strings:
                text = text.split(stop)[0]
            texts.append(text)
            tokens.append(tuple(generated[:end]))
        perplexities = self._reply_perplexities(batch, tokens)
        return [[text, perplexity, len(ids)] for text, perplexity, ids in zip(texts, perplexities, tokens, strict=True)]

    def _reply_perplexities(
        self, batch: Sequence[Generation], replies: Sequence[tuple[int, ...]]
    ) -> list[float | None]:
        """Perplexity of the generated tokens only, given their prompt, under the unsteered model."""
        rows = {
            i: Scored(row.prompt, reply, Steering(), 0)
            for i, (row, reply) in enumerate(zip(batch, replies, strict=True))
            if row.perplexity and reply
        }
        unique = list(dict.fromkeys(rows.values()))
        values: dict[Scored, float] = {}
        unique.sort(key=lambda row: -len(row.input))
        size = max(1, len(batch) // 2)  # full rows of prompt and reply: about as much memory as generating them
        for part in (unique[start : start + size] for start in range(0, len(unique), size)):
            longest = max(len(row.input) for row in part)
            keep = max(longest - len(row.context) + 1 for row in part)
            ids = torch.zeros(len(part), longest, dtype=torch.long)
            for i, row in enumerate(part):
                ids[i, : len(row.input)] = torch.tensor(row.input)
            logits = self.model(input_ids=ids.to(self.device), use_cache=False, logits_to_keep=keep).logits
            for i, row in enumerate(part):
                end = keep - (longest - len(row.input))
                ((value, _),) = _log_likelihoods(logits[i : i + 1, end - len(row.continuation) : end], [row])
                values[row] = value
        out: list[float | None] = [None] * len(batch)
        for i, row in rows.items():
            perplexity = float(torch.tensor(-values[row] / len(row.continuation), dtype=torch.float64).exp())
            out[i] = perplexity if torch.isfinite(torch.tensor(perplexity)) else None
        return out

    def _stop_id(self, text: str) -> int | None:
        """The token a stop string is, when it is exactly one special token."""
        token = self.tokenizer.convert_tokens_to_ids(text)
        return token if token in self.tokenizer.all_special_ids and token != self.tokenizer.unk_token_id else None

    def _stop_ids(self, until: Sequence[str]) -> list[int]:
        """End-of-text tokens of the model and its generation config, and stop strings that are one token."""
        config = getattr(self.model.generation_config, "eos_token_id", None)
        known = [config] if isinstance(config, int) else list(config or [])
        ids = [*known, self.eot_token_id, *(self._stop_id(text) for text in until)]
        return sorted({token for token in ids if token is not None})


def _log_likelihoods(logits: Tensor, rows: Sequence[Scored]) -> list[tuple[float, bool]]:
    """logits (rows, n, vocab) at the positions that predict each continuation, all of length n."""
    wanted = torch.tensor([row.continuation for row in rows], device=logits.device)
    scores = logits.float()
    picked = scores.gather(2, wanted[..., None])[..., 0] - scores.logsumexp(dim=-1)
    greedy = (scores.argmax(dim=-1) == wanted).all(dim=1)
    return [(float(value), bool(same)) for value, same in zip(picked.sum(dim=1), greedy, strict=True)]


def _plain(value: float) -> float | str:
    """A log-likelihood as JSON holds it; NaN and Inf as text, so that an invalid sample stays visible."""
    return value if value - value == 0 else str(value)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text or "out of memory" in text


def _check_fit(arms: Arms, config: dict[str, Any], layer: int | None, model: str) -> None:
    """Raise ValueError where an arms file and a model do not belong together."""
    width, depth = config.get("hidden_size"), config.get("num_hidden_layers")
    if width is not None and width != arms.d_model:
        raise ValueError(
            f"arms of {arms.target} have d_model {arms.d_model}, {model} has {width}; "
            "take the arms file of this model, or transfer the vectors to it (steer-bench fit)"
        )
    if depth is not None and not 0 <= arms.layer < depth:
        raise ValueError(f"arms of {arms.target} steer layer {arms.layer}, {model} has {depth} decoder blocks")
    if layer is not None and layer != arms.layer:
        raise ValueError(
            f"layer={layer}: the arms file of {arms.target} was made for layer {arms.layer}; extract again to change it"
        )
