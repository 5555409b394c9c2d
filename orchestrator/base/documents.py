"""The shapes of the JSON documents that one room writes and another reads.

Most fields of a document are written by every version. A reader of a file checks what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired, TypedDict

from .provenance import GitState
from .values import Object, Record

TrialStatus = Literal["finished", "stopped", "failed"]


class Trial(TypedDict):
    """One setting of a search, in `search.json`: what `plan.objective.Measured` says, and how it
    ended. Numbers are null where nothing was measured.
    """

    params: Object
    models: int
    auc: float | None
    auc_gap: float | None
    error: float | None
    error_rise: float | None
    objective: float | None
    within_bound: bool | None
    status: TrialStatus
    why: str
    pareto: NotRequired[bool]
    winner: NotRequired[bool]


class LeagueTrial(TypedDict):
    """One setting that a league tried: what it came to on the validation fold. Numbers are null
    where nothing was measured.

    `number`: in the order in which the method's settings were tried, from 1. `source`: where the
    setting comes from. `seconds`: of unlearning and measuring, over its models.
    """

    number: int
    source: str
    params: Object
    models: int
    distance: float | None
    auc: float | None
    error: float | None
    error_rise: float | None
    objective: float | None
    within_bound: bool | None
    seconds: float
    status: TrialStatus
    why: str
    winner: bool


class Spent(TypedDict):
    """What a method spent of its budget: settings tried, models measured, seconds of work."""

    settings: int
    models: int
    seconds: float


class Tuned(TypedDict):
    """What became of one method's tuning. `winner`: its setting as a recipe gives it, null where
    none could be measured. `within_bound`: whether the winner kept the bound.
    """

    method: str
    title: str
    trials: list[LeagueTrial]
    spent: Spent
    winner: Object | None
    within_bound: bool
    why: str


class LeagueCell(TypedDict):
    """A number in the table of a league, with its 95 % interval.

    `band`: what retrained models show by chance, 95 %. `outside`: whether the number lies outside
    it, after Holm over the column. `p`: adjusted likewise. All three null where chance is unknown.
    """

    value: float | None
    low: float | None
    high: float | None
    band: Sequence[float] | None
    p: float | None
    outside: bool | None


class LeagueSpread(TypedDict):
    """How far the ranked number varies between models and between unlearning seeds: standard
    deviations. `from_seeds`: the share of the interval that seeds bring. `worst_model`: the one
    farthest from Retrain, with its value.
    """

    models: float | None
    seeds: float | None
    from_seeds: float | None
    worst_model: str | None
    worst_value: float | None


class LeagueRow(TypedDict):
    """A method in the table. `group`: `reference`, or what its rivals may see.

    `rank`, `rank_high`: the place within the group, null where the row is not ranked; `why` says
    why. `beats_nothing`: whether it is surely nearer to Retrain than doing nothing.
    """

    method: str
    title: str
    group: str
    access: str
    validation: bool
    watched: NotRequired[str]
    params: Object | None
    seeds: int
    models: int | None
    rank: int | None
    rank_high: int | None
    distance: float | None
    beats_nothing: bool | None
    within_bound: bool | None
    stopped_early: bool
    cells: dict[str, LeagueCell]
    spread: LeagueSpread
    verdict: str
    why: str


class LeaguePair(TypedDict):
    """Two methods that were told apart: the p-value after Holm, and at which look."""

    better: str
    worse: str
    adjusted: float
    look: int


class LeagueDocument(TypedDict):
    """`league.json`."""

    schema: int
    recipe: str
    league: Object
    objective: str
    attack: str
    bound: float | None
    columns: list[str]
    rows: list[LeagueRow]
    pairs: list[LeaguePair]
    compared: int
    winners: dict[str, str]
    tuned: list[Tuned]
    notes: list[str]
    cautions: list[str]


class FinalRow(TypedDict):
    """What the test fold says of a setting that a search chose."""

    params: Object
    status: str
    auc: float | None
    auc_interval: Sequence[float] | None
    auc_gap: float | None
    error_test: float | None
    error_test_rise: float | None
    within_bound: bool | None


class BeforeSearch(TypedDict):
    """The models of a search before unlearning."""

    auc: float
    auc_gap: float
    error: float


class SearchDocument(TypedDict):
    """`search.json`."""

    schema: int
    key: str
    recipe: str
    search: Object
    method: str
    title: NotRequired[str]  # of the method, in print
    attack: str
    fold: str
    models: int
    bound: float | None
    no_unlearn: BeforeSearch
    trials: list[Trial]
    winner: int | None
    front: list[int]
    methods: list[Object]
    notes: list[str]
    final: NotRequired[list[FinalRow]]


class Work(TypedDict):
    """What an invocation did."""

    units_executed: int
    units_reused: int


class Results(TypedDict):
    """`results.json` as this version writes it. `attack.metrics.row.Row` writes and reads a row."""

    schema: int
    recipe: Object
    rows: list[Record]
    stages: dict[str, float]
    environment: Environment


class Environment(TypedDict):
    """What ran where, on what. An audit has no data and no hardware of its own."""

    work: Work
    versions: dict[str, str]
    git: GitState
    hardware: NotRequired[Hardware]
    attack: NotRequired[Record | None]
    store: NotRequired[str]
    dataset: NotRequired[DatasetFacts]
    split: NotRequired[SplitFacts]
    # Of samples that stand out: number → the source's own id.
    sample_ids: NotRequired[dict[str, str]]
    notes: NotRequired[list[str]]
    questions: NotRequired[list[str]]


class Hardware(TypedDict):
    """The machine of the driver, and where units ran."""

    where: str
    machine: str
    python: str
    cpus: int


class DatasetFacts(TypedDict):
    """A data set: its name, the digest of its images and labels, and counts."""

    name: str
    digest: str
    train: int
    test: int
    classes: int
    class_names: list[str]


class SplitFacts(TypedDict):
    """How many images each part of the split has, the digest of which they are, and notes on it."""

    forget: int
    retain: int
    val: int
    test: int
    digest: str
    notes: list[str]


class DataSummary(TypedDict):
    """The facts about the data that results and MLflow runs carry."""

    dataset: DatasetFacts
    split: SplitFacts


class RocCurve(TypedDict):
    """One attack's ROC curve of the result row number `row`."""

    row: int
    attack: str
    fpr: Sequence[float]
    tpr: Sequence[float]


