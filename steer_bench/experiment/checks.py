"""Checks: everything that can be wrong with an experiment before a model is loaded, said all at once."""

from __future__ import annotations

from steer_bench.concepts.rules.declared import declared_rule
from steer_bench.concepts.rules.table import RULES, named_rule
from steer_bench.experiment.config import BEST, WRONG
from steer_bench.experiment.data import Data
from steer_bench.experiment.imports import check_import
from steer_bench.experiment.reading import CollectErrors
from steer_bench.files import model_file_name
from steer_bench.harness.ifeval import ifeval_rule
from steer_bench.judge.load import load_judge
from steer_bench.models.blocks import check_decoder, resolve_layer
from steer_bench.models.load import read_config
from steer_bench.names import hint
from steer_bench.transfer.adapters import load_adapters
from steer_bench.vectors.arms import Arm


def check(data: Data, errors: CollectErrors) -> None:
    """Raise one ValueError with all faults of an experiment and its files, those in `errors` first."""
    experiment = data.experiment
    rules = dict(RULES)
    for index, given in enumerate(experiment.rules):
        with errors.at("rules", index):
            rule = named_rule(given) if isinstance(given, str) else declared_rule(given, ifeval_rule)
            rules[rule.name] = rule
    for index, name in enumerate(experiment.suppress):
        with errors.at("suppress", index):
            named_rule(name, rules)
    for index, entry in enumerate(experiment.vectors):
        with errors.at("vectors", index):
            data.path(entry.file)
    for index, adapter in enumerate(experiment.adapters):
        with errors.at("adapters", index):
            load_adapters([adapter], base=data.base)
    with errors.at("judge"):
        load_judge(experiment.judge, references={})
    with errors.at("prompts"):
        _ = data.prompts
    with errors.at("neutral", "perplexity"):
        _ = data.neutral_texts
    for index, config in enumerate(experiment.models):
        with errors.at("models", index):
            model_file_name(config.name)
            given = read_config(config.name)
            check_decoder(config.name, given.get("is_encoder_decoder"))
            depth = given.get("num_hidden_layers")
            if isinstance(depth, int) and config.layer != BEST:
                resolve_layer(config.layer, depth)
    with errors.at("concepts"):
        _ = data.topics
    if not errors:
        _check_texts(data, errors)
    errors.check()


def _check_texts(data: Data, errors: CollectErrors) -> None:
    """Collect the faults of what is made from sound files: concepts, splits, halves, map texts."""
    with errors.at("adapters"):
        _ = data.adapters
        _check_capability_arms(data, errors)
    with errors.at("concepts"):
        _ = data.concepts
    for index, entry in enumerate(data.experiment.vectors):
        with errors.at("vectors", index):
            check_import(data, entry)
    with errors.at("splits"):
        if not data.splits.test:
            raise ValueError("splits.test: no test concept; a run measures at least one")
        _ = data.folds, data.vector_and_held_out_texts
    with errors.at("concepts"):
        without = [key for key in data.vector_and_held_out_texts if key not in data.text_halves]
        if data.halves and without:
            raise ValueError(
                f"concepts.halves: concept {without[0]!r} has one text a side and so no halves; give more, or halves: false"
            )
    with errors.at("models"):
        fit = [key for key in data.splits.fit or data.splits.select if key in data.text_halves]
        if len(fit) <= WRONG and any(config.layer == BEST for config in data.experiment.models):
            split = "select (with folds)" if data.experiment.splits.folds else "fit"
            raise ValueError(
                f"models: layer best needs {WRONG + 1} concepts to {split} on, and there are {len(fit)}; give a layer"
            )
    with errors.at("neutral", "map"):
        _ = data.map_texts


def _check_capability_arms(data: Data, errors: CollectErrors) -> None:
    """Collect the capability arms that the experiment does not make."""
    capability, imported = data.experiment.capability, [entry.name for entry in data.experiment.vectors]
    made = {*imported, *(adapter.name for adapter in data.adapters)}
    made |= {arm.name for adapter in data.adapters for arm in adapter.arms([""])}
    made |= {Arm(adapter.name, name).name for adapter in data.adapters if adapter.needs_source for name in imported}
    for arm in (capability and capability.arms) or ():
        if arm not in made:
            said = f"capability.arms: {arm!r} is not one of the arms; {hint(arm, sorted(made))}"
            errors.add(("capability", "arms"), said)
