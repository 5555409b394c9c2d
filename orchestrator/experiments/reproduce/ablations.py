"""Choices that the paper leaves open, each varied alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attack.metrics.measure import Measure

from ...report import words
from ...report.figures.drawing import Figure
from ...report.figures.figures import auc_figure, plane_figure
from ...report.figures.growth import incremental_figure
from ...report.rows import Report
from .drawing import lines_figure
from .item import Cell, Comparison, Experiments, Item, Run
from .measure import measure


def _compare(experiments: Experiments, name: str) -> Comparison:
    """Every unlearning row with its difference to the first one of its experiment."""
    experiment = experiments[name]
    report = Report.load(experiment.folder)
    rows: list[tuple[Cell, ...]] = []
    mine = [row for row in report.rows if not row.baseline]
    incremental = any(row.value("failing_point_least") is not None for row in mine)
    metrics = (
        ["error_test", "failing_point_least", "moment_drift"]
        if incremental
        else ["auc", "error_forget", "error_retain", "error_test"]
    )
    for row in mine:
        values = [row.row[metric] for metric in metrics]
        lead = "failing_point_least" if incremental else "auc"
        apart = None if row is mine[0] else row.row[lead] - mine[0].row[lead]
        rows.append((row.label if row.done else f"{row.label}: {row.error}", *values, row.value("epochs"), apart))
    shown = [
        words.metric(metric).heading if metric != "failing_point_least" else "withstood, samples of each class"
        for metric in metrics
    ]
    lead = "withstood" if incremental else "AUC"
    return Comparison(
        ("", *shown, "epochs", f"{lead}, less the first row's"),
        tuple(rows),
        "Not published. The last column is paired over models.",
        digits=3,
    )


def _figures(experiments: Experiments, name: str) -> list[Figure]:
    report = Report.load(experiments[name].folder)
    makers = (incremental_figure, plane_figure, auc_figure)
    found = [figure for maker in makers if (figure := maker(report)) is not None]
    return [replace(figure, name=f"{name}-{figure.name}") for figure in found[:1]]


def _ablation(name: str, title: str, about: str) -> Item:
    return Item(name, title, about, (Run(name, name),), lambda e: _compare(e, name), lambda e: _figures(e, name))


# The widths of each size, by network.
WIDTHS: dict[str, dict[str, Sequence[float]]] = {
    "small_vgg": {
        "mini": (0.0625, 0.125, 0.25, 0.375),
        "small": (0.25, 0.5, 0.75, 1.0),
        "paper": (0.25, 0.5, 1.0, 1.5),
    },
    "resnet18": {"mini": (0.0625, 0.125, 0.25), "small": (0.125, 0.25, 0.5), "paper": (0.25, 0.5, 1.0)},
    "all_cnn": {"mini": (0.0625, 0.125, 0.25), "small": (0.125, 0.25, 0.5), "paper": (0.25, 0.5, 1.0)},
}


def _widths(name: str, network: str, title: str) -> Item:
    """Returns the search for the safe range of γ by the width of one network."""
    places = range(len(WIDTHS[network]["mini"]))
    runs = tuple(
        Run(
            f"{name.removeprefix('ablation-')}-{place + 1}",
            "ablation-width",
            {size: [f"model.name={network}", f"model.width={at[place]}"] for size, at in WIDTHS[network].items()},
        )
        for place in places
    )
    about = f"Where the safe range of γ opens: {title} at {('three', 'four')[len(places) - 3]} widths."
    return Item(name, f"Ablation: width of {title}", about, runs, _width_table, lambda e: _width_figures(name, e))


def _width_table(experiments: Experiments) -> Comparison:
    rows: list[tuple[Cell, ...]] = []
    for experiment in experiments.values():
        width = f"width {experiment.recipe['model'].get('width', 1.0):g}"
        before = experiment.find("no_unlearn")
        for label, row in (("before", before), ("Retrain", experiment.find("retrain"))):
            errors = [measure(row, name) for name in ("error_forget", "error_retain", "error_test")]
            rows.append((f"{width}, {label}", *errors, None))
        for gamma, row in experiment.sweep("pgu", "gamma"):
            errors = [measure(row, name) for name in ("error_forget", "error_retain", "error_test")]
            cost = errors[2] - measure(before, "error_test")
            rows.append((f"{width}, γ = {gamma:g}", *errors, cost))
    columns = ("", "D_f", "D_r", "test", "test error that unlearning costs")
    return Comparison(columns, tuple(rows), "Not published. Classification errors in %.")


def _width_figures(name: str, experiments: Experiments) -> list[Figure]:
    series: dict[str, list[tuple[float, Measure]]] = {}
    for experiment in experiments.values():
        before = measure(experiment.find("no_unlearn"), "error_retain")
        width = f"width {experiment.recipe['model'].get('width', 1.0):g}"
        found = [(float(g), measure(row, "error_retain") - before) for g, row in experiment.sweep("pgu", "gamma")]
        if known := [(g, cost) for g, cost in found if cost.known]:
            series[width] = known
    caption = "What unlearning costs on retained data, by γ and width."
    return [lines_figure(name, "The safe range of γ", "γ", "retain error + (points)", series, {}, caption)]


def _scale_table(experiments: Experiments) -> Comparison:
    experiment = experiments["ablation-scale"]
    errors = ("error_forget", "error_retain", "error_test")
    before = [measure(experiment.find("no_unlearn"), name) for name in errors]
    rows: list[tuple[Cell, ...]] = [("poisoned", *before, None, None, None, None)]
    ways = dict.fromkeys((row.params["lr"], row.params["epochs"]) for row in experiment.rows if row.method == "pgu")
    for lr, epochs in ways:
        scaled, plain = (
            [measure(experiment.find("pgu", scale_size=size, lr=lr, epochs=epochs), name) for name in errors]
            for size in (None, 0)
        )
        rows.append((f"lr {lr:g}, {epochs} passes", *scaled, *plain, scaled[-1] - plain[-1]))
    names = ("swapped labels", "D_r", "test")
    columns = (
        "",
        *(f"scale: {n}" for n in names),
        *(f"no scale: {n}" for n in names),
        "test error that the scale adds",
    )
    return Comparison(columns, tuple(rows), "Not published. Errors in %; the last column is paired over models.")


ABLATIONS = (
    _ablation(
        "ablation-criterion",
        "Ablation: criterion",
        "What sets the size of the core space: `singular` against `energy`.",
    ),
    _ablation(
        "ablation-gamma-by-layer", "Ablation: γ by layer", "One γ for all layers against one for each kind of layer."
    ),
    _ablation("ablation-entropy", "Ablation: entropy term", "The loss with and without its entropy term."),
    _ablation(
        "ablation-optimizer",
        "Ablation: optimiser",
        "Plain SGD, as published, against momentum and Adam with projected steps.",
    ),
    _ablation(
        "ablation-moments",
        "Ablation: running moments",
        "Incremental unlearning with running moments against moments recomputed before each step.",
    ),
)

# What may explain a claim that fails.
EXPLAINING = (
    _ablation(
        "ablation-release",
        "Ablation: the release's choices",
        "PGU as the paper says, as the published release does, and with its order of the forget set alone.",
    ),
    Item(
        "ablation-scale",
        "Ablation: the learned scale",
        "Depoisoning with the learned scale and without it, at the same rates and passes.",
        (Run("ablation-scale", "ablation-scale"),),
        _scale_table,
        lambda _: [],
    ),
    _widths("ablation-width", "small_vgg", "SmallVGG"),
    _widths("ablation-width-resnet18", "resnet18", "ResNet-18"),
    _widths("ablation-width-all-cnn", "all_cnn", "All-CNN"),
)
