"""Adapters: one YAML per arm, naming a method and its options.

adapter: linear
kind: transfer            # baseline, transfer, control, or ceiling
method: ridge             # a name in FITS (needs a source) or ROWS (does not)
options: {strengths: [0.01, 0.1]}
about: one line that says what it is, with its reference
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steer_bench import shipped
from steer_bench.files import check_id, read_yaml
from steer_bench.names import hint

KINDS = ("baseline", "transfer", "control", "ceiling")
METHODS = {
    "identity": (), "identity-random": (), "ridge": ("strengths",), "low-rank": ("ranks",), "procrustes": ("ranks",),
    "concept-ridge": ("strength", "intercept"),
    "mlp": ("hidden", "learning_rate", "weight_decay", "batch", "max_epochs", "patience"),
    "contrast": ("strengths", "shrink_to_linear"), "anchors": ("count", "strength"), "unembedding": ("strengths",),
    "nearest-concept": (), "shuffled-ridge": ("strengths",), "text-relay": ("texts", "factor", "max_new_tokens"),
    "native": (), "mean": (), "genre-mean": (), "random": ("seeds",), "random-covariance": ("seeds",), "wrong-concept": (),
    "few-shot": ("n",), "prompt": ("topic", "rule"),
}  # fmt: skip
"""Options of each method. Kept here so that a YAML is checked without importing torch; a test holds it to the functions."""


@dataclass(frozen=True)
class Adapter:
    """A named recipe for an arm."""

    name: str
    kind: str
    method: str
    about: str
    options: Mapping[str, Any] = field(default_factory=dict)


def load_adapter(name_or_path: str, *, base: Path | None = None, options: Mapping[str, Any] | None = None) -> Adapter:
    """A shipped adapter by name, or any YAML file by path (relative to `base`); `options` go before the YAML's.

    Raises ValueError naming the file and the key for anything it does not know.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        path = path if path.is_absolute() else (base or Path()) / path
    else:
        path = shipped("adapters") / f"{name_or_path}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in shipped("adapters").glob("*.yaml"))
        raise ValueError(
            f"unknown adapter {name_or_path!r}; {hint(name_or_path, known)}; or give a path to a YAML file"
        )
    content = read_yaml(path)
    if options and isinstance(content, dict):
        content["options"] = {**(content.get("options") or {}), **options}
    return _checked(content, path)


def _checked(content: Any, path: Path) -> Adapter:
    keys = ("adapter", "kind", "method", "about", "options")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: an adapter is a mapping with the keys {', '.join(keys)}")
    _known(content, keys, f"{path}: unknown key")
    for key in keys[:4]:
        if not isinstance(content.get(key), str):
            raise ValueError(f"{path}: key {key!r} is missing or not a text")
    try:
        check_id(content["adapter"])  # the arm's name: in file names and tables
    except ValueError as error:
        raise ValueError(f"{path}: key 'adapter': {error}") from error
    _known([content["kind"]], KINDS, f"{path}: unknown kind")
    _known([content["method"]], METHODS, f"{path}: unknown method")
    options = content.get("options") or {}
    if not isinstance(options, dict):
        raise ValueError(f"{path}: options must be a mapping")
    _known(options, METHODS[content["method"]], f"{path}: unknown option of method {content['method']!r}")
    for kind in METHODS["prompt"] if content["method"] == "prompt" else ():
        template = options.get(kind)
        if not isinstance(template, str) or "{instruction}" not in template or "{concept}" not in template:
            raise ValueError(
                f"{path}: option {kind!r} of method 'prompt' is a text with {{instruction}} and {{concept}} in it"
            )
    return Adapter(content["adapter"], content["kind"], content["method"], content["about"], options)


def _known(given: Any, known: Any, message: str) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{message} {name!r}; {hint(name, known)}")


def load_adapters(names: Sequence[str | Mapping[str, Any]], *, base: Path | None = None) -> list[Adapter]:
    """Several adapters, each a name or {name: options}; two of one name are an error."""
    adapters = []
    for given in names:
        if isinstance(given, str):
            adapters.append(load_adapter(given, base=base))
            continue
        for name, options in given.items():
            if not isinstance(options, Mapping):
                raise ValueError(
                    f"adapters: {name}: {options!r}; give its options as a mapping, {{{name}: {{option: value}}}}"
                )
            adapters.append(load_adapter(name, base=base, options=options))
    twice = {adapter.name for adapter in adapters if [a.name for a in adapters].count(adapter.name) > 1}
    if twice:
        raise ValueError(f"adapter {sorted(twice)[0]!r} is given twice; each arm needs its own name")
    return adapters
