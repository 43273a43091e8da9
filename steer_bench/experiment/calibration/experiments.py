"""Experiments of a calibration: their data and YAML files, written into one folder.

concepts, neutral texts, names of model and twins -> [data, adapters, experiments] -> open_run
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from steer_bench.concepts.concept import Concept
from steer_bench.concepts.load import load_concepts, load_texts
from steer_bench.concepts.splits import held_out
from steer_bench.files import write_whole
from steer_bench.models.blocks import d_model
from steer_bench.models.load import Loaded
from steer_bench.models.tokens import tokenize
from steer_bench.results.measures import LIKELIHOOD, RULES, STEERING
from steer_bench.transfer.adapters import load_adapter

SHUFFLED = ("linear", "low-rank", "procrustes", "mlp", "concept-ridge", "anchors")
"""Adapters that are fitted on shuffled pairs too."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured: about ten minutes on one core for a model of 135M parameters."""

    concepts: int = 10
    """Concepts that are steered; the others serve the map."""
    positives: int = 16
    """Texts of a concept behind its vector (half of them for the concepts that serve the map)."""
    negatives: int = 48
    scored: int = 4
    """Held-out texts of a concept, and neutral texts of each concept, whose likelihood is measured."""
    words: int = 12
    """Scored texts, and those that doses are found on, are cut to as many words."""
    damage: float = 1.3
    """The level at which arms meet."""
    dose_texts: int = 6
    neutral: int = 24
    """Neutral texts: doses are found on `dose_texts` of them, each concept draws its own from the others."""
    pairs: int = 7
    """Paired tokens of a map, as a multiple of d_model."""
    map_texts: int = 50
    """Fewest texts of a map, whatever the width: every tenth is held out."""
    nulls: int = 6
    """Random arms."""
    compared: int = 7
    """Concepts by which the twins, steered by their own vectors, are compared with the model."""
    rules: tuple[str, ...] = ("all-capitals", "all-lower-case", "exclamation", "question", "no-the")
    """Rules by which they are, too."""
    prompts: int = 2
    """Prompts of each of these."""
    reply_tokens: int = 12


