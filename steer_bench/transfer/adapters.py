"""Adapters: one YAML per adapter, naming a method and its options.

adapter: linear
kind: transfer            # baseline, transfer, control, or ceiling
method: ridge             # a name in TRANSFERS (needs a source) or CONTROLS (does not)
options: {strengths: [0.01, 0.1]}
about: one line that says what it is, with its reference

Imports no torch: a YAML is checked in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steer_bench import shipped
from steer_bench.files import check_id, read_yaml
from steer_bench.names import hint, known
from steer_bench.vectors.arms import Arm, Kind

Count = Annotated[int, Field(ge=1)]


class Options(BaseModel):
    """Options of a method; this one has none. The defaults are those of the method's function (a test compares them)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Strengths(Options):
    """ridge, unembedding"""

    strengths: list[float] = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]


class LowRank(Options):
    """low-rank"""

    ranks: list[Count] = [8, 16, 32, 64, 128, 256, 512]


class Procrustes(Options):
    """procrustes"""

    ranks: list[Count] = [64, 128, 256, 512]


class ConceptRidge(Options):
    """concept-ridge"""

    strength: float = 1e-2
    intercept: bool = False


class MLP(Options):
    """mlp"""

    hidden: Count = 512
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    batch: Count = 1024
    max_epochs: int = 20
    patience: int = 2


class Contrast(Options):
    """contrast"""

    strengths: list[float] = [1e-2, 1e-1, 1.0, 10.0, 100.0]
    shrink_to_linear: bool = False


class Anchors(Options):
    """anchors"""

    count: Count = 256
    strength: float = 0.1


class Relay(Options):
    """text-relay"""

    texts: Count = 24
    factor: float = 0.4
    max_new_tokens: Count = 40


class Seeds(Options):
    """random, random-covariance"""

    seeds: Count = 1


class WrongConcept(Options):
    """wrong-concept"""

    n: Count = 2


class FewShot(Options):
    """few-shot"""

    n: list[Count] = [1, 2, 4, 8, 16]


class Prompt(Options):
    """prompt"""

    topic: str
    rule: str


_TRANSFERS: Mapping[str, type[Options]] = {
    "identity": Options, "identity-random": Options, "ridge": Strengths, "low-rank": LowRank, "procrustes": Procrustes,
    "concept-ridge": ConceptRidge, "mlp": MLP, "contrast": Contrast, "anchors": Anchors, "unembedding": Strengths,
    "nearest-concept": Options, "text-relay": Relay,
}  # fmt: skip
LEARN_FROM_PAIRS = ("ridge", "low-rank", "procrustes", "concept-ridge", "mlp", "anchors")
"""Methods with a control of their own, shuffled-METHOD: the same fit on false pairs."""
TRANSFERS = {**_TRANSFERS, **{f"shuffled-{name}": _TRANSFERS[name] for name in LEARN_FROM_PAIRS}}
"""Methods that make a target's vectors from a source's."""
CONTROLS: Mapping[str, type[Options]] = {
    "native": Options, "mean": Options, "genre-mean": Options, "random": Seeds, "random-covariance": Seeds,
    "wrong-concept": WrongConcept, "few-shot": FewShot, "prompt": Prompt,
}  # fmt: skip
"""Methods that need the target alone."""
METHODS = {**TRANSFERS, **CONTROLS}


