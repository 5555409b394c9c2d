"""ROC curves, intervals over models, and verdicts."""