class ConfidenceCurve(TypedDict):
    """Histograms of an attacker's confidence: counts between `edges`, by side."""

    row: int
    attack: str
    edges: Sequence[float]
    unlearned: Sequence[float]
    retrained: Sequence[float]


class TrainingCurve(TypedDict):
    """The passes over the data of one trained model."""

    model_id: str
    role: str
    history: Sequence[Record]


class UnlearningCurve(TypedDict):
    """The passes of one model that forgot, and the one at which it stopped."""

    row: int
    model_id: str
    stopped_at: int | None
    history: Sequence[Record]


class IncrementalCurve(TypedDict):
    """The steps of one model that forgot more and more."""

    row: int
    model_id: str
    steps: Sequence[Record]


class Curves(TypedDict, total=False):
    """`curves.json`. A reader takes what is there: older versions write less."""

    roc: list[RocCurve]
    confidence: list[ConfidenceCurve]
    training: list[TrainingCurve]
    unlearning: list[UnlearningCurve]
    incremental: list[IncrementalCurve]
    samples: list[Object]  # those that stand out, see `experiments.samples`


class LogLine(TypedDict, total=False):
    """What a driver or a worker said. `unit`, `name`, `stage` and `attempt` where it was at one."""

    time: float
    level: str
    logger: str
    message: str
    host: str
    pid: int
    role: str
    unit: str
    name: str
    stage: str
    attempt: int
