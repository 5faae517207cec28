#!/usr/bin/env python3
"""Opens reports in a real headless Chromium and looks at them: `make test-browser`.

The runs are the planted ones of tests/integration/planted_run.rs, written by an ignored test; the report is made by the
binary that `make test` built. Where no Chromium (with its driver) is installed it says so and ends with exit code 0.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from webdriver import Browser, programs

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BINARY = TARGET / "debug" / "shearling"
WRITER = "integration::report::runs_for_the_browser"
END, HOME, LEFT, RIGHT, ESCAPE = "\ue010", "\ue011", "\ue012", "\ue014", "\ue00c"

# Text whose colour stands less than 4.5 : 1 (3 : 1 when large) against what lies behind it.
FAINT_TEXT = """
const channel = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => 0.2126 * channel(r / 255) + 0.7152 * channel(g / 255) + 0.0722 * channel(b / 255);
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parts(getComputedStyle(at).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const faint = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || ["SCRIPT", "STYLE", "TITLE", "DESC"].includes(element.tagName.toUpperCase())) continue;
  if (!element.checkVisibility() || element.closest(".heard, .skip")) continue;
  const style = getComputedStyle(element);
  const ink = luminance(parts(element instanceof SVGElement ? style.fill : style.color));
  const paper = luminance(behind(element));
  const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  const large = parseFloat(style.fontSize) >= 24;
  if (ratio < (large ? 3 : 4.5)) faint.push(`${element.tagName} "${walker.currentNode.data.slice(0, 30)}" ${ratio.toFixed(2)}`);
}
return faint;
"""

PLOTS_WITHOUT_MARKS = """
const marks = (plot) => plot.querySelectorAll('.line[d^="M"], .cells .cell, .dot, .bar').length;
return [...document.querySelectorAll(".plot")].filter((plot) => marks(plot) === 0).map((plot) => plot.id);
"""

# Plots that scroll, with what a reader on a small screen sees of them.
WIDE_PLOTS = """
const figures = JSON.parse(document.getElementById("report-data").textContent).figures;
return [...document.querySelectorAll(".plot")].filter((plot) => plot.scrollWidth > plot.clientWidth + 1).map((plot) => ({
  id: plot.id, left: plot.scrollLeft, newer: plot.scrollWidth - plot.clientWidth - plot.scrollLeft,
  line: figures[plot.closest("figure").dataset.figure].kind === "line",
  shadow: getComputedStyle(plot).backgroundImage.split("linear-gradient").length === 5,
  scale: [...plot.querySelectorAll(".far")].some((label) => getComputedStyle(label).display !== "none"),
}));
"""

CELLS = "return [...document.querySelectorAll('#plot-masks-heads .cells .cell')].map((cell) => cell.getAttribute('class'));"
NUMBERS = "return [...document.querySelectorAll('.slider dd, .slider output')].map((place) => place.textContent);"
TIP = "const tip = document.querySelector(arguments[0] + ' .tip'); return tip.hidden ? '' : tip.innerText;"


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def no_console_errors(browser):
    loud = [entry["message"] for entry in browser.log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    check(not loud, f"the console has: {loud}")


def no_requests_beyond(browser, allowed):
    messages = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    requests = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    # The browser's own first page asks for things too.
    sent = [request["request"]["url"] for request in requests if request["documentURL"].startswith(allowed)]
    check(any(url.startswith(allowed) for url in sent), f"the page itself is among the requests: {sent}")
    others = [url for url in sent if not url.startswith((allowed, "data:"))]
    check(not others, f"the page asked for {others}")


def every_plot_has_marks(browser):
    count = browser.run("return document.querySelectorAll('.plot').length")
    check(count >= 15, f"only {count} plots")
    empty = browser.run(PLOTS_WITHOUT_MARKS)
    check(not empty, f"plots without marks: {empty}")


def the_slider_changes_the_picture(browser):
    before, numbers = browser.run(CELLS), browser.run(NUMBERS)
    browser.keys("#masks-step", HOME)
    after, moved = browser.run(CELLS), browser.run(NUMBERS)
    check(before != after, "the cells stay as they are")
    check(numbers != moved and "step 20" in moved, f"the numbers stay as they are: {moved}")
    browser.keys("#masks-step", END)
    check(browser.run(CELLS) == before, "the last frame is not what the page began with")


def hovering_shows_values(browser):
    for plot, words in (("#plot-loss-heldout", "step"), ("#plot-domain-losses", "web, source"), ("#plot-masks-heads", "gate")):
        browser.run("document.querySelector(arguments[0]).scrollIntoView({ block: 'center' })", plot)
        target = {"#plot-domain-losses": f"{plot} .dot", "#plot-masks-heads": f"{plot} .cells .cell"}.get(plot, plot)
        browser.hover(target)
        tip = browser.run(TIP, plot)
        check(words in tip, f"{plot} shows {tip!r} under the pointer")
    browser.hover("h1")
    check(browser.run(TIP, "#plot-masks-heads") == "", "the values stay when the pointer goes")


def the_keyboard_works(browser):
    for plot, words in (("#plot-loss-heldout", "step"), ("#plot-domain-losses", "web"), ("#plot-masks-heads", "layer 0")):
        browser.run("document.querySelector(arguments[0]).focus()", plot)
        browser.press(RIGHT)
        tip = browser.run(TIP, plot)
        heard = browser.run("return document.getElementById('heard').textContent")
        check(words in tip and words in heard, f"{plot}: an arrow key shows {tip!r} and says {heard!r}")
        browser.press(ESCAPE)
        check(browser.run(TIP, plot) == "", f"{plot}: Escape does not close the values")
    reachable = browser.run(
        "return [...document.querySelectorAll('button, input, summary, .plot, .scroll, a')]"
        ".filter((element) => element.checkVisibility() && element.tabIndex < 0).length"
    )
    check(reachable == 0, f"{reachable} controls cannot be reached by the tabulator")


def values_are_of_their_own_step(browser):
    """The update of step 37 was skipped in one of two runs: it has no value there, and shows where its own is from."""
    plot = "#plot-loss-training"
    browser.run("document.querySelector(arguments[0]).focus()", plot)
    browser.press(HOME)
    for _ in range(36):
        browser.press(RIGHT)
    lines = browser.run(TIP, plot).splitlines()
    check("step 37" in lines[0], f"{plot} is at {lines[0]!r}")
    values = {name: " ".join(line for line in lines if line.split("\t")[0].strip() == name or f"{name}\t" in line) for name in ("prune", "recover")}
    check(" at 36" in values["prune"], f"{plot} shows a value of a skipped step: {lines}")
    check(" at " not in values["recover"], f"{plot} moves a value that is of this step: {lines}")
    browser.press(ESCAPE)


def switches_hide_series(browser):
    shown = (
        "return [...document.querySelectorAll('#fig-loss-domains .series')]"
        ".filter((series) => getComputedStyle(series).display !== 'none').length"
    )
    all_series = browser.run(shown)
    browser.click("#switch-loss-domains-name-1")
    check(browser.run(shown) == all_series - 2, "switching off a domain takes its line out of both runs")
    browser.click("#switch-loss-domains-run-0")
    check(browser.run(shown) == 2, "switching off a run leaves two lines of the other")
    browser.click("#switch-loss-domains-run-0")
    browser.click("#switch-loss-domains-name-1")
    check(browser.run(shown) == all_series, "switching on brings everything back")


def it_fits_a_phone(browser):
    """The page does not scroll sideways; figures that do show it, and curves begin with their newest side."""
    url = browser.run("return location.href")
    for phone in (360, 375):
        browser.screen(phone)
        browser.open(url)
        width = browser.run("return document.documentElement.scrollWidth")
        check(width <= phone, f"the page is {width} pixels wide on a screen of {phone}")
        wide = browser.run(WIDE_PLOTS)
        check(wide, "no figure is wider than a phone")
        hidden = [plot["id"] for plot in wide if not plot["shadow"]]
        check(not hidden, f"nothing shows that these scroll: {hidden}")
        old = [plot["id"] for plot in wide if plot["line"] and plot["newer"] > 1]
        check(not old, f"these begin with their oldest side: {old}")
        other = [plot["id"] for plot in wide if not plot["line"] and plot["left"] > 0]
        check(not other, f"these hide the names of their rows: {other}")
        unlabelled = [plot["id"] for plot in wide if plot["line"] and not plot["scale"]]
        check(not unlabelled, f"the scale of these is out of sight: {unlabelled}")
    browser.screen(1280)
    browser.open(url)


def light_and_dark_are_readable(browser):
    paper = "return getComputedStyle(document.body).backgroundColor"
    for dark in (False, True):
        browser.screen(1280, dark)
        browser.run("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        faint = browser.run(FAINT_TEXT)
        check(not faint, f"too faint in {'dark' if dark else 'light'}: {faint[:5]}")
    dark_paper = browser.run(paper)
    browser.run("window.scrollTo(0, 0)")
    browser.click("#theme")
    check(browser.run(paper) != dark_paper, "the switch does not bring light over the system's dark")
    browser.click("#theme")
    check(browser.run(paper) == dark_paper, "the switch does not go back to dark")
    browser.screen(1280)


def a_file(browser, folder):
    page = folder / "report.html"
    url = page.as_uri()
    browser.screen(1280)
    browser.open(url)
    every_plot_has_marks(browser)
    the_slider_changes_the_picture(browser)
    hovering_shows_values(browser)
    the_keyboard_works(browser)
    values_are_of_their_own_step(browser)
    switches_hide_series(browser)
    it_fits_a_phone(browser)
    light_and_dark_are_readable(browser)
    no_console_errors(browser)
    no_requests_beyond(browser, url)


def damaged_runs(browser, folder):
    """Gaps and hostile names do not stop the page from working."""
    browser.open((folder / "damaged.html").as_uri())
    check(browser.run("return document.querySelectorAll('.notes .warning').length") > 0, "no warnings")
    check(browser.run("return document.querySelectorAll('.answer').length") >= 6, "no answers")
    check(browser.run("return document.querySelectorAll('img, b, script:not([type])').length") == 1, "a name became markup")
    check(browser.run("return window.planted === undefined"), "a name was run as a script")
    no_console_errors(browser)


def a_7b(browser, folder):
    """32 × 32 heads, 64 snapshots, 3,200 steps."""
    browser.open((folder / "seven_b.html").as_uri())
    every_plot_has_marks(browser)
    check(len(browser.run(CELLS)) == 1024, "a cell for every head")
    before = browser.run(CELLS)
    browser.keys("#masks-step", HOME)
    check(browser.run(CELLS) != before, "the slider moves nothing")
    it_fits_a_phone(browser)
    no_console_errors(browser)


def eleven_domains(browser, folder):
    """More names than colours: every button's sample looks different, and so do the lines."""
    browser.open((folder / "eleven.html").as_uri())
    looks = browser.run(
        "return [...document.querySelectorAll('#fig-proportions .legend button svg')].map((sample) =>"
        " getComputedStyle(sample.querySelector('.line')).stroke + (sample.querySelector('.glyph')?.getAttribute('d') ?? ''))"
    )
    check(len(looks) == 11 and len(set(looks)) == 11, f"of 11 samples some look alike: {looks}")
    shapes = browser.run("return document.querySelectorAll('#plot-proportions .series .glyph').length")
    check(shapes > 6, f"only {shapes} shapes on the lines")
    browser.run("document.querySelector('#plot-proportions').focus()")
    browser.press(RIGHT)
    inside = browser.run("return document.querySelectorAll('#plot-proportions .tip .glyph').length")
    check(inside == 3, f"{inside} of the values under the pointer have the shape of their line, not 3")
    it_fits_a_phone(browser)
    no_console_errors(browser)


