"""What MLflow's web page shows first: a saved view of the result rows, and which row is best.

MLflow 3.17 keeps a saved view of an experiment's runs in a tag of the experiment, as JSON. The
address of the page names the view.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..base.text import redact
from ..base.values import Record

VIEW = "results"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
# Else MLflow shows its menus for language models.
WORKFLOW = "workflowType=machine_learning"
METRICS = ("auc", "error_forget", "error_test", "speedup_vs_retrain", "seconds_per_model")
CHARTED = ("auc", "error_test")


def results_view() -> str:
    """Returns the view: one line for each result row, by AUC, with its verdict in one word."""
    columns = ["tags.`verdict_word`", *(f"metrics.`{name}`" for name in METRICS)]
    charts = [
        {
            "type": "BAR",
            "uuid": f"orchestrator-{name}",
            "runsCountToCompare": 20,
            "metricSectionId": "orchestrator-charts",
            "deleted": False,
            "isGenerated": False,
            "metricKey": name,
        }
        for name in CHARTED
    ]
    section = {"uuid": "orchestrator-charts", "name": "Results", "display": True, "isReordered": False}
    view = {
        "searchFilter": "tags.stage = 'result'",
        "orderByKey": "metrics.`auc`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "selectedColumns": columns,
        "columnOrder": columns,
        "compareRunCharts": charts,
        "compareRunSections": [section],
    }
    return json.dumps(view)


def view_link(uri: str, experiment: str) -> str:
    """Returns where the view is to be seen, or how a page is started that shows it."""
    path = f"/#/experiments/{experiment}/runs?viewStateShareKey={VIEW}&{WORKFLOW}"
    if uri.startswith(("http://", "https://")):
        return f"{redact(uri).rstrip('/')}{path}"
    return f"http://127.0.0.1:5000{path} (start it with `mlflow ui --backend-store-uri {redact(uri)}`)"


def best_row(rows: Sequence[Record]) -> Record | None:
    """Returns the row of a method that forgot and whose test error is least; None where none
    did."""
    found = [
        row
        for row in rows
        if row["metrics"].get("verdict_word") == "forgot" and row["method"] not in ("retrain", "no_unlearn")
    ]
    return min(found, key=lambda row: row["metrics"].get("error_test") or 100.0, default=None)
