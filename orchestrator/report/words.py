"""Names, numbers and judgements in words. Everything the reader sees is worded here, once."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

NOT_MEASURABLE = "n/m"
CHANCE = 0.5

REFERENCES = {"no_unlearn": "No unlearning", "retrain": "Retrain"}
ATTACKS = {
    "xgboost": "XGBoost",
    "u_lira": "U-LiRA",
    "lira": "LiRA",
    "rmia": "RMIA",
    "one_shadow": "One shadow",
    "gap": "Gap (label only)",
    "loss_threshold": "Loss threshold",
    "entropy_threshold": "Entropy threshold",
}
PARAMETERS = {"gamma": "γ", "alpha": "α", "lambda": "λ", "beta": "β", "temperature": "T"}
BASELINES = tuple(REFERENCES)

# The data that a method sees, from little to much: as a heading, and in words.
ACCESS = {
    "forget": ("D_f", "the forget set alone"),
    "moments": ("D_f, moments", "the forget set and stored second moments"),
    "fisher": ("D_f, Fisher", "the forget set and a stored Fisher diagonal"),
    "retain_share": ("D_f, part of D_r", "the forget set and a share of the retain set"),
    "retain": ("D_f, D_r", "the forget set and the whole retain set"),
}

Verdict = Literal["forgot", "remembers", "over-unlearned", "damaged", "undecided", "failed"]
VERDICTS: dict[Verdict, tuple[str, str]] = {
    "forgot": ("✓", "every attack that sees anything finds less than the tolerance, shown by its interval"),
    "remembers": ("✗", "an attack, single samples or single models still show the forget set as training data"),
    "over-unlearned": (
        "!",
        "forget samples stand out against unseen images by too little confidence (Streisand effect)",
    ),
    "damaged": ("!", "unseen images lost confidence as forget samples did: damage is not forgetting"),
    "undecided": ("?", "neither is shown; the text says how much of the leak may be left"),
    "failed": ("–", "did not finish; the reason is given"),
}

GLOSSARY = (
    ("Forget set D_f", "the training samples, or classes, that a model is asked to forget."),
    ("Retain set D_r", "the rest of the training data, whose knowledge should stay."),
    ("Original", "a model trained on all training data, forget set included."),
    ("Retrain", "a model trained from scratch without the forget set: the gold standard that unlearning imitates."),
    (
        "Membership attack",
        "a classifier that sees a model's output on a forget sample and says whether the model was trained on it. "
        "It learns from other (shadow) models and is tested on models it has never seen.",
    ),
    (
        "AUC",
        "area under the attack's ROC curve. It is the chance that a random output of a model under test "
        "scores higher than one of a retrained model. 0.5 is guessing, which is the aim; 1 is certain recognition.",
    ),
    (
        "TPR at 1 % FPR",
        "the share of forget-set outputs that are recognised when only one in a hundred outputs of retrained models is accused "
        "wrongly; guessing gives 0.01. It is not measurable (n/m) where there are too few outputs for so low a rate. "
        "Where there are hardly enough, its interval begins at 0. Below 1 % the interval takes the retrained models "
        "that were measured for all.",
    ),
    (
        "Leak left",
        "the part of an attack's success that unlearning did not remove: (AUC − Retrain's AUC) ÷ (AUC before "
        "unlearning − Retrain's AUC). 0 is Retrain, 1 is no unlearning.",
    ),
    (
        "Streisand effect",
        "forget samples stand out against unseen images by too little confidence. An attacker who turns the score "
        "round finds them. That is a failure, not a better result.",
    ),
    (
        "Damaged",
        "all outputs lost confidence, on unseen images too. Forget samples then look forgotten, but so does everything.",
    ),
    (
        "Error",
        "share of wrongly classified samples in percent; on the forget set it should match Retrain's, not be as high as possible.",
    ),
    ("Speed-up", "seconds to train one model from scratch over seconds to unlearn one model."),
    (
        "Interval [low, high]",
        "95 % interval over models, not over samples: samples of one model are correlated. From three models on it holds the truth about "
        "that often (AUC: 90 % with three), as measured by simulation. The fitted attacker and the data split are held fixed, so their own chance is not in it.",
    ),
)


Kind = Literal["fraction", "percent", "seconds", "times", "count", "flag"]


@dataclass(frozen=True)
class Metric:
    """How one metric is named and printed. `target`: what the best value is nearest to, or the end
    that is best."""

    name: str
    label: str
    kind: Kind
    target: Literal["chance", "retrain", "low", "high", None] = None
    unit: str = ""
    tex: str = ""

    @property
    def heading(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("auc", "AUC", "fraction", "chance"),
        Metric("leak_left", "Leak left", "fraction"),
        Metric("tpr_at_fpr_0.01", "TPR at 1 % FPR", "fraction"),
        Metric("tpr_at_fpr_0.001", "TPR at 0.1 % FPR", "fraction"),
        Metric("error_forget", "Error D_f", "percent", "retrain", "%", r"Error $D_f$"),
        Metric("error_retain", "Error D_r", "percent", "retrain", "%", r"Error $D_r$"),
        Metric("error_test", "Error test", "percent", "retrain", "%", r"Error $D_{\mathrm{test}}$"),
        Metric("seconds_per_model", "Time per model", "seconds", None, "s"),
        Metric("speedup_vs_retrain", "Speed-up", "times", "high"),
        Metric("epochs", "Epochs", "count"),
        Metric("failing_point", "Fails at", "count", None, "samples/class"),
        Metric("error_recovered", "Error fine-tuned", "percent", None, "%"),
        Metric("moment_drift", "Moment drift", "fraction"),
        Metric("stress_auc", "AUC against unseen", "fraction", None),
    )
}


def metric(name: str) -> Metric:
    """Returns how the metric `name` is shown; `<attack>/auc` and names unknown here included."""
    if name in METRICS:
        return METRICS[name]
    attack, _, rest = name.rpartition("/")
    if attack and rest in METRICS:
        base = METRICS[rest]
        return Metric(name, f"{attack_name(attack)} {base.label}", base.kind, base.target, base.unit)
    if name.startswith("error_"):
        return Metric(name, f"Error {name.removeprefix('error_')}", "percent", "retrain", "%")
    return Metric(name, name.replace("_", " "), "fraction")


WATCHED = {"retain": "accuracy on D_r", "test": "test accuracy"}


def sees(access: str, validation: bool, watched: str = "") -> str:
    """Returns what a method sees as a heading: `D_f, D_r, validation`.

    **Arguments:** `watched`: the set whose accuracy ends the method, `retain` or `test`.
    """
    more = (*(("validation",) if validation else ()), *((WATCHED[watched],) if watched in WATCHED else ()))
    return ", ".join((ACCESS[access][0], *more))


def sees_in_words(access: str, validation: bool) -> str:
    """Returns what a method sees: `the forget set alone`."""
    if not validation:
        return ACCESS[access][1]
    return ACCESS[access][1].removesuffix(" alone") + ", with validation data"


def attack_name(name: str) -> str:
    """Returns an attack's name as papers write it."""
    return ATTACKS.get(name) or clean(name)


