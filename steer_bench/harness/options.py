"""Options of the lm-eval tasks: which arms are measured, and how much of a protocol.

    --metadata and --model_args, the experiment's limits, the task's YAML -> [options] -> rows

Knows nothing of lm_eval, which hands both flags to tasks as metadata.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

NOT_OURS = frozenset(("arm", "factor", "limits", "version", "config_source"))
"""Keys of the metadata that are near an option and are arguments of the model, or lm-eval's."""
File = Annotated[str | None, Field(strict=True, description="give the path of a file")]
Count = Annotated[
    Annotated[int, Field(strict=True, ge=1)] | None, Field(description="give a whole number of at least 1")
]


def _as_list(given: object) -> object:
    return given if given is None or isinstance(given, list | tuple) else [given]


class TaskOptions(BaseModel):
    """What the user asks of a task. The description of a field says what would do where something else is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arms: File = None
    """The target's arms file."""
    protocol: File = None
    """What is measured; by default the protocol.json of the run that the arms file belongs to."""
    factors: Annotated[
        Annotated[
            tuple[Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)], ...],
            Field(min_length=1),
            AfterValidator(lambda factors: tuple(sorted(set(factors)))),
        ]
        | None,
        BeforeValidator(_as_list),
        Field(description="give numbers above 0, such as [0.1, 0.2, 0.4] (factor 0 is always measured)"),
    ] = None
    damage: Annotated[
        Annotated[
            tuple[Annotated[float, Field(strict=True, gt=1, allow_inf_nan=False)], ...],
            Field(min_length=1),
            AfterValidator(lambda levels: tuple(sorted(set(levels)))),
        ]
        | None,
        BeforeValidator(_as_list),
        Field(
            description="give perplexity ratios above 1, such as [1.1, 1.3], levels that the arms file has doses for"
        ),
    ] = None
    only_arms: Annotated[
        tuple[str, ...] | None, BeforeValidator(_as_list), Field(description="give names of arms, such as [native]")
    ] = None
    chosen: Annotated[
        tuple[tuple[str, str, str, Annotated[float, Field(allow_inf_nan=False)] | None], ...] | None,
        Field(
            description="give [[arm, source, concept, factor], ...], or [] to measure the selection prompts of a grid alone"
        ),
    ] = None
    """On a grid the factor at which the scoring prompts are measured; None, and without the option, at every factor."""
    max_concepts: Count = None
    max_rules: Count = None
    max_prompts: Count = None
    """Instructions of each concept, its own; on a grid of factors as many to select on and as many to score."""
    max_texts: Count = None
    """Held-out texts of each concept."""
    max_neutral: Count = None
    """Neutral texts of each concept, its own."""
    max_words: Count = None
    """Words of a text that is scored; what follows them is cut off."""
    max_new_tokens: Count = None
    temperature: Annotated[
        Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None,
        Field(description="give a number from 0 (greedy)"),
    ] = None
    n_samples: Count = None
    """Replies to each prompt."""
    records: File = None
    """Store of finished answers, of the model and of the judge."""
    rate: Annotated[bool, Field(strict=True, description="give true or false")] = True
    """Whether a judge rates the replies here; a run leaves that to its stage judge."""

    @property
    def generation_kwargs(self) -> dict[str, object]:
        """Length and sampling of replies, as far as the options say. Raises ValueError for several samples that would all be equal."""
        if (self.n_samples or 1) > 1 and not self.temperature:
            raise ValueError(f"n_samples={self.n_samples} at temperature 0 gives equal replies; set a temperature")
        length: dict[str, object] = {} if self.max_new_tokens is None else {"max_gen_toks": self.max_new_tokens}
        return {**length, "do_sample": True, "temperature": self.temperature} if self.temperature else length


def read_options(task: str, metadata: Mapping[str, object], block: Mapping[str, object] | None = None) -> TaskOptions:
    """Return a task's options: metadata goes before the experiment's `limits` in it, those before the YAML's `steer` block.

    Other keys of the metadata are the model's or lm-eval's and let through, unless they look like a misspelt option. Raises
    ValueError naming the option.

    >>> read_options("specificity", {"pretrained": "m", "factors": 0.2}, {"max_texts": 2}).factors
    (0.2,)
    >>> read_options("specificity", {"max_texts": 0})
    Traceback (most recent call last):
    ValueError: max_texts=0: give a whole number of at least 1
    """
    for key in metadata:
        near = difflib.get_close_matches(key, TaskOptions.model_fields, n=1, cutoff=0.75)
        if near and key not in {*TaskOptions.model_fields, *NOT_OURS}:
            raise ValueError(f"{key}={metadata[key]}: no option of the task {task}; did you mean {near[0]!r}?")
    limits = metadata.get("limits")
    own = limits.get(task) if isinstance(limits, Mapping) else None
    given = {**(block or {}), **(own or {}), **metadata}
    try:
        return TaskOptions.model_validate({key: given[key] for key in TaskOptions.model_fields if key in given})
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        raise ValueError(f"{key}={given[key]}: {TaskOptions.model_fields[key].description}") from None