def wait_for(condition, message):
    end = time.monotonic() + 60
    while not condition():
        check(time.monotonic() < end, message)
        time.sleep(0.2)


def a_served_page(browser, folder):
    """It follows the run, and what the reader has set stays."""
    run = folder / "prune"
    server = subprocess.Popen([BINARY, "report", run, "--serve"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = server.stdout.readline().strip()
        browser.open(url)
        browser.keys("#masks-step", LEFT)
        browser.click("#switch-sparsity-name-0")
        kept = (
            "return [document.getElementById('masks-step').value,"
            " document.getElementById('switch-sparsity-name-0').getAttribute('aria-pressed')]"
        )
        before = browser.run(kept)
        with open(run / "metrics.jsonl", "a") as metrics:
            metrics.write(json.dumps({"type": "not_saved", "step": 100, "reason": "planted while watching"}) + "\n")
        seen = "return document.getElementById('main').innerText.includes('planted while watching')"
        wait_for(lambda: browser.run(seen), "the page does not follow the run")
        check(browser.run(kept) == before, f"slider and switches were {before}, are {browser.run(kept)}")
        no_console_errors(browser)
        no_requests_beyond(browser, url)
    finally:
        server.send_signal(2)
        check(server.wait(timeout=30) == 0, "Ctrl-C does not end the server cleanly")


def prepare(folder):
    """The planted runs and their reports."""
    environment = {**os.environ, "SHEARLING_BROWSER_RUNS": str(folder)}
    cargo = [os.environ.get("CARGO", "cargo"), "test", "-q", "--test", "integration", "--", "--ignored", "--exact", WRITER]
    subprocess.run(cargo, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    good = ["prune", "recover", "-o", "report.html", "--eval", "eval.json", "--latency", "latency.json"]
    others = [["damaged", "hostile", "-o", "damaged.html"], ["seven_b", "-o", "seven_b.html"], ["eleven", "-o", "eleven.html"]]
    for arguments in (good, *others):
        subprocess.run([BINARY, "report", *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main():
    chromium, driver, missing = programs()
    if missing:
        print(f"test-browser: skipped, there is no {' and no '.join(missing)} (Debian: apt-get install chromium chromium-driver)")
        return 0
    failed = 0
    with tempfile.TemporaryDirectory(prefix="shearling-report-") as name:
        folder = pathlib.Path(name)
        prepare(folder)
        with Browser(chromium, driver) as browser:
            for part in (a_file, damaged_runs, a_7b, eleven_domains, a_served_page):
                try:
                    part(browser, folder)
                    print(f"test-browser: {part.__name__} ... ok")
                except (AssertionError, RuntimeError) as error:
                    failed += 1
                    print(f"test-browser: {part.__name__} ... FAILED: {error}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
