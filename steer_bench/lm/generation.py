"""Generation: replies, each under its own steering, with what the unsteered model makes of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.models.utils_hf import stop_sequences_criteria
from tqdm.auto import tqdm

from steer_bench.lm.requests import Generation, Reply, Scored, Settings
from steer_bench.lm.sampling import WARPERS, row_seed, samplers
from steer_bench.lm.scoring import ScoringLM, log_likelihoods
from steer_bench.records import record_key
from steer_bench.steering import Steering


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
        missing = [(key, row) for row, key in keys.items() if key not in known]
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
        if settings.sampling:
            seeds = [self._row_seed(row) for row in batch]
            call["logits_processor"] = samplers(json.loads(settings.sampling), seeds)
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
                ((value, _),) = log_likelihoods(logits[i : i + 1, end - len(row.continuation) : end], [row])
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
