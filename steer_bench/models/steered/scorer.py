"""Scorer: log-likelihoods of continuations and whole texts, each row under its own steering.

texts -> rows of token ids -> [unsteered: one pass a batch | steered: shared trunk, or padded] -> scores, recorded
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from steer_bench.models.blocks import BlockOutput, outputs_of
from steer_bench.models.load import Loaded
from steer_bench.models.padding import right_padded
from steer_bench.models.steered.likelihood import Divergence, head_at, token_scores
from steer_bench.models.steered.model import SteeredModel, Work
from steer_bench.models.steered.requests import Score, ScoreRow
from steer_bench.models.steered.steering import Steering, VectorBank
from steer_bench.models.steered.trunk import shared_trunk


class Scorer:
    """Scores rows of token ids, or texts, in batches of mixed vectors.

    forward: unsteered logits (rows, tokens, vocab) of ids (rows, tokens); default the model's own forward pass.
    softmax_dtype: of unsteered log-softmaxes; default that of the logits.
    """

    def __init__(
        self,
        model: SteeredModel | Loaded,
        bank: VectorBank | None = None,
        *,
        forward: Callable[[Tensor], Tensor] | None = None,
        softmax_dtype: torch.dtype | None = None,
    ) -> None:
        self.steered = SteeredModel.of(model, bank)
        self._forward = forward or (lambda ids: self.steered.model(ids).logits)
        self._softmax_dtype = softmax_dtype
        self._kept_trunk: tuple[list[tuple[int, ...]], BlockOutput] | None = None
        """The texts of the last batch and what the steered block gave for them."""

    # ------------------------------------------------------------------------------------------ texts

    def score(
        self, pairs: Sequence[tuple[str, str]], steerings: Sequence[Steering] | None = None, *, kl: bool = False
    ) -> list[Score]:
        """Score each (context, continuation) under the steering of its place; default: unsteered.

        An empty context is the BOS. Raises ValueError for a steering that there is not.
        """
        rows = [
            self.row(*self.split(*pair), steering, kl=kl)
            for pair, steering in zip(pairs, steerings or [Steering()] * len(pairs), strict=True)
        ]
        return self.score_rows(rows)

    def score_texts(
        self,
        texts: Sequence[str],
        steerings: Sequence[Steering] | None = None,
        *,
        kl: bool = False,
        quiet: bool = False,
    ) -> list[Score]:
        """Score whole texts, each after one BOS, in windows of the model's length; default: unsteered."""
        rows: list[ScoreRow] = []
        owners: list[int] = []
        for i, (text, steering) in enumerate(zip(texts, steerings or [Steering()] * len(texts), strict=True)):
            windows = list(self.windows(self.steered.encode(text)))
            rows.extend(self.row(*window, steering, kl=kl) for window in windows)
            owners.extend([i] * len(windows))
        return self.score_windows(rows, owners, len(texts), quiet=quiet)

    def split(self, context: str, continuation: str) -> tuple[Sequence[int], Sequence[int]]:
        """Return the token ids of both; spaces that end the context belong to the continuation.

        The whole text is encoded and cut where the context ends. Where nothing is left behind the cut, because both melt into
        one token, each is encoded apart. An empty context is the prefix token (BOS).
        """
        kept = context.rstrip()
        before = self.steered.encode(kept) if context else ()
        behind = self.steered.encode(context + continuation)[len(before) :] if context else ()
        if behind:
            return before, behind
        apart = self.steered.tokenizer(context[len(kept) :] + continuation, add_special_tokens=False).input_ids
        if context:
            return before, apart
        prefix = self.steered.prefix_token
        return (apart[:1], apart[1:]) if apart[:1] == [prefix] else ([prefix], apart)

    def windows(self, ids: Sequence[int]) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        """Yield (context, continuation) of a text's windows: each token is scored once, after as much as the model reads."""
        most, prefix = self.steered.max_length, self.steered.prefix_token
        ids = ids[1:] if ids[:1] in ([prefix], (prefix,)) else ids
        if ids:
            yield [prefix], ids[:most]
        for start in range(most, len(ids), most):
            end = min(start + most, len(ids))
            yield ids[end - most - 1 : start], ids[start:end]

    # ------------------------------------------------------------------------------------------ rows

    def row(
        self,
        context: Sequence[int],
        continuation: Sequence[int],
        steering: Steering,
        *,
        kl: bool = False,
        as_hf: bool = False,
    ) -> ScoreRow:
        """Return a row, its context cut on the left to what the model reads.

        Raises ValueError where there is nothing to score, more than the model reads, or no token that it stands behind.
        """
        steering, most = self.steered.check(steering), self.steered.max_length
        if not context or not 1 <= len(continuation) <= most:
            text = self.steered.tokenizer.decode([*context, *continuation])
            raise ValueError(
                f"a log-likelihood of {len(continuation)} tokens behind {len(context)}, where the model reads 1 to {most} behind at "
                f"least 1: {text[:80]!r}; a context must not be white space, nor a continuation empty or longer than the model reads"
            )
        context = tuple(context)[-(self.steered.max_length + 1 - len(continuation)) :]
        start = self.steered.start(len(context))
        steers = steering.is_steered
        return ScoreRow(context, tuple(continuation), steering, start, kl and steers, as_hf and not steers)

    def score_windows(
        self, rows: Sequence[ScoreRow], owners: Sequence[int], n: int, *, quiet: bool = False
    ) -> list[Score]:
        """Score rows, and add up those that belong to one of `n` texts; such a text is no greedy reply."""
        totals = [Score(0.0, False, 0) for _ in range(n)]
        for i, score in zip(owners, self.score_rows(rows, "rolling log-likelihoods", quiet=quiet), strict=True):
            value, _, length, kl = totals[i]
            whole = None if score.kl is None else score.kl + (kl or 0.0)
            totals[i] = Score(value + score.log_likelihood, False, length + score.n_tokens, whole)
        return totals

    def score_rows(
        self, rows: Sequence[ScoreRow], what: str = "log-likelihoods", *, quiet: bool = False
    ) -> list[Score]:
        """Score rows, in any order; equal rows once; each result is recorded before the next batch."""
        records = self.steered.answered(rows, self._key, self._works, what, quiet=quiet)
        return [Score.from_record(record, len(row.continuation)) for row, record in zip(rows, records, strict=True)]

    def _key(self, row: ScoreRow) -> str:
        vector = self.steered.digest(row.steering)
        further = {"kl": row.kl, "precise": not (vector or row.as_hf)}
        return self.steered.key(
            "score", ids=[*row.context, *row.continuation], split=len(row.context), vector=vector,
            start=row.start if vector else 0, **{name: True for name, value in further.items() if value},
        )  # fmt: skip

    def _works(self, rows: Sequence[ScoreRow]) -> Iterator[Work[ScoreRow]]:
        """Yield rows as lm-eval's `hf` scores them, texts under one steering, and texts under several, each longest first.

        Unsteered is one of the steerings: both sides of a difference come from the same passes, softmax and sums (float32, float64).
        """
        as_hf: dict[tuple[int, ...], list[ScoreRow]] = {}
        groups: dict[tuple[tuple[int, ...], int], dict[Steering, list[ScoreRow]]] = {}
        for row in rows:
            if row.as_hf:
                as_hf.setdefault(row.input, []).append(row)
            else:
                groups.setdefault((row.input, row.start), {}).setdefault(row.steering, []).append(row)
        ordered = sorted(
            as_hf.values(), key=lambda same: (-len(same[0].input), (*same[0].context, *same[0].continuation))
        )
        yield Work("score", ordered, self.as_hf)
        alone = [pass_ for group in groups.values() if len(group) == 1 for pass_ in group.values()]
        alone.sort(key=lambda pass_: -len(pass_[0].input))
        several = [list(group.values()) for group in groups.values() if len(group) > 1]
        several.sort(key=lambda group: (-len(group[0][0].input), group[0][0].input))
        together = [pass_ for group in several for pass_ in group]
        for kind, passes, run in (("steered", alone, self.padded), ("trunk", together, self.on_trunk)):
            longest = max((sum(len(row.continuation) for row in pass_) for pass_ in passes), default=1)
            yield Work(kind, passes, run, longest)
        self._kept_trunk = None

    def as_hf(self, batch: Sequence[ScoreRow]) -> list[Score]:
        """Score as lm-eval's `hf` does, batch by batch in the same order, so that the numbers are the same bits."""
        inputs = list(dict.fromkeys(row.input for row in batch))
        logits = dict(zip(inputs, self._forward(right_padded(inputs, device=self.steered.at)[0]), strict=True))
        found = []
        for row in batch:
            end, n = len(row.input), len(row.continuation)
            part = logits[row.input][end - n : end].log_softmax(dim=-1, dtype=self._softmax_dtype)
            wanted = torch.tensor(row.continuation, device=part.device)
            picked = part.gather(1, wanted[:, None])[None, :, 0]  # (1, n): summed as `hf` sums, so the same bits
            found.append(Score(float(picked.sum()), bool((part.argmax(dim=-1) == wanted).all()), n))
        return found

    def padded(self, batch: Sequence[ScoreRow]) -> list[Score]:
        """Score different texts in one right-padded batch, each under its own steering; logits only where they are scored."""
        passes, of = _passes(batch)
        steered = self.steered.steered(passes) if any(row.steering.is_steered for row in batch) else nullcontext()
        ids, _ = right_padded([row.input for row in passes])
        with torch.inference_mode():
            plain = self._logits(ids, batch, of) if any(row.kl for row in batch) else None
            with steered:
                return scores(self._logits(ids, batch, of), batch, plain, batch)

    def on_trunk(self, batch: Sequence[ScoreRow]) -> list[Score]:
        """Score texts under many steerings: blocks up to the steered one are computed once a text (see `shared_trunk`).

        Consecutive batches begin with the text that the last one ended with, and its trunk is kept.
        """
        blocks, model, device = self.steered.blocks, self.steered.model, self.steered.at
        passes, of = _passes(batch)
        texts = list(dict.fromkeys(row.input for row in passes))
        rows = torch.tensor([texts.index(row.input) for row in passes], device=device)
        once = list({(row.input, len(row.continuation)): row for row in batch}.values())  # each text as it is scored
        with torch.inference_mode():
            if self._kept_trunk is None or self._kept_trunk[0] != texts:
                ids, _ = right_padded(texts, device=device)
                (output,) = outputs_of(blocks[-1:], lambda: model(input_ids=ids, use_cache=False))
                self._kept_trunk = texts, output
            trunk, plain = self._kept_trunk[1], None
            if any(row.kl for row in batch):
                every = torch.arange(len(texts), device=device)
                with shared_trunk(blocks, trunk, every):
                    plain = self._logits(right_padded(texts)[0], once, [texts.index(row.input) for row in once])
            with shared_trunk(blocks, trunk, rows), self.steered.steered(passes):
                logits = self._logits(right_padded([row.input for row in passes])[0], batch, of)
                return scores(logits, batch, plain, once)

    def _logits(self, ids: Tensor, batch: Sequence[ScoreRow], of: Sequence[int]) -> Tensor:
        """Return logits (n, vocab) where the rows' continuations are predicted, row after row; of: the row of `ids` of each."""
        rows: list[int] = []
        positions: list[int] = []
        for i, row in zip(of, batch, strict=True):
            end, n = len(row.input), len(row.continuation)
            rows.extend([i] * n)
            positions.extend(range(end - n, end))
        with head_at(self.steered.model, torch.tensor(rows), torch.tensor(positions)):
            return self.steered.model(input_ids=ids.to(self.steered.at), use_cache=False).logits[0]


