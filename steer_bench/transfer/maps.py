"""Transfer maps: functions from the source's residual space to the target's.

A map takes activations. How a *direction* goes through it follows from what it is: a linear map without its bias
(f(h+) - f(h-) = (h+ - h-) W), a nonlinear one by pushing samples (mean f(h+) - mean f(h-)); never f(v).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn


class TransferMap(Protocol):
    """A function from the source's residual space to the target's."""

    def __call__(self, activations: Tensor) -> Tensor:
        """(n, d_source) -> (n, d_target)"""

    def tensors(self) -> Mapping[str, np.ndarray]:
        """What a file keeps of it."""


@runtime_checkable
class DirectionMap(TransferMap, Protocol):
    """A map through which a direction goes without samples."""

    @property
    def d_source(self) -> int:
        """Width of the directions it takes."""

    def direction(self, vector: Tensor) -> Tensor:
        """(d_source,) -> (d_target,)"""


@dataclass(frozen=True)
class LinearMap:
    """x -> (x - source_mean) W + target_mean."""

    weight: Tensor
    """(d_source, d_target) float64"""
    source_mean: Tensor
    """(d_source,)"""
    target_mean: Tensor
    """(d_target,)"""

    @property
    def d_source(self) -> int:
        """Width of the source."""
        return self.weight.shape[0]

    def __call__(self, activations: Tensor) -> Tensor:
        """(n, d_source) -> (n, d_target), in the precision of the activations."""
        weight = self.weight.to(activations)
        return (activations - self.source_mean.to(activations)) @ weight + self.target_mean.to(activations)

    def direction(self, vector: Tensor) -> Tensor:
        """v W, without the bias: (d_source,) -> (d_target,)"""
        return vector.double() @ self.weight

    def tensors(self) -> Mapping[str, np.ndarray]:
        """weight, source_mean, target_mean"""
        return {name: getattr(self, name).float().numpy() for name in ("weight", "source_mean", "target_mean")}


class VectorMap(LinearMap):
    """A linear map that was fitted on vectors: its means are means of vectors, so a direction goes through all of it."""

    def direction(self, vector: Tensor) -> Tensor:
        """(v - source_mean) W + target_mean: (d_source,) -> (d_target,)"""
        return (vector.double() - self.source_mean) @ self.weight + self.target_mean


@dataclass(frozen=True)
class LookupMap:
    """v -> the target's vector of the concept whose source vector is nearest, by cosine about the mean source vector."""

    source: Tensor
    """(n, d_source) vectors of the concepts that are looked up"""
    target: Tensor
    """(n, d_target) their vectors in the target"""

    @property
    def d_source(self) -> int:
        """Width of the source."""
        return self.source.shape[1]

    def __call__(self, activations: Tensor) -> Tensor:
        """(n, d_source) -> (n, d_target), row by row."""
        mean = self.source.mean(dim=0)
        rows = nn.functional.normalize(activations.double() - mean, dim=1)
        near = (rows @ nn.functional.normalize(self.source - mean, dim=1).T).argmax(dim=1)
        return self.target[near].to(activations)

    def direction(self, vector: Tensor) -> Tensor:
        """(d_source,) -> (d_target,)"""
        return self(vector.double()[None])[0]

    def tensors(self) -> Mapping[str, np.ndarray]:
        """source, target"""
        return {name: getattr(self, name).float().numpy() for name in ("source", "target")}


class MLPMap(nn.Module):
    """x -> linear(x) + scale_t * g((x - m_s) / sd_s), g one hidden GELU layer with zero-initialised output.

    The residual network starts as nothing, so the map is never worse than its linear part before training.
    """

    source_scale: Tensor
    target_scale: Tensor

    def __init__(self, linear: LinearMap, source_scale: Tensor, target_scale: Tensor, hidden: int) -> None:
        super().__init__()
        self.linear = linear
        d_source, d_target = linear.weight.shape
        self.inner, self.outer = nn.Linear(d_source, hidden), nn.Linear(hidden, d_target)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.register_buffer("source_scale", source_scale.float())
        self.register_buffer("target_scale", target_scale.float())

    def residual(self, standardised: Tensor) -> Tensor:
        """g, in units of the target's standard deviation: (n, d_source) -> (n, d_target)"""
        hidden = nn.functional.gelu(_affine(self.inner, standardised))
        return _affine(self.outer, hidden)

    def forward(self, activations: Tensor) -> Tensor:
        """(n, d_source) -> (n, d_target), in the precision of the activations and where they are."""
        standardised = (activations - self.linear.source_mean.to(activations)) / self.source_scale.to(activations)
        return self.linear(activations) + self.residual(standardised) * self.target_scale.to(activations)

    def tensors(self) -> Mapping[str, np.ndarray]:
        """The linear part and the network."""
        network = {f"network.{name}": tensor.detach().numpy() for name, tensor in self.state_dict().items()}
        return {**self.linear.tensors(), **network}


def _affine(layer: nn.Linear, rows: Tensor) -> Tensor:
    """(n, d_in) -> (n, d_out), the layer taken to the rows' device and precision."""
    return nn.functional.linear(rows, layer.weight.to(rows), layer.bias.to(rows))


def direction_map(weight: Tensor) -> VectorMap:
    """Return the map v -> v W for directions only, without means: (d_source, d_target) float64."""
    return VectorMap(weight, weight.new_zeros(weight.shape[0]), weight.new_zeros(weight.shape[1]))


def truncate_or_pad(d_source: int, d_target: int) -> LinearMap:
    """Return the identity across widths: the first min(d_source, d_target) coordinates, zeros after them."""
    zeros = torch.zeros(d_source, dtype=torch.float64), torch.zeros(d_target, dtype=torch.float64)
    return LinearMap(torch.eye(d_source, d_target, dtype=torch.float64), *zeros)
