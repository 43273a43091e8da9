"""The model: what it is, how a request is steered, and how requests run in batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import steer_bench
from steer_bench.harness import ranks
from steer_bench.harness.answers import Generation, Scored
from steer_bench.harness.stopping import whole
from steer_bench.harness.weightless import model_without_weights
from steer_bench.models.blocks import decoder_layers, lean_head
from steer_bench.models.device import ON_CPU, sizes
from steer_bench.models.fingerprint import model_digests, weights_digest
from steer_bench.models.load import check_model, model_path, read_config, revision
from steer_bench.models.steered.selftest import self_test
from steer_bench.models.steered.steering import POSITIONS, STRENGTHS, Steerer, Steering, VectorBank
from steer_bench.models.tokens import encode
from steer_bench.records import Records, ShardRecords, record_key
from steer_bench.vectors.arms import Arms

logger = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R")

TEXTS_REMEMBERED = 8192
"""Texts whose token ids are kept."""
MARK_INVALID = frozenset({"capability_choices"})
"""Tasks without a steering of their own that mark samples with a non-finite log-likelihood as invalid."""


class SteeredHF(HFLM):
    """lm-eval's `hf` with a bank of vectors, a steerer and records; the request loops are in `scoring` and `generation`."""

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
        records: str | Records | None = None,
        seed: int = 0,
        alone: bool = False,
        weights: bool = True,
        keep_non_finite: bool = False,
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
        self.positions, self.seed = positions, int(seed)
        self._default = Steering(arm, str(source), str(concept), factor) if arm else Steering()
        if arm and loaded_arms is not None:  # also at factor 0: a misspelt name is never quietly unsteered
            loaded_arms.find(arm, str(source), str(concept))
        if isinstance(pretrained, str):
            check_model(pretrained)
            if loaded_arms is not None:
                _check_fit(loaded_arms, read_config(pretrained), layer, pretrained)
        self.name = pretrained if isinstance(pretrained, str) else type(pretrained).__name__
        self._weights = weights
        super().__init__(pretrained=model_path(pretrained) if isinstance(pretrained, str) else pretrained, **kwargs)
        lean_head(self.model)
        alone = alone or not isinstance(pretrained, str) or bool(kwargs.get("tp_plan"))
        self._rank, self._world_size = ranks.place(self.rank, self.world_size, alone=alone)
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
        self.records = records if isinstance(records, Records) else Records(records)
        self.keep_non_finite = keep_non_finite
        self._rows_at_once: dict[str, int] = {}
        self._trunk_checked: bool | None = None
        self._self_tested = False
        self._fingerprint = self._describe(kwargs, exact=records is not None)

    def _create_model(self, pretrained: str, dtype: Any = "auto", **kwargs: Any) -> None:
        """As `hf`; without weights a model of the same shape that fails at its first forward pass."""
        if self._weights:
            super()._create_model(pretrained, dtype=dtype, **kwargs)
        else:
            self._model = model_without_weights(self.AUTO_MODEL_CLASS, pretrained, dtype)

    # ------------------------------------------------------------------------------------------ among other ranks

    def all_gather(self, tensor: Any) -> Any:
        """The tensors of all ranks, concatenated; a single number counts as a tensor of one."""
        return ranks.all_gather(tensor) if self.world_size > 1 else tensor

    def gather_object(self, obj: Any, dst: int = 0) -> Any:
        """lm-eval's samples and metrics of all ranks, as one rank alone would have them, on rank `dst`."""
        return ranks.gather(obj, dst) if self.world_size > 1 else [obj]

    def barrier(self) -> None:
        """Wait for all ranks."""
        ranks.wait(self.world_size)

    # ------------------------------------------------------------------------------------------ what this model is

    def _describe(self, options: Mapping[str, Any], *, exact: bool) -> dict[str, Any]:
        """Everything a result depends on, but the request itself and its vector.

        `exact`: results are kept by it, so a model that was given as an object is hashed too.
        """
        import transformers

        own = isinstance(self.name, str) and isinstance(self.pretrained_name, str)
        return {
            "model": self.name,
            "revision": revision(self.name) if own else weights_digest(self.model) if exact else "in memory",
            "dtype": str(self.model.dtype),
            "layer": self.bank.arms.layer if self.bank else None,
            "positions": self.positions,
            "max_length": self.max_length,
            **model_digests(self.model, self.tokenizer, options),
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

    @default.setter
    def default(self, steering: Steering) -> None:
        if steering.is_steered:  # raises ValueError for an unknown arm, source or concept
            assert self.bank is not None
            self.bank.vector(steering)
        self._default = steering

    @property
    def fingerprint(self) -> str:
        """Hash of the model, its settings and its default steering: what lm-eval's own cache does not key."""
        steering = self.bank.digest(self._default) if self.bank and self._default.is_steered else ""
        arms = self.bank.arms.sha256 if self.bank else ""
        return record_key(**self._fingerprint, default=steering, arms=arms)

    def get_model_info(self) -> dict[str, Any]:
        """lm-eval writes this into its results file."""
        told = super().get_model_info() if self.pretrained_name else {}
        info = {key: str(value) if isinstance(value, torch.dtype) else value for key, value in told.items()}
        return {**info, "steer_bench": {**self._fingerprint, "scale": self.bank.arms.scale if self.bank else None}}

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuse an `--use_cache` database of another model, vector file or default steering: its keys know none of them."""
        super().set_cache_hook(cache_hook)
        database = getattr(cache_hook, "dbdict", None)
        if database is None:
            return
        if self._fingerprint["revision"] == "in memory":
            self._fingerprint["revision"] = weights_digest(self.model)
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
        given = extra_of(request)
        if given is None:
            return self._default, False
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
            return list(self._encode(string))
        return super().tok_encode(string, add_special_tokens=add_special_tokens, **kwargs)

    @cached_property
    def _encode(self) -> Callable[[str], tuple[int, ...]]:
        """`encode`, that remembers: a text is asked for once a steering."""
        return lru_cache(TEXTS_REMEMBERED)(lambda text: tuple(encode(self.tokenizer, text)))

    def _steered(self, batch: Sequence[Scored | Generation], padding: Sequence[int] | None = None) -> Any:
        """The context in which a forward pass over `batch` is steered, row by row."""
        assert self.bank is not None
        starts = torch.tensor([row.start for row in batch])
        if padding is not None:
            starts = starts + torch.tensor(padding)
        rows = self.bank.rows([row.steering for row in batch])
        return self.steerer.steering(rows, starts if starts.any() else None)

    def _share(self, items: Sequence[T], keys: Callable[[T], Iterable[str]], limit: int | None = None) -> Sequence[T]:
        """All items, about to be run in batches; in a shard of a run its own, dealt alike on every kind of device.

        They are dealt in batches of a CPU, where `auto` leaves the size open: shards that took other sizes would leave items to none.
        """
        if not isinstance(self.records, ShardRecords):
            return items
        size = ON_CPU.rows if self.batch_size == "auto" else int(self.batch_size)
        return self.records.mine(items, min(size, limit or size), keys)

    @property
    def _rows(self) -> int:
        """Rows of a batch as asked for, or for this device."""
        return sizes(self.device).rows if self.batch_size == "auto" else int(self.batch_size)

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
            size = self._rows_at_once.get(kind, self._rows)
            batch = items[done : done + min(size, limit or size)]
            try:
                with whole(), torch.inference_mode():  # a stop waits until the batch is recorded
                    answers = run(batch)
                    keep(batch, answers)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error) or len(batch) == 1:
                    raise
                self._rows_at_once[kind] = max(1, len(batch) // 2)
                logger.warning("out of memory with %d rows; going on with %d", len(batch), self._rows_at_once[kind])
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            done += len(batch)

    def _test_once(self, rows: Iterable[Scored | Generation]) -> None:
        """Before the first steered batch: the self-test, which stops the run where steering is not what it should be."""
        first = next((row.steering for row in rows if row.steering.is_steered), None)
        if self._self_tested or first is None or self.bank is None:
            return
        self._self_tested = True
        self_test(self.model, self.tokenizer, self._blocks[-1], self.steerer, self.bank, first)

    def _refuse_non_finite(self, requests: Sequence[Instance], values: Sequence[float]) -> None:
        """Stop where a request of a task that knows no invalid samples got NaN or Inf: lm-eval would make a score of it.

        Our own tasks say their steering in the last argument, and show such a sample as invalid.
        """
        ours = [extra_of(request) is not None or request.task_name in MARK_INVALID for request in requests]
        bad = (
            0
            if self.keep_non_finite
            else sum(not own and not math.isfinite(value) for own, value in zip(ours, values, strict=True))
        )
        if bad:
            raise FloatingPointError(
                f"{bad} of {len(requests)} results are not finite: the model's activations overflow under this steering, and "
                "lm-eval would count them as wrong or right; give a smaller factor, or dtype=float32 (keep_non_finite=True keeps them)"
            )


def extra_of(request: Instance) -> dict[str, Any] | None:
    """What our tasks add to a request's arguments, {"steer": …}; None where it is a request of another task."""
    last = request.args[-1]
    return last if isinstance(last, dict) and "steer" in last else None


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
