"""Defects of the streamed path and of the audit's one pass, planted as in `test_planted_defects`."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pytest

import attack.audit.runner
import attack.outputs.survey
from orchestrator.engine.attacker import fit as stream_attack
from orchestrator.engine.attacker import scores as stream_scores
from orchestrator.engine.attacker import worker as stream

from . import checks
from . import checks_of_streaming as streaming
from .defects import (
    Defect,
    by_row_number,
    changed_column,
    checks_of,
    first_fragment_again,
    first_fragment_left_out,
    fragments_from_the_end,
    keys_of_the_next_model,
    must_be_found,
    of_another_model,
    one_worker_reads_it_all,
    range_forgotten,
    replaced,
    rows_from_the_end,
)

DEFECTS: dict[str, Defect] = {
    # the streamed path
    "stream: targets swapped": (
        replaced(stream, "prepared", changed_column("target", lambda target: pc.subtract(1.0, target))),
        streaming.workers_train_on_every_row_once,
    ),
    "stream: labels of other rows": (
        replaced(stream, "prepared", changed_column("label", lambda label: label.take(np.arange(len(label))[::-1]))),
        streaming.workers_train_on_every_row_once,
    ),
    "stream: folds swapped": (
        replaced(stream, "prepared", changed_column("training", pc.invert)),
        streaming.workers_train_on_every_row_once,
    ),
    "stream: test rows in the fit": (
        replaced(stream, "FOLDS", lambda real: (*real, "test")),
        streaming.workers_train_on_every_row_once,
    ),
    "stream: unlearned models in the fit": (
        replaced(stream, "ROLES", lambda real: (*real, "unlearned")),
        streaming.workers_train_on_every_row_once,
    ),
    "stream: a fragment read twice": (
        replaced(stream_attack, "deal", first_fragment_again),
        streaming.workers_train_on_every_row_once,
    ),
    "stream: a worker reads the others' fragments too": (
        replaced(stream_attack, "deal", one_worker_reads_it_all),
        streaming.workers_train_on_every_row_once,
    ),
    "stream: a fragment left out": (
        replaced(stream_attack, "deal", first_fragment_left_out),
        streaming.workers_train_on_every_row_once,
    ),
    "stream: fragments in another order": (
        replaced(stream_attack, "deal", fragments_from_the_end),
        streaming.workers_take_rows_in_the_files_order,
    ),
    "stream: a fragment's rows in another order": (
        replaced(stream, "pieces", rows_from_the_end),
        streaming.workers_take_rows_in_the_files_order,
    ),
    "stream: a range of a row group read whole": (
        replaced(stream, "pieces", range_forgotten),
        streaming.workers_share_a_row_group,
    ),
    "stream: split by row": (
        replaced(stream_attack, "refuse_split_by_row", lambda real: lambda outputs: None),
        streaming.streams_refuse_a_split_by_row,
    ),
    "stream: the scores of another model": (
        replaced(stream_scores, "identified", keys_of_the_next_model),
        streaming.scores_come_back_to_their_rows,
    ),
    "stream: the scores of other samples": (
        replaced(attack.audit.runner, "locate", lambda real: lambda *args: real(*args)[::-1]),
        streaming.scores_come_back_to_their_rows,
    ),
    # the audit's one pass
    "audit: rows trusted to be in order": (
        replaced(attack.outputs.survey.Survey, "measured", by_row_number),
        checks.an_audit_measures_what_each_attack_does_alone,
    ),
    "audit: the scores of another model": (
        replaced(attack.audit.runner, "gathered", of_another_model),
        checks.an_audit_measures_what_each_attack_does_alone,
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_planted_defect_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    must_be_found(DEFECTS[name], monkeypatch)


SOUND = checks_of(DEFECTS)


@pytest.mark.parametrize("name", SOUND)
def test_the_checks_pass_on_the_code_as_it_is(name: str) -> None:
    SOUND[name]()
