"""Generation: replies, each under its own steering, with what the unsteered model makes of them."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.models.utils_hf import stop_sequences_criteria
from torch import Tensor
from tqdm.auto import tqdm

from steer_bench.harness.answers import Generation, Reply, Scored, Settings
from steer_bench.harness.scoring import ScoringLM, log_likelihoods
from steer_bench.models.device import sizes
from steer_bench.models.steered.captured import Captured
from steer_bench.models.steered.decoding import forward, greedy, is_plain, left_padded, new_cache
from steer_bench.models.steered.finite import NonFiniteWatch
from steer_bench.models.steered.likelihood import head_at
from steer_bench.models.steered.sampling import WARPERS, row_seed, samplers
from steer_bench.models.steered.steering import Steering
from steer_bench.records import record_key
from steer_bench.results.rows import INVALID

logger = logging.getLogger(__name__)


class GeneratingLM(ScoringLM):
    """The request loop that asks for replies."""

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Replies, each under its own steering; rows of different vectors and factors share batches."""
        jobs: list[tuple[Settings, Generation]] = []
        seen: Counter[tuple[Settings, Generation]] = Counter()
        for request in requests:
            steering, perplexity = self._steering(request)
            settings = self._settings(request.args[1])
            room = self.max_length - settings.max_new_tokens
            if room < 1:
                raise ValueError(
                    f"max_gen_toks {settings.max_new_tokens}: the model's whole length is {self.max_length}"
                )
            prompt = self.tok_encode(request.args[0])[-room:]
            row = Generation(tuple(prompt), steering, self._start(prompt, len(prompt)), perplexity)
            if settings.sampling:
                row = row._replace(sample=int(request.args[2].get("sample", 0)) if len(request.args) > 2 else 0)
                seen[settings, row] += 1
                row = row._replace(repeat=seen[settings, row] - 1)
            jobs.append((settings, row))
        replies: list[Reply | None] = [None] * len(jobs)
        for settings in dict.fromkeys(settings for settings, _ in jobs):
            mine = [i for i, (other, _) in enumerate(jobs) if other == settings]
            for i, reply in zip(mine, self._generate([jobs[i][1] for i in mine], settings, disable_tqdm), strict=True):
                replies[i] = reply
                self._refuse_non_finite([requests[i]], [math.nan if reply.invalid else 0.0])
                self.cache_hook.add_partial("generate_until", requests[i].args, reply)
        return [reply for reply in replies if reply is not None]

    def _settings(self, gen_kwargs: dict[str, Any]) -> Settings:
        kwargs = normalize_gen_kwargs(dict(gen_kwargs), self.max_gen_toks)
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        until = handle_stop_sequences(kwargs.pop("until", None), eos=eos)
        max_new_tokens = kwargs.pop("max_gen_toks")
        kwargs.pop("max_length", None)
        asked = kwargs.pop("do_sample", None)
        given = {name: kwargs.pop(name, None) for name in WARPERS}
        sampling = {name: value for name, value in given.items() if value}
        if asked and "temperature" not in gen_kwargs:
            sampling["temperature"] = 1.0
        drawn = json.dumps(sampling, sort_keys=True) if sampling.get("temperature") and asked is not False else ""
        return Settings(tuple(until), max_new_tokens, json.dumps({**kwargs, "do_sample": False}, sort_keys=True), drawn)

    def _generate(self, rows: Sequence[Generation], settings: Settings, quiet: bool) -> list[Reply]:
        keys = {row: self._generation_key(row, settings) for row in dict.fromkeys(rows)}
        known = self.records.get(keys.values())
        first: dict[str, Generation] = {}  # arms may share a vector
        for row, key in keys.items():
            first.setdefault(key, row)
        missing = [(key, row) for key, row in first.items() if key not in known]
        missing.sort(key=lambda item: (-len(item[1].prompt), item[1].prompt))
        missing = list(self._share(missing, lambda item: [item[0]]))
        self._test_once(row for _, row in missing)
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
        return [Reply(*known[keys[row]]) for row in rows]

    def _generation_key(self, row: Generation, settings: Settings) -> str:
        vector = self.bank.digest(row.steering) if self.bank and row.steering.is_steered else ""
        return record_key(
            kind="reply", **self._fingerprint, ids=list(row.prompt), vector=vector, start=row.start if vector else 0,
            perplexity=row.perplexity, until=list(settings.until), tokens=settings.max_new_tokens, kwargs=settings.kwargs,
            sample=[settings.sampling, self.seed, row.sample, row.repeat] if settings.sampling else 0,
        )  # fmt: skip

    def _row_seed(self, row: Generation) -> int:
        """Of the row's own random numbers."""
        vector = self.bank.digest(row.steering) if self.bank and row.steering.is_steered else ""
        return row_seed(self.seed, row.prompt, vector, row.sample, row.repeat)

    def _continue(self, batch: Sequence[Generation], settings: Settings) -> list[list[Any]]:
        """[text, perplexity under the unsteered model or None, number of tokens] of each reply, and why it is invalid, if it is."""
        strings = [stop for stop in settings.until if self._stop_id(stop) is None]
        stop_ids = set(self._stop_ids(settings.until))
        plain = not settings.sampling and json.loads(settings.kwargs) == {"do_sample": False} and self._is_plain
        decode = partial(self._greedy, stop_ids=stop_ids) if plain else self._by_generate
        new_tokens, bad_steps = decode(batch, settings, strings)
        texts, tokens = [], []
        for generated in new_tokens:
            end = next((i for i, token in enumerate(generated) if token in stop_ids), len(generated))
            text = self.tok_decode(generated[:end])
            for stop in strings:
                text = text.split(stop)[0]
            texts.append(text)
            tokens.append(tuple(generated[:end]))
        perplexities = self._reply_perplexities(batch, tokens)
        answers: list[list[Any]] = []
        for row, text, perplexity, reply, bad in zip(batch, texts, perplexities, tokens, bad_steps, strict=True):
            picked_from_nan = bad is not None and bad <= len(
                reply
            )  # what comes after the stop token is not the reply's
            unmeasured = row.perplexity and bool(reply) and perplexity is None
            answers.append([text, perplexity, len(reply), *([INVALID] if picked_from_nan or unmeasured else [])])
        return answers

    @cached_property
    def _is_plain(self) -> bool:
        """Whether our own loop decodes this model; else `generate` does."""
        plain = is_plain(self.model)
        if not plain:
            logger.info(
                "%s has its own generation settings or cache: replies come from generate(), more slowly", self.name
            )
        return plain

    @cached_property
    def _captured(self) -> Captured | None:
        """Steps as CUDA graphs, where the whole model is on one GPU."""
        devices = {parameter.device for parameter in self.model.parameters()}
        if len(devices) != 1 or next(iter(devices)).type != "cuda":
            return None
        return Captured(self.model, getattr(self, "steerer", None))

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    def _greedy(
        self, batch: Sequence[Generation], settings: Settings, strings: Sequence[str], *, stop_ids: set[int]
    ) -> tuple[list[list[int]], list[int | None]]:
        """New tokens of each row by our own loop (see `decoding`), and the first step at which its logits were no numbers."""
        tail = max((len(stop.encode()) for stop in strings), default=0) + 2  # tokens in which a stop string can lie

        def is_finished(reply: list[int]) -> bool:
            if reply[-1] in stop_ids:
                return True
            return bool(strings) and any(stop in self.tok_decode(reply[-tail:]) for stop in strings)

        options: dict[str, Any] = {}
        if any(row.steering.is_steered for row in batch):
            assert self.bank is not None
            options = {
                "steerer": self.steerer,
                "added": self.bank.rows([row.steering for row in batch]),
                "starts": torch.tensor([row.start for row in batch]),
                "blocks": self._blocks,
            }
        bad: dict[int, int] = {}
        replies = greedy(
            self.model, [row.prompt for row in batch], max_new_tokens=settings.max_new_tokens, is_finished=is_finished,
            pad=self._pad, device=self.device, bad=bad, captured=self._captured.step if self._captured else None, **options,
        )  # fmt: skip
        return replies, [bad.get(i) for i in range(len(batch))]

    def _by_generate(
        self, batch: Sequence[Generation], settings: Settings, strings: Sequence[str]
    ) -> tuple[list[list[int]], list[int | None]]:
        """As `_greedy`, by transformers' `generate`, with whatever settings it takes."""
        ids, mask = left_padded([row.prompt for row in batch], self._pad, self.device)
        width = ids.shape[1]
        call = dict(
            input_ids=ids, attention_mask=mask, max_new_tokens=settings.max_new_tokens, use_cache=True,
            pad_token_id=self._pad, eos_token_id=self._stop_ids(settings.until), **json.loads(settings.kwargs),
        )  # fmt: skip
        if settings.sampling:
            seeds = [self._row_seed(row) for row in batch]
            call["logits_processor"] = samplers(json.loads(settings.sampling), seeds)
        if strings:
            call["stopping_criteria"] = stop_sequences_criteria(self.tokenizer, list(strings), width, len(batch))
        with NonFiniteWatch(self.model) as watch:
            if any(row.steering.is_steered for row in batch):
                with self._steered(batch, [width - len(row.prompt) for row in batch]):
                    out = self.model.generate(**call)
            else:
                out = self.model.generate(**call)
        return out[:, width:].tolist(), watch.first(len(batch))

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
        if unique and self._is_plain:
            scores = self._after_shared_prompts(unique)
        else:
            scores = [score for row in unique for score in self._padded([row])]
        values = {row: value for row, (value, _) in zip(unique, scores, strict=True)}
        out: list[float | None] = [None] * len(batch)
        for i, row in rows.items():
            perplexity = float(torch.tensor(-values[row] / len(row.continuation), dtype=torch.float64).exp())
            out[i] = perplexity if torch.isfinite(torch.tensor(perplexity)) else None
        return out

    def _after_shared_prompts(self, rows: Sequence[Scored]) -> list[tuple[float, bool]]:
        """Scores of unsteered rows, each context computed once however many continuations it has."""
        contexts = list(dict.fromkeys(row.context for row in rows))
        place = {context: i for i, context in enumerate(contexts)}
        ids, mask = left_padded(contexts, self._pad, self.device)
        past = new_cache(self.model)
        with torch.inference_mode():
            first = forward(self.model, ids, mask, past)[:, -1]
            longest = max(len(row.continuation) for row in rows)
            size = self._rows_of_logits(longest, sizes(self.device))
            out: list[tuple[float, bool]] = []
            for part in (rows[start : start + size] for start in range(0, len(rows), size)):
                index = torch.tensor([place[row.context] for row in part], device=self.device)
                logits = [first[index[i] : index[i] + 1] for i in range(len(part))]
                if any(len(row.continuation) > 1 for row in part):
                    logits = self._continued(part, mask[index], past, index, logits)
                out.extend(log_likelihoods(torch.cat(logits), part))
        return out

    def _continued(
        self, part: Sequence[Scored], mask: Tensor, past: Any, index: Tensor, first: Sequence[Tensor]
    ) -> list[Tensor]:
        """Logits (n, vocab) of each row's continuation; `first` are those of its first token."""
        width = max(len(row.continuation) for row in part) - 1
        ids = torch.tensor(
            [[*row.continuation[:-1], *[self._pad] * (width - len(row.continuation) + 1)] for row in part],
            device=self.device,
        )
        real = torch.tensor(
            [[1] * (len(row.continuation) - 1) + [0] * (width - len(row.continuation) + 1) for row in part],
            device=self.device,
        )
        grown = copy.deepcopy(past)
        grown.batch_select_indices(index)
        rows, positions = real.nonzero(as_tuple=True)
        with head_at(self.model, rows, positions):
            logits = forward(self.model, ids, torch.cat([mask, real], dim=1), grown, keep=0)[0]
        later = logits.split([len(row.continuation) - 1 for row in part])
        return [torch.cat([start, rest]) for start, rest in zip(first, later, strict=True)]

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