def write_experiments(
    folder: Path,
    loaded: Loaded,
    twins: Sequence[str],
    layer: int,
    data: Path,
    *,
    sizes: Sizes,
    device: str | None = None,
    seed: int = 0,
) -> dict[str, Path]:
    """Write data and experiments into a folder, and return each experiment's YAML by its name.

    - twins: maps from every twin to the model, fitted on true and on shuffled pairs, and random arms
    - same: the model and each twin, steered by their own vectors and by those through identity; reply tasks too
    - dead: concepts whose positives and negatives are halves of the same texts

    data: folder with concepts.jsonl, neutral.jsonl and neutral_map.jsonl.
    """
    concepts = load_concepts(data / "concepts.jsonl")
    tested, others = concepts[: sizes.concepts], concepts[sizes.concepts :]
    ids = [one.id for one in tested]
    lines = [_trimmed(one, sizes.positives, sizes, seed) for one in tested]
    lines += [_trimmed(one, sizes.positives // 2, sizes, seed) for one in others]
    _write_lines(folder / "concepts.jsonl", lines)
    n = 2 * (sizes.positives + sizes.scored)
    dead = [_line(one, one.positives[:n:2], one.positives[1:n:2]) for one in tested]
    _write_lines(folder / "dead.jsonl", dead)
    corpus = {"map": _map_texts(loaded, data, sizes), "neutral": load_texts(data / "neutral.jsonl")[: sizes.neutral]}
    for name, texts in corpus.items():
        _write_lines(folder / f"{name}.jsonl", [{"id": f"{name}-{i}", "text": text} for i, text in enumerate(texts)])
    model = loaded.name
    full_rank = {"procrustes": {"ranks": [d_model(loaded.model)]}}  # a rotation leaves no direction out
    shuffled = [_shuffled(folder, name, full_rank.get(name, {})) for name in SHUFFLED]
    wrong = {"wrong-concept": {"n": 1}}
    scored = {"max_texts": sizes.scored, "max_neutral": sizes.scored, "max_words": sizes.words}
    replies = {"max_prompts": sizes.prompts, "max_new_tokens": sizes.reply_tokens}

    def experiment(name: str, pairs: Sequence[tuple[str, str]], test: Sequence[str], **keys: object) -> Path:
        names = dict.fromkeys([model, *(name for pair in pairs for name in pair)])
        content = {
            "name": f"calibration-{name}",
            "models": [{"name": each, "layer": layer} for each in names],
            "pairs": [list(pair) for pair in pairs],
            "concepts": {"source": "concepts.jsonl", "held_out": sizes.scored, "halves": False},
            "splits": {"fit": [], "test": list(test)},
            "neutral": {"map": "map.jsonl", "perplexity": "neutral.jsonl", "fit_texts": False},
            "adapters": ["native", "identity", wrong],
            "damage": [sizes.damage],
            "dose": {"texts": sizes.dose_texts, "max_words": sizes.words},
            "tasks": {LIKELIHOOD: scored},
            "chat": False,
            "dtype": "float32",
            "device": device,
            "seed": seed,
        }
        path = folder / f"{name}.yaml"
        write_whole(path, yaml.safe_dump(content | keys, sort_keys=False))
        return path

    itself = [(model, model)]
    return {
        "twins": experiment(
            "twins", [(twin, model) for twin in twins], ids,
            splits={"fit": [one.id for one in others], "test": ids}, claims=["linear", "procrustes"],
            adapters=["native", "identity", "linear", full_rank, *shuffled, {"random": {"seeds": sizes.nulls}}, wrong],
        ),
        "same": experiment(
            "same", [*itself, *((twin, twin) for twin in twins)], ids[: sizes.compared],
            rules=list(sizes.rules), tasks={LIKELIHOOD: scored, STEERING: replies, RULES: replies},
        ),
        "dead": experiment(
            "dead", itself, ids, concepts={"source": "dead.jsonl", "held_out": sizes.scored, "halves": False}
        ),
    }  # fmt: skip


def _trimmed(concept: Concept, positives: int, sizes: Sizes, seed: int) -> dict[str, object]:
    """Return a concept's line with its held-out texts and some of the others."""
    kept, held = held_out(concept, sizes.scored, seed)
    return _line(
        concept, kept.positives[:positives] + held.positives, kept.negatives[: sizes.negatives] + held.negatives
    )


def _line(concept: Concept, positives: Iterable[str], negatives: Iterable[str]) -> dict[str, object]:
    """Return a concept's line of a JSON Lines file, with other texts."""
    known = {"id": concept.id, "description": concept.description, "genre": concept.genre}
    return {**known, "positives": list(positives), "negatives": list(negatives)}


def _write_lines(path: Path, lines: Iterable[Mapping[str, object]]) -> None:
    write_whole(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _map_texts(loaded: Loaded, data: Path, sizes: Sizes) -> list[str]:
    """Return the first texts of the map corpus: as many as a map of this width needs."""
    wanted, kept = sizes.pairs * d_model(loaded.model), []
    for text in load_texts(data / "neutral_map.jsonl"):
        wanted -= len(tokenize(loaded, [text])[0].ids) - 1
        kept.append(text)
        if wanted <= 0 and len(kept) >= sizes.map_texts:
            break
    return kept


def _shuffled(folder: Path, name: str, options: Mapping[str, object]) -> str:
    """Write the adapter that fits a shipped one on shuffled pairs, and return its file's name."""
    known = load_adapter(name, options=options)
    content = {
        "adapter": f"shuffled-{name}",
        "kind": "transfer",
        "method": f"shuffled-{known.method}",
        "about": f"{name} on false pairs: no pair, end of a document or concept stands beside its own counterpart.",
        "options": dict(known.options),
    }
    write_whole(folder / f"shuffled-{name}.yaml", yaml.safe_dump(content, sort_keys=False))
    return f"shuffled-{name}.yaml"
