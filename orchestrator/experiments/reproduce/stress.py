"""Figures 5 and 6 of the supplement: how much can be forgotten step by step before a model
fails."""

from __future__ import annotations

import itertools
from dataclasses import replace

from attack.metrics.measure import Measure
from attack.metrics.row import Row
from unlearn import build_model

from ...report.figures.drawing import Figure
from ...report.figures.growth import incremental_figure
from ...report.rows import Report
from . import published
from .claims import OPEN, PARAMETERS, Claim, Verdict, above, every, within
from .drawing import lines_figure
from .item import Cell, Comparison, Experiments, Item, Run
from .measure import Experiment, measure

METHOD = "pgu_incremental"


def _share(experiment: Experiment, point: Measure) -> str | None:
    """The failing point as a share of the training data."""
    if point.value is None:
        return None
    facts = experiment.environment["dataset"]
    return f"{point.value * facts['classes'] / facts['train']:.1%}"


def _lines(experiment: Experiment, model: str) -> list[tuple[Cell, ...]]:
    published_point, published_share = published.FAILING_POINT[model]
    rows: list[tuple[Cell, ...]] = []
    for step, row in experiment.sweep(METHOD, "step"):
        point, least = measure(row, "failing_point"), measure(row, "failing_point_least")
        measured: Cell = point if point.known or least.value is None else f"not up to {least.value:g}"
        rows.append(
            (
                f"{model}, {step} of each class a step",
                f"{published_point} ({published_share:.0%})",
                measured,
                _share(experiment, point),
                measure(row, "error_test"),
                measure(row, "error_recovered"),
            )
        )
    return rows


COLUMNS = (
    "",
    "published failing point",
    "measured, samples of each class",
    "of the training data",
    "test error then",
    "after fine-tuning",
)


def _compare(experiment: Experiment, model: str) -> Comparison:
    limit = {row.params.get("fail_points") for row in experiment.rows if row.method == METHOD}
    points = ", ".join(f"{value:g}" for value in sorted(v for v in limit if v))
    return Comparison(
        COLUMNS,
        tuple(_lines(experiment, model)),
        f"A model has failed once its test accuracy lies more than {points} points under the original's. Errors in %.",
    )


def _figures(name: str, experiment: Experiment) -> list[Figure]:
    found = incremental_figure(Report.load(experiment.folder))
    return [replace(found, name=name)] if found else []


def _independent_of_step(experiments: Experiments) -> Verdict:
    """The failing point is known to within a step, so two points may differ by the larger step."""
    rows = experiments["figure5"].sweep(METHOD, "step")
    found = []
    for (small, first), (large, second) in itertools.pairwise(rows):
        apart = measure(first, "failing_point") - measure(second, "failing_point")
        found.append(within(f"failing point with steps of {small} less that with {large}", apart, float(large), 1))
    return every(found)


def _fails(experiments: Experiments) -> Verdict:
    """Some models of some step size fail before the steps run out."""
    rows = experiments["figure5"].sweep(METHOD, "step")
    return every(
        above(f"failing point with steps of {step}", measure(row, "failing_point"), 0.0, 1) for step, row in rows
    )


def _more_parameters_later(experiments: Experiments) -> Verdict:
    """Compares the step that both have; a model that never failed counts with what it withstood."""
    vgg = experiments["figure6"].sweep(METHOD, "step")
    cnn = dict(experiments["figure5"].sweep(METHOD, "step"))
    for step, row in vgg:
        if step in cnn:
            later, earlier = measure(row, "failing_point_least"), measure(cnn[step], "failing_point")
            return above(f"failing point of SmallVGG less All-CNN's, steps of {step}", later - earlier, 0.0, 1)
    return Verdict(OPEN, "no step size was measured on both models")


def _recovers(experiments: Experiments) -> Verdict:
    found = []
    for step, row in experiments["figure5"].sweep(METHOD, "step"):
        gain = measure(row, "error_test") - measure(row, "error_recovered")
        found.append(above(f"test error that fine-tuning takes off, steps of {step}", gain))
    return every(found)


FIGURE5 = Item(
    "figure5",
    "Figure 5: incremental unlearning, All-CNN",
    "All-CNN forgets more and more samples of each class, in three step sizes, until its test accuracy fails.",
    (Run("figure5", "figure5"),),
    lambda e: _compare(e["figure5"], "all_cnn"),
    lambda e: _figures("figure5", e["figure5"]),
    (
        Claim("Unlearning step by step fails at some point.", _fails),
        Claim("The failing point does not depend on the step.", _independent_of_step, (PARAMETERS,)),
        Claim("Fine-tuning on retain data recovers test accuracy.", _recovers),
    ),
)

