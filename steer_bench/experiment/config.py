"""The keys of an experiment's YAML, with what each may hold; `reading` reads the file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from steer_bench.concepts.rules.declared import declared_rule
from steer_bench.files import Checked
from steer_bench.harness.ifeval import ifeval_rule
from steer_bench.judge.config import EmbeddingConfig, JudgeConfig
from steer_bench.results.measures import DAMAGE, DEFAULT_TASKS, MEASURES, headline_level

BEST: Literal["best"] = "best"
"""Layer that is chosen by measuring."""
WRONG = 2
"""Wrong concepts that a layer's steering is compared with."""
DEFAULT_ADAPTERS = ("native", "identity", "linear", "mlp", "wrong-concept", "random", "mean", "prompt")


Level = Annotated[float, Field(gt=1, allow_inf_nan=False)]


class ModelConfig(Checked):
    """A model of the experiment."""

    name: str
    """Offline model, folder or Hugging Face name."""
    layer: int | float | Literal["best"] = 0.5
    """Decoder block, relative depth in (0, 1), or the one where native steers most on the concepts to fit on."""


class ConceptConfig(Checked):
    """Where concepts come from."""

    source: str
    limit: int | None = Field(default=None, ge=1)
    held_out: int = Field(default=8, ge=1)
    halves: bool | Literal["auto"] = "auto"
    """Whether source and native vectors come from disjoint halves of a concept's texts; auto: where each has 16 texts per side."""
    alike: list[tuple[str, str]] = []
    """Pairs of concepts that may have the same vector."""


class SplitConfig(Checked):
    """Sizes (a count or a share) or lists of ids; or a number of folds in place of `fit` and `test`."""

    fit: int | float | list[str] | None = None
    select: int | float | list[str] = 0
    test: int | float | list[str] | None = None
    folds: int | None = Field(default=None, ge=2)
    """Parts of the concepts: all are tested, each part by maps that were fitted on the others."""
    seed: int = 0
    similarity: float | None = Field(default=None, gt=0, le=1)
    """Cosine of descriptions' sentence embeddings (MiniLM) from which on two concepts stay in one split, as do those of like words."""


class NeutralConfig(Checked):
    """Neutral texts."""

    map: str
    perplexity: str
    map_limit: int | None = Field(default=None, ge=10)
    """Neutral texts of the map corpus that are used."""
    fit_texts: bool = True
    """Whether the positives of the fit concepts are map texts too: texts of the tested kind, about other things."""


class DoseConfig(Checked):
    """The texts on which doses are found: neutral texts of the pool that is scored, and none that is."""

    texts: int = Field(default=40, ge=2)
    """How many, at most half of the pool."""
    max_words: int | None = Field(default=None, ge=4)
    """Words of each; give what the tasks give, for damage is of a kind of text."""


class TaskConfig(Checked):
    """Limits of one task."""

    max_concepts: int | None = Field(default=None, ge=1)
    max_rules: int | None = Field(default=None, ge=1)
    max_prompts: int | None = Field(default=None, ge=1)
    max_texts: int | None = Field(default=None, ge=1)
    max_neutral: int | None = Field(default=None, ge=1)
    max_words: int | None = Field(default=None, ge=4)
    max_new_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0)
    """0 (the default) is greedy."""
    n_samples: int | None = Field(default=None, ge=1)
    """Replies a prompt; needs a temperature."""


class ResourceConfig(Checked):
    """What one task of a kind asks of a cluster."""

    num_cpus: float = Field(default=1, ge=0)
    num_gpus: float | None = Field(default=None, ge=0)
    """None: one for a task with a model where the cluster has GPUs, none for others."""


class ClusterConfig(Checked):
    """How a run spreads over a cluster (`--engine ray`). Changes no number, so it may change between two starts of a run."""

    workers: int | None = Field(default=None, ge=1)
    """Processes that measure, each with a model; as many as there is room for when left out."""
    shards: int | None = Field(default=None, ge=1)
    """Parts of each target's evaluation; four a worker when left out."""
    extract: ResourceConfig = ResourceConfig()
    fit: ResourceConfig = ResourceConfig()
    evaluate: ResourceConfig = ResourceConfig()
    judge: ResourceConfig = ResourceConfig(num_gpus=0)
    """Also merging and writing; give it a GPU for a local judge."""


class CapabilityConfig(Checked):
    """Any lm-eval tasks, run under chosen arms: what steering costs beside perplexity. `capability: [hellaswag]` is short for it."""

    tasks: list[str] = Field(min_length=1)
    """Names of lm-eval's tasks or of ours (capability_choices needs no network), or the path of a YAML."""
    arms: list[str] | None = None
    """Adapters; all when left out. Unsteered is always run."""
    factor: float = Field(default=0.2, gt=0)
    """One factor for all arms: this is a cost, not a score to tune."""
    max_concepts: int = Field(default=1, ge=1)
    """Test concepts whose vectors are used, the first ones."""
    limit: int | None = Field(default=None, ge=1)
    """Questions a task."""


