"""report.html in a real browser: Debian's Chromium, headless, without a network."""

import re
import shutil

import pytest
from calibrated import known, members, recorded, small
from records import GATED, MASK_CONFIG, commit, row
from toy import toy

from analysis.report import Question, write_report
from raysp.latency.links import parse_link

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
NASTY = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
LAYERS = [{"layer": "stem_relu", "kept": 10, "size": 64}, {"layer": "stages.0.0.inner_relu", "kept": 5, "size": 64}]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    mask = toy(name="mask", number=500)
    commit(root, of=mask, config=MASK_CONFIG, metrics={"layers": LAYERS})
    costs = [{"layer": "stem_relu", "kind": "ReLU", "relus": 10, "relu_positions": 64, "macs": 0, "depth": 0, "params": 0}]
    history = [{"epoch": n + 1, "val_accuracy": 50.0 + n, "loss": 2.0 / (n + 1), "gamma": 0.5} for n in range(4)]
    for n in range(30):
        for seed in (0, 1):
            choices = {"budget": 1000 + n, "seed": seed, "sensitivity": NASTY, **(GATED if n % 2 else {})}
            figures = {"relus": 900 + n, "depth": 10 + n % 7, "val_accuracy": 60.0 + n + seed, "test_accuracy": 59.0 + n}
            parents = {"mask": {"stage": "mask", "key": mask.key}}
            more = {"metrics": {"costs": {"final": costs}}, "history": history, "parents": parents}
            commit(root, [row(**choices, **figures)], of=toy(name="finetune", number=2 * n + seed), **more)
    commit(root, [row(dataset=NASTY, mask_method="none", relus=4000, val_accuracy=95.0)])
    (commit(root, [row(budget=1)]) / "record.json").write_text("{")
    write_report([root], root / "out")
    return root / "out" / "report.html"


@pytest.fixture(scope="module")
def predicted_page(tmp_path_factory):
    """One model whose layers a calibration tells."""
    root = tmp_path_factory.mktemp("predicted")
    record = recorded(small(), ac_after=())
    commit(root, [row()], config=record["config"], metrics=record["metrics"])
    calibrations = known(members(image_size=8, in_channels=1, num_classes=10))
    report = write_report([root], root / "out", Question(calibrations=calibrations, link=parse_link("8kbit,1s")))
    return root / "out" / "report.html", report.table


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture(params=[(1600, "light"), (400, "dark")], ids=["wide", "narrow"])
def page(request, browser, page_file):
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    complaints, asked = [], []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    yield page
    assert page.evaluate("window.hacked") is None
    assert complaints == []
    assert [url for url in asked if not re.match("file:|data:|blob:", url)] == []
    context.close()


def points(page):
    return page.evaluate(
        "document.getElementById('plot').data.filter((t) => t.customdata).map((t) => t.x.length).reduce((a, b) => a + b, 0)"
    )


def pick(page, label):
    page.select_option("#group", label=label)
    page.wait_for_timeout(150)