FIGURE6 = Item(
    "figure6",
    "Figure 6: incremental unlearning, SmallVGG",
    "SmallVGG in the same test; it has more parameters than All-CNN.",
    (Run("figure6", "figure6"), Run("figure5", "figure5")),
    lambda e: _compare(e["figure6"], "small_vgg"),
    lambda e: _figures("figure6", e["figure6"]),
    (Claim("The model with more parameters fails later.", _more_parameters_later, (PARAMETERS,)),),
)


# --- Beside the paper: any method, any width
# ---------------------------------------------------------------------------------------------

# Widths of each size, from narrow to wide.
WIDTHS = {
    "all_cnn": {"mini": (0.0625, 0.125, 0.25, 0.375), "small": (0.125, 0.1875, 0.25, 0.375), "paper": (0.25, 0.5, 1.0, 1.5)},
    "small_vgg": {"mini": (0.0625, 0.125, 0.25, 0.375), "small": (0.125, 0.1875, 0.25, 0.375), "paper": (0.25, 0.5, 1.0, 1.5)},
}  # fmt: skip


def _at_width(model: str, place: int) -> Run:
    overrides = {size: [f"model.width={widths[place]}"] for size, widths in WIDTHS[model].items()}
    name = f"stress-{model.replace('_', '-')}"
    return Run(f"{name}-{place + 1}", name, overrides)


def parameters(experiment: Experiment) -> int:
    """Returns how many parameters the experiment's model has."""
    model, dataset = dict(experiment.recipe["model"]), experiment.recipe["dataset"]
    size = dataset.get("image_size") or (8 if dataset["source"] == "digits" else 32)
    channels = 1 if dataset["source"] == "digits" else 3
    classes = experiment.environment["dataset"]["classes"]
    built = build_model(model.pop("name"), num_classes=classes, in_channels=channels, image_size=size, **model)
    return sum(weight.numel() for weight in built.parameters())


def _stress_line(experiment: Experiment, row: Row, lead: tuple[Cell, ...]) -> tuple[Cell, ...]:
    point, least = measure(row, "failing_point"), measure(row, "failing_point_least")
    shown: Cell = point if point.known or least.value is None else f"not up to {least.value:g}"
    audit = measure(row, "stress_auc")
    return (*lead, shown, _share(experiment, least), measure(row, "error_test"), audit)


STRESS_COLUMNS = ("fails at, samples of each class", "of the training data", "test error then", "AUC against unseen")


def _methods_table(experiments: Experiments) -> Comparison:
    experiment = experiments["stress-methods"]
    rows = [
        _stress_line(experiment, row, (str(row.params.get("method", "pgu")),))
        for row in experiment.rows
        if row.params.get("fail_points") is not None
    ]
    return Comparison(
        ("method", *STRESS_COLUMNS),
        tuple(rows),
        "Not published. The AUC tells all samples forgotten so far from unseen ones by confidence; 0.5 is the aim.",
        digits=3,
    )


def _width_table(experiments: Experiments) -> Comparison:
    rows = []
    for experiment in experiments.values():
        for _, row in experiment.sweep(METHOD, "step"):
            model = experiment.recipe["model"]
            lead = (f"{model['name']}, width {model.get('width', 1.0):g}", f"{parameters(experiment):,}")
            rows.append(_stress_line(experiment, row, lead)[:-1])
    note = "Not published. What withstood all steps counts with all of them in the figure."
    return Comparison(("", "parameters", *STRESS_COLUMNS[:-1]), tuple(rows), note, digits=1)


def _width_figures(experiments: Experiments) -> list[Figure]:
    series: dict[str, list[tuple[float, Measure]]] = {}
    for experiment in experiments.values():
        for _, row in experiment.sweep(METHOD, "step"):
            point = measure(row, "failing_point_least")
            if point.known:
                name = str(experiment.recipe["model"]["name"])
                series.setdefault(name, []).append((parameters(experiment) / 1e6, point))
    if not series:
        return []
    caption = "Samples of each class forgotten when test accuracy fails, over the parameters of the model."
    x, y = "parameters (millions)", "fails at (samples of each class)"
    return [lines_figure("stress-width", "What a model withstands", x, y, series, {}, caption)]


STRESS = (
    Item(
        "stress-methods",
        "Stress test: any method",
        "Every method forgets step by step, hundreds of times, and is audited on the way.",
        (Run("stress-methods", "stress-methods"),),
        _methods_table,
        lambda e: _figures("stress-methods", e["stress-methods"]),
    ),
    Item(
        "stress-width",
        "Stress test: parameters",
        "Both networks of Figures 5 and 6 at four widths each.",
        tuple(_at_width(model, place) for model in WIDTHS for place in range(4)),
        _width_table,
        _width_figures,
    ),
)
