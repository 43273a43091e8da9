"""Judges by their YAML: `judge: {kind: openai, model: ...}` -> a judge."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from steer_bench.files import read_yaml
from steer_bench.judge.embedding import EmbeddingJudge, Reference
from steer_bench.judge.judgement import Judge, digest
from steer_bench.judge.local import LocalJudge
from steer_bench.judge.openai_judge import OpenAIJudge, Price
from steer_bench.names import hint

KEYS = {
    "embedding": ("model", "batch_size", "device"),
    "openai": (
        "base_url",
        "model",
        "concurrency",
        "timeout",
        "max_wait",
        "max_tokens",
        "seed",
        "price",
        "options",
        "max_ignored",
    ),
    "local": ("model", "batch_size", "device", "dtype"),
}
"""Kind -> the keys it takes beside `kind`."""
HOW_FAST = ("concurrency", "timeout", "max_wait", "max_ignored", "price", "batch_size", "device")
"""Keys that change what judging costs and never what a judge says."""


def read_judge(spec: str) -> dict[str, Any]:
    """A judge's configuration from one word of the command line: KIND, KIND:MODEL, with ,KEY=VALUE for more, or a YAML file.

    >>> read_judge("openai:gpt-4o-mini,base_url=http://localhost:8000/v1,concurrency=4")
    {'kind': 'openai', 'model': 'gpt-4o-mini', 'base_url': 'http://localhost:8000/v1', 'concurrency': 4}
    """
    try:
        if spec.endswith((".yaml", ".yml")):
            content = read_yaml(Path(spec))
            content = content.get("judge", content) if isinstance(content, dict) else content
        else:
            first, *pairs = re.split(r",(?=\w+=)", spec)
            kind, _, model = first.partition(":")
            content = {"kind": kind, **({"model": model} if model else {})}
            content |= {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"--judge {spec}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"--judge {spec}: not a mapping; a judge is one like openai:gpt-4o-mini,concurrency=4")
    load_judge(content, references={})
    return content


def judge_id(config: Mapping[str, Any]) -> str:
    """A short name for files, the same for configurations that rate alike.

    >>> judge_id({"kind": "openai", "model": "a/b"}) == judge_id({"kind": "openai", "model": "a/b", "concurrency": 4})
    True
    >>> judge_id({"kind": "embedding"})
    'embedding-7609dc47'
    """
    telling = {key: value for key, value in config.items() if key not in HOW_FAST}
    model = re.sub(r"[^A-Za-z0-9.]+", "-", str(config.get("model", ""))).strip("-.")[-40:].lstrip("-.")
    return "-".join(part for part in (str(config.get("kind")), model, digest(telling)[:8]) if part)


def load_judge(
    config: Mapping[str, Any],
    *,
    references: Mapping[str, Reference] | None = None,
    resume: str = "steer-bench judge RUN",
) -> Judge:
    """The judge a configuration names.

    `references` (concept id -> texts with a known answer) are needed by the embedding judge only; `resume` is the command an
    error message of the openai judge names to go on with. Loads no model and asks no server. ValueError for unknown kinds and keys.
    """
    options = dict(config)
    kind = options.pop("kind", None)
    if kind not in KEYS:
        raise ValueError(f"judge.kind: {kind!r} is no judge; {hint(kind, KEYS)}; choose one of {', '.join(KEYS)}")
    for key in options:
        if "key" in str(key).lower() or key == "token":
            raise ValueError(
                f"judge.{key}: keys are never read from a configuration; put it in the environment as STEER_JUDGE_API_KEY"
            )
        if key not in KEYS[kind]:
            raise ValueError(f"judge.{key}: unknown for kind {kind}; {hint(key, KEYS[kind])}")
    if kind == "embedding":
        if references is None:
            raise ValueError(
                "judge.kind: embedding needs reference texts of the concepts; choose openai or local without them"
            )
        return EmbeddingJudge(options.pop("model", "minilm-l6-v2"), references, **options)
    if not options.get("model"):
        raise ValueError(f"judge.model: missing; kind {kind} needs the name of a model")
    if kind == "local":
        return LocalJudge(options.pop("model"), **options)
    if "price" in options:
        options["price"] = _price(options["price"])
    return OpenAIJudge(**options, resume=resume)


def _price(value: Any) -> Price:
    if not isinstance(value, Mapping) or set(value) != {"input", "output"}:
        raise ValueError(f"judge.price: {value!r}; give dollars a million tokens as {{input: 0.15, output: 0.6}}")
    return Price(float(value["input"]), float(value["output"]))
