"""The sections of a recipe that are the orchestrator's own; the others take the options of what
they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from unlearn import Scenario, Training

from ..base.values import Object
from .choices import Choice, Point
from .values import Integer, Number, OptionalText


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Shadows(Strict):
    """How many shadow models are trained and how the attacker divides them."""

    originals: Annotated[Integer, Field(ge=1, description="models trained on all data")] = 50
    retrained: Annotated[
        Integer,
        Field(
            ge=0,
            description="models trained on the retain set for the attacker; 0 where there are no attacks (`retrain` is measured on models of its own)",
        ),
    ] = 50
    split: Annotated[
        tuple[Integer, Integer, Integer],
        Field(
            description="three numbers: models in the attacker's train, validation and test folds, of the originals and of the retrained"
        ),
    ] = (40, 5, 5)
    unlearn: Annotated[
        Literal["test", "all"],
        Field(description="which originals are unlearned: the test fold, or all of them (U-LiRA needs all)"),
    ] = "test"
    reuse_only: Annotated[bool, Field(description="train nothing: use only models that the store already holds")] = (
        False
    )


class Tracking(Strict):
    """Where MLflow keeps the runs."""

    uri: Annotated[
        OptionalText,
        Field(
            description="an MLflow tracking URI; null turns tracking off; relative sqlite paths start at the current folder"
        ),
    ] = "sqlite:///mlflow.db"
    experiment: Annotated[str | None, Field(description="MLflow experiment; null takes the recipe's name")] = None
    log_models: Annotated[bool, Field(description="also upload each model's safetensors file")] = False
    # Left out where it is not given, as in `resources`.
    register_best: Annotated[
        str | None,
        Field(
            description="register the first model of the method that forgot at the least test error under this name",
            exclude_if=lambda name: name is None,
        ),
    ] = None


def _one_core(cores: object) -> object:
    """The scheduler's own choice: one core.

    Many models on a core each train faster than one with every thread, as
    `benchmarks/training/bench.py` measures. A number of threads that followed the machine would
    change the last bits of a model from machine to machine.
    """
    return 1 if cores is None else cores


# Streaming starts workers twice more, about ten seconds. On two cores so many images of a narrow
# SmallVGG take ten times as long.
STREAMED_IMAGES = 500_000


class Resources(Strict):
    """What one unit of work takes and how many run at once."""

    cpus_per_unit: Annotated[
        Number,
        BeforeValidator(_one_core, json_schema_input_type=Annotated[Number, Field(gt=0)] | None),
        Field(gt=0, description="CPU cores of one unit; null: chosen, one core"),
    ] = 1
    gpus_per_unit: Annotated[
        Number, Field(ge=0, description="GPUs of one unit; a fraction below 1 shares a GPU, else a whole number")
    ] = 0
    # Left out where there is none: recipes without it are the experiments that they were.
    accelerator_type: Annotated[
        str | None,
        Field(description="kind of GPU as Ray names it, such as H100; null: any", exclude_if=lambda kind: kind is None),
    ] = None
    concurrency: Annotated[Integer | None, Field(ge=1, description="most units at once; null: as many as fit")] = None
    units_per_trial: Annotated[
        Integer | None, Field(ge=1, description="units that a worker takes from the queue together; null: one")
    ] = None
    max_retries: Annotated[
        Integer, Field(ge=0, description="how often a unit is tried again after its worker was lost")
    ] = 3
    distributed_rows: Annotated[
        Integer,
        Field(
            ge=0, description="from this many attacker rows on, XGBoost trains on Ray Train instead of in one process"
        ),
    ] = 2_000_000
    # Left out where it is not given, as above.
    streamed_images: Annotated[
        Integer,
        Field(
            ge=0,
            description="from this many images on that models look at, Ray Data makes their logits, instead of the "
            "workers that made the models",
            exclude_if=lambda images: images == STREAMED_IMAGES,
        ),
    ] = STREAMED_IMAGES
    attacker_memory_gib: Annotated[
        Number | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="memory that a worker of the distributed attacker may take for binned data, on its GPU where it has one; "
            "above, XGBoost pages it from disk, with the same result; null: a share of what is free within the container's limit",
            exclude_if=lambda size: size is None,
        ),
    ] = None

    @field_validator("gpus_per_unit")
    @classmethod
    def _whole_or_part(cls, value: float) -> float:
        if value > 1 and not float(value).is_integer():  # infinity is none
            # Ray gives out nothing else
            raise ValueError("give a whole number, or a fraction below 1")
        return value


class Verdict(Strict):
    """What counts as forgotten."""

    tolerance: Annotated[
        float, Field(gt=0, lt=1, description="share of an attack's leak that may be left in a method called forgotten")
    ] = 0.25
    tail_fpr: Annotated[
        float,
        Field(
            gt=0,
            lt=0.5,
            description="false-positive rate of the search for single samples; the share of samples found may exceed "
            "what chance finds by as much",
        ),
    ] = 0.01


class Kept(Strict):
    """Logits that are kept besides the forget set's."""

    # Left out where they are not given, as above.
    retain: Annotated[
        Integer,
        Field(
            ge=0,
            description="retained training images, drawn from the seed, for the audit of who else was hurt; 0: none",
            exclude_if=lambda count: count == 0,
        ),
    ] = 0
    group: Annotated[
        str | None,
        Field(
            description="a column of the source; the audit of retained images is made by its values too",
            exclude_if=lambda name: name is None,
        ),
    ] = None
    test: Annotated[
        Integer,
        Field(
            ge=0,
            description="unseen images of the test set: half of them calibrate RMIA, half are compared with forget "
            "samples; 0 leaves damage and over-unlearning undecided",
        ),
    ] = 2000


