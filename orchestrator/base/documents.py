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
