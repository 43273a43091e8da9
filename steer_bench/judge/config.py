"""Configurations of judges: `judge: {kind: openai, model: ...}` of a YAML, or one word of the command line.

mapping or word -> [JudgeConfig] -> judge (see `load`), and its id, by which the files of its ratings are named
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import BeforeValidator, ConfigDict, Field, field_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from steer_bench.files import Checked, parse_yaml, read_yaml
from steer_bench.judge.calls import redact
from steer_bench.judge.judgement import digest
from steer_bench.names import hint

OPENAI_URL = "https://api.openai.com/v1"
HOW_FAST = "changes what judging costs, never what a judge says"
"""Metadata of such fields: they are no part of a judge's id."""
IN_ENVIRONMENT = "put the key in the environment as STEER_JUDGE_API_KEY"


class _Config(Checked):
    """A configuration that dumps only the keys that were given: an unsaid default is no part of a judge's id."""

    model_config = ConfigDict(allow_inf_nan=False)

    @pydantic.model_serializer(mode="wrap")
    def _given(self, dump: pydantic.SerializerFunctionWrapHandler) -> dict[str, object]:
        return {key: value for key, value in dump(self).items() if key == "kind" or key in self.model_fields_set}


class EmbeddingConfig(_Config):
    """The offline judge: sentence embeddings and perplexity."""

    kind: Literal["embedding"] = "embedding"
    model: str = "minilm-l6-v2"
    batch_size: Annotated[int, Field(ge=1), HOW_FAST] = 64
    device: Annotated[str, HOW_FAST] = "cpu"


class LocalConfig(_Config):
    """A causal language model that runs here."""

    kind: Literal["local"] = "local"
    model: str = Field(min_length=1)
    batch_size: Annotated[int, Field(ge=1), HOW_FAST] = 8
    device: Annotated[str, HOW_FAST] = ""
    dtype: str = "auto"


class Price(Checked):
    """Dollars for a million tokens."""

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)


class OpenAIConfig(_Config):
    """A language model behind any OpenAI-compatible endpoint."""

    kind: Literal["openai"] = "openai"
    model: str = Field(min_length=1)
    base_url: str = OPENAI_URL
    concurrency: Annotated[int, Field(gt=0), HOW_FAST] = 16
    timeout: Annotated[float, Field(gt=0), HOW_FAST] = 120.0
    """Seconds for one request."""
    max_wait: Annotated[float, Field(gt=0), HOW_FAST] = 600.0
    """Seconds one question may take in all, waiting for the server included."""
    max_tokens: int = Field(default=400, gt=0)
    seed: int = 0
    price: Annotated[Price | None, HOW_FAST] = None
    options: dict[str, object] = {}
    """Fields of every request, as they are; None takes a field out (`{seed: null}` for servers that know no seed)."""
    max_ignored: Annotated[float, Field(ge=0, le=1), HOW_FAST] = 0.2
    """Share of the first answers that may hold no rating."""

    @field_validator("base_url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        parts = urlsplit(url)
        labels = (parts.hostname or "").rstrip(".").split(".")
        if parts.scheme not in ("http", "https") or parts.port == 0 or not all(0 < len(one) < 64 for one in labels):
            raise ValueError(f"{redact(url, [])!r} is no http(s) address; give one like {OPENAI_URL}")
        if parts.password or parts.username:
            raise ValueError(f"holds a user or password; {IN_ENVIRONMENT}")
        return url

    @field_validator("price", mode="before")
    @classmethod
    def _has_both_prices(cls, price: object) -> object:
        if (isinstance(price, Mapping) and set(price) != {"input", "output"}) or isinstance(price, int | float | str):
            raise ValueError(f"{price!r}; give dollars per million tokens as {{input: 0.15, output: 0.6}}")
        return price

    @field_validator("options")
    @classmethod
    def _holds_no_key(cls, options: dict[str, object]) -> dict[str, object]:
        if "extra_headers" in options:
            raise ValueError(f"extra_headers may hold keys; {IN_ENVIRONMENT}")
        try:
            json.dumps(options, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"a server takes plain JSON only ({error})") from None
        return options


AnyConfig = EmbeddingConfig | OpenAIConfig | LocalConfig
KINDS: dict[str, type[AnyConfig]] = {"embedding": EmbeddingConfig, "openai": OpenAIConfig, "local": LocalConfig}


def _checked(content: object) -> object:
    """Check a mapping by its kind, so that an error names the key and never shows a secret."""
    if isinstance(content, _Config):
        return content
    try:
        return judge_config(content)
    except ValueError as error:
        raise PydanticCustomError("judge", "{said}", {"said": str(error)}) from error


JudgeConfig = Annotated[AnyConfig, BeforeValidator(_checked)]
"""A judge, by its kind. Errors of the type "judge" say everything in their message, one line per fault."""


def judge_config(content: object) -> AnyConfig:
    """Check a mapping as it stands in a YAML. Raises ValueError, one line per fault, for unknown kinds, keys and values."""
    if not isinstance(content, Mapping):
        raise ValueError(f"judge: {content!r} is not a mapping; give one like {{kind: openai, model: gpt-4o-mini}}")
    kind = content.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"judge.kind: {kind!r} is no judge; {hint(kind, KINDS)}; choose one of {', '.join(KINDS)}")
    for key in content:
        if "key" in str(key).lower() or key == "token":
            raise ValueError(f"judge.{key}: keys are never read from a configuration; {IN_ENVIRONMENT}")
    try:
        return KINDS[kind].model_validate(content)
    except pydantic.ValidationError as error:
        raise ValueError("\n".join(_explained(kind, fault) for fault in error.errors())) from error