def test_it_fits_and_changing_an_axis_redraws(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    pick(page, "digits · selected on val")
    assert points(page) == 30
    before = page.evaluate("document.getElementById('plot').layout.xaxis.title.text")
    page.select_option("#x", "depth")
    after = page.evaluate("document.getElementById('plot').layout.xaxis.title.text")
    assert before.startswith("ReLUs") and after.startswith("depth")
    front = page.evaluate("document.getElementById('plot').data.find((t) => t.name === 'front').x")
    assert front == sorted(front) and set(front) <= set(range(10, 17))
    shape = "document.getElementById('plot').data.find((t) => t.name === 'front').line.shape"
    assert page.evaluate(shape) == "hv"
    page.select_option("#y", "relus")
    assert page.evaluate(shape) == "hv", "through what is attained"
    page.select_option("#y", "depth")
    assert page.eval_on_selector("#x", "e => e.value") != "depth", "an axis against itself says nothing"


def test_a_click_on_a_point_opens_its_record(page):
    pick(page, "digits · selected on val")
    page.locator("#plot").scroll_into_view_if_needed()
    place = page.evaluate(
        """() => { const plot = document.getElementById('plot'), box = plot.getBoundingClientRect(), l = plot._fullLayout;
        const t = plot.data.find((t) => t.customdata), n = t.x.length - 1;
        return [box.x + l.xaxis._offset + l.xaxis.c2p(t.x[n]), box.y + l.yaxis._offset + l.yaxis.c2p(t.y[n])] }"""
    )
    page.mouse.move(*place)
    page.wait_for_timeout(200)
    page.mouse.click(*place)
    page.wait_for_selector("dialog[open] .js-plotly-plot")
    text = page.inner_text("dialog")
    assert (
        "finetune-" in text
        and "experiment.seed" in text
        and "stem_relu" in text
        and "estimated or predicted, not measured" in text
    )
    assert page.locator("dialog .js-plotly-plot").count() == 4, "three learning curves, and ReLUs by layer"
    assert NASTY in text, "text stays text"
    title = page.inner_text("#record-title")
    page.select_option("dialog select", index=0)
    page.wait_for_function(f"document.getElementById('record-title').textContent !== {title!r}")
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0


def test_filter_limits_and_sort(page):
    pick(page, "digits · selected on val")
    assert "of 30 entries" in page.inner_text(".dt-info")
    page.fill("#limit-val_accuracy", "80")
    page.wait_for_function("document.getElementById('count').textContent.startsWith('10 of 30')")
    assert points(page) == 10
    page.fill("#limit-relus", "0.925k")
    page.wait_for_function("document.getElementById('count').textContent.startsWith('6 of 30')")
    for text in ("many", "1.2.3", "."):
        page.fill("#limit-relus", text)
        assert page.eval_on_selector("#limit-relus", "e => e.validationMessage").startswith("a number")
    page.fill("#limit-relus", "")
    page.fill("#limit-val_accuracy", "")
    page.fill("#list input[type=search]", "linear")
    page.wait_for_function("document.getElementById('count').textContent.startsWith('15 of 30')")
    page.fill("#list input[type=search]", "")
    column = page.locator("#models thead th").all_inner_texts().index("ReLUs")
    page.locator("#models thead th").nth(column).locator("[tabindex='0']").last.focus()
    page.keyboard.press("Enter")
    page.wait_for_timeout(150)
    shown = page.locator(f"#models tbody td:nth-child({column + 1})").all_inner_texts()
    numbers = [float(text.replace(",", "")) for text in shown]
    assert numbers == sorted(numbers) and len(numbers) == 25


def test_by_keyboard_alone(page):
    pick(page, "digits · selected on val")
    button = page.locator("#models .open").first
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog[open]")
    assert page.evaluate("document.querySelector('dialog').contains(document.activeElement)")
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "open"


def test_what_was_left_out_is_named(page):
    assert "1 file left out" in page.inner_text("header")
    assert "record.json" in page.inner_text("#problems")
    assert page.locator("#group option", has_text="<script>").count() == 1


def test_a_page_without_models(browser, tmp_path):
    commit(tmp_path, [])
    write_report([tmp_path], tmp_path)
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    assert "No model is finished yet." in page.inner_text("#front")
    page.close()


def test_seconds_by_layer_are_drawn_for_the_chosen_link(predicted_page, browser):
    path, table = predicted_page
    page = browser.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    page.locator("#models button.open").first.click()
    (found,) = table.to_dict("records")
    for link, column in (("8kbit,1s", "pred_link_s"), ("wan", "pred_wan_s"), ("one machine", "pred_time_s")):
        page.select_option("#seconds-link", link)
        drawn = page.evaluate("document.getElementById('seconds').data.map((trace) => trace.x.reduce((a, b) => a + b, 0))")
        assert sum(drawn) == pytest.approx(found[column])
        assert (drawn[1] > 0) == (drawn[2] > 0) == (link != "one machine")
    layers = page.evaluate("document.getElementById('seconds').data[0].y")
    assert layers[0] == "stem_conv" and "stages.0.0.inner_relu" in layers
    assert not complaints
    page.close()


POLICIES = {
    "strict": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:",
    "jenkins": "sandbox allow-same-origin; default-src 'none'; img-src 'self'; style-src 'self';",
}


@pytest.mark.parametrize("policy", POLICIES)
def test_where_scripts_are_forbidden_a_line_says_so_and_tables_and_pictures_stand(policy, browser, page_file):
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    content, headers = page_file.read_bytes(), {"Content-Security-Policy": POLICIES[policy], "Content-Type": "text/html"}
    page.route("**/*", lambda route: route.fulfill(body=content, headers=headers))
    page.goto("http://report.invalid/report.html")
    assert page.locator("#still").is_visible()
    assert "Content-Security-Policy" in page.locator("#still").inner_text()
    for drawn_by_script in ("#controls", "#plot", "#list"):
        assert not page.locator(drawn_by_script).is_visible()
    assert page.locator("table.plain >> visible=true").count() >= 2
    if policy == "strict":  # the other forbids pictures within a page
        widths = page.evaluate("[...document.images].map((image) => image.complete && image.naturalWidth)")
        assert len(widths) >= 1 and all(widths)
        assert page.locator("#still-front img").is_visible()
    context.close()


def test_where_scripts_run_the_line_and_the_picture_make_room(page):
    assert page.locator("#still").count() == page.locator("#still-front").count() == 0
    assert page.locator("#plot").is_visible() and page.locator("#list").is_visible()
