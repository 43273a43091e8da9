"""The nonlinear fit: ridge plus a residual network on standardised activations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steer_bench.transfer.maps import MLPMap
from steer_bench.transfer.pairs import Fit, Pair, ridge


def mlp(
    pair: Pair,
    hidden: int = 512,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    batch: int = 1024,
    max_epochs: int = 20,
    patience: int = 2,
) -> Fit:
    """Fit ridge plus a residual network on standardised activations, stopped early on held-out documents.

    The network is that of Oozeer et al. 2025 (arXiv 2503.04429): one hidden layer. Trained with AdamW on what ridge leaves over,
    in units of the target's standard deviations, so that massive dimensions do not make up the whole loss.
    """
    linear = ridge(pair)
    x, y = (side.float() for side in pair.train_samples)
    x_held, y_held = (side.float() for side in pair.held_out_samples)
    source_scale = (pair.train.source_source.diagonal() / pair.train.n).clamp_min(1e-12).sqrt()
    target_scale = (pair.train.target_target.diagonal() / pair.train.n).clamp_min(1e-12).sqrt()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(pair.seed)
        model = MLPMap(linear.map, source_scale, target_scale, hidden)
    mean, scale_s, scale_t = pair.train.source_mean.float(), source_scale.float(), target_scale.float()
    inputs, left_over = (x - mean) / scale_s, (y - linear.map(x)) / scale_t
    held_inputs, held_left_over = (x_held - mean) / scale_s, (y_held - linear.map(x_held)) / scale_t
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    shuffle = torch.Generator().manual_seed(pair.seed)
    best_loss, best_state, epochs_since = float(held_left_over.pow(2).mean()), _state(model), 0
    start_loss, epochs = best_loss, 0
    for _ in range(max_epochs):
        for part in torch.randperm(len(inputs), generator=shuffle).split(batch):
            optimizer.zero_grad()
            nn_loss = (model.residual(inputs[part]) - left_over[part]).pow(2).mean()
            nn_loss.backward()
            optimizer.step()
        epochs += 1
        with torch.no_grad():
            loss = float((model.residual(held_inputs) - held_left_over).pow(2).mean())
        if not math.isfinite(loss):
            raise ValueError("mlp: the loss is not finite; lower its learning_rate in the adapter YAML")
        if loss < best_loss:
            best_loss, best_state, epochs_since = loss, _state(model), 0
        else:
            epochs_since += 1
            if epochs_since > patience:
                break
    model.load_state_dict(best_state)
    model.requires_grad_(False)
    report = {"epochs": epochs, "held_out_loss": best_loss, "linear_held_out_loss": start_loss, "n": len(inputs)}
    return Fit(model, {**report, **{key: value for key, value in linear.report.items() if key == "strength"}})


def _state(model: MLPMap) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}
