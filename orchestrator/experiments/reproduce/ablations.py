"""Choices that the paper leaves open, each varied alone."""

from __future__ import annotations

from dataclasses import replace

from ...report import words
from ...report.figures.drawing import Figure
from ...report.figures.figures import auc_figure, plane_figure
from ...report.figures.growth import incremental_figure
from ...report.rows import Report
from .item import Cell, Comparison, Experiments, Item, Run


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
