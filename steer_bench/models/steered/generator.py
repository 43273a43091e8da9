"""Generator: replies, each row under its own steering, with what the unsteered model makes of them.

prompts -> rows of token ids -> [our greedy loop | transformers' generate] -> texts, perplexities, recorded
"""

from __future__ import annotations

import copy
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache, GenerationMixin, StoppingCriteria, StoppingCriteriaList

from steer_bench.models.load import Loaded
from steer_bench.models.padding import left_padded, right_padded
from steer_bench.models.steered.cuda_graph import GraphStep
from steer_bench.models.steered.decoding import RowSteering, Written, forward, greedy, is_plain, new_cache, read_prompts
from steer_bench.models.steered.likelihood import head_at
from steer_bench.models.steered.model import SteeredModel, Work
from steer_bench.models.steered.nonfinite import NonFiniteWatch
from steer_bench.models.steered.requests import Reply, ReplyRow, ReplySettings, Score, ScoreRow
from steer_bench.models.steered.sampling import row_seed, samplers
from steer_bench.models.steered.scorer import Scorer, scores
from steer_bench.models.steered.steering import Steering, VectorBank

logger = logging.getLogger(__name__)
NON_FINITE = "non_finite"
"""Why a reply is invalid: it was picked from NaN or infinite logits, or its perplexity is not finite."""


