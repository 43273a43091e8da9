"""A model under a bank of vectors: how a row is steered, and how rows run in batches whose answers are recorded."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steer_bench.models.activations import FIRST_READ
from steer_bench.models.blocks import check_decoder, decoder_layers
from steer_bench.models.device import ON_CPU, sizes
from steer_bench.models.fingerprint import fingerprint_of
from steer_bench.models.load import Loaded
from steer_bench.models.rope import forget_lengths, unscaled_length
from steer_bench.models.steered.requests import Reply, ReplyRow, Score, ScoreRow
from steer_bench.models.steered.selftest import self_test
from steer_bench.models.steered.steering import POSITIONS, Steerer, Steering, VectorBank
from steer_bench.models.stopping import finish_before_stop
from steer_bench.models.tokens import context_length, encode
from steer_bench.records import Records, ShardRecords, record_key

logger = logging.getLogger(__name__)
Row = TypeVar("Row", ScoreRow, ReplyRow)
Record = list[Any]
"""An answer as it is kept."""

TEXTS_REMEMBERED = 8192
"""Texts whose token ids are kept."""


class Work(NamedTuple, Generic[Row]):
    """Rows to be run in batches."""

    kind: str
    """Batches of one kind have one size: what memory allowed last."""
    passes: Sequence[Sequence[Row]]
    """Rows that one row of a forward pass answers stand together."""
    run: Callable[[Sequence[Row]], Sequence[Score | Reply]]
    """Returns the answers to a batch, in order."""
    longest: int = 0
    """Most scored positions of a pass, all of whose logits are held at once; 0 where that bounds no batch."""


@dataclass
class SteeredModel:
    """A model, its vectors, the hook that adds them, and the records of finished answers: what Scorer and Generator share.

    Raises ValueError for positions that there are not, and for a bank of another width or a layer that the model does not have.
    """

    loaded: Loaded
    bank: VectorBank | None = None
    _: KW_ONLY
    positions: str = "text"
    batch_size: int | str = "auto"
    """Rows of a batch; `auto` is as many as the device takes well."""
    records: Records = field(default_factory=Records)
    fingerprint: dict[str, object] = field(default_factory=dict)
    """What answers depend on beside the request: part of their keys. Made here where records are kept in a file."""
    max_length: int = 0
    """Tokens that the model reads at most; 0: as its config says."""
    device: torch.device | None = None
    """Where token ids go; default: where the embedding lives."""
    prefix: int | None = None
    """Token that stands before a text without context; default: the BOS, else the end of text."""

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise ValueError(f"positions={self.positions}: there are {', '.join(POSITIONS)}")
        model, tokenizer = self.model, self.tokenizer
        self.max_length = self.max_length or context_length(model, tokenizer)
        self.at = self.device or self.loaded.device
        bos = tokenizer.bos_token_id
        self.prefix_token = next(t for t in (self.prefix, bos, tokenizer.eos_token_id, 0) if t is not None)
        self.blocks: list[torch.nn.Module] = []
        self.steerer: Steerer | None = None
        check_decoder(self.loaded.name, model.config.is_encoder_decoder)
        if self.bank is not None:
            config = model.config.get_text_config(decoder=True)
            self.bank.check_fit(self.loaded.name, config.hidden_size, config.num_hidden_layers)
            self.blocks = list(decoder_layers(model))[: self.bank.arms.layer + 1]
            self.steerer = Steerer(self.blocks[-1])
        if not self.fingerprint and self.records.path is not None:
            self.fingerprint = fingerprint_of(
                self.loaded, layer=self.bank.arms.layer if self.bank else None, positions=self.positions,
                max_length=self.max_length,
            )  # fmt: skip
        self.encode: Callable[[str], tuple[int, ...]] = lru_cache(TEXTS_REMEMBERED)(
            lambda text: tuple(encode(tokenizer, text))
        )
        unscaled = unscaled_length(model.config)
        self.rows_alone = unscaled is not None and unscaled < self.max_length
        """Whether a row's numbers would depend on its neighbours in a batch, so that each is run alone."""
        if self.rows_alone:
            logger.warning(
                "%s scales positions by the longest row of a batch: rows run one by one (max_length=%d lets them share batches)",
                self.loaded.name, unscaled,
            )  # fmt: skip
        self._rows_at_once: dict[str, int] = {}
        self._self_tested = False

    @classmethod
    def of(cls, model: SteeredModel | Loaded, bank: VectorBank | None) -> SteeredModel:
        """Return a steered model as it is, or a loaded one under a bank."""
        return model if isinstance(model, SteeredModel) else cls(model, bank)

    @property
    def model(self) -> PreTrainedModel:
        """The model itself."""
        return self.loaded.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        return self.loaded.tokenizer

    @property
    def pad(self) -> int:
        """Token that stands where a shorter row has none."""
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None else int(pad)

    def close(self) -> None:
        """Take the steering hook off the model."""
        if self.steerer is not None:
            self.steerer.remove()

    # ------------------------------------------------------------------------------------------ steering of rows

    def start(self, n_context: int) -> int:
        """Return the first steered position of a row whose context is `n_context` tokens long: as in reading, never position 0."""
        if self.positions == "all":
            return 0
        return FIRST_READ if self.positions == "text" else max(FIRST_READ, n_context - 1)

    def digest(self, steering: Steering) -> str:
        """Return the hash of what a steering adds; "" for none."""
        return self.bank.digest(steering) if self.bank and steering.is_steered else ""

    def check(self, steering: Steering) -> Steering:
        """Return a steering that can be had; ValueError, with what there is, for any other."""
        if steering.is_steered:
            if self.bank is None:
                raise ValueError(
                    f"a request asks for arm {steering.arm!r}: give arms=FILE in model_args (RUN/arms/MODEL.safetensors)"
                )
            self.bank.vector(steering)
        return steering

    def steered(
        self, batch: Sequence[ScoreRow | ReplyRow], padding: Sequence[int] | None = None
    ) -> AbstractContextManager[None]:
        """Return the context in which a forward pass over `batch` is steered, row by row."""
        assert self.bank is not None
        assert self.steerer is not None
        starts = torch.tensor([row.start for row in batch])
        if padding is not None:
            starts = starts + torch.tensor(padding)
        rows = self.bank.rows([row.steering for row in batch])
        return self.steerer.steering(rows, starts if starts.any() else None)

    def test_once(self, rows: Iterable[ScoreRow | ReplyRow]) -> None:
        """Run the self-test before the first steered batch; SelfTestError where steering is not what it should be."""
        first = next((row.steering for row in rows if row.steering.is_steered), None)
        if self._self_tested or first is None or self.bank is None or self.steerer is None:
            return
        self._self_tested = True
        self_test(self.model, self.tokenizer, self.blocks[-1], self.steerer, self.bank, first)

    # ------------------------------------------------------------------------------------------ batches and records

    def key(self, kind: str, **parts: object) -> str:
        """Return the key of an answer's record."""
        return record_key(kind=kind, **self.fingerprint, **parts)

    @property
    def rows(self) -> int:
        """Rows of a batch as asked for, or for this device."""
        if self.rows_alone:
            return 1
        return sizes(self.at).rows if self.batch_size == "auto" else int(self.batch_size)

    def rows_of_logits(self, n: int, budget: int | None = None) -> int:
        """Return how many rows of `n` scored positions have no more logits than the device (or `budget` bytes) takes at once."""
        if not n:
            return sys.maxsize
        vocabulary = self.model.config.get_text_config(decoder=True).vocab_size
        most = sizes(self.at).logits_bytes if budget is None else budget
        return max(1, most // (self.model.dtype.itemsize * n * vocabulary))

    def answered(
        self,
        rows: Sequence[Row],
        key: Callable[[Row], str],
        works: Callable[[list[Row]], Iterable[Work[Row]]],
        what: str,
        *,
        quiet: bool = False,
    ) -> list[Record]:
        """Return the record of each row, in order; equal rows are computed once, each batch is recorded before the next.

        Batches are made of all rows, the recorded ones left out last: a run that goes on has the batches, and so the last bits, of one
        that was never stopped.
        """
        keys = {row: key(row) for row in dict.fromkeys(rows)}
        known = self.records.get(keys.values())
        first: dict[str, Row] = {}  # arms may share a vector: the mean is one for all concepts
        for row, name in keys.items():
            first.setdefault(name, row)
        missing = [row for name, row in first.items() if name not in known]
        self.test_once(missing)
        with tqdm(total=len(missing), desc=f"{what} of {self.loaded.name}", disable=quiet or None, unit="row") as bar:
            for work in works(list(first.values())) if missing else ():
                left = [[row for row in pass_ if keys[row] not in known] for pass_ in work.passes]
                for done in self._batches(work._replace(passes=[pass_ for pass_ in left if pass_]), keys):
                    known.update(done)
                    bar.update(len(done))
        return [known[keys[row]] for row in rows]

    def _batches(self, work: Work[Row], keys: Mapping[Row, str]) -> Iterator[dict[str, Record]]:
        """Yield the records of each batch; when memory runs out halve the batch, remember that, and go on with the same passes.

        A shard of a run has its own passes, dealt in batches of a CPU where `auto` leaves the size open: shards that took other
        sizes would leave passes to none.
        """
        passes, asked = work.passes, None if self.batch_size == "auto" else int(self.batch_size)
        if isinstance(self.records, ShardRecords):
            size = min(asked or ON_CPU.rows, self.rows_of_logits(work.longest, ON_CPU.logits_bytes))
            passes = self.records.mine(passes, size, lambda pass_: [keys[row] for row in pass_])
        limit, done = self.rows_of_logits(work.longest), 0
        while done < len(passes):
            here = passes[done : done + min(limit, self._rows_at_once.get(work.kind, self.rows))]
            batch = [row for pass_ in here for row in pass_]
            if self.rows_alone:
                forget_lengths(self.model)
            try:
                with finish_before_stop(), torch.inference_mode():  # a stop waits until the batch is recorded
                    found = {keys[row]: answer.record() for row, answer in zip(batch, work.run(batch), strict=True)}
                    self.records.add(found)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error) or len(here) == 1:
                    raise
                self._rows_at_once[work.kind] = max(1, len(here) // 2)
                logger.warning("out of memory with %d rows; going on with %d", len(here), self._rows_at_once[work.kind])
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            yield found
            done += len(here)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text or "out of memory" in text