def _explained(kind: str, fault: ErrorDetails) -> str:
    key = "judge." + ".".join(map(str, fault["loc"]))
    if fault["loc"] == ("model",) and (fault["type"] == "missing" or not fault["input"]):
        return f"{key}: missing; kind {kind} needs the name of a model"
    if fault["type"] == "extra_forbidden":
        fields = [name for name in KINDS[kind].model_fields if name != "kind"]
        return f"{key}: unknown for kind {kind}; {hint(fault['loc'][-1], fields)}"
    if fault["type"] == "value_error":
        return f"{key}: {fault['ctx']['error']}"
    return f"{key}: {fault['msg']} (found {redact(repr(fault['input'])[:80], [])})"


def read_judge(spec: str) -> AnyConfig:
    """Read one word of the command line: KIND, KIND:MODEL, with ,KEY=VALUE for more, or the name of a YAML file.

    >>> read_judge("openai:gpt-4o-mini,base_url=http://localhost:8000/v1,concurrency=4").model_dump()
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
            for key, _, value in (pair.partition("=") for pair in pairs):
                if key in content:
                    raise ValueError(f"{key} is given twice")
                content[key] = parse_yaml(value)
    except ValueError as error:
        raise ValueError(f"--judge {spec}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise ValueError(f"--judge {spec}: not a mapping; a judge is one like openai:gpt-4o-mini,concurrency=4")
    return judge_config(content)


def judge_id(config: JudgeConfig) -> str:
    """Return a short name for files, the same for configurations that rate alike.

    >>> judge_id(OpenAIConfig(model="a/b")) == judge_id(OpenAIConfig(model="a/b", concurrency=4))
    True
    >>> judge_id(EmbeddingConfig())
    'embedding-7609dc47'
    """
    costs = {name for name, field in type(config).model_fields.items() if HOW_FAST in field.metadata}
    telling = {key: value for key, value in config.model_dump().items() if key not in costs}
    model = re.sub(r"[^A-Za-z0-9.]+", "-", str(telling.get("model", ""))).strip("-.")[-40:].lstrip("-.")
    return "-".join(part for part in (config.kind, model, digest(telling)[:8]) if part)