class Generator:
    """Writes replies to rows of token ids, or prompts, in batches of mixed vectors.

    seed: of sampled replies. Each row has its own random numbers, from the seed, its prompt and its vector: neither batch nor
    order changes a reply.
    """

    def __init__(self, model: SteeredModel | Loaded, bank: VectorBank | None = None, *, seed: int = 0) -> None:
        self.steered = SteeredModel.of(model, bank)
        self.seed = seed
        self._scorer = Scorer(self.steered)

    def generate(
        self,
        prompts: Sequence[str | Sequence[int]],
        settings: ReplySettings,
        steerings: Sequence[Steering] | None = None,
        *,
        perplexity: bool = False,
    ) -> list[Reply]:
        """Return a reply to each prompt, text or token ids, under the steering of its place; default: unsteered.

        perplexity: also that of the replies under the unsteered model. Raises ValueError for a steering that there is not.
        """
        rows = [
            self.row(self.steered.encode(prompt) if isinstance(prompt, str) else prompt, settings, steering, perplexity)
            for prompt, steering in zip(prompts, steerings or [Steering()] * len(prompts), strict=True)
        ]
        return self.generate_rows(self.numbered(rows) if settings.sampling else rows, settings)

    def row(
        self, prompt: Sequence[int], settings: ReplySettings, steering: Steering, perplexity: bool = False
    ) -> ReplyRow:
        """Return a row, its prompt cut on the left so that the reply has room. Raises ValueError where there is none."""
        room = self.steered.max_length - settings.max_new_tokens
        if room < 1:
            raise ValueError(
                f"max_gen_toks {settings.max_new_tokens}: the model's whole length is {self.steered.max_length}"
            )
        ids = tuple(prompt)[-room:]
        return ReplyRow(ids, self.steered.check(steering), self.steered.start(len(ids)), perplexity)

    @staticmethod
    def numbered(rows: Sequence[ReplyRow]) -> list[ReplyRow]:
        """Return the rows with equal ones numbered, so that each is a draw with its own random numbers."""
        seen: Counter[ReplyRow] = Counter()
        out = []
        for row in rows:
            out.append(row._replace(repeat=seen[row]))
            seen[row] += 1
        return out

    def generate_rows(self, rows: Sequence[ReplyRow], settings: ReplySettings, *, quiet: bool = False) -> list[Reply]:
        """Return replies to rows; equal rows are answered once, each batch is recorded before the next."""

        def works(missing: list[ReplyRow]) -> list[Work[ReplyRow]]:
            missing.sort(key=lambda row: (-len(row.prompt), row.prompt))
            return [Work("generate", [[row] for row in missing], lambda batch: self._write(batch, settings))]

        records = self.steered.answered(rows, lambda row: self._key(row, settings), works, "replies", quiet=quiet)
        return [Reply(*record) for record in records]

    def _key(self, row: ReplyRow, settings: ReplySettings) -> str:
        vector = self.steered.digest(row.steering)
        return self.steered.key(
            "reply", ids=list(row.prompt), vector=vector, start=row.start if vector else 0, perplexity=row.perplexity,
            until=list(settings.until), tokens=settings.max_new_tokens, kwargs=settings.options,
            sample=[settings.sampling, self.seed, row.sample, row.repeat] if settings.sampling else 0,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ a batch

    def _write(self, batch: Sequence[ReplyRow], settings: ReplySettings) -> list[Reply]:
        stop_ids = set(self.stop_ids(settings.until))
        strings = [stop for stop in settings.until if self._stop_id(stop) is None]
        decode = self.greedily if settings.is_greedy and self.is_plain else self.by_generate
        written = decode(batch, settings)
        texts, tokens = [], []
        for new_ids, _ in written:
            end = next((i for i, token in enumerate(new_ids) if token in stop_ids), len(new_ids))
            text = self._decode(new_ids[:end])
            for stop in strings:
                text = text.split(stop)[0]
            texts.append(text)
            tokens.append(tuple(new_ids[:end]))
        perplexities = self._perplexities(batch, tokens)
        replies = []
        for row, text, perplexity, ids, (_, bad) in zip(batch, texts, perplexities, tokens, written, strict=True):
            # what comes after the stop token is not the reply's
            picked_from_nan = bad is not None and bad <= len(ids)
            unmeasured = row.perplexity and bool(ids) and perplexity is None
            invalid = NON_FINITE if picked_from_nan or unmeasured else ""
            replies.append(Reply(text, perplexity, len(ids), invalid))
        return replies

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.steered.tokenizer.decode(list(ids), skip_special_tokens=True))

    @cached_property
    def is_plain(self) -> bool:
        """Whether our own loop decodes this model; else `generate` does."""
        plain = is_plain(self.steered.model)
        if not plain:
            name = self.steered.loaded.name
            logger.info("%s has its own generation settings or cache: replies come from generate(), more slowly", name)
        return plain

    @cached_property
    def graph(self) -> GraphStep | None:
        """Steps as CUDA graphs, where the whole model is on one GPU."""
        devices = {parameter.device for parameter in self.steered.model.parameters()}
        if len(devices) != 1 or next(iter(devices)).type != "cuda":
            return None
        return GraphStep(self.steered.model, self.steered.steerer)

    def _is_finished(self, settings: ReplySettings) -> Callable[[list[int]], bool]:
        """Return what says whether a row's new tokens end with a stop token or hold a stop string."""
        stop_ids = set(self.stop_ids(settings.until))
        strings = [stop for stop in settings.until if self._stop_id(stop) is None]
        tail = max((len(stop.encode()) for stop in strings), default=0) + 2  # tokens in which a stop string can lie

        def is_finished(reply: list[int]) -> bool:
            if reply[-1] in stop_ids:
                return True
            return bool(strings) and any(stop in self._decode(reply[-tail:]) for stop in strings)

        return is_finished

    def greedily(self, batch: Sequence[ReplyRow], settings: ReplySettings) -> list[Written]:
        """Write by our own loop (see `decoding`)."""
        steered, steering = self.steered, None
        if any(row.steering.is_steered for row in batch):
            assert steered.bank is not None
            assert steered.steerer is not None
            added = steered.bank.rows([row.steering for row in batch])
            starts = torch.tensor([row.start for row in batch])
            steering = RowSteering(steered.steerer, added, starts, steered.blocks)
        prompts = [row.prompt for row in batch]
        read = read_prompts(steered.model, prompts, pad=steered.pad, device=steered.at, steering=steering)
        return greedy(
            read, max_new_tokens=settings.max_new_tokens, is_finished=self._is_finished(settings),
            faster=self.graph.step if self.graph else None,
        )  # fmt: skip

    def by_generate(self, batch: Sequence[ReplyRow], settings: ReplySettings) -> list[Written]:
        """Write by transformers' `generate`, with whatever settings it takes."""
        steered, is_finished = self.steered, self._is_finished(settings)
        ids, mask = left_padded([row.prompt for row in batch], steered.pad, steered.at)
        width = ids.shape[1]
        call: dict[str, Any] = dict(
            input_ids=ids, attention_mask=mask, max_new_tokens=settings.max_new_tokens, use_cache=True,
            pad_token_id=steered.pad, eos_token_id=self.stop_ids(settings.until), **json.loads(settings.options),
        )  # fmt: skip
        if settings.sampling:
            seeds = [self._row_seed(row) for row in batch]
            call["logits_processor"] = samplers(json.loads(settings.sampling), seeds)
        if any(self._stop_id(stop) is None for stop in settings.until):
            call["stopping_criteria"] = StoppingCriteriaList([_Finished(is_finished, width)])
        with NonFiniteWatch(steered.model) as watch:
            padding = [width - len(row.prompt) for row in batch]
            is_steered = any(row.steering.is_steered for row in batch)
            with steered.steered(batch, padding) if is_steered else nullcontext():
                out = cast(GenerationMixin, steered.model).generate(**call)
        bad = watch.first(len(batch))
        return [Written(_until(is_finished, ids), step) for ids, step in zip(out[:, width:].tolist(), bad, strict=True)]

    def _row_seed(self, row: ReplyRow) -> int:
        return row_seed(self.seed, row.prompt, self.steered.digest(row.steering), row.sample, row.repeat)

    def _stop_id(self, text: str) -> int | None:
        """Return the token a stop string is, when it is exactly one special token."""
        tokenizer = self.steered.tokenizer
        token = tokenizer.convert_tokens_to_ids(text)
        return token if token in tokenizer.all_special_ids and token != tokenizer.unk_token_id else None

    def stop_ids(self, until: Sequence[str] = ()) -> list[int]:
        """Return the end-of-text tokens of the model and its generation config, and stop strings that are one token."""
        config = getattr(self.steered.model.generation_config, "eos_token_id", None)
        known = [config] if isinstance(config, int) else list(config or [])
        ids = [*known, self.steered.tokenizer.eos_token_id, *(self._stop_id(text) for text in until)]
        return sorted({token for token in ids if token is not None})

    # ------------------------------------------------------------------------------------------ perplexity of replies

    def _perplexities(self, batch: Sequence[ReplyRow], replies: Sequence[tuple[int, ...]]) -> list[float | None]:
        """Return the perplexity of the generated tokens only, given their prompt, under the unsteered model."""
        rows = {
            i: ScoreRow(row.prompt, reply, Steering(), 0)
            for i, (row, reply) in enumerate(zip(batch, replies, strict=True))
            if row.perplexity and reply
        }
        values = dict(self._scored(list(dict.fromkeys(rows.values()))))
        out: list[float | None] = [None] * len(batch)
        for i, row in rows.items():
            mean = -values[row].log_likelihood / len(row.continuation)
            perplexity = float(torch.tensor(mean, dtype=torch.float64).exp())
            out[i] = perplexity if torch.isfinite(torch.tensor(perplexity)) else None
        return out

    def _scored(self, rows: Sequence[ScoreRow]) -> list[tuple[ScoreRow, Score]]:
        """Score unsteered rows, each context computed once however many continuations it has."""
        if not rows or not self.is_plain:
            return [(row, score) for row in rows for score in self._scorer.padded([row])]
        model = self.steered.model
        out: list[tuple[ScoreRow, Score]] = []
        contexts = list(dict.fromkeys(row.context for row in rows))
        place = {context: i for i, context in enumerate(contexts)}
        ids, mask = left_padded(contexts, self.steered.pad, self.steered.at)
        past = new_cache(model)
        with torch.inference_mode():
            first = forward(model, ids, mask, past)[:, -1]
            size = self.steered.rows_of_logits(max(len(row.continuation) for row in rows))
            for part in (rows[start : start + size] for start in range(0, len(rows), size)):
                index = torch.tensor([place[row.context] for row in part], device=self.steered.at)
                logits = [first[index[i] : index[i] + 1] for i in range(len(part))]
                if any(len(row.continuation) > 1 for row in part):
                    grown = copy.deepcopy(past)
                    grown.batch_select_indices(index)
                    logits = self._continued(part, mask[index], grown, logits)
                out.extend(zip(part, scores(torch.cat(logits), part), strict=True))
        return out

    def _continued(self, part: Sequence[ScoreRow], mask: Tensor, past: Cache, first: Sequence[Tensor]) -> list[Tensor]:
        """Return logits (n, vocab) of each row's continuation; `first` are those of its first token."""
        ids, real = right_padded([row.continuation[:-1] for row in part], self.steered.pad, self.steered.at)
        rows, positions = real.nonzero(as_tuple=True)
        with head_at(self.steered.model, rows, positions):
            logits = forward(self.steered.model, ids, torch.cat([mask, real], dim=1), past, keep=0)[0]
        later = logits.split([len(row.continuation) - 1 for row in part])
        return [torch.cat([start, rest]) for start, rest in zip(first, later, strict=True)]


class _Finished(StoppingCriteria):
    """Tell `generate` which rows are finished."""

    def __init__(self, is_finished: Callable[[list[int]], bool], width: int) -> None:
        self._is_finished, self._width = is_finished, width

    def __call__(self, input_ids: Tensor, _scores: Tensor, **_kwargs: object) -> Tensor:
        """Return which rows of `input_ids` (rows, tokens) are finished, (rows,) bool."""
        finished = [self._is_finished(reply) for reply in input_ids[:, self._width :].tolist()]
        return torch.tensor(finished, device=input_ids.device)


def _until(is_finished: Callable[[list[int]], bool], ids: list[int]) -> list[int]:
    """Return the tokens up to the one that finished the row: `generate` pads rows to the longest."""
    end = next((i for i in range(1, len(ids) + 1) if is_finished(ids[:i])), len(ids))
    return ids[:end]