class ImportConfig(Checked):
    """Vectors made elsewhere, as an arm of the model they are of and, through every linear map, of the models it is a source for."""

    file: str
    """A file of any format that `steer-bench convert` reads."""
    model: str
    name: str
    """Name of the arm."""
    concepts: dict[str, str] | None = None
    """Id in the file -> concept of this experiment; when left out the ids are the concepts."""
    ids: str | None = None
    layer: int | None = None
    concept: str | None = None
    """What the one vector of a file without ids is of."""
    allow_pickle: bool = False
    """Read a pickle of the steering-vectors package: its one class and tensors, no code."""


class Experiment(Checked):
    """One experiment: the keys of its YAML."""

    name: str
    models: list[ModelConfig] = Field(min_length=1)
    pairs: Literal["all"] | list[tuple[str, str]] = "all"
    concepts: ConceptConfig
    splits: SplitConfig
    rules: list[str | dict[str, object]] = []
    """Names of rules, or rules of one's own, declared (see `steer_bench.concepts.rules.declared.DeclaredRule`)."""
    suppress: list[str] = []
    """Rules that an instruction asks for and a vector, subtracted, is to forbid."""
    rule_texts: int = Field(default=40, ge=2)
    """Texts that a rule's vector is made from, each as it stands and rewritten to obey."""
    rule_source: str | None = None
    """File of those texts, {"id", "text"} a line; when left out the neutral texts and the first concept's negatives."""
    vectors: list[ImportConfig] = []
    capability: CapabilityConfig | None = None
    neutral: NeutralConfig
    prompts: str = "instructions.jsonl"
    adapters: list[str | dict[str, dict[str, object]]] = list(DEFAULT_ADAPTERS)
    damage: list[Level] | dict[str, list[Level]] = list(DAMAGE)
    """Levels of damage at which arms are compared, perplexity ratios on neutral text; for all tasks, or by task."""
    dose: DoseConfig = DoseConfig()
    factors: list[float] | dict[str, list[float]] = []
    """Factors of tasks that measure replies on a grid, the best one chosen on selection prompts; for all of these, or by task."""
    claims: list[str] | None = None
    """Adapters whose transfer is claimed; further ones are exploratory. All transfer adapters when left out."""
    tasks: dict[str, TaskConfig] = {task: TaskConfig() for task in DEFAULT_TASKS}
    judge: JudgeConfig = EmbeddingConfig()
    chat: bool = True
    positions: Literal["text", "generated", "all"] = "text"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 32
    map_pairs: int = Field(default=50_000, ge=100)
    """Pairs kept for maps without a closed form."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    repeats: int = Field(default=1, ge=1)
    """Times that all is measured, each with the next seed of maps and of splits, in RUN/repeat-0, …; what varies is in RUN/repeats.md."""
    cluster: ClusterConfig = ClusterConfig()

    @field_validator("capability", mode="before")
    @classmethod
    def _short_capability(cls, given: object) -> object:
        return {"tasks": given} if isinstance(given, list) else given

    @property
    def rule_names(self) -> list[str]:
        """Names of the rules, declared ones too."""
        return [rule if isinstance(rule, str) else declared_rule(rule, ifeval_rule).name for rule in self.rules]

    def grid(self, task: str) -> tuple[float, ...]:
        """Return the factors of a task that is measured on a grid; none for one at levels of damage."""
        shared = self.factors if isinstance(self.factors, list) and MEASURES[task].replies else []
        return tuple(sorted(set(self.factors.get(task, []) if isinstance(self.factors, dict) else shared)))

    def levels(self, task: str) -> tuple[float, ...]:
        """Return the levels of damage of a task; none for one on a grid of factors."""
        named = self.damage.get(task, list(DAMAGE)) if isinstance(self.damage, dict) else self.damage
        return () if self.grid(task) else tuple(sorted(set(named)))

    @property
    def grids(self) -> list[str]:
        """Tasks on several factors; they are evaluated in two steps, for one of these is chosen on the selection prompts."""
        return [task for task in self.tasks if len(self.grid(task)) > 1]

    @property
    def headline(self) -> float:
        """The level of the main tables and verdicts."""
        return headline_level(level for task in self.tasks for level in self.levels(task))

    @property
    def directed(self) -> list[tuple[str, str]]:
        """Pairs of models, (source, target)."""
        names = [model.name for model in self.models]
        every = [(source, target) for target in names for source in names if source != target]
        return every if self.pairs == "all" else list(self.pairs)

    @property
    def limits(self) -> dict[str, dict[str, int | float]]:
        """Limits of each task, those that are given."""
        return {task: limits.model_dump(exclude_none=True) for task, limits in self.tasks.items()}

    def layer(self, model: str) -> int | float | Literal["best"]:
        """Return the layer of a model as it is given: an index, a relative depth, or to be chosen."""
        return next(config.layer for config in self.models if config.name == model)
