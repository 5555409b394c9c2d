"""Tables in every format say what the results say."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.commands.cli import main
from orchestrator.report import words
from orchestrator.report.rows import Report
from orchestrator.report.show import compare, table, terminal_table
from orchestrator.report.tables import cell, tex

from . import build

Sweep = tuple[dict[str, Any], dict[str, Any]]
HOSTILE = "<script>alert('x')</script> $x_1^2$ & 100% #{a} \\cmd ~ | `code` [b]bold[/b]\nsecond line\x00 \ud83d \uffff"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder whose names and errors hold the markup of every format."""
    results, curves = build.sweep()
    results["recipe"]["name"] = HOSTILE
    results["rows"][-1]["error"] = HOSTILE
    results["rows"][3]["params"] = {"gamma": 0.5, "note": HOSTILE}
    return build.write(tmp_path / "hostile", results, curves)


def body(text: str) -> list[str]:
    """The rows of a Markdown table, headings of groups left out."""
    return [line for line in text.splitlines() if line.startswith("|") and not line.startswith("| *sees")]


def parse(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_gives_every_number_back_exactly(written: Path, sweep: Sweep) -> None:
    rows = parse(table(written, "csv"))
    assert len(rows) == len(sweep[0]["rows"])
    for read, row in zip(rows, sweep[0]["rows"], strict=True):
        assert (read["method"], read["status"]) == (row["method"], row["status"])
        for name, value in row["metrics"].items():
            if value is None:
                assert read[name] == "", f"{name} was not measured and must be empty"
            elif isinstance(value, bool):
                assert read[name] == str(value).lower()
            elif name == "verdict_word":
                assert read["verdict"].replace("-", "_") == value
            else:
                assert float(read[name]) == value
        for name, (low, high) in row["ci"].items():
            assert (float(read[f"{name}_low"]), float(read[f"{name}_high"])) == (low, high)
        for name, value in row["params"].items():
            assert float(read[f"param.{name}"]) == value


def test_markdown_has_one_line_for_each_row(written: Path, sweep: Sweep) -> None:
    lines = body(table(written, "md"))
    assert len(lines) == 2 + len(sweep[0]["rows"])
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    for line, row in zip(lines[2:], sweep[0]["rows"], strict=True):
        if row["status"] == "done":
            low, high = row["ci"]["auc"]
            assert re.search(rf"(\*\*)?{row['metrics']['auc']:.3f}(\*\*)? \[{low:.3f}, {high:.3f}\]", line)
        else:
            assert "failed: cf\\_k(k=9): ValueError: k: 9: the model has 5 layers" in line


def test_null_is_shown_as_not_measurable_and_explained(written: Path) -> None:
    text = table(written, "md")
    before = next(line for line in text.splitlines() if line.startswith("| No unlearning"))
    assert before.count("n/m") == 3  # time, speed-up and epochs
    assert "n/m: not measurable" in text
    assert "left out: TPR at 0.1 % FPR" in text


def test_latex_is_balanced_and_its_lines_are_of_equal_width(written: Path) -> None:
    text = table(written, "latex")
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    stripped = re.sub(r"\\[{}]", "", text)
    assert stripped.count("{") == stripped.count("}")
    for line in body.splitlines():
        if line.endswith(r"\\"):
            spanned = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + spanned == 12, line
            assert not line.startswith("["), "LaTeX takes this for an argument of the line before"


def test_latex_escapes_what_it_would_run() -> None:
    assert tex(r"a_b & 5% #1 $x$ {y} \z ~^") == (
        r"a\_b \& 5\% \#1 \$x\$ \{y\} \textbackslash{}z \textasciitilde{}\textasciicircum{}"
    )


def test_hostile_text_breaks_no_table(hostile: Path) -> None:
    lines = [line for line in table(hostile, "md").splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 8 + 2, "eight rows, and headings of two groups"
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<script>" not in table(hostile, "md")
    assert len(parse(table(hostile, "csv"))) == 8
    assert r"$x_1" not in table(hostile, "latex")


def test_csv_holds_nothing_that_a_spreadsheet_would_run(tmp_path: Path) -> None:
    results, _ = build.sweep()
    results["rows"][-1]["error"] = "=HYPERLINK(1)"
    read = parse(table(build.write(tmp_path, results), "csv"))
    assert read[-1]["error"] == "'=HYPERLINK(1)"


def test_an_unknown_format_is_refused_with_what_is_allowed(written: Path) -> None:
    with pytest.raises(ValueError, match=r"format: 'html': unknown; allowed: csv, md, latex"):
        table(written, "html")
    with pytest.raises(ValueError, match="allowed: csv, md, latex"):
        compare([written], "html")
    with pytest.raises(ValueError, match="no folder given"):
        compare([])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "not a results document"),
        ('{"rows": [], "schema": 2}', "this version reads 1"),
    ],
)
def test_a_folder_without_readable_results_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=said):
        table(tmp_path)


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from orchestrator.commands.cli import main

    (tmp_path / "results.json").write_text("{")
    assert main(["table", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert "not JSON" in said
    assert "\n" not in said


def shown(results: dict[str, Any], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(terminal_table(results))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_terminal_table_fits_and_has_every_row(sweep: Sweep) -> None:
    text = shown(build.sweep()[0], 110)
    assert max(map(len, text.splitlines())) <= 110
    for label, word in (
        ("PGU γ=0.995", "remembers"),
        ("PGU γ=0.96", "forgot"),
        ("PGU γ=0.75", "over-unlearned"),
        ("CF-k k=9", "failed"),
    ):
        line = next(line for line in text.splitlines() if line.startswith(label))
        assert line.rstrip().endswith(word)
    assert "U-LiRA" in shown(sweep[0], 140)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_cuts_nothing_off(width: int, sweep: Sweep) -> None:
    """Every verdict, AUC and method is there in full, also where four attacks were run."""
    for document in (build.sweep()[0], sweep[0]):
        report = Report(document)
        text = shown(document, width)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        words_told = [word for line in text.splitlines() for word in line.split()]
        for row in report.rows:
            assert words_told.count(report.judgements[row.index].word) >= 1
            for name in report.auc_names:
                if row.value(name) is not None:
                    assert cell(report, row, words.metric(name))[0] in text


def test_the_terminal_table_takes_no_markup_from_results() -> None:
    results = build.document([build.failed("[red]x[/red]", {"note": "[/]"}, "[/nonsense]")])
    assert "[red]x[/red]" in shown(results, 120)


# --- runs side by side ---


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """A run, and one that differs in a recipe field, in one AUC, and by a row missing and one more."""
    first, _ = build.sweep()
    second = json.loads(json.dumps(first))
    second["recipe"]["training"]["epochs"] = 80
    second["rows"][3]["metrics"]["auc"], second["rows"][3]["ci"]["auc"] = 0.9, [0.88, 0.92]
    second["rows"][3] = build.judged(second["rows"][3], build.verdict("remembers", xgboost=(0.9, 0.9)))
    del second["rows"][6]
    second["rows"].append(build.row(8, "pgu", {"gamma": 0.5, "lr": 0.05}, 0.1, (1.0, 1.0, 1.0))[0])
    return [build.write(tmp_path / name, document) for name, document in (("a", first), ("b", second))]


def test_compare_names_the_fields_that_differ_and_no_others(two: list[Path]) -> None:
    recipe = [row for row in parse(compare(two, "csv")) if row["kind"] == "recipe"]
    assert [(row["name"], row["run"], row["value"]) for row in recipe] == [
        ("training.epochs", "a", "40"),
        ("training.epochs", "b", "80"),
    ]
    assert "| training.epochs | 40 | 80 |" in compare(two, "md")
    assert "No difference." in compare([two[0], two[0]], "md")


def test_compare_matches_rows_by_method_and_parameters(two: list[Path]) -> None:
    documents = [json.loads((folder / "results.json").read_text()) for folder in two]
    expected = {
        (run, row["method"], json.dumps(row["params"])): row["metrics"].get("auc")
        for run, document in zip("ab", documents, strict=True)
        for row in document["rows"]
    }
    rows = [row for row in parse(compare(two, "csv")) if row["name"] == "auc"]
    read = {(row["run"], row["method"], row["params"]): float(row["value"]) for row in rows}
    assert read == {key: value for key, value in expected.items() if value is not None}
    for row in rows:
        key = ("a", row["method"], row["params"])
        if row["run"] == "b" and key in read:
            assert float(row["difference"]) == pytest.approx(float(row["value"]) - read[key])
            assert float(row["difference_low"]) <= float(row["difference"]) <= float(row["difference_high"])
        else:
            assert row["difference"] == ""


def test_json_says_what_the_csv_says(two: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(two[1]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for read, row in zip(parse(table(two[1], "csv")), found["rows"], strict=True):
        assert (read["method"], read["verdict"], read["error"]) == (row["method"], row["verdict"], row["error"])
        assert {name: float(read[f"param.{name}"]) for name in row["params"]} == row["params"]
        assert read["auc"] == ("" if row["metrics"].get("auc") is None else repr(row["metrics"]["auc"]))
        assert [repr(end) for end in row["ci"].get("auc", [])] == [
            read[name] for name in ("auc_low", "auc_high") if read[name]
        ]
    assert main(["table", str(two[1]), "--json", "--caption", "x"]) == 2
    capsys.readouterr()

    assert main(["compare", *map(str, two), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"] == ["a", "b"]
    assert found["recipes"] == [{"field": "training.epochs", "values": ["40", "80"]}]
    cells = [
        (row["metric"], name, each)
        for row in found["rows"]
        for name, each in zip(found["runs"], row["runs"], strict=True)
        if each is not None
    ]
    lines = [line for line in parse(compare(two, "csv")) if line["kind"] == "metric"]
    assert None in [each for row in found["rows"] for each in row["runs"]], "a run that has no such row"
    for line, (metric, name, each) in zip(lines, cells, strict=True):
        assert (line["name"], line["run"], line["status"]) == (metric, name, each["status"])
        for key in ("value", "difference"):
            text = each[key] if isinstance(each[key], str) else "" if each[key] is None else json.dumps(each[key])
            assert line[key] == text
        assert [float(line[end]) for end in ("low", "high") if line[end]] == (each["ci"] or [])
    assert main(["compare", "nowhere", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2


def test_compare_marks_the_difference_that_is_clear_and_says_what_is_absent(two: list[Path]) -> None:
    lines = compare(two, "md").splitlines()
    auc = [line for line in lines if "| AUC |" in line]
    assert [line for line in auc if "**" in line] == [line for line in auc if "γ=0.96" in line]
    eu_k = next(line for line in auc if line.startswith("| EU-k"))
    assert eu_k.endswith("| – | – |")
    verdicts = [line for line in lines if "| Verdict |" in line and "γ=0.96" in line]
    assert verdicts == ["| PGU | γ=0.96 | Verdict | forgot | remembers | – |"]


def test_compare_tells_runs_in_folders_of_one_name_apart(two: list[Path], tmp_path: Path) -> None:
    copies = [build.write(tmp_path / parent / "run", build.sweep()[0]) for parent in ("x", "y")]
    assert "x/run" in compare(copies, "md")
    assert "y/run − x/run" in compare(copies, "md")
    assert "run (2)" in compare([copies[0], copies[0]], "md")


def test_compare_is_balanced_latex(two: list[Path]) -> None:
    text = compare(two, "latex")
    stripped = re.sub(r"\\[{}]", "", text)
    assert stripped.count("{") == stripped.count("}")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2


SEEN = [  # methods in a recipe's order, and what they see
    ("scrub", "SCRUB", "retain", True),
    ("ssd", "SSD", "fisher", False),
    ("finetune", "Finetune", "retain", False),
    ("grad_ascent", "GradAscent", "forget", False),
    ("lotus", "LoTUS", "retain_share", True),
    ("pgu", "PGU", "moments", False),
    ("pgu", "PGU that watches", "moments", False, "retain"),
]
GROUPED = [
    "Retrain",
    *("sees D_f", "GradAscent", "sees D_f, moments", "PGU", "sees D_f, moments, accuracy on D_r", "PGU that watches"),
    *("sees D_f, Fisher", "SSD"),
    *("sees D_f, part of D_r, validation", "LoTUS", "sees D_f, D_r", "Finetune", "sees D_f, D_r, validation", "SCRUB"),
]


def grouped_results() -> dict[str, Any]:
    plain: dict[str, Any] = {"params": {}, "status": "done", "metrics": {"auc": 0.6}, "ci": {"auc": [0.55, 0.65]}}
    rows = [
        {**plain, **dict(zip(("method", "title", "access", "validation", "watched"), seen, strict=False))}
        for seen in SEEN
    ]
    return build.document([*rows, {**plain, "method": "retrain"}])


def test_rows_are_grouped_by_the_data_that_methods_see(tmp_path: Path) -> None:
    folder = build.write(tmp_path, grouped_results())
    markdown = [line.split("|")[1].strip().strip("*").replace("\\", "") for line in table(folder, "md").splitlines() if line[:1] == "|"]  # fmt: skip
    assert markdown[2:] == GROUPED
    read = parse(table(folder, "csv"))
    assert [row["method"] for row in read] == [
        *("retrain", "grad_ascent", "pgu", "pgu", "ssd", "lotus", "finetune", "scrub"),
    ]
    assert [(row["access"], row["validation"]) for row in read[:2]] == [("", ""), ("forget", "false")]
    latex = [line for line in table(folder, "latex").splitlines() if "emph{sees" in line]
    assert len(latex) == 7
    assert latex[-1] == r"\multicolumn{4}{l}{\emph{sees $D_f$, $D_r$, validation}} \\"
    stream = io.StringIO()
    Console(width=120, file=stream).print(terminal_table(grouped_results()))
    shown = [re.split(r" {2,}", line.strip())[0] for line in stream.getvalue().splitlines()]
    assert shown[-len(GROUPED) :] == GROUPED


def test_results_that_do_not_tell_what_methods_see_have_no_headings(tmp_path: Path) -> None:
    results = grouped_results()
    results["rows"] = [{k: v for k, v in row.items() if k not in ("title", "access")} for row in results["rows"]]
    text = table(build.write(tmp_path, results), "md")
    assert "sees" not in text
    assert [line.split("|")[1].strip() for line in body(text)[2:]] == [
        *("scrub", "ssd", "finetune", "grad\\_ascent", "lotus", "pgu", "pgu", "Retrain")
    ]


def test_latex_of_chosen_columns_stands_in_a_table_that_fits(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ["table", str(written), "--format", "latex", "--columns", "error_test,auc"]
    assert main([*chosen, "--caption", "50 % & more", "--label", "tab:x"]) == 0
    text = capsys.readouterr().out
    assert r"\begin{tabular}{llrrl}" in text
    assert r"\caption{50 \% \& more}" in text
    assert r"\label{tab:x}" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 3
    assert r"\begin{adjustbox}{max width=\linewidth}" in text
    assert main(chosen) == 0
    assert r"\begin{table}" not in capsys.readouterr().out
    assert main(["table", str(written), "--format", "latex", "--columns", "auk"]) == 2
    assert "--columns: 'auk': no such column" in capsys.readouterr().err
    assert main(["table", str(written), "--columns", "auc"]) == 2
    assert "add --format latex" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["table", str(written), "--format", "tex"])
    assert "--format: 'tex' is not allowed; allowed: csv, md, latex" in capsys.readouterr().err


def test_compare_writes_a_page_with_what_the_table_says(two: list[Path], tmp_path: Path) -> None:
    missing = tmp_path / "pages" / "compare.html"
    assert main(["compare", *map(str, two), "--page", str(missing)]) == 3
    assert not missing.parent.exists(), "a misspelt folder is not made"
    page = tmp_path / "compare.html"
    assert main(["compare", *map(str, two), "--page", str(page)]) == 0
    shown_page = page.read_text()
    markdown = compare(two, "md")
    assert "http" not in shown_page.replace("http://www.w3.org", ""), "nothing is loaded from elsewhere"
    texts = [
        text.strip() for line in markdown.splitlines() if line.startswith("| PGU") for text in line.split("|")[4:-1]
    ]
    assert texts
    for said in texts:
        assert html.escape(said.strip("*").replace("\\", "")) in shown_page