def _passes(batch: Sequence[ScoreRow]) -> tuple[list[ScoreRow], list[int]]:
    """Return rows that differ in what the model reads, and which of them each row of the batch is."""
    known: dict[tuple[tuple[int, ...], int, Steering], int] = {}
    of = [known.setdefault((row.input, row.start, row.steering), len(known)) for row in batch]
    return [batch[of.index(i)] for i in range(len(known))], of


def scores(
    logits: Tensor, batch: Sequence[ScoreRow], plain: Tensor | None = None, plain_rows: Sequence[ScoreRow] = ()
) -> list[Score]:
    """Return scores of rows from logits (n, vocab) at the positions that predict their continuations, row after row.

    plain: unsteered logits of `plain_rows`, which have all texts, for rows that ask for their KL.
    """
    lengths = [len(row.continuation) for row in batch]
    wanted = torch.tensor([token for row in batch for token in row.continuation], device=logits.device)
    found = token_scores(logits, wanted)
    log_p, greedy = found.log_p.cpu().split(lengths), found.greedy.cpu().split(lengths)
    values = [Score(float(p.sum()), bool(g.all()), n) for p, g, n in zip(log_p, greedy, lengths, strict=True)]
    if plain is None:
        return values
    parts = plain.split([len(row.continuation) for row in plain_rows])
    of_text = {(row.input, len(row.continuation)): part for row, part in zip(plain_rows, parts, strict=True)}
    text, divergence = None, None
    for i, (row, part, log_z) in enumerate(zip(batch, logits.split(lengths), found.log_z.split(lengths), strict=True)):
        if row.kl:
            if divergence is None or text != (row.input, len(row.continuation)):  # rows of one text stand together
                text = row.input, len(row.continuation)
                divergence = Divergence(of_text[text])
            values[i] = values[i]._replace(kl=divergence.sum(part, log_z))
    return values
