"""The page in a real browser: no complaint on the console, nothing wider than the window."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

FRAME = """<!doctype html><title>frame</title><body style="margin:0">
<iframe id="f" src="report.html" style="border:0; width:{width}px; height:900px"></iframe><pre id="found"></pre>
<script>
document.getElementById("f").addEventListener("load", function () {{
  var page = this.contentDocument, root = page.documentElement, wide = [];
  page.querySelectorAll("body *").forEach(function (e) {{
    if (e.closest("svg") || e.closest(".scroll") || e.closest("pre") || e.closest(".skip")) return;
    if (e.getBoundingClientRect().right > {width} + 0.5) wide.push(e.tagName + "." + e.className);
  }});
  var table = page.getElementById("result-table"), first = table.tBodies[0].rows[0].textContent;
  table.tHead.rows[0].cells[2].querySelector("button").click();
  var sorted = Array.from(table.tBodies[0].rows).map(function (r) {{ return r.cells[2].dataset.v || null; }});
  var form = page.getElementById("result-filters"), word = form.querySelector("select[data-filter=word]");
  function visible() {{
    return Array.from(table.tBodies[0].rows).filter(function (r) {{
      return r.classList.contains("method") && r.getClientRects().length;
    }});
  }}
  var all = visible().length, kept = {{}};
  Array.from(word.options).slice(1).forEach(function (option) {{
    word.value = option.value;
    word.dispatchEvent(new Event("input", {{bubbles: true}}));
    kept[option.value] = visible().map(function (r) {{ return r.dataset.word; }});
  }});
  word.value = "";
  form.querySelector("input").value = "nowhere";
  form.querySelector("input").dispatchEvent(new Event("input", {{bubbles: true}}));
  var none = visible().length, baselines = table.querySelectorAll("tr.baseline:not([hidden])").length;
  document.getElementById("found").textContent = JSON.stringify({{
    all: all, kept: kept, none: none, baselines: baselines, told: form.querySelector("output").textContent,
    width: root.scrollWidth, window: root.clientWidth, wide: wide, sorted: sorted,
    pictures: Array.from(page.querySelectorAll(".panel svg")).map(function (s) {{ return s.getBoundingClientRect().width; }}),
    table: table.getBoundingClientRect().right
  }});
}});
</script>"""


def browse(browser: str, url: str, folder: Path) -> tuple[str, str]:
    """Returns the document after scripts ran, and what the browser said."""
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-quic",
        "--no-first-run",
    ]
    command += [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--allow-file-access-from-files",
    ]
    command += [
        f"--user-data-dir={folder}",
        "--enable-logging=stderr",
        "--window-size=1400,1000",
        "--virtual-time-budget=4000",
        "--dump-dom",
        url,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def look(browser: str, folder: Path, width: int) -> tuple[dict[str, Any], str]:
    """Returns what a window of `width` shows of the report in `folder`, and what the browser said."""
    (folder / "frame.html").write_text(FRAME.format(width=width))
    dom, said = browse(browser, (folder / "frame.html").as_uri(), folder / "profile")
    return json.loads(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL).group(1)), said  # type: ignore[union-attr]


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("folder", ["written", pytest.param("crowd", marks=pytest.mark.slow)])
def test_the_page_fits_the_window_and_the_console_is_quiet(
    browser: str, folder: str, width: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    shutil.copy(request.getfixturevalue(folder) / "report.html", tmp_path / "report.html")
    found, said = look(browser, tmp_path, width)
    assert found["window"] == width
    assert found["width"] <= width, "the page scrolls sideways"
    assert found["wide"] == []
    assert all(width / 3 < each <= width for each in found["pictures"]), "figures are too small to read"
    values = [float(value) for value in found["sorted"] if value]
    assert len(values) > 5
    assert values == sorted(values), "sorting by AUC does not sort"
    assert not [line for line in said.splitlines() if "CONSOLE" in line]
    assert all(words == [word] * len(words) for word, words in found["kept"].items())
    assert sum(len(words) for words in found["kept"].values()) >= found["all"] > 3
    assert (found["none"], found["baselines"]) == (0, 2)
    assert found["told"] == f"0 of {found['all']} settings"


AXE = """<!doctype html><title>frame</title><body style="margin:0">
<iframe id="f" title="report" src="report.html" style="border:0; width:{width}px; height:900px"></iframe><pre id="found"></pre>
<script>
document.getElementById("f").addEventListener("load", function () {{
  var view = this.contentWindow;
  Array.from(view.document.querySelectorAll("details")).forEach(function (d) {{ d.open = true; }});
  view.axe.run(view.document, {{resultTypes: ["violations"]}}).then(function (results) {{
    document.getElementById("found").textContent = JSON.stringify({{
      passes: results.passes.length,
      faults: results.violations.map(function (v) {{
        return v.impact + ": " + v.id + ": " + v.nodes.length + " × " + v.nodes[0].html.slice(0, 200);
      }})
    }});
  }});
}});
</script>"""


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_axe_finds_no_serious_fault(browser: str, looked_over: Path, width: int, dark: bool, tmp_path: Path) -> None:
    found = accessibility(browser, (looked_over / "report.html").read_text(encoding="utf-8"), width, dark, tmp_path)
    assert found["passes"] > 20, "axe has looked"
    assert not [fault for fault in found["faults"] if fault.startswith(("serious", "critical"))]


def test_axe_would_find_one(browser: str, tmp_path: Path) -> None:
    page = '<!doctype html><html lang="en"><title>bad</title><body><main><h1>Bad</h1><img src="data:,"><p style="color:#eee;background:#fff">pale</p></main>'
    found = accessibility(browser, page, 1200, False, tmp_path)
    assert {fault.split(": ")[1] for fault in found["faults"]} >= {"image-alt", "color-contrast"}


def accessibility(browser: str, page: str, width: int, dark: bool, folder: Path) -> dict[str, Any]:
    """Returns what axe says of a page in a window of `width`."""
    script = (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    if dark:
        page = page.replace("@media (prefers-color-scheme: dark)", "@media all")
        page = page.replace('content="light dark"', 'content="dark"')
    (folder / "axe.js").write_text(script, encoding="utf-8")
    (folder / "report.html").write_text(page + '<script src="axe.js"></script>', encoding="utf-8")
    (folder / "frame.html").write_text(AXE.format(width=width), encoding="utf-8")
    dom, _ = browse(browser, (folder / "frame.html").as_uri(), folder / "profile")
    text = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert text is not None
    return json.loads(html.unescape(text[1]))  # type: ignore[no-any-return]


def test_the_table_fits_a_printed_page(browser: str, written: Path, tmp_path: Path) -> None:
    width = 1031  # A4 across, with margins of 12 mm, at 96 dots per inch
    text = (written / "report.html").read_text(encoding="utf-8")
    assert text.count("@media print") == 1
    assert "size: A4 landscape; margin: 12mm" in text
    (tmp_path / "report.html").write_text(text.replace("@media print", "@media all"), encoding="utf-8")
    found, _ = look(browser, tmp_path, width)
    assert found["table"] <= width
    assert found["wide"] == []


def test_the_console_is_listened_to(browser: str, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<!doctype html><script>nonsense()</script>")
    assert "CONSOLE" in browse(browser, (tmp_path / "bad.html").as_uri(), tmp_path / "profile")[1]
