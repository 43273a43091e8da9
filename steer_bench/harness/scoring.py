"""Scoring: log-likelihoods of continuations and whole texts, each under its own steering."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from lm_eval import utils
from lm_eval.api.instance import Instance
from torch import Tensor
from tqdm.auto import tqdm

from steer_bench.harness.answers import LogLikelihood, RollingLogLikelihood, Scored
from steer_bench.harness.model import SteeredHF, extra_of
from steer_bench.models.device import ON_CPU, Sizes, sizes
from steer_bench.models.steered.likelihood import Divergence, head_at, right_padded, token_scores
from steer_bench.models.steered.steering import Steering, run_to, shared_trunk
from steer_bench.records import record_key


class ScoringLM(SteeredHF):
    """The two request loops that ask for log-likelihoods."""

    _kept_trunk: tuple[list[tuple[int, ...]], Any] | None = None
    """The texts of the last batch and what the steered block gave for them."""

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[LogLikelihood]:
        """(log-likelihood of the continuation in nats, whether greedy decoding gives it), each under its own steering."""
        rows = []
        for request in requests:
            context, continuation = request.args[:2]
            steering, _ = self._steering(request)
            kl = steering.is_steered and bool((extra_of(request) or {}).get("kl"))
            rows.append(self._scored(*self._split(context, continuation), steering)._replace(kl=kl))
        scores = self._score(rows, "log-likelihoods", disable_tqdm)
        answers = [
            LogLikelihood(value, greedy, len(row.continuation))
            for (value, greedy, *_), row in zip(scores, rows, strict=True)
        ]
        self._refuse_non_finite(requests, [answer[0] for answer in answers])
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
            kl = steering.is_steered and bool((extra_of(request) or {}).get("kl"))
            ids = self.tok_encode(request.args[0])
            ids = ids[1:] if ids[:1] == [self.prefix_token_id] else ids
            windows = utils.get_rolling_token_windows(
                ids, self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            for context, continuation in map(utils.make_disjoint_window, windows):
                rows.append(self._scored(context, continuation, steering)._replace(kl=kl))
                owners.append(index)
        totals, lengths = [0.0] * len(requests), [0] * len(requests)
        divergences = [0.0] * len(requests)
        scores = self._score(rows, "rolling log-likelihoods", disable_tqdm)
        for index, row, (value, _, *divergence) in zip(owners, rows, scores, strict=True):
            totals[index] += value
            lengths[index] += len(row.continuation)
            divergences[index] += divergence[0] if divergence else math.nan
        means = [
            total / n if n and math.isfinite(total) else None for total, n in zip(divergences, lengths, strict=True)
        ]
        answers = [RollingLogLikelihood(*answer) for answer in zip(totals, lengths, means, strict=True)]
        self._refuse_non_finite(requests, answers)
        for request, answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, answer)
        return answers

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, **_kwargs: Any
    ) -> list[tuple[float, bool]]:
        """lm-eval's inner interface, for callers that tokenise themselves: all under the default steering."""
        rows = [self._scored(context, continuation, self._default) for _, context, continuation in requests]
        return [(value, greedy) for value, greedy, *_ in self._score(rows, "log-likelihoods", disable_tqdm)]

    def _score(self, rows: Sequence[Scored], what: str, quiet: bool) -> list[tuple[Any, ...]]:
        """(log-likelihood, is greedy) of each row, and its KL where asked for.

        Rows are computed in any order; equal rows once; each result recorded before the next batch.
        """
        keys = {row: self._score_key(row) for row in dict.fromkeys(rows)}
        known = self.records.get(keys.values())
        first: dict[str, Scored] = {}  # arms may share a vector: the mean is one for all concepts
        for row, key in keys.items():
            first.setdefault(key, row)
        missing = [row for key, row in first.items() if key not in known]
        self._test_once(missing)
        with tqdm(
            total=len(missing), desc=f"{what} of {self.name}", disable=quiet or self.rank != 0 or None, unit="row"
        ) as bar:

            def keep(done: Sequence[Scored], answers: Iterable[tuple[Any, ...]]) -> None:
                values = {keys[row]: list(answer) for row, answer in zip(done, answers, strict=True)}
                self.records.add(
                    {key: [_plain(value), greedy, *map(_plain, kl)] for key, (value, greedy, *kl) in values.items()}
                )
                known.update(values)
                bar.update(len(done))

            self._score_unsteered([row for row in missing if not row.steering.is_steered], keep)
            self._score_steered([row for row in missing if row.steering.is_steered], keep)
        found = [known[keys[row]] for row in rows]
        return [(float(value), bool(greedy), *map(float, kl)) for value, greedy, *kl in found]

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
            **({"kl": True} if row.kl else {}),
        )

    def _score_unsteered(self, rows: Sequence[Scored], keep: Callable[..., None]) -> None:
        """As lm-eval's `hf` computes it, batch by batch in the same order, so that the numbers are the same bits."""
        groups: dict[tuple[int, ...], list[Scored]] = {}
        for row in rows:
            groups.setdefault(row.input, []).append(row)
        ordered = sorted(groups, key=lambda ids: (-len(ids), (*groups[ids][0].context, *groups[ids][0].continuation)))

        mine = self._share(ordered, lambda ids: map(self._score_key, groups[ids]))

        def run(batch: Sequence[tuple[int, ...]]) -> list[tuple[float, bool]]:
            width = max(map(len, batch))
            padded = torch.zeros(len(batch), width, dtype=torch.long)
            for i, ids in enumerate(batch):
                padded[i, : len(ids)] = torch.tensor(ids)
            logits = self._model_call(padded.to(self.device))
            answers = []
            for i, ids in enumerate(batch):
                for row in groups[ids]:
                    n = len(row.continuation)
                    wanted = torch.tensor(row.continuation, device=logits.device)
                    part = logits[i, len(ids) - n : len(ids)].log_softmax(dim=-1, dtype=self.softmax_dtype)
                    picked = part.gather(1, wanted[:, None])[
                        None, :, 0
                    ]  # (1, n): summed as `hf` sums, so the same bits
                    answers.append((float(picked.sum()), bool((part.argmax(dim=-1) == wanted).all())))
            return answers

        self._in_batches(
            "score", mine, run, lambda batch, answers: keep([row for ids in batch for row in groups[ids]], answers)
        )

    def _score_steered(self, rows: Sequence[Scored], keep: Callable[..., None]) -> None:
        """Texts under several steerings on a shared trunk; texts under one in padded batches; answers of one token in one pass."""
        groups: dict[tuple[tuple[int, ...], int], dict[Steering, list[Scored]]] = {}
        for row in rows:
            groups.setdefault((row.input, row.start), {}).setdefault(row.steering, []).append(row)
        alone = [pass_ for group in groups.values() if len(group) == 1 for pass_ in group.values()]
        alone.sort(key=lambda pass_: -len(pass_[0].input))
        several = [list(group.values()) for group in groups.values() if len(group) > 1]
        several.sort(key=lambda group: (-len(group[0][0].input), group[0][0].input))
        together = [pass_ for group in several for pass_ in group]
        for kind, passes, run in (("steered", alone, self._padded), ("trunk", together, self._on_trunk)):
            longest = max((sum(len(row.continuation) for row in pass_) for pass_ in passes), default=1)
            mine = self._share(passes, lambda pass_: map(self._score_key, pass_), self._rows_of_logits(longest, ON_CPU))
            limit = self._rows_of_logits(longest, sizes(self.device))
            self._in_batches(kind, mine, partial(_of_flat, run), partial(_of_flat, keep), limit=limit)
        self._kept_trunk = None

    def _rows_of_logits(self, n: int, most: Sizes) -> int:
        """How many rows of `n` scored positions have no more logits than `most` computes at once."""
        vocabulary = self.model.config.get_text_config(decoder=True).vocab_size
        return max(1, most.logits_bytes // (self.model.dtype.itemsize * n * vocabulary))

    def _padded(self, batch: Sequence[Scored]) -> list[tuple[Any, ...]]:
        """Different texts in one right-padded batch, each under its own steering; logits only where they are scored."""
        passes, of = _passes(batch)
        steered = self._steered(passes) if any(row.steering.is_steered for row in batch) else nullcontext()
        ids = right_padded([row.input for row in passes])
        with torch.inference_mode():
            plain = self._logits(ids, batch, of) if any(row.kl for row in batch) else None
            with steered:
                return _scores(self._logits(ids, batch, of), batch, plain, batch)

    def _on_trunk(self, batch: Sequence[Scored]) -> list[tuple[Any, ...]]:
        """Texts under many steerings: blocks up to the steered one are computed once a text (see `shared_trunk`).

        Consecutive batches begin with the text that the last one ended with, and its trunk is kept.
        """
        passes, of = _passes(batch)
        texts = list(dict.fromkeys(row.input for row in passes))
        rows = torch.tensor([texts.index(row.input) for row in passes], device=self.device)
        with torch.inference_mode():
            if self._kept_trunk is None or self._kept_trunk[0] != texts:
                ids = right_padded(texts).to(self.device)
                self._kept_trunk = texts, run_to(self._blocks[-1], lambda: self.model(input_ids=ids, use_cache=False))
            trunk, plain = self._kept_trunk[1], None
            once = list(
                {(row.input, len(row.continuation)): row for row in batch}.values()
            )  # each text as it is scored
            if any(row.kl for row in batch):
                every = torch.arange(len(texts), device=self.device)
                with shared_trunk(self._blocks, trunk, every):
                    plain = self._logits(right_padded(texts), once, [texts.index(row.input) for row in once])
            with shared_trunk(self._blocks, trunk, rows), self._steered(passes):
                return _scores(self._logits(right_padded([row.input for row in passes]), batch, of), batch, plain, once)

    def _logits(self, ids: Tensor, batch: Sequence[Scored], of: Sequence[int]) -> Tensor:
        """(n, vocab): at the positions that predict the rows' continuations, row after row; of: the row of `ids` of each"""
        rows: list[int] = []
        positions: list[int] = []
        for i, row in zip(of, batch, strict=True):
            end, n = len(row.input), len(row.continuation)
            rows.extend([i] * n)
            positions.extend(range(end - n, end))
        with head_at(self.model, torch.tensor(rows), torch.tensor(positions)):
            return self.model(input_ids=ids.to(self.device), use_cache=False).logits[0]


def _of_flat(act: Callable[..., Any], passes: Sequence[Sequence[Scored]], *more: Any) -> Any:
    """What `act` makes of the rows of passes."""
    return act([row for pass_ in passes for row in pass_], *more)


def _passes(batch: Sequence[Scored]) -> tuple[list[Scored], list[int]]:
    """Rows that differ in what the model reads, and which of them each row of the batch is: answers of one token differ after it."""
    known: dict[Any, int] = {}
    of = [known.setdefault((row.input, row.start, row.steering), len(known)) for row in batch]
    return [batch[of.index(i)] for i in range(len(known))], of


def _scores(
    logits: Tensor, batch: Sequence[Scored], plain: Tensor | None, plain_rows: Sequence[Scored]
) -> list[tuple[Any, ...]]:
    """Scores of rows, with the KL of those that ask for it; `plain`: unsteered logits of `plain_rows`, which have all texts."""
    lengths = [len(row.continuation) for row in batch]
    scores = token_scores(logits, _wanted(batch).to(logits.device))
    log_p, greedy = scores.log_p.cpu().split(lengths), scores.greedy.cpu().split(lengths)
    values = [(float(of_row.sum()), bool(same.all())) for of_row, same in zip(log_p, greedy, strict=True)]
    if plain is None:
        return list(values)
    parts = plain.split([len(row.continuation) for row in plain_rows])
    of_text = {(row.input, len(row.continuation)): part for row, part in zip(plain_rows, parts, strict=True)}
    out: list[tuple[Any, ...]] = []
    text, divergence = None, None
    for row, value, part, log_z in zip(batch, values, logits.split(lengths), scores.log_z.split(lengths), strict=True):
        if not row.kl:
            out.append(value)
            continue
        if divergence is None or text != (row.input, len(row.continuation)):  # rows of one text stand together
            text = row.input, len(row.continuation)
            divergence = Divergence(of_text[text])
        out.append((*value, divergence.sum(part, log_z)))
    return out


def log_likelihoods(logits: Tensor, rows: Sequence[Scored]) -> list[tuple[float, bool]]:
    """Scores of rows from logits (n, vocab), the positions that predict their continuations, row after row."""
    return [(value, greedy) for value, greedy, *_ in _scores(logits, rows, None, ())]


def _wanted(rows: Sequence[Scored]) -> Tensor:
    """(n,): the tokens of all continuations, row after row"""
    return torch.tensor([token for row in rows for token in row.continuation])


def _plain(value: float) -> float | str:
    """A log-likelihood as JSON holds it; NaN and Inf as text, so that an invalid sample stays visible."""
    return value if value - value == 0 else str(value)