def parameter_name(name: str) -> str:
    """Returns a parameter's name, with Greek letters for those that papers write so."""
    return PARAMETERS.get(name) or clean(name)


def value_text(value: object, limit: int = 40) -> str:
    """Returns a parameter's value in short."""
    if isinstance(value, bool) or value is None:
        text = {True: "yes", False: "no", None: "none"}[value]
    elif isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, str | int):
        text = str(value)
    else:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return shorten(text, limit)


def shorten(text: str, limit: int) -> str:
    """Returns `text` cut to at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def clean(text: object) -> str:
    """Returns `text` on one line without the characters that neither SVG nor HTML may hold:
    control characters, halves of surrogate pairs, U+FFFE and U+FFFF."""
    barred = ("Cc", "Cs", "Zl", "Zp")
    kept = "".join(" " if unicodedata.category(c) in barred or c in "\ufffe\uffff" else c for c in str(text))
    return re.sub(r" {2,}", " ", kept).strip()


def parameters_text(params: Mapping[str, object], names: Sequence[str] | None = None, limit: int = 60) -> str:
    """Returns parameters as `γ=0.9, lr=0.05`, all or those in `names`."""
    shown = [name for name in (params if names is None else names) if name in params]
    return shorten(clean(", ".join(f"{parameter_name(name)}={value_text(params[name])}" for name in shown)), limit)


def number(value: float | None, kind: str) -> str:
    """Returns a measured value as text; null is "n/m", never 0."""
    if value is None:
        return NOT_MEASURABLE
    if kind == "flag" or isinstance(value, bool):
        return "yes" if value else "no"
    if kind == "fraction":
        return f"{value:.3f}"
    if kind == "percent":
        return f"{value:.2f}"
    if kind == "times":
        return f"{value:.2f}×" if value < 10 else f"{value:.0f}×" if value >= 100 else f"{value:.1f}×"
    if kind == "seconds":
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return f"{value:g}" if float(value).is_integer() else f"{value:.1f}"


def interval(bounds: Sequence[float] | None, kind: str) -> str:
    """Returns `[low, high]`, or nothing where there is no interval."""
    if not bounds:
        return ""
    return f"[{number(bounds[0], kind)}, {number(bounds[1], kind)}]".replace("×", "")


def with_interval(value: float | None, bounds: Sequence[float] | None, kind: str) -> str:
    """Returns a value with its interval."""
    return f"{number(value, kind)} {interval(bounds, kind)}".strip()


def duration(seconds: float | None) -> str:
    """Returns a time span as people say it."""
    if seconds is None:
        return NOT_MEASURABLE
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def count(n: int, noun: str) -> str:
    """Returns `1 model`, `2 models`."""
    return f"{n:,} {noun if n == 1 else noun + 's'}"


def listed(items: Sequence[str]) -> str:
    """Returns `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def signed(value: float, kind: str) -> str:
    """Returns a difference with its sign."""
    text = number(abs(value), kind).removesuffix("×")
    nought = not any(c in "123456789" for c in text)
    return text if nought else f"{'+' if value > 0 else '−'}{text}"
