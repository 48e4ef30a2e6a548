"""Reports and dataset pages in a browser: a clean console, pointer and keyboard, three widths, contrast, no JavaScript.

Needs playwright, and a Chromium on the path (`pip install playwright`; its own browsers are not needed).
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

import lattok
from lattok.evaluation.page import render, svg, viewer
from lattok.evaluation.page.episode import Curve, EpisodeCodes, EpisodeView, episode_panel, episode_strip
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
  const texts = "p, h1, h2, h3, b, small, td, th, summary, figcaption, label, select, dd, dt, span, code, svg text";
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
    codes = EpisodeCodes("code", np.arange(16).reshape(8, 2) // 3, np.ones(8, dtype=bool))
    curve = Curve(HOSTILE, {"truth": np.arange(8.0), "model": np.arange(8) + 0.5})
    legend = {"truth": "true", "model": "inferred"}
    clips = [
        EpisodeView(f"Episode {i}", task, 10.0, 2 * np.arange(8), 8 * [curve], legend, [codes])
        for i, task in enumerate(("a", HOSTILE))
    ]
    panels = tuple(episode_panel(clip, {"top": frames, "wrist": frames}) for clip in clips)
    chart = svg.bars("R²", [("model", "model", 0.5), ("control", "rival", 0.4)], ".2f")
    drawn = (
        Pictures("Chart.", (chart,), wide=True, top=True),
        Pictures("Strip.", (episode_strip(clips[0], frames),), top=True),
        Pictures("Films.", panels),
    )
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
    for width in (400, 900, 1600):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    worst, where = page.evaluate(CONTRAST)
    print(f"{name}, {scheme}: least contrast {worst:.2f} at {where}")
    assert worst >= 4.5, where
    assert said == []
    page.close()


def test_one_playhead_for_films_curves_and_codes(browser, pages):
    """By pointer, keyboard and film; what is said is what is drawn."""
    page = browser.new_page()
    page.goto(pages["report"].as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    episode = page.locator(".episode").nth(1)
    tracks, now = episode.locator(".tracks"), episode.locator(".now")
    films = "[...document.querySelectorAll('.episode')[1].querySelectorAll('video')]"
    page.wait_for_function(f"() => {films}.length === 2 && {films}.every((each) => each.readyState > 0)")
    assert all(each.get_attribute("controls") is None for each in episode.locator("video").all())
    assert episode.locator("video").first.bounding_box()["width"] >= 256
    plot = tracks.locator(".plot").first
    width = plot.bounding_box()["width"]
    plot.click(position={"x": width * 3.5 / 8, "y": 5})
    assert now.inner_text() == "0.60 s, frame 6"
    said = tracks.get_attribute("aria-valuetext")
    assert said.startswith(f"0.60 s, frame 6; {HOSTILE}: true 3, inferred 3.5; ")
    assert "code 1: 2; code 2: 2" in said
    assert tracks.locator(".codes .value").all_inner_texts() == ["2", "2"]
    page.wait_for_function(f"() => {films}.every((each) => Math.abs(each.currentTime - 0.7) < 0.06)")
    plot.hover(position={"x": width * 6.5 / 8, "y": 5})
    assert tracks.get_attribute("aria-valuenow") == "3"  # only what is dragged moves it
    tracks.focus()
    for key, place in (("ArrowRight", 4), ("Home", 0), ("End", 7), ("PageDown", 0), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        assert tracks.get_attribute("aria-valuenow") == str(place), key
    page.keyboard.press(" ")
    page.wait_for_function("() => Number(document.querySelectorAll('.tracks')[1].ariaValueNow) > 0")
    page.wait_for_function("() => document.querySelectorAll('.tracks')[1].ariaValueNow === '7'")
    episode.get_by_label("Play", exact=True).wait_for()
    strip = page.locator(".episode").first.locator(".tracks")
    strip.locator(".plot").first.hover(position={"x": 1, "y": 5})  # without films it follows the pointer
    assert strip.get_attribute("aria-valuenow") == "0"
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


def test_without_javascript(browser, pages):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(pages["view"].as_uri())
    assert page.locator(".filter").count() == 0
    page.locator("summary").first.click()
    assert "frame 0: " in page.locator("details p").first.inner_text()
    assert page.locator("video").first.get_attribute("controls") is not None
    assert page.locator(".codes rect").count() > 0
    assert page.locator(".curve polyline").count() > 0
    context.close()