class ReportOptions(Strict):
    """What the page shows."""

    images: Annotated[
        bool, Field(description="small pictures of the samples that stand out; false where images are private")
    ] = True


ErrorBound = Annotated[
    dict[Literal["error_test_increase"], Annotated[Number, Field(ge=0, allow_inf_nan=False)]] | None,
    Field(description="error_test_increase: percentage points of test error over no unlearning; null for none"),
]


class Search(Strict):
    """What `orchestrator search` looks for; `run` ignores it."""

    method: Annotated[
        dict[str, object],
        Field(description="one method as in `methods`, with uniform, loguniform, grid or zip in place of values"),
    ]
    samples: Annotated[Integer, Field(ge=1, description="settings tried at most")] = 24
    objective: Annotated[
        Literal["auc_gap"], Field(description="what is made small: auc_gap is |AUC − 0.5| of the primary attack")
    ] = "auc_gap"
    bound: ErrorBound = {"error_test_increase": 2.0}
    grace: Annotated[Integer, Field(ge=1, description="models measured before ASHA may stop a setting")] = 1
    reduction: Annotated[
        Number, Field(gt=1, allow_inf_nan=False, description="ASHA carries about one setting in so many on")
    ] = 3


class Budget(Strict):
    """What each method of a league may spend on its settings. It is the same for all of them."""

    settings: Annotated[Integer, Field(ge=1, description="settings tried of each method at most")] = 12
    models: Annotated[
        Integer,
        Field(ge=1, description="models of the validation fold that the best settings are measured on at the end"),
    ] = 4


class League(Strict):
    """What `orchestrator league` compares; `run` ignores it."""

    budget: Annotated[
        Budget,
        Field(
            description="the same for each method: `settings` tried at most (12); `models` of the validation fold that the best "
            "settings are measured on at the end (4)"
        ),
    ] = Budget()
    objective: Annotated[
        Literal["auc_gap", "klom", "epsilon"],
        Field(
            description="distance to Retrain: auc_gap is |AUC − Retrain's AUC| of the primary attack, klom is KLoM at the "
            "95th percentile, epsilon is 1 − the forgetting-quality score"
        ),
    ] = "auc_gap"
    bound: ErrorBound = {"error_test_increase": 2.0}
    seeds: Annotated[Integer, Field(ge=1, description="unlearning seeds for each original under test")] = 1
    reduction: Annotated[
        Number, Field(gt=1, allow_inf_nan=False, description="about one setting in so many is measured on more models")
    ] = 3
    looks: Annotated[
        Integer,
        Field(
            ge=1,
            le=2,
            description="2: half of the models under test first; a method whose place is then certain is not measured further",
        ),
    ] = 2
    # Written into the recipe of the final run, so that it can be resumed and reported alone.
    measured: Annotated[
        dict[str, Annotated[Integer, Field(ge=1)]],
        Field(
            description="written by `league`: models under test of methods whose place was certain early",
            exclude_if=lambda measured: not measured,
            repr=False,  # errors do not name it among what is allowed
        ),
    ] = {}


def _xgboost() -> list[dict[str, object]]:
    return [{"name": "xgboost"}]


class Draft(Strict):
    """A recipe as it is written. The sections that name something are checked by what they name,
    see `checks`."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}$",
            description="letters, digits, '.', '_' and '-', at most 100, the first a letter or digit",
        ),
    ]
    description: str = ""
    seed: Annotated[Integer, Field(ge=0, lt=2**31)] = 0
    dataset: dict[str, object]
    scenario: dict[str, object]
    model: dict[str, object]
    training: dict[str, object] = Field(default_factory=dict)
    shadows: Shadows = Shadows()
    methods: list[dict[str, object]] = Field(default_factory=list)
    attacks: list[dict[str, object]] = Field(default_factory=_xgboost)
    tracking: Tracking = Tracking()
    resources: Resources = Resources()
    # Left out where there is none: recipes without a search are the experiments that they were.
    search: Annotated[Search | None, Field(exclude_if=lambda search: search is None)] = None
    league: Annotated[League | None, Field(exclude_if=lambda league: league is None)] = None
    verdict: Annotated[Verdict, Field(exclude_if=lambda verdict: verdict == Verdict())] = Verdict()
    outputs: Annotated[Kept, Field(exclude_if=lambda kept: kept == Kept())] = Kept()
    report: Annotated[ReportOptions, Field(exclude_if=lambda report: report == ReportOptions())] = ReportOptions()


@dataclass(frozen=True)
class Recipe:
    """A whole experiment, checked and parsed.

    **Arguments:**

    - `dataset`: its source, with `limit` among the options. `model`: its name and options.
    - `methods`: every point of every sweep, in the recipe's order, each once.
    - `document`: the same as plain data, with one spelling for one value: what is shown, stored and
        compared.
    """

    name: str
    description: str
    seed: int
    dataset: Choice
    scenario: Scenario
    model: Choice
    training: Training
    shadows: Shadows
    methods: tuple[Point, ...]
    attacks: tuple[Choice, ...]
    tracking: Tracking
    resources: Resources
    search: Search | None
    league: League | None
    verdict: Verdict
    outputs: Kept
    report: ReportOptions
    document: Object

    def section(self, name: str) -> Object:
        """Returns a section of the document, such as `scenario`."""
        found = self.document[name]
        return found if isinstance(found, Mapping) else {}
