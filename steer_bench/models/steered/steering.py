"""Steering: a vector, a factor, and the one hook that adds them to the residual stream, a different one in every row.

    steering = factor * S * u        u: unit vector of the arm, S: the target's median centred residual norm (strength "scaled")
    steering = factor * v            (strength "raw")

Knows nothing of where vectors come from.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steer_bench.models.blocks import BlockOutput, states_of, with_states
from steer_bench.vectors.arms import UNSTEERED, Arms
from steer_bench.vectors.store import unit

POSITIONS = ("text", "generated", "all")
"""Which tokens are steered. text: every token but padding and BOS; generated: from the token that predicts the first
generated one on; all: every token, BOS too (what lm-eval's `steered` does)."""
STRENGTHS = ("scaled", "raw")
LARGEST_NORM = 1e15
"""Largest norm that may be added. The square of a larger one is Inf in float32, and a model's own norm then makes every activation 0:
each token is equally likely, a finite number that means nothing."""


@dataclass(frozen=True)
class Steering:
    """How one request is steered. Factor 0 is unsteered, whatever the arm: all such steerings are equal."""

    arm: str = UNSTEERED
    source: str = ""
    concept: str = ""
    factor: float = 0.0
    """Multiplies S times the unit vector; negative steers away."""

    def __post_init__(self) -> None:
        if isinstance(self.factor, bool) or not isinstance(self.factor, int | float) or not math.isfinite(self.factor):
            raise ValueError(f"factor {self.factor!r} is not a finite number")
        if self.factor == 0 or self.arm == UNSTEERED:
            for name, value in (("arm", UNSTEERED), ("source", ""), ("concept", ""), ("factor", 0.0)):
                object.__setattr__(self, name, value)

    @property
    def is_steered(self) -> bool:
        """False where nothing is added."""
        return self.arm != UNSTEERED

    @classmethod
    def from_mapping(cls, given: Mapping[str, object]) -> Steering:
        """Read the third argument of a request. Raises ValueError for unknown keys."""
        unknown = set(given) - {"arm", "source", "concept", "factor"}
        if unknown:
            raise ValueError(f"steer: unknown key {sorted(unknown)[0]!r}; there are: arm, source, concept, factor")
        return cls(
            str(given.get("arm", UNSTEERED)), str(given.get("source", "")), str(given.get("concept", "")),
            given.get("factor", 0.0),  # type: ignore[arg-type]  # refused where it is no number
        )  # fmt: skip


class VectorBank:
    """The vectors of an arms file, looked up by steering."""

    def __init__(self, arms: Arms, *, strength: str = "scaled") -> None:
        if strength not in STRENGTHS:
            raise ValueError(f"strength {strength!r}: there are {', '.join(STRENGTHS)}")
        self.arms, self.strength = arms, strength
        self._rows: dict[Steering, Tensor] = {}

    def check_fit(self, model: str, d_model: int | None, n_layers: int | None, layer: int | None = None) -> None:
        """Raise ValueError where the arms file and a model do not belong together; None is what is not known of the model."""
        arms = self.arms
        if d_model is not None and d_model != arms.d_model:
            raise ValueError(
                f"arms of {arms.target} have d_model {arms.d_model}, {model} has {d_model}; "
                "take the arms file of this model, or transfer the vectors to it (steer-bench fit)"
            )
        if n_layers is not None and not 0 <= arms.layer < n_layers:
            raise ValueError(f"arms of {arms.target} steer layer {arms.layer}, {model} has {n_layers} decoder blocks")
        if layer is not None and layer != arms.layer:
            raise ValueError(
                f"layer={layer}: the arms file of {arms.target} was made for layer {arms.layer}; extract again to change it"
            )

    def vector(self, steering: Steering) -> Tensor:
        """Return what is added to the residual stream: (d_model,) float32, zeros when unsteered.

        Raises ValueError, with what there is, for an unknown arm, source or concept.
        """
        if steering not in self._rows:
            self._rows[steering] = torch.from_numpy(self._computed(steering))
        return self._rows[steering]

    def _computed(self, steering: Steering) -> np.ndarray:
        if not steering.is_steered:
            return np.zeros(self.arms.d_model, dtype=np.float32)
        found = self.arms.find(steering.arm, steering.source, steering.concept)
        by = np.float64(steering.factor) * (1.0 if self.strength == "raw" else self.arms.scale)
        added = by * (found if self.strength == "raw" else unit(found))
        norm = float(np.linalg.norm(added))
        if not norm < LARGEST_NORM:
            raise ValueError(
                f"factor {steering.factor:g} of arm {steering.arm!r} adds a vector of norm {norm:.3g}, which a model cannot compute "
                "with; give a smaller factor"
            )
        return added.astype(np.float32)

    def rows(self, steerings: Sequence[Steering]) -> Tensor:
        """Return what is added to each row: (rows, 1, d_model) float32."""
        return torch.stack([self.vector(steering) for steering in steerings]).unsqueeze(1)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that this bank computes a steering from: vectors, unit of factors, strength, layer."""
        digest = hashlib.sha256(f"{self.strength}:{self.arms.scale!r}:{self.arms.layer}".encode())
        for (arm, concept), vector in sorted(self.arms.vectors.items(), key=lambda item: item[0]):
            digest.update(f":{arm.key(concept)}:".encode() + np.asarray(vector, dtype=np.float32).tobytes())
        return digest.hexdigest()[:16]

    def digest(self, steering: Steering) -> str:
        """Return the hash of exactly what is added: it is in the key of a stored result."""
        return hashlib.sha256(self.vector(steering).numpy().tobytes()).hexdigest()[:16]


class Steerer:
    """One permanent forward hook on a decoder block; adds nothing unless inside `steering(...)`.

    >>> block = torch.nn.Identity()
    >>> steerer = Steerer(block)
    >>> with steerer.steering(torch.ones(1, 1, 2), starts=torch.tensor([1])):
    ...     block(torch.zeros(1, 2, 2)).tolist()
    [[[0.0, 0.0], [1.0, 1.0]]]
    >>> block(torch.zeros(1, 1, 2)).tolist()
    [[[0.0, 0.0]]]
    """

    def __init__(self, block: torch.nn.Module) -> None:
        self._added: Tensor | None = None
        self._starts: Tensor | None = None
        self.calls = 0
        """Forward passes steered so far: a test's proof that steering is applied once a pass."""
        self._handle = block.register_forward_hook(self._hook)

    def remove(self) -> None:
        """Take the hook off the block."""
        self._handle.remove()

    @contextmanager
    def steering(self, rows: Tensor, starts: Tensor | None = None) -> Iterator[None]:
        """While entered, add rows[i] to every position of row i, in the first forward pass from starts[i] on.

        rows: (rows, 1, d_model); starts: (rows,) positions in the padded first pass. Later passes (with a KV cache) hold
        only new tokens and are steered whole.
        """
        self._added, self._starts = rows, starts
        try:
            yield
        finally:
            self._added = self._starts = None

    def _hook(self, _module: torch.nn.Module, _args: object, output: BlockOutput) -> BlockOutput | None:
        if self._added is None:
            return None
        hidden = states_of(output)
        added = self._added.to(hidden.device, hidden.dtype)
        self._added = added  # moved and cast once a batch
        if added.shape[0] != hidden.shape[0]:  # beams, or several samples a prompt
            if hidden.shape[0] % added.shape[0]:
                raise RuntimeError(
                    f"{hidden.shape[0]} rows in the forward pass, steering prepared for {added.shape[0]}"
                )
            added = added.repeat_interleave(hidden.shape[0] // added.shape[0], dim=0)
        if self._starts is not None:
            starts = self._starts.to(hidden.device).repeat_interleave(hidden.shape[0] // len(self._starts))
            at = torch.arange(hidden.shape[1], device=hidden.device) >= starts[:, None]
            added = added * at[..., None]
            self._starts = None
        self.calls += 1
        return with_states(output, hidden + added)
