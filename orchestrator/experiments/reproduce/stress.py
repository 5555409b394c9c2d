"""Figures 5 and 6 of the supplement: how much can be forgotten step by step before a model
fails."""

from __future__ import annotations

import itertools
from dataclasses import replace

from attack.metrics.measure import Measure

from ...report.figures.drawing import Figure
from ...report.figures.growth import incremental_figure
from ...report.rows import Report
from . import published
from .claims import OPEN, Claim, Verdict, above, every, within
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
        Claim("The failing point does not depend on the step.", _independent_of_step),
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
    (Claim("The model with more parameters fails later.", _more_parameters_later),),
)
