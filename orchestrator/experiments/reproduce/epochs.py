"""Figures 1 to 4 of the supplement: what happens past the early stop, epoch by epoch."""

from __future__ import annotations

from attack.metrics.chance import LEAST_MODELS
from attack.metrics.measure import Measure
from attack.metrics.row import Row

from ...report.figures.drawing import Figure
from .claims import (
    FAILS,
    HOLDS,
    OPEN,
    RELEASE,
    WIDTH,
    Claim,
    Verdict,
    above,
    below,
    decisive,
    every,
    forgets,
    opposite,
    over_unlearned,
    some,
    within,
)
from .drawing import confidence_panel, lines_panel
from .item import Cell, Comparison, Experiments, Item, Run
from .measure import Experiment, measure

# How far under chance an AUC may reach and still not count as under it, and how far a plateau may
# move.
SLACK = 0.05
SAFE = 2.0


def _epochs(experiment: Experiment) -> list[tuple[int, Row]]:
    """Returns (epoch, row), epoch 0 being the models as they were."""
    before = experiment.find("no_unlearn")
    return ([(0, before)] if before else []) + experiment.sweep("pgu", "stop_after")


def _early(experiment: Experiment) -> Row | None:
    return next((row for row in experiment.rows if row.method == "pgu" and "stop_after" not in row.params), None)


def _early_epoch(experiment: Experiment) -> float | None:
    return measure(_early(experiment), "epochs").value


def _loss(experiment: Experiment, row: Row | None, metric: str) -> Measure:
    """Accuracy lost against the original models, in points."""
    return measure(row, metric) - measure(experiment.find("no_unlearn"), metric)


def _compare(experiment: Experiment, published: str) -> Comparison:
    rows = [_line(experiment, f"epoch {epoch}", row) for epoch, row in _epochs(experiment)]
    early = _early(experiment)
    if early is not None:
        at = _early_epoch(experiment)
        rows.append(
            _line(experiment, f"early stop (epoch {at:.1f} on average)" if at is not None else "early stop", early)
        )
    columns = ("", "AUC", "retain accuracy lost", "test accuracy lost", "tiny scores")
    return Comparison(
        columns,
        tuple(rows),
        f"{published} Tiny scores: share of unlearned outputs under the 5th percentile of retrained ones (0.05 where nothing shows).",
        digits=3,
    )


def _line(experiment: Experiment, label: str, row: Row) -> tuple[Cell, ...]:
    lost = [_loss(experiment, row, metric) for metric in ("error_retain", "error_test")]
    return (label, measure(row, "auc"), *lost, measure(row, "tiny_scores"))


def _epoch_figures(name: str, experiment: Experiment) -> list[Figure]:
    losses: dict[str, list[tuple[float, Measure]]] = {"retain set": [], "test data": []}
    areas: list[tuple[float, Measure]] = []
    for epoch, row in _epochs(experiment):
        for metric, label in (("error_retain", "retain set"), ("error_test", "test data")):
            lost = _loss(experiment, row, metric) if epoch else Measure(0.0)
            if lost.known:
                losses[label].append((epoch, lost))
        auc = measure(row, "auc")
        if auc.known:
            areas.append((epoch, auc))
    stop = measure(_early(experiment), "auc").value
    levels = {"chance": 0.5} | ({} if stop is None else {f"at the early stop: {stop:.3f}": stop})
    return [
        Figure(
            name,
            "Accuracy lost, and AUC, over the epochs of unlearning",
            "Left: accuracy lost against the original models. Right: attack AUC; below 0.5 the forget set is found by too little confidence. Bands are "
            "95 % intervals over models.",
            (
                lines_panel("epoch of unlearning", "accuracy lost (points)", losses, {}),
                lines_panel("epoch of unlearning", "attack AUC", {"PGU": areas}, levels, first=2),
            ),
        )
    ]


def _confidence_figures(name: str, experiment: Experiment) -> list[Figure]:
    indices = {id(row): index for index, row in enumerate(experiment.rows)}
    wanted = [("epoch 0", experiment.find("no_unlearn")), ("early stop", _early(experiment))]
    wanted += [(f"epoch {epoch}", row) for epoch, row in experiment.sweep("pgu", "stop_after")[-2:]]
    panels = []
    for title, row in wanted:
        curves = [c for c in experiment.curves["confidence"] if row is not None and c["row"] == indices[id(row)]]
        if curves:
            panels.append(confidence_panel(curves[0], title))
    if not panels:
        return []
    caption = "Attacker's confidence on the forget set, for unlearned and for retrained models, at several points of unlearning."
    return [Figure(name, "How sure the attacker is", caption, tuple(panels))]


def _last(experiment: Experiment) -> tuple[int, Row] | None:
    found = experiment.sweep("pgu", "stop_after")
    return found[-1] if found else None


def _falls_under_chance(experiments: Experiments) -> Verdict:
    experiment = experiments["figure1"]
    stop = _early_epoch(experiment) or 0.0
    later = [(epoch, row) for epoch, row in experiment.sweep("pgu", "stop_after") if epoch > stop]
    return some(over_unlearned(f"epoch {epoch}", row) for epoch, row in later)


