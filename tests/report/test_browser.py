"""The page in a real browser: no complaint on the console, nothing wider than the window."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
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
  document.getElementById("found").textContent = JSON.stringify({{
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
@pytest.mark.parametrize("folder", ["written", "crowd"])
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