class Adapter(BaseModel):
    """A named recipe for one or several arms."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(alias="adapter")
    kind: Kind
    method: str
    about: str
    options: dict[str, object] = {}
    """As the YAML gives them; what it leaves out is the method's own."""

    @property
    def needs_source(self) -> bool:
        """Whether its vectors come from another model."""
        return self.method in TRANSFERS

    @property
    def sizes(self) -> tuple[int, ...]:
        """Texts a side that few-shot vectors are made from; none for other methods."""
        settings = METHODS[self.method].model_validate(self.options)
        return tuple(sorted(set(settings.n))) if isinstance(settings, FewShot) else ()

    @property
    def _variants(self) -> list[str]:
        """Its arms: a seed, a wrong concept or a few-shot size each; one without a name where there is one."""
        settings = METHODS[self.method].model_validate(self.options)
        if isinstance(settings, Seeds):
            return [""] if settings.seeds == 1 else [str(i) for i in range(1, settings.seeds + 1)]
        if isinstance(settings, WrongConcept):
            return [""] if settings.n == 1 else [str(i) for i in range(settings.n)]
        return [str(n) for n in self.sizes] if isinstance(settings, FewShot) else [""]

    def arms(self, sources: Iterable[str], sizes: Iterable[int] | None = None) -> list[Arm]:
        """Return the arms of a target that has these sources; `sizes`: few-shot sizes that there are texts for (default all)."""
        variants = self._variants
        if sizes is not None and self.method == "few-shot":
            variants = [variant for variant in variants if int(variant) in sizes]
        of = sources if self.needs_source else [""]
        return [Arm(self.name, variant, source) for variant in variants for source in of]


def load_adapter(
    name_or_path: str, *, base: Path | None = None, options: Mapping[str, object] | None = None
) -> Adapter:
    """Read a shipped adapter by name, or any YAML file by path (relative to `base`); `options` go before the YAML's.

    Raises ValueError naming the file and the key for anything it does not know.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        path = path if path.is_absolute() else (base or Path()) / path
    else:
        path = shipped("adapters") / f"{name_or_path}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in shipped("adapters").glob("*.yaml"))
        raise ValueError(
            f"unknown adapter {name_or_path!r}; {hint(name_or_path, names)}; or give a path to a YAML file"
        )
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: an adapter is a mapping with the keys adapter, kind, method, about, options")
    given = content.get("options") or {}
    content["options"] = {**given, **(options or {})} if isinstance(given, dict) else given
    try:
        return _checked(content)
    except ValueError as error:
        raise ValueError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error


def _checked(content: dict[str, object]) -> Adapter:
    keys = ("adapter", *(key for key in Adapter.model_fields if key != "name"))
    for key in content:
        known(str(key), keys, "key")
    for key in keys[:4]:
        if not isinstance(content.get(key), str):
            raise ValueError(f"key {key!r} is missing or not a text")
    known(str(content["kind"]), get_args(Kind), "kind")
    method = known(str(content["method"]), METHODS, "method")
    if not isinstance(content["options"], dict):
        raise ValueError("options must be a mapping")
    for option in content["options"]:
        known(str(option), METHODS[method].model_fields, f"option of method {method!r}")
    try:
        check_id(str(content["adapter"]))  # the arm's name: in file names and tables
    except ValueError as error:
        raise ValueError(f"key 'adapter': {error}") from error
    try:
        settings = METHODS[method].model_validate(content["options"])
        adapter = Adapter.model_validate(content)
    except ValidationError as error:
        raise ValueError("\n".join(_explained(fault, method) for fault in error.errors())) from None
    for name, template in settings if isinstance(settings, Prompt) else ():
        if "{instruction}" not in template or "{concept}" not in template:
            raise ValueError(_template(name))
    return adapter


def _explained(fault: Mapping[str, object], method: str) -> str:
    where = fault["loc"]
    option = str(where[0]) if isinstance(where, tuple) else ""
    if method == "prompt":
        return _template(option)
    return f"option {option!r} of method {method!r}: {fault['msg']} (found {str(repr(fault['input']))[:80]})"


def _template(option: str) -> str:
    return f"option {option!r} of method 'prompt' is a text with {{instruction}} and {{concept}} in it"


def load_adapters(
    names: Sequence[str | Mapping[str, Mapping[str, object]]], *, base: Path | None = None
) -> list[Adapter]:
    """Read several adapters, each a name or {name: options}. Raises ValueError as `load_adapter`, and for two of one name."""
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
