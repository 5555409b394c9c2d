"""The page and the figures: whole, self-contained, the same for the same input, and usable whatever the results are."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from orchestrator.records.folder import OutputFolder
from orchestrator.report.figures.drawing import render
from orchestrator.report.figures.figures import FIGURES, draw
from orchestrator.report.rows import Report
from orchestrator.report.words import clean
from orchestrator.report.write import write_report

from . import build
from .html import Page, read
from .test_tables import HOSTILE

Sweep = tuple[dict[str, Any], dict[str, Any]]


def page_of(folder: Path) -> Page:
    """Returns the page in `folder`, read strictly; it may load nothing from anywhere."""
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = read(text)
    for link in page.links:
        assert link.startswith(("#", "data:")), f"the page points outside itself: {link[:80]}"
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)|<iframe|<object|<embed|<link [^>]*stylesheet", text)
    inner = [link[1:] for link in page.links if link.startswith("#")]
    assert set(inner) <= set(page.ids), "a link leads nowhere"
    return page


def test_everything_is_written_and_nothing_else(written: Path) -> None:
    found = {str(path.relative_to(written)) for path in written.rglob("*") if path.is_file()}
    figures = {f"figures/{name}.{ending}" for name in FIGURES for ending in ("svg", "png")}
    tables = {f"tables/results.{ending}" for ending in ("csv", "md", "tex")}
    assert found == figures | tables | {"report.html", "results.json", "curves.json"}


@pytest.mark.medium
def test_the_paths_returned_are_those_written(tmp_path: Path) -> None:
    paths = write_report(build.write(tmp_path, *one_epoch()))
    assert all(path.is_file() and path.stat().st_size for path in paths)
    assert len(set(paths)) == len(paths)
    assert paths[-1] == tmp_path / "report.html"


def test_every_row_is_in_the_table_with_its_numbers(written: Path, sweep: Sweep) -> None:
    page = page_of(written)
    assert [cells[0][0] for cells in page.groups] == ["sees Df, moments, validation", "sees Df, Dr"]
    head, *rows = page.rows
    assert [text for text, _ in head][:6] == [
        "Method",
        "Parameters",
        "AUC",
        "U-LiRA AUC",
        "Leak left",
        "TPR at 1 % FPR",
    ]
    names = ["auc", "u_lira/auc", "tpr_at_fpr_0.01", "error_forget", "error_retain", "error_test"]
    names += ["seconds_per_model", "speedup_vs_retrain", "epochs"]
    assert len(rows) == len(sweep[0]["rows"])
    for cells, row in zip(rows, sweep[0]["rows"], strict=True):
        if row["status"] == "failed":
            assert cells[2][0] == row["error"]
            continue
        leak = row["metrics"].get("leak_left")
        assert cells[4][1] == ("" if leak is None else str(leak))
        for (text, raw), name in zip([*cells[2:4], *cells[5:-1]], names, strict=True):
            value = row["metrics"][name]
            if value is None:
                assert (text, raw) == ("n/m", "")
            else:
                assert float(raw or "nan") == value
                printed = float(re.match(r"[-\d.]+", text).group())  # type: ignore[union-attr]
                assert printed == pytest.approx(value, rel=6e-3, abs=6e-3)


def test_the_summary_comes_first_and_speaks_of_every_method(written: Path) -> None:
    text = page_of(written).text
    summary = text[text.index("Summary") : text.index("How far this carries")]
    for words in ("PGU γ=0.96", "EU-k k=2", "CF-k k=9", "2 forgot", "1 over-unlearned", "1 failed", "points ["):
        assert words in " ".join(summary.split())
    assert text.index("forgot") < text.index("Results\n")


def test_the_samples_that_stand_out_lie_under_one_heading(written: Path, sweep: Sweep) -> None:
    text = " ".join(page_of(written).text.split())
    assert text.count("Samples that stand out") == 1
    under = text[text.index("Samples that stand out") :]
    done = [row for row in sweep[0]["rows"] if row["status"] == "done"]
    assert len(done) == 7
    for row in done:
        best = row["worst_samples"]["xgboost"][0]
        assert f"{best['sample_id']}{best['auc']:.3g} {'↑' if best['auc'] > 0.5 else '↓'}" in under
        assert f"KLoM{row['worst_samples']['klom'][0]['sample_id']}2.5" in under
    assert "rows are shown" not in under


def test_the_page_says_how_to_measure_it_again(written: Path) -> None:
    text = page_of(written).text
    for words in (
        "orchestrator run recipe.yaml",
        "per_class: 100",
        "0123456789abcdef",
        "not committed",
        "seed 0",
        "e" * 64,
        "torch 2.13.0",
        "in one process",
    ):
        assert words in text, words
    assert "1 h 23 min" in text  # training took 5025 s


def test_pictures_have_descriptions(written: Path) -> None:
    page = page_of(written)
    assert len(page.pictures) >= len(FIGURES)
    assert all(len(alt) > 30 for alt in page.pictures)


def test_equal_input_gives_equal_bytes_in_another_process(written: Path, sweep: Sweep, tmp_path: Path) -> None:
    again = build.write(tmp_path, *sweep)
    code = "import sys; from orchestrator.report.write import write_report; from orchestrator.report.figures import drawing; drawing.PNG_DPI = 50; write_report(sys.argv[1])"
    # Another hash seed, time zone and home would show in any file that depends on them.
    environment = {**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo", "MPLBACKEND": "pdf"}
    subprocess.run([sys.executable, "-c", code, str(again)], check=True, env=environment, timeout=300)
    names = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for name in names:
        assert (written / name).read_bytes() == (again / name).read_bytes(), name


def test_figures_are_svg_with_text_as_text(written: Path) -> None:
    for name in FIGURES:
        root = ET.parse(written / "figures" / f"{name}.svg").getroot()
        texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert len(texts) > 5, f"{name}: letters were turned into outlines"
        assert not any("mathdefault" in (text or "") for text in texts), f"{name}: markup shows through"


def test_a_panel_on_the_page_needs_nothing_of_another(written: Path) -> None:
    """Its window shows its own axes; what it refers to is its own, under ids that no other has."""
    drawing = render(next(figure for figure in draw(Report.load(written)) if len(figure.panels) > 2))
    assert len(drawing.panels) == len(drawing.figure.panels)
    known: set[str] = set()
    windows = []
    for text, panel in zip(drawing.panels, drawing.figure.panels, strict=True):
        svg = ET.fromstring(text)
        ids = {element.attrib["id"] for element in svg.iter() if "id" in element.attrib}
        assert not ids & known
        known |= ids
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
        assert used
        assert used <= ids
        assert svg.attrib["aria-label"] == clean(panel.alt)
        assert [element.attrib["id"][-7:-1] for element in svg if element.tag == "g"] == ["-axes_"]
        windows.append([float(number) for number in svg.attrib["viewBox"].split()])
    assert len({tuple(window[:2]) for window in windows}) == len(windows), "each looks at a place of its own"
    assert len({tuple(window[2:]) for window in windows}) == 1, "all are of one size"


def test_the_stop_is_marked_where_models_stopped() -> None:
    figures = {figure.name: figure for figure in draw(Report(*build.sweep()))}
    alts = [panel.alt for panel in figures["unlearning"].panels]
    assert any("PGU γ=0.96" in alt and "early stop at epoch 9 (median of 5 models)" in alt for alt in alts)


def test_a_sweep_of_one_number_is_drawn_and_of_two_is_not() -> None:
    assert "sweep" in {figure.name for figure in draw(Report(*build.sweep()))}
    assert "sweep" not in {figure.name for figure in draw(Report(*build.many(20)))}


# --- whatever the results are ---


def no_rows() -> Sweep:
    return build.document([]), {}


def nothing_done() -> Sweep:
    rows = [build.failed(method, {}, "original-000: OutOfMemory: 12 GB") for method in ("no_unlearn", "retrain", "pgu")]
    return build.document(rows), {"training": []}


def one_epoch() -> Sweep:
    results, curves = build.sweep()
    results["rows"] = results["rows"][:3]
    curves = {kind: [c for c in found if c.get("row", 0) < 3] for kind, found in curves.items()}
    curves["training"] = build.training_curves(epochs=1)
    for run in curves["unlearning"]:
        run["history"], run["stopped_at"] = run["history"][:1], 0
    return results, curves


def nulls() -> Sweep:
    results, curves = build.sweep()
    curves = {kind: found[:4] for kind, found in curves.items()}
    for row in results["rows"]:
        row["metrics"], row["ci"] = dict.fromkeys(row["metrics"]), {}
    for curve in curves["confidence"]:
        curve["unlearned"] = [0] * len(curve["unlearned"])
    return results, curves


def bare() -> Sweep:
    """As little as the format allows: no recipe, no environment, no optional fields."""
    return {"rows": [{"method": "pgu", "status": "done", "metrics": {"auc": 0.5}}]}, {
        "roc": [{"row": 7, "attack": "x", "fpr": [0, 1], "tpr": [0, 1]}]
    }


def long_parameters() -> Sweep:
    results, curves = build.sweep()
    curves["confidence"], curves["unlearning"] = curves["confidence"][2:4], curves["unlearning"][:7]
    for i, row in enumerate(results["rows"][2:6]):
        row["params"] = {
            "gamma": {f"features.{layer}.conv.weight": 0.9 + i / 100 for layer in range(60)},
            "name": "x" * 500 + str(i),
        }
    return results, curves


def hostile() -> Sweep:
    results, curves = build.sweep()
    results["recipe"].update(name=HOSTILE, description=HOSTILE)
    results["recipe"]["model"]["name"] = HOSTILE
    results["environment"]["notes"] = [HOSTILE]
    results["environment"]["dataset"]["name"] = HOSTILE
    for row in results["rows"][3:]:
        row["method"] = HOSTILE
        row["params"] = {HOSTILE: HOSTILE, "k": row["params"].get("gamma")}
    results["rows"][-1]["error"] = HOSTILE
    curves["training"][0]["role"] = HOSTILE
    curves["roc"][0]["attack"] = HOSTILE
    return results, curves


@pytest.mark.medium
@pytest.mark.parametrize("case", [no_rows, nothing_done, one_epoch, nulls, bare, long_parameters, hostile])
def test_every_result_gives_a_whole_page(case: Any, tmp_path: Path) -> None:
    results, curves = case()
    write_report(build.write(tmp_path, results, curves))
    page = page_of(tmp_path)
    assert len(page.rows) == (len(results["rows"]) + 1 if results["rows"] else 0)
    for path in (tmp_path / "figures").glob("*.svg"):
        ET.parse(path)
    assert "<script>alert" not in (tmp_path / "report.html").read_text()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.medium
def test_results_without_curves_still_give_tables_and_what_figures_they_can(sweep: Sweep, tmp_path: Path) -> None:
    write_report(build.write(tmp_path, sweep[0]))
    page_of(tmp_path)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"auc", "privacy_utility", "sweep"}


@pytest.mark.medium
def test_figures_that_results_no_longer_support_go_and_others_stay(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.seal_report(write_report(build.write(tmp_path, *one_epoch())))
    assert (tmp_path / "figures" / "roc.svg").exists()
    (tmp_path / "figures" / "mine.png").write_bytes(b"a user's own")
    folder.seal_report(write_report(build.write(tmp_path, nothing_done()[0], {})))
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine.png"]


def test_two_hundred_rows_stay_readable(crowd: Path) -> None:
    page = page_of(crowd)
    assert len(page.rows) == 203
    assert (crowd / "report.html").stat().st_size < 2_000_000
    text = " ".join(page.text.split())
    for shown in (
        "30 of 202 rows are drawn",
        "8 of 202 rows are drawn",
        "6 of 202 rows are drawn",
        "6 of 200 rows are drawn",
        "30 of 202 rows are shown",
    ):
        assert shown in text


def test_a_failing_write_leaves_the_old_page(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(build.write(tmp_path, *no_rows()))
    before = (tmp_path / "report.html").read_bytes()

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_report(build.write(tmp_path, *one_epoch()))
    assert (tmp_path / "report.html").read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_importing_the_package_loads_no_plotting() -> None:
    code = "import sys, orchestrator.report; print(json.dumps([m for m in ('matplotlib', 'jinja2', 'rich', 'numpy') if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"import json; {code}"], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == []


def test_a_page_of_forty_settings_is_small_and_says_who_was_hurt(stood_out: Path) -> None:
    path = stood_out / "report.html"
    assert path.stat().st_size < 5_000_000
    text = path.read_text(encoding="utf-8")
    page = read(text)
    assert text.count("data:image/png") == 60
    assert "3 of 2,000 retained samples became easier to find (4, 5, 6); more exposed as a group: team u7." in page.text
    assert "No one was found to be easier to find under 39 methods of 40" in page.text
    assert 'data-attack="XGBoost|LiRA"' in text
    assert "<option>RMIA</option>" in text
