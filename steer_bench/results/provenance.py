"""Provenance: where the rows of a results file come from, and what each of their arms is.

    experiment, cards of vectors and arms, judges -> [provenance] -> results file -> statistics and leaderboard

Read and written strictly: an unknown key, a wrong type or a number that is not finite is an error.
"""

from collections.abc import Mapping
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, JsonValue, SerializerFunctionWrapHandler, model_serializer

from steer_bench.names import hint
from steer_bench.vectors.arms import UNSTEERED, Dose, GeometryLine, Refused

Kind = Literal["unsteered", "baseline", "transfer", "control", "ceiling"]
"""What an arm is to the comparison, in the order of the tables."""
KINDS: tuple[Kind, ...] = get_args(Kind)
SEEDED = ("random", "random-covariance", "wrong-concept")
"""Methods whose arms are repeats with other seeds: statistics take their mean, item by item."""
FEW_SHOT = "few-shot"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelInfo(_Strict):
    """A model of the run; None where it is not known."""

    revision: str | None = None
    layer: int | None = None
    d_model: int | None = None
    dtype: str | None = None
    scale: float | None = None
    """Median centred norm of the residual stream at the layer, of which factors are multiples."""


class ArmInfo(_Strict):
    """An arm of the run: what it is, which its name does not say."""

    arm: str
    """Its name in rows."""
    adapter: str
    """The adapter it was made by, or the name of imported vectors."""
    variant: str = ""
    """Which of the adapter's arms: a seed, a number of texts, or the name of imported vectors that it maps."""
    kind: Kind
    method: str

    @property
    def pooled(self) -> str:
        """The name under which statistics show it: repeats of one adapter with other seeds are one arm."""
        return self.adapter if self.method in SEEDED else self.arm

    @property
    def n_texts(self) -> int | None:
        """Texts a side behind a few-shot vector; None for other arms."""
        return int(self.variant) if self.method == FEW_SHOT else None


class Unreached(Dose):
    """A level of damage that an arm does not reach on a target, with the reason."""

    target: str


class Splits(_Strict):
    """Ids of the concepts of each split, sorted."""

    fit: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    folds: tuple[tuple[str, ...], ...] = ()
    """Where every concept is tested: those that each fold tests, by maps that were fitted on the other folds'."""

    @model_serializer(mode="wrap")
    def _without_folds(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        return {key: value for key, value in dump(self).items() if key != "folds" or value}


class Seeds(_Strict):
    """Seeds of the random choices."""

    bootstrap: int = 0
    experiment: int = 0
    splits: int = 0


class Reliability(_Strict):
    """Agreement of vectors made from two halves of a concept's texts."""

    cosine: float
    centred_cosine: float
    retrieval: float
    n: int


class JudgeCheck(_Strict):
    """How well a judge tells texts with a known answer."""

    auroc: dict[str, float]
    """Aspect -> AUROC."""
    n: int
    unscored: float
    """Share of the texts without a rating."""


class JudgeInfo(_Strict):
    """The judge whose ratings the rows hold."""

    name: str
    config: dict[str, JsonValue] = {}
    """Its settings, as the experiment or the command line gave them."""
    check: JudgeCheck | None = None


class JudgeSummary(_Strict):
    """One of the judges that rated the run's replies."""

    id: str
    name: str
    total: int
    unscored: int
    reasked: dict[str, int] = {}
    """Arm -> replies that were asked for again."""
    check: JudgeCheck | None = None


class AgreementLine(_Strict):
    """How far two judges agree on one aspect, over the replies both rated."""

    judges: tuple[str, str]
    """Their ids."""
    aspect: str
    kappa: float | None
    """Weighted kappa."""
    spearman: float | None
    n: int


class Provenance(_Strict):
    """What a run measured, with what, and when."""

    name: str = ""
    created: str = ""
    complete: bool = False
    expected_rows: int = 0
    """Rows that a whole run has; 0 where not known."""
    versions: dict[str, str] = {}
    models: dict[str, ModelInfo] = {}
    judge: JudgeInfo | None = None
    judges: tuple[JudgeSummary, ...] = ()
    agreement: tuple[AgreementLine, ...] = ()
    hashes: dict[str, str] = {}
    """Hashes of the experiment's texts, prompts and splits."""
    halves: bool = False
    """Whether source and target vectors come from disjoint halves of a concept's texts."""
    reliability: dict[str, Reliability | None] = {}
    levels: dict[str, tuple[float, ...]] = {}
    """Task -> levels of damage that it was measured at, perplexity ratios; none for a task on a grid of factors."""
    headline: float = 1.3
    """The level that verdicts and the main tables are about."""
    unreached: tuple[Unreached, ...] = ()
    """Levels that an arm could not reach, with the reason."""
    claims: tuple[str, ...] | None = None
    """Arms whose transfer is claimed, by the name they are shown as: the family of the correction. None: every transfer arm."""
    splits: Splits | None = None
    factors: dict[str, tuple[float, ...]] = {}
    """Task -> its grid, where it was measured on one."""
    limits: dict[str, dict[str, JsonValue]] = {}
    """Task -> its sizes."""
    seeds: Seeds = Seeds()
    positions: str | None = None
    chat: bool | None = None
    prompts: str | None = None
    """Hash of the prompts."""
    arms: tuple[ArmInfo, ...] = ()
    refused: tuple[Refused, ...] = ()
    geometry: tuple[GeometryLine, ...] = ()
    capability: tuple[str, ...] = ()
    """Tasks that are run for their cost: they have a column of the table of costs, and no score."""

    @property
    def pooled(self) -> Mapping[str, str]:
        """Arm -> the arm it is shown as."""
        return {info.arm: info.pooled for info in self.arms}

    @property
    def few_shot(self) -> Mapping[str, int]:
        """Few-shot arm -> texts a side."""
        return {info.arm: info.n_texts for info in self.arms if info.n_texts is not None}

    def kind_of(self, arm: str) -> Kind:
        """Return the kind of an arm, by the name it is shown as. Raises ValueError for an arm the run does not have."""
        kinds: dict[str, Kind] = {UNSTEERED: "unsteered", **{info.pooled: info.kind for info in self.arms}}
        if arm not in kinds:
            raise ValueError(f"run {self.name!r} has rows of an arm {arm!r} that it does not list; {hint(arm, kinds)}")
        return kinds[arm]
