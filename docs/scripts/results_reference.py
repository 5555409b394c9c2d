"""Writes the page of `results.json`, from the classes that write the file."""

from __future__ import annotations

import json

from attack.metrics.measure import Measure
from attack.metrics.row import Attacker, Row
from attack.metrics.verdict import Leak, Verdict

WHOLE = {
    "schema": "Version of this layout: 1.",
    "recipe": "The recipe, with every default written out.",
    "rows": "One for each method and setting, `no_unlearn` and `retrain` among them.",
    "stages": "Seconds of each stage.",
    "environment": "What it was measured with: versions, commit, hardware, dataset, split, notes. "
    "`work` counts what this invocation did: `units_executed` and `units_reused`.",
}

ROW = {
    "method": "Its recipe name.",
    "params": "Its settings.",
    "metrics": "Values by name; see [metrics](metrics.md). Null where one cannot be measured.",
    "ci": "95 % intervals over models, `[low, high]`, by metric.",
    "status": "`done` or `failed`.",
    "seconds": "Mean seconds to make one model.",
    "verdict": "The [verdict](../explanation/what-the-words-mean.md) in sentences.",
    "models": "How many of its models are under test.",
    "by_model": "One value for each model, by metric.",
    "attacks": "By attack: where it was fitted, its settings, its threshold, and its notes.",
    "worst_samples": "By attack or distance: the samples that stand out most.",
    "notes": "Sentences to be known before the row is quoted.",
    "retrained_models": "How many retrained models they were held against.",
    "sources": "The trained models that its models were made from.",
    "distance_models": "How many models a side its distances are of.",
    "error": "Why it failed, in one line.",
    "title": "The method's name in print.",
    "access": "The data that the method sees: `forget`, `moments`, `fisher`, `retain_share` or `retain`. "
    "Each sees the forget set. Missing where nothing is known of the method, as in an audit.",
    "validation": "Whether it sees held-out samples too.",
    "watched": "The set whose accuracy ends it, `retain` or `test`. Missing where none does.",
    "judgement": "What the verdict rests on: the word, the reason, the leak that each attack finds, failing models.",
}

# Every field filled, so that every key is written.
_EXAMPLE = Row(
    method="pgu",
    params={"gamma": 0.8, "lr": 0.12},
    metrics={
        "auc": Measure.of(0.53, [0.46, 0.6], {"original-016": 0.5, "original-017": 0.56}, 2),
        "error_test": Measure(8.4),
        "tpr_at_fpr_0.001": Measure(None),
    },
    seconds=0.22,
    models=2,
    retrained_models=2,
    sources=("original-016", "original-017"),
    attacks={"xgboost": Attacker("in_process", {"max_depth": 6}, 0.7, 0.5)},
    worst_samples={"xgboost": [{"sample_id": 17, "auc": 0.9, "score_difference": 0.3}]},
    distance_models=2,
    notes=("a sentence to be known",),
    verdict="Not decided: …",
    judged=Verdict(
        "undecided",
        "21 % of the leak may be left, up to 60 %",
        (Leak("xgboost", 0.53, 0.5, True, 0.2, -0.1, 0.6),),
        "xgboost",
    ),
    error="",
    title="PGU",
    access="moments",
    validation=True,
    watched="retain",
)


def page() -> str:
    """Returns the page. Raises `ValueError` where a row has a key that is not described here."""
    from reference import table

    document = _EXAMPLE.to_json()
    unknown = set(document) - set(ROW)
    if unknown:
        raise ValueError(f"results.json: rows have keys that docs/scripts does not describe: {sorted(unknown)}")
    shown = json.dumps(document, indent=1, ensure_ascii=False)
    return "\n\n".join(
        [
            "# results.json",
            "`orchestrator run` and `orchestrator audit` write it into the output folder. The report, "
            "`table` and `compare` read it, and so may you.",
            table(("key", "meaning"), [(f"`{key}`", text) for key, text in WHOLE.items()]),
            "## A row",
            table(("key", "meaning"), [(f"`{key}`", ROW[key]) for key in document] + [("`error`", ROW["error"])]),
            f"```json\n{shown}\n```",
            "## Beside it",
            "- `outputs/*.parquet`: the [outputs table](outputs.md).\n"
            "- `curves.json`: what the figures are drawn from, and the samples that stand out.\n"
            "- `report.html`: one self-contained page. `figures/`, `tables/`: the same as files.\n"
            "- `recipe.yaml`: the recipe, resolved. `store/`: finished units, unless a store was named.\n"
            "- `events.jsonl`, `log.jsonl`: what `status` and `watch` read.",
        ]
    )
