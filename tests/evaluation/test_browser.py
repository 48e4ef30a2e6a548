"""Reports and dataset pages in a browser: a clean console, pointer and keyboard, three widths, contrast, no JavaScript.

Needs playwright, and a Chromium on the path (`pip install playwright`; its own browsers are not needed).
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

import lattok
from lattok.evaluation.page import render, svg, viewer
from lattok.evaluation.page.viewer import EpisodeCodes, episode_panel
from lattok.evaluation.report import Criterion, Pictures, Report, Section, Table, TableRow, Verdict
from tests.conftest import write_dataset
from tests.data.memory import SPEC, labels_for

pytestmark = pytest.mark.slow
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)> '`${x}"
CONTRAST = """
() => {
  const light = (text) => {
    const [r, g, b] = text.match(/[\\d.]+/g).map((c) => { c /= 255;
      return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const under = (node) => { for (; node; node = node.parentElement) { const c = getComputedStyle(node).backgroundColor;
    if (!c.startsWith("rgba") || !c.endsWith(" 0)")) return c; } return "rgb(255, 255, 255)"; };
  const found = [];
  const texts = "p, h1, h2, h3, b, small, td, th, summary, figcaption, label, select, dd, dt, svg text";
  for (const node of document.querySelectorAll(texts)) {
    const drawn = node.closest("svg"), style = getComputedStyle(node);
    const [a, b] = [drawn ? style.fill : style.color, under(drawn ? drawn.parentElement : node)].map(light);
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.tagName + "." + node.getAttribute("class")]);
  }
  return found.sort((a, b) => a[0] - b[0])[0];
}
"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if (path := shutil.which("chromium") or shutil.which("google-chrome")) is None:
        pytest.skip("no Chromium on the path")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A page of a dataset with hostile tasks, and a report with every part."""
    root = tmp_path_factory.mktemp("pages")
    write_dataset(root / "d", [12, 9, 11], ("lift", HOSTILE))
    source = lattok.open_dataset(root / "d")
    labels = labels_for(source, root / "labels", spec=SPEC.to_json())
    viewer.view(lattok.labels.with_labels(source, labels), root / "view.html")
    frames = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    codes = EpisodeCodes("latent actions", np.arange(16).reshape(8, 2) // 3, np.ones(8, dtype=bool))
    panels = tuple(
        episode_panel(f"Episode {i}", task, {"top": frames}, [codes], np.arange(8), 10.0)
        for i, task in enumerate(("a", HOSTILE))
    )
    curves = [("truth", [0.0, 1.0, 0.5]), ("model", [0.1, 0.9, 0.45])]
    drawn = (Pictures("{truth} true, {model} model", (svg.plot("x", curves, "steps"),)), Pictures("Codes.", panels))
    rows = (TableRow("model", "model", (1.0,), control=False), TableRow("low", "low", (0.5,)))
    section = Section(
        "Section", "Text.", (Table("Table", ("value",), rows, better="lower"),), drawn, "Reading.", ("A",)
    )
    verdicts = tuple(Verdict(f"verdict {holds}", holds, Criterion("k")) for holds in (True, False, None))
    (root / "report.html").write_text(
        render(Report("image-lam", "Title", "Headline", verdicts, {}, (section,), {"a": 1}))
    )
    return {"view": root / "view.html", "report": root / "report.html"}


@pytest.mark.parametrize("name", ["view", "report"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages(browser, pages, name, scheme):
    said = []
    page = browser.new_page(color_scheme=scheme)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
    page.goto(pages[name].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    for width in (360, 800, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    worst, where = page.evaluate(CONTRAST)
    print(f"{name}, {scheme}: least contrast {worst:.2f} at {where}")
    assert worst >= 4.5, where
    assert said == []
    page.close()


def test_codes_follow_pointer_keys_and_film(browser, pages):
    page = browser.new_page()
    page.goto(pages["view"].as_uri())
    track = page.locator(".timeline").first
    plot, now = track.locator("svg"), track.locator(".now")
    codes = track.get_attribute("data-codes").split(";")
    page.wait_for_function("() => document.querySelector('video').readyState > 0")
    box = plot.bounding_box()
    plot.hover(position={"x": box["width"] - 2, "y": 4})
    assert now.inner_text() == "frame 11, 1.1 s: no label"
    plot.hover(position={"x": box["width"] * (44 + 3.5 / 12 * 256) / 300, "y": 4})
    assert now.inner_text() == f"frame 3, 0.3 s: {codes[3].replace(',', ' ')}"
    plot.focus()
    page.keyboard.press("Home")
    assert now.inner_text().startswith("frame 0, 0 s:")
    page.keyboard.press("ArrowRight")
    assert plot.get_attribute("aria-valuenow") == "1"
    assert plot.get_attribute("aria-valuetext").startswith("frame 1, 0.1 s:")
    film = page.locator("video").first
    page.wait_for_function("() => Math.abs(document.querySelector('video').currentTime - 0.15) < 0.1")
    film.evaluate("film => { film.currentTime = 0.85; }")
    page.wait_for_function("() => document.querySelector('.timeline svg').getAttribute('aria-valuenow') === '8'")
    page.close()


def test_a_filter_by_task(browser, pages):
    page = browser.new_page()
    page.goto(pages["view"].as_uri())
    choice = page.locator(".filter select")
    assert choice.locator("option").all_inner_texts() == ["all 2", "lift", HOSTILE]
    shown = page.locator(".episode:visible")
    assert shown.count() == 3
    choice.select_option(label=HOSTILE)
    assert {each.get_attribute("data-task") for each in shown.all()} == {HOSTILE}
    choice.select_option(label="all 2")
    assert shown.count() == 3
    page.close()


def test_figures_of_curves(browser, pages):
    page = browser.new_page()
    page.goto(pages["report"].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    plot = page.locator("svg[data-frame]").first
    plot.focus()
    page.keyboard.press("End")
    assert plot.get_attribute("aria-valuetext") == "2: model 0.45, true 0.5"
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 42 / 300, box["y"] + box["height"] / 2)
    assert plot.get_attribute("aria-valuetext") == "0: model 0.1, true 0"
    page.close()


def test_without_javascript(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["view"].as_uri())
    assert page.locator(".filter").count() == 0
    page.locator("summary").first.click()
    assert "frame 0: " in page.locator("details p").first.inner_text()
    assert page.locator("video").first.get_attribute("controls") is not None
    assert page.locator(".timeline rect").count() > 0
    context.close()
