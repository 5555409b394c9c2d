"""Every metric of `results.json` in words: formula, range and aim. A test holds the list against measured results."""

from __future__ import annotations

from dataclasses import dataclass

NOTES = (
    "Names as in `results.json`. Those of the attack `xgboost` stand without a prefix; those of another attack "
    "begin with its name, such as `u_lira/auc`. A value that cannot be measured is null, never 0.",
    "**Models under test** are the row's unlearned models. **Retrained models** never saw the forget set. "
    "A score is what an attack gives to one model's output on one forget sample.",
)


@dataclass(frozen=True)
class Metric:
    """One metric. `name` may hold `<…>` for a part that varies."""

    name: str
    what: str
    formula: str
    range: str
    direction: str
    of_attack: bool = True  # whether other attacks have it under their prefix


METRICS = (
    Metric(
        "auc",
        "How often the attack scores an output of a model under test above one of a retrained model.",
        "P(s⁺ > s⁻) + ½ P(s⁺ = s⁻)",
        "0 to 1",
        "0.5: the attacker cannot tell. Above, the samples are recognised; below, they stand out.",
    ),
    Metric("auc_deviation", "Distance of the AUC from chance.", "abs(AUC − 0.5)", "0 to 0.5", "0"),
    Metric(
        "auc_minus_retrain",
        "The AUC minus Retrain's, one attacker and the same retrained models for both.",
        "AUC − AUC of Retrain",
        "−1 to 1",
        "0. Retrain has none.",
    ),
    Metric(
        "tpr_at_fpr_<rate>",
        "Share of outputs that are recognised when so few of the retrained models' are accused wrongly.",
        "TPR where FPR ≤ rate; rates 0.01, 0.001 and 0.0001",
        "0 to 1",
        "the rate itself. Null where there are too few rows.",
    ),
    Metric("balanced_accuracy", "Accuracy of the attack at its tuned threshold.", "(TPR + TNR) / 2", "0 to 1", "0.5"),
    Metric("precision", "Of the outputs called recognised, those of models under test.", "TP / (TP + FP)", "0 to 1", ""),
    Metric("recall", "Of the outputs of models under test, those called recognised.", "TP / (TP + FN)", "0 to 1", ""),
    Metric("f1", "Harmonic mean of precision and recall.", "2 TP / (2 TP + FP + FN)", "0 to 1", ""),
    Metric(
        "leak_left",
        "The share of the attack's success that unlearning did not remove.",
        "(AUC − AUC of Retrain) / (AUC of no unlearning − AUC of Retrain)",
        "any number",
        "0. 1: nothing was forgotten. Null where the attack sees nothing before unlearning.",
    ),
    Metric(
        "streisand",
        "The verdict is over-unlearned: forget samples stand out against unseen images by too little confidence.",
        "verdict_word = over_unlearned",
        "true, false",
        "false",
        of_attack=False,
    ),
    Metric(
        "verdict_word",
        "The verdict in one word, for programs.",
        "forgot, remembers, over_unlearned, damaged, undecided",
        "one of five words",
        "",
        of_attack=False,
    ),
    Metric(
        "tiny_scores",
        "Share of outputs that the attack scores below nearly all of the retrained models'.",
        "share of s⁺ below the 5 % quantile of s⁻",
        "0 to 1",
        "0.05",
    ),
    *(
        Metric(
            f"error_{part}",
            f"Wrongly classified samples of the {name}, mean over models.",
            "100 · wrong / all",
            "0 to 100 (percent)",
            "Retrain's value",
            of_attack=False,
        )
        for part, name in (
            ("forget", "forget set"),
            ("retain", "retain set"),
            ("val", "validation half of the test data"),
            ("test", "test half of the test data"),
        )
    ),
    Metric("klom/mean", "KL divergence of margins to retrained models, mean over samples.", "mean KL(p ‖ q), nats", "0 to ∞", "Retrain's value", False),
    Metric("klom/p95", "The same, 95th percentile over samples.", "95 % quantile of KL(p ‖ q)", "0 to ∞", "Retrain's value", False),
    Metric("klom/retain_mean", "KLoM on retained samples, mean; on unseen ones `klom/test_mean`.", "mean KL(p ‖ q), nats", "0 to ∞", "Retrain's value", False),
    Metric("klom/retain_p95", "The same, 95th percentile; on unseen samples `klom/test_p95`.", "95 % quantile of KL(p ‖ q)", "0 to ∞", "Retrain's value", False),
    Metric("klom/test_mean", "KLoM on unseen samples, mean.", "mean KL(p ‖ q), nats", "0 to ∞", "Retrain's value", False),
    Metric("klom/test_p95", "KLoM on unseen samples, 95th percentile.", "95 % quantile of KL(p ‖ q)", "0 to ∞", "Retrain's value", False),
    Metric("retained_auc", "How well φ tells retained samples from unseen ones.", "P(φ_retained > φ_unseen) + ½ P(equal), mean over models", "0 to 1", "Retrain's value", False),
    Metric("retained_auc_minus_retrain", "The same less that of the retrained models.", "AUC − mean over retrained models", "−1 to 1", "0", False),
    Metric("easier_to_find", "Retained samples that became easier to find; see the guide to who else was hurt.", "count", "≥ 0", "0", False),
    Metric(
        "forgetting_quality/score",
        "Mean score of the samples' ε: the best single or double threshold on each sample alone.",
        "mean of 2 / 2^bin(ε)",
        "0 to 1",
        "1",
        False,
    ),
    Metric("forgetting_quality/epsilon_median", "Median ε over samples.", "median ε", "0 to ∞", "Retrain's value", False),
    Metric("forgetting_quality/epsilon_infinite", "Share of samples that are told apart perfectly.", "share with ε = ∞", "0 to 1", "Retrain's value", False),
    Metric(
        "<distance>/gap_left",
        "Share of a distance's gap before unlearning that is left: of KLoM's 95th percentile, or of the mean score.",
        "(value − chance) / (value before − chance before)",
        "about 0 to 1",
        "0",
        False,
    ),
    Metric("ks_log_entropy", "Distance between the distributions of log-entropy.", "Kolmogorov–Smirnov statistic", "0 to 1", "Retrain's value", False),
    Metric("seconds_per_model", "Wall time to unlearn one model; for Retrain to train one.", "mean seconds", "> 0", "low", False),
    Metric("speedup_vs_retrain", "How many times faster than training from scratch.", "Retrain's seconds / seconds", "> 0", "high", False),
    Metric("epochs", "Passes over the data that the method made.", "mean over models", "≥ 0", "", False),
    Metric("failing_point", "Samples of each class forgotten when the model failed.", "mean over models", "> 0", "high", False),
    Metric("failing_point_least", "What every model withstood, where not all failed.", "least over models", "> 0", "high", False),
    Metric("error_recovered", "Test error after fine-tuning a failed model on retain data.", "100 · wrong / all", "0 to 100 (percent)", "low", False),
    Metric("stress_auc", "How well confidence tells all samples forgotten so far from unseen ones.", "mean over models", "0 to 1", "0.5", False),
    Metric("moment_drift", "Distance of running second moments from recomputed ones.", "‖G − G′‖ / ‖G′‖", "≥ 0", "0", False),
)  # fmt: skip