def _never_under_chance(experiments: Experiments) -> Verdict:
    found = []
    for epoch, row in experiments["figure2"].sweep("pgu", "stop_after"):
        if row.judged is not None:
            found.append(opposite(over_unlearned(f"epoch {epoch}", row)))
            continue
        auc = measure(row, "auc")
        bounds = decisive(auc)
        if bounds is None:
            found.append(Verdict(OPEN, f"AUC at epoch {epoch} has no interval over {LEAST_MODELS} models or more"))
        elif bounds[1] < 0.5:
            found.append(Verdict(FAILS, f"AUC at epoch {epoch}: {auc.text(3)} lies under 0.5"))
        else:
            word = HOLDS if bounds[0] > 0.5 - SLACK else OPEN
            found.append(Verdict(word, f"AUC at epoch {epoch}: {auc.text(3)}, to stay above {0.5 - SLACK:g}"))
    return every(found)


def _early_is_near_chance(experiments: Experiments) -> Verdict:
    return forgets("the early stop", _early(experiments["figure1"]))


def _small_drops(experiment: Experiment, row: Row | None) -> Verdict:
    # One-sided: a gain is no loss.
    return every(
        below(f"{metric.removeprefix('error_')} accuracy lost", _loss(experiment, row, metric), SAFE)
        for metric in ("error_retain", "error_test")
    )


def _plateau(experiments: Experiments) -> Verdict:
    found = experiments["figure2"].sweep("pgu", "stop_after")
    if len(found) < 2:
        return Verdict(OPEN, "fewer than two epochs were measured")
    (before, first), (last, second) = found[-2:]
    return within(
        f"AUC at epoch {last} less AUC at epoch {before}",
        measure(second, "auc") - measure(first, "auc"),
        SLACK,
        3,
    )


def _pile(experiment: Experiment) -> Verdict:
    last = _last(experiment)
    if last is None:
        return Verdict(OPEN, "no late epoch was measured")
    return above(f"share of tiny scores at epoch {last[0]}", measure(last[1], "tiny_scores"), 0.05, 3)


def _more_than_early(experiment: Experiment) -> Verdict:
    last = _last(experiment)
    late, early = measure(last[1] if last else None, "tiny_scores"), measure(_early(experiment), "tiny_scores")
    return above("tiny scores late less at the early stop", late - early, 0.0, 3)


def _no_pile(experiments: Experiments) -> Verdict:
    last = _last(experiments["figure4"])
    late = measure(last[1] if last else None, "tiny_scores")
    return within("share of tiny scores late, less 0.05", late - 0.05, 0.1, 3)


FIGURE1 = Item(
    "figure1",
    "Figure 1: epochs, removing samples",
    "SmallVGG: accuracy lost and AUC after so many epochs of unlearning, with and past the early stop.",
    (Run("figure1", "figure1"),),
    lambda e: _compare(e["figure1"], "Published: early stop at epoch 12, AUC under 0.5 after it (no numbers given)."),
    lambda e: _epoch_figures("figure1", e["figure1"]),
    (
        Claim(
            "At the early stop the samples are forgotten: AUC is at chance.", _early_is_near_chance, (WIDTH, RELEASE)
        ),
        Claim("Past the early stop AUC falls under 0.5 (Streisand effect).", _falls_under_chance),
        Claim(
            f"At the early stop retain and test accuracy lose little (less than {SAFE:g} points).",
            lambda e: _small_drops(e["figure1"], _early(e["figure1"])),
        ),
    ),
)

FIGURE2 = Item(
    "figure2",
    "Figure 2: epochs, removing classes",
    "ResNet-18: accuracy lost and AUC after so many epochs of unlearning whole classes.",
    (Run("figure2", "figure2"),),
    lambda e: _compare(
        e["figure2"], "Published: AUC never under 0.5, stable from about epoch 70 of 100 (no numbers given)."
    ),
    lambda e: _epoch_figures("figure2", e["figure2"]),
    (
        Claim("AUC never goes under 0.5 when classes are removed.", _never_under_chance),
        Claim("AUC is stable over the last epochs.", _plateau),
        Claim(
            f"At the early stop retain and test accuracy lose little (less than {SAFE:g} points).",
            lambda e: _small_drops(e["figure2"], _early(e["figure2"])),
        ),
    ),
)

FIGURE3 = Item(
    "figure3",
    "Figure 3: attacker's confidence, removing samples",
    "SmallVGG: histograms of the attacker's confidence before unlearning, at the early stop and late.",
    (Run("figure3", "figure1"),),
    lambda e: _compare(e["figure3"], "Published: histograms at epochs 0, 12 and 40."),
    lambda e: _confidence_figures("figure3", e["figure3"]),
    (
        Claim("Over-fitted unlearning shows as a pile of tiny scores.", lambda e: _pile(e["figure3"])),
        Claim("There are more of them late than at the early stop.", lambda e: _more_than_early(e["figure3"])),
    ),
)

FIGURE4 = Item(
    "figure4",
    "Figure 4: attacker's confidence, removing classes",
    "ResNet-18: histograms of the attacker's confidence before unlearning, at the early stop and late.",
    (Run("figure4", "figure2"),),
    lambda e: _compare(e["figure4"], "Published: histograms at epochs 0, 70 and 99."),
    lambda e: _confidence_figures("figure4", e["figure4"]),
    (Claim("No such pile when classes are removed.", _no_pile),),
)
