"""Scoring: log-likelihoods of continuations and whole texts, each under its own steering."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.instance import Instance
from torch import Tensor
from tqdm.auto import tqdm

from steer_bench.lm.model import SteeredHF
from steer_bench.lm.requests import LogLikelihood, RollingLogLikelihood, Scored
from steer_bench.records import record_key
from steer_bench.steering import Steering, shared_trunk

LOGITS_BYTES = 512 << 20
"""Float32 logits computed at once when scoring under steering."""


class ScoringLM(SteeredHF):
    """The two request loops that ask for log-likelihoods."""

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
            out.extend(log_likelihoods(logits[i : i + 1, len(row.input) - n : len(row.input)], [row]))
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
                    out.extend(log_likelihoods(output[i : i + 1, longest - len(row.continuation) :], [row]))
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


def log_likelihoods(logits: Tensor, rows: Sequence[Scored]) -> list[tuple[float, bool]]:
    """logits (rows, n, vocab) at the positions that predict each continuation, all of length n."""
    wanted = torch.tensor([row.continuation for row in rows], device=logits.device)
    scores = logits.float()
    picked = scores.gather(2, wanted[..., None])[..., 0] - scores.logsumexp(dim=-1)
    greedy = (scores.argmax(dim=-1) == wanted).all(dim=1)
    return [(float(value), bool(same)) for value, same in zip(picked.sum(dim=1), greedy, strict=True)]


def _plain(value: float) -> float | str:
    """A log-likelihood as JSON holds it; NaN and Inf as text, so that an invalid sample stays visible."""
    return value if value - value == 0 else str(value)
