"""The explorer in Debian's Chromium: every view, from a file, on the tiny run's site and on one of hostile text.

Run by `make test-browser`, which installs the browser and axe-core. The tiny run's site is tested where it has been made.
"""

import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sites
from resources import experiment as experiments
from susc_pipeline.explorer import site as site_module

pytestmark = pytest.mark.browser
AXE = Path(os.environ.get("AXE", Path(__file__).parent.parent / ".venv" / "axe" / "axe.min.js"))
ROUTES = [
    "#/clusters",
    "#/clusters?sort=size&falling=1",
    "#/clusters?by=L1H0&sort=deviation",
    "#/cluster/1",
    "#/components",
    "#/components?color=loss_pull",
    "#/component/L1H0",
    "#/component/embed?tokens=sampled",
    "#/text/1",
    "#/text/1/3?color=component-1",
    "#/text/1/3?color=pc-0",
    "#/text/1/3?color=loss",
    "#/map",
    "#/map?color=pc-0",
    "#/map?color=component-1",
    "#/map?cluster=1",
    "#/run",
    "#/compare",
    "#/search?q=self",
    "#/documents",
    "#/documents?q=py",
]
# What each view keeps in its address: a route and how a choice is made there.
CHOICES = {
    "#/clusters": ("select[aria-label='Component shown']", "L1H0"),
    "#/cluster/1": ("select[aria-label='Which members']", "spread"),
    "#/cluster/0": ("select[aria-label='Zero of the scale']", "zero"),
    "#/components": ("select[aria-label='Colour by']", "llc"),
    "#/component/L1H0": ("select[aria-label='Which tokens']", "sampled"),
    "#/text/1/3": ("select[aria-label='Colour by']", "component-1"),
    "#/map": ("select[aria-label='Colour by']", "pc-0"),
    "#/run": ("select[aria-label='Component']", "L0H0"),
    "#/compare": None,
    "#/search?q=self": None,
    "#/documents": None,
    "#/documents?q=a": None,
}


def above_minor(page):
    """What axe finds wrong on a page, but for what is minor; its content security policy must be bypassed."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        (v["id"], v["nodes"][0]["target"], v["nodes"][0]["failureSummary"])
        for v in result["violations"]
        if v["impact"] in ("moderate", "serious", "critical")
    ]


class Watched:
    """A page whose complaints and requests are kept; nothing leaves the machine without being seen."""

    def __init__(self, page, folder):
        self.page, self.folder = page, folder
        self.complaints, self.requests = [], []
        page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))

    def open(self, route):
        self.page.goto("about:blank")
        self.page.goto(f"file://{self.folder}/index.html{route}")
        self.page.wait_for_selector(".view")
        self.page.wait_for_timeout(150)
        return self.page

    def wait_until(self, expression, seconds=10):
        """Wait for an expression to be true; not by wait_for_function, which the page's policy forbids."""
        deadline = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            self.page.wait_for_timeout(20)

    def check(self):
        complaints = [text for text in self.complaints if "GPU stall" not in text]
        assert complaints == []
        outside = [
            url for url in self.requests if not url.startswith((f"file://{self.folder}/", "data:", "blob:", "about:"))
        ]
        assert outside == []


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "explorer"
    made = sites.site(sites.Shape(), sites.HOSTILE_TEXTS, sites.HOSTILE_DOCUMENTS, folder=folder.parent / "tables")
    site_module.save(made, folder)
    return folder


def tiny():
    folder = experiments.store(experiments.load("tiny")).page().parent
    return folder if (folder / "data" / "site.js").is_file() else None


@pytest.fixture(params=["hostile", "tiny"])
def folder(request, hostile):
    if request.param == "tiny" and tiny() is None:
        pytest.skip("the explorer of tiny has not been made")
    return hostile if request.param == "hostile" else tiny()


@pytest.fixture
def watched(browser, folder):
    yield from watch(browser, folder)


@pytest.fixture
def watched_hostile(browser, hostile):
    yield from watch(browser, hostile)


def watch(browser, folder, **options):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, **options)
    found = Watched(page, folder)
    yield found
    found.check()
    page.close()


@pytest.mark.parametrize("route", ROUTES)
def test_each_view_opens_from_a_file_without_a_complaint(watched, route):
    page = watched.open(route)
    assert "Not shown" not in page.inner_text("main") and len(page.inner_text("main")) > 40


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_no_violation_above_minor_and_nothing_overflows(browser, folder, theme, width):
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme, bypass_csp=True)
    found = Watched(page, folder)
    for route in (
        "#/clusters",
        "#/cluster/1",
        "#/components",
        "#/component/L1H0",
        "#/text/1/3",
        "#/text/1/3?color=component-1",
        "#/map",
        "#/run",
        "#/compare",
        "#/search?q=self",
        "#/documents",
        "#/map?color=component-1",
        "#/map?cluster=1",
    ):
        found.open(route)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), route
        assert above_minor(page) == [], route
    page.close()


def test_each_component_has_a_cell_of_its_own(watched):
    page = watched.open("#/cluster/1")
    cells = page.evaluate(
        """Array.from(document.querySelector("main figure svg").querySelectorAll("a > rect"), (cell) =>
          [cell.parentNode.querySelector("title").textContent.split(":")[0], cell.getAttribute("x"), cell.getAttribute("y")])"""
    )
    names = [name for name, _, _ in cells]
    assert len(names) == page.evaluate("explorer.site.components.length") and len(set(names)) == len(names)
    assert len({(x, y) for _, x, y in cells}) == len(cells)


def test_hostile_text_is_shown_as_text_and_never_run(watched_hostile):
    for route in (
        "#/clusters",
        "#/search?q=%3Cscript",
        "#/search?q=__proto__",
        "#/text/0",
        "#/run",
        "#/compare",
        "#/map",
        "#/component/L0H0",
        "#/documents",
        "#/search?q=self",
    ):
        page = watched_hostile.open(route)
        assert (
            page.evaluate("document.querySelectorAll('main script, main img, main b, main i:not([class])').length") == 0
        )
        assert page.title() != "run"
    seen = ""
    for cluster in range(12):
        seen += watched_hostile.open(f"#/cluster/{cluster}").inner_text("main")
    for text in (
        "<script>",
        "</script><img",
        "⏎",
        "⟨202e⟩",
        "שלום",
        "\U0001f600",
        "⟨e2 80⟩",
        "⟨1b⟩[31m",
        "=1+1",
        "&amp;<b>",
    ):
        assert text.replace(" ", "·") in seen or text in seen, text


def test_every_hostile_document_can_be_opened_by_its_address(watched_hostile):
    page = watched_hostile.open("#/search?q=-0-")
    addresses = page.eval_on_selector_all("a[href^='#/document/']", "nodes => nodes.map(n => n.getAttribute('href'))")
    assert len(addresses) >= 4
    for address in addresses:
        shown = watched_hostile.open(address).inner_text("h1")
        assert shown and "Not shown" not in shown


def test_saved_tables_hold_no_formula_that_a_spreadsheet_would_run(watched_hostile):
    page = watched_hostile.open("#/clusters")
    text = page.evaluate("explorer.table.csv(['a'], [['=1+1'], ['x,\"y\\n'], [-1.5], [NaN]])")
    assert text == 'a\r\n\'=1+1\r\n"x,""y\n"\r\n-1.5\r\n\r\n'


def test_a_search_finds_tokens_with_and_without_their_space(watched_hostile):
    page = watched_hostile.open("#/clusters")
    page.keyboard.press("/")
    page.keyboard.type("self")
    page.keyboard.press("Enter")
    page.wait_for_selector(".view-search")
    found = page.eval_on_selector_all(".found h3 code", "nodes => nodes.map(n => n.textContent)")
    assert sorted(found) == ["self", "·self"]
    page = watched_hostile.open("#/search?q=%C2%B7self")
    assert page.eval_on_selector_all(".found h3 code", "nodes => nodes.map(n => n.textContent)") == ["·self"]
    page = watched_hostile.open("#/search?q=sel&exact=1")
    assert page.eval_on_selector_all(".found h3", "nodes => nodes.length") == 0
    page = watched_hostile.open("#/clusters")
    page.fill("#query", "#7")
    page.press("#query", "Enter")
    page.wait_for_selector("h1:has-text('Cluster 7')")


def test_keys_open_a_cluster_and_the_back_button_returns_to_the_same_list(watched):
    page = watched.open("#/clusters?sort=size&falling=1")
    second = page.locator("table.clusters tbody tr").nth(1).get_attribute("data-cluster")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"h1:has-text('Cluster {second}')")
    page.go_back()
    page.wait_for_selector(".view-clusters")
    assert page.locator("thead th[aria-sort=descending]").inner_text().startswith("size")
    assert page.locator("table.clusters tbody tr").nth(1).get_attribute("data-cluster") == second


def test_sort_filter_and_component_live_in_the_address_from_the_first_page_on(watched):
    page = watched.open("")
    page.locator("thead button:has-text('size')").click()
    page.fill("input[aria-label='min size']", "2")
    page.select_option("select[aria-label='Component shown']", "L1H0")
    watched.wait_until(
        "location.hash.includes('by=L1H0') && document.querySelectorAll('table.clusters tbody tr').length > 0"
    )
    address = page.evaluate("location.hash")
    assert address.startswith("#/clusters?") and "min-size=2" in address and "sort=deviation" in address
    shown = page.inner_text("table.clusters tbody")
    page.reload()
    page.wait_for_selector("table.clusters tbody tr")
    assert page.inner_text("table.clusters tbody") == shown and page.evaluate("location.hash") == address
    assert page.evaluate("location.search") == ""


def test_back_returns_to_the_place_in_the_list(watched):
    page = watched.open("#/clusters?min-reproducibility=&sort=size&falling=1")
    page.set_viewport_size({"width": 1280, "height": 400})
    link = page.locator("table.clusters tbody tr th a").nth(9)
    link.scroll_into_view_if_needed()
    watched.wait_until("scrollY > 0")
    page.wait_for_timeout(50)
    place = page.evaluate("scrollY")
    link.click()
    page.wait_for_selector("h1:has-text('Cluster')")
    watched.wait_until("scrollY === 0")
    page.go_back()
    page.wait_for_selector(".view-clusters")
    watched.wait_until(f"Math.abs(scrollY - {place}) < 2")


def test_a_word_shows_its_definition_to_keyboard_finger_and_pointer(browser, hostile):
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
    found = Watched(page, hostile)
    found.open("#/clusters")
    word, box = page.locator(".introduction .term").first, page.locator("#definition")
    assert box.is_hidden()
    word.tap()
    assert box.is_visible() and "weights are shaken" in box.inner_text()
    place = box.bounding_box()
    assert place["x"] >= 0 and place["x"] + place["width"] <= 390
    page.keyboard.press("Escape")
    assert box.is_hidden()
    page.locator(".introduction .term").nth(1).focus()
    assert "loss" in box.inner_text()
    assert page.locator(".introduction .term").nth(1).get_attribute("aria-describedby") == "definition"
    page.locator("thead button").nth(1).focus()
    assert box.is_visible()
    found.check()
    page.close()


def test_a_component_page_shows_its_extreme_tokens_and_clusters_of_both_signs(watched):
    page = watched.open("#/component/L1H0")
    index = page.evaluate("explorer.components.numbered('L1H0')")
    token = page.evaluate(
        f"explorer.numbered('responses', {index}, 4).then(f => explorer.numbers(f.expressed.token)[0])"
    )
    width = page.evaluate("explorer.site.positions - 1")
    first = page.locator(".line.valued .token").first.get_attribute("href")
    assert first == f"#/text/{token // width}/{token % width + 1}"
    means = page.evaluate(f"explorer.components.means({index}).then(m => Array.from(m.mean))")
    order = sorted(range(len(means)), key=means.__getitem__)
    shown = [int(text) for text in page.eval_on_selector_all(".near.valued li > a", "n => n.map(x => x.textContent)")]
    low, high = [c for c in order if means[c] < 0][:10], [c for c in reversed(order) if means[c] > 0][:10]
    assert sorted(shown) == sorted(low + high) and shown[0] == low[0] and high[0] in shown
    before = page.locator(".line.valued").count()
    page.locator("button:has-text('more')").first.click()
    watched.wait_until(f"document.querySelectorAll('.line.valued').length > {before}")
    page.select_option("select[aria-label='Which tokens']", "sampled")
    watched.wait_until("!document.querySelector('.line.valued').textContent.includes('not sampled')")
    assert "tokens=sampled" in page.url


def test_every_component_is_entered_from_the_overview_and_found_by_a_search(watched):
    page = watched.open("#/components")
    names = page.evaluate("explorer.components.names()")
    cells = page.eval_on_selector_all("figure svg a", "nodes => nodes.map(n => n.getAttribute('href'))")
    assert len(cells) >= len(names) - 1 and len(set(cells)) == len(cells)  # one of the made-up site has no regime
    assert page.locator("figure.table tbody tr").count() == len(names)
    for name in (names[0], names[-2]):
        page.fill("#query", name.lower())
        page.press("#query", "Enter")
        page.wait_for_selector(f"h1:text-is('{name}')")  # the whole name leads to its page
    page.fill("#query", names[-2][:-1].lower())
    page.press("#query", "Enter")
    page.wait_for_selector(f".view-search a.chip[href='#/component/{names[-2]}']")


def test_the_list_by_a_component_is_in_order_of_its_means(watched):
    page = watched.open("#/clusters?by=L1H0&sort=deviation&min-reproducibility=")
    index = page.evaluate("explorer.components.numbered('L1H0')")
    means = page.evaluate(f"explorer.components.means({index}).then(m => Array.from(m.mean))")
    shown = [int(t) for t in page.eval_on_selector_all("table.clusters tbody tr", "n => n.map(x => x.dataset.cluster)")]
    assert shown == sorted(range(len(means)), key=lambda c: (means[c], c))[:50]
    assert page.locator(".legend svg[role=img]").count() == 1


def test_the_first_list_is_what_both_halves_find_by_gain_and_all_is_one_click_away(watched):
    page = watched.open("")
    columns = page.evaluate("""explorer.columns().then(t => ['reproducibility', 'gain'].map(
        name => Array.from(t[name], v => Number.isNaN(v) ? null : v)))""")
    rows = "n => n.map(x => Number(x.dataset.cluster))"
    listed = [c for c, again in enumerate(columns[0]) if again >= 0.5]
    expected = sorted(listed, key=lambda c: (columns[1][c] is None, -(columns[1][c] or 0), c))
    assert page.eval_on_selector_all("table.clusters tbody tr", rows) == expected[:50] and listed
    assert page.input_value("input[aria-label='min reproducibility']") == "0.5"
    assert page.locator("thead th[aria-sort=descending]").inner_text().startswith("gain")
    page.locator("a:has-text('all, by conductance')").click()
    watched.wait_until("document.querySelector('thead th[aria-sort=ascending]')?.textContent === '#'")
    assert page.inner_text(".bar .note").startswith(f"{len(columns[0])} of {len(columns[0])} ")
    page.fill("input[aria-label='min reproducibility']", "0.5")
    watched.wait_until("!location.hash.includes('min-reproducibility')")
    page.fill("input[aria-label='min reproducibility']", "")
    watched.wait_until(
        "location.hash.includes('min-reproducibility=&') || location.hash.endsWith('min-reproducibility=')"
    )


def test_list_and_card_say_what_a_cluster_is(watched):
    page = watched.open("#/clusters?min-reproducibility=&sort=cluster")
    shown = page.locator("table.clusters tbody td.heading").first.inner_text()
    heading = page.evaluate("explorer.numbered('headings', 0).then(h => explorer.visible(h[0]))")
    assert shown.split() == heading.split() and " of " in shown
    page = watched.open("#/cluster/0")
    assert page.locator(".lead").inner_text().split() == heading.split()
    label = page.evaluate("explorer.numbered('cards', 0).then(f => explorer.visible(f.cards[0].label))")
    assert page.locator(".label p").first.inner_text().split() == label.split()
    assert re.search(r"[\d,]+ of [\d,]+", page.locator(".bars .num").first.inner_text())


def test_what_is_coloured_is_told_on_map_and_text(watched):
    page = watched.open("#/map?color=component-1")
    watched.wait_until("Boolean(explorer.map)")
    name = page.evaluate("explorer.components.names()[1]")
    assert name in page.inner_text(".view-map .legend")
    box = page.locator("canvas.points").bounding_box()
    for step in range(60):
        page.mouse.move(box["x"] + box["width"] * (0.3 + step / 150), box["y"] + box["height"] / 2)
        page.wait_for_timeout(15)
        if page.locator(".tip strong").count() and page.locator(".tip").is_visible():
            break
    watched.wait_until(f"document.querySelector('.tip strong')?.textContent.includes('{name} ')")
    page = watched.open("#/text/1?color=component-1")
    assert f", {name} " in page.locator(".text .t").first.get_attribute("title")


def test_on_a_phone_a_token_that_is_tapped_shows_its_card_where_one_looks(browser, folder):
    page = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True)
    found = Watched(page, folder)
    found.open("#/text/1")
    page.locator(".text .t").nth(6).tap()
    page.wait_for_selector(".tokencard")
    card, token = page.locator(".side").bounding_box(), page.locator(".here").bounding_box()
    assert card["y"] < 844 and card["y"] + card["height"] <= 845
    assert 0 <= token["y"] < card["y"], "the card hides its token"
    page.locator(".tokencard .close").tap()
    page.wait_for_selector(".tokencard", state="detached")
    found.open("#/map")
    found.wait_until("Boolean(explorer.map)")
    place = page.evaluate("""() => { const m = explorer.map, c = document.querySelector('canvas.points');
        for (let x = 5; x < c.clientWidth; x += 4) for (let y = 5; y < c.clientHeight; y += 4)
            if (m.nearest(x, y) >= 0) return [x, y]; }""")
    box = page.locator("canvas.points").bounding_box()
    page.touchscreen.tap(box["x"] + place[0], box["y"] + place[1])
    page.wait_for_selector(".tip .line .token")
    assert "#/map" in page.url and page.locator(".tip").is_visible()
    found.check()
    page.close()


def test_filters_leave_just_what_they_say(watched):
    page = watched.open("#/clusters")
    sizes = page.evaluate("explorer.columns().then(t => Array.from(t.size))")
    limit = sorted(sizes)[len(sizes) // 2]
    page = watched.open(f"#/clusters?min-size={limit}&sort=size&min-reproducibility=")
    assert page.inner_text(".bar .note").startswith(f"{sum(size >= limit for size in sizes)} of {len(sizes)} ")
    shown = [
        int(text.replace(",", ""))
        for text in page.eval_on_selector_all("tbody tr td:nth-child(7)", "n => n.map(x => x.textContent)")
    ]
    assert shown == sorted(shown) and shown[0] >= limit


def test_a_card_shows_as_many_members_as_wanted_and_each_is_the_token_it_says(watched):
    page = watched.open("#/cluster/0")
    size = page.evaluate("explorer.columns().then(t => t.size[0])")
    while page.locator("button:has-text('more')").is_visible():
        before = page.locator(".lines .line").count()
        page.locator("button:has-text('more')").click()
        watched.wait_until(f"document.querySelectorAll('.lines .line').length > {before}")
    assert page.locator("main section .lines > .line").count() == size
    counted = page.evaluate("""async () => { const c = (await explorer.numbered('cards', 0)).cards[0];
        return Object.fromEntries(c.tokens.map(([id, n]) => [explorer.tokenShown(id), n])) }""")
    shown = page.eval_on_selector_all(".lines .token", "nodes => nodes.map(n => n.textContent)")
    assert {text: shown.count(text) for text in set(shown)} == counted


def test_a_token_opens_its_card_with_vector_and_neighbours(watched):
    page = watched.open("#/text/0")
    page.locator(".text .t").nth(4).click()
    page.wait_for_selector(".tokencard")
    assert "#/text/" in page.url and page.locator(".tokencard svg").count() >= 1
    assert page.locator(".tokencard .line").count() >= 4


def test_the_map_answers_to_pointer_keys_and_lasso(watched):
    page = watched.open("#/map")
    watched.wait_until("Boolean(explorer.map)")
    box = page.locator("canvas.points").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    zoom = page.evaluate("explorer.map.camera.zoom")
    page.mouse.move(*middle)
    page.mouse.wheel(0, -300)
    watched.wait_until(f"explorer.map.camera.zoom > {zoom}")
    x = page.evaluate("explorer.map.camera.x")
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1], steps=4)
    page.mouse.up()
    assert page.evaluate("explorer.map.camera.x") < x
    page.locator("canvas.points").focus()
    page.keyboard.press("0")
    assert page.evaluate("explorer.map.camera.zoom") == zoom
    colours = page.evaluate("""() => { const c = document.querySelector('canvas.points'); explorer.map.render();
        const pen = new OffscreenCanvas(c.width, c.height).getContext('2d'); pen.drawImage(c, 0, 0);
        return new Set(new Uint32Array(pen.getImageData(0, 0, c.width, c.height).data.buffer)).size }""")
    assert colours > 5
    page.locator("button:has-text('lasso')").click()
    corners = [(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)]
    places = [(box["x"] + fx * box["width"], box["y"] + fy * box["height"]) for fx, fy in corners]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()
    page.wait_for_selector(".mapbox .side h2:has-text('tokens')")
    assert page.locator(".mapbox .side .line").count() > 0


@pytest.mark.parametrize("route", CHOICES)
def test_the_address_brings_each_view_back_after_reload_and_back(watched, route):
    page = watched.open(route)
    if CHOICES[route]:
        selector, value = CHOICES[route]
        page.select_option(selector, value)
        watched.wait_until(f"location.hash !== '{route}'")
        page.wait_for_timeout(600)  # the map follows its camera when it has come to rest
    address, told = page.evaluate("location.hash"), lambda: page.inner_text("main h1")
    heading = told()

    def same():
        page.wait_for_selector(f".view-{re.match(r'#/([a-z]+)', route)[1]}")
        assert page.evaluate("location.hash") == address and told() == heading
        if CHOICES[route]:
            page.wait_for_selector(selector)
            assert page.input_value(selector) == value

    page.reload()
    same()
    page.evaluate("location.hash = '#/compare/0?from=elsewhere'")
    page.wait_for_selector(".view-compare")
    page.go_back()
    page.wait_for_selector(f".view-{re.match(r'#/([a-z]+)', route)[1]}")
    watched.wait_until(f"document.querySelector('main h1')?.innerText === {heading!r}")
    same()


LABELS = """Array.from(document.querySelectorAll('.maplabels span'), (node) => {
    const box = node.getBoundingClientRect();
    return [Number(node.dataset.cluster), box.left, box.top, box.right, box.bottom]; })"""


def test_labels_of_the_map_never_overlap_and_the_largest_cluster_comes_first(watched):
    page = watched.open("#/map")
    watched.wait_until("document.querySelectorAll('.maplabels span').length > 0")
    stage = page.locator(".stage").bounding_box()
    order = page.evaluate("explorer.load('map/landmarks').then(f => Array.from(explorer.numbers(f.cluster)))")
    seen = []
    for _ in range(4):
        page.wait_for_timeout(400)
        labels = page.evaluate(LABELS)
        for (_, *a), (_, *b) in itertools.combinations(labels, 2):
            assert a[2] <= b[0] + 0.5 or b[2] <= a[0] + 0.5 or a[3] <= b[1] + 0.5 or b[3] <= a[1] + 0.5
        for _, left, top, right, bottom in labels:
            assert left >= stage["x"] - 1 and right <= stage["x"] + stage["width"] + 1
            assert top >= stage["y"] - 1 and bottom <= stage["y"] + stage["height"] + 1
        within = page.evaluate("""explorer.load('map/landmarks').then((file) => {
            const point = explorer.numbers(file.point), stage = document.querySelector('.stage');
            return explorer.load('map/places').then((p) => Array.from(point, (i) => {
              const [x, y] = explorer.map.toScreen(p.decoded[2 * i], p.decoded[2 * i + 1]);
              return x >= 0 && y >= 0 && x <= stage.clientWidth - 2 && y <= stage.clientHeight - 2; })); })""")
        shown = [cluster for cluster, *_ in labels]
        first = next(cluster for cluster, inside in zip(order, within) if inside)
        assert first in shown, "the largest cluster in sight has no label"
        ranks = [order.index(cluster) for cluster in shown]
        assert ranks == sorted(ranks)
        seen.append({cluster: (left, top) for cluster, left, top, *_ in labels})
        page.locator("button[aria-label='Closer']").click()
    assert any(seen[0][c] != seen[1][c] for c in seen[0].keys() & seen[1].keys()) or seen[0].keys() != seen[1].keys()


def test_a_label_goes_with_its_points_and_the_address_with_the_camera(watched):
    page = watched.open("#/map")
    watched.wait_until("document.querySelectorAll('.maplabels span').length > 0")
    page.wait_for_timeout(400)
    assert "at=" not in page.url
    before = {cluster: place for cluster, *place in page.evaluate(LABELS)}
    page.locator("canvas.points").focus()
    page.keyboard.press("ArrowLeft")
    watched.wait_until("location.hash.includes('at=')")
    after = {cluster: place for cluster, *place in page.evaluate(LABELS)}
    stage = page.locator(".stage").bounding_box()
    inner = [
        c
        for c in before.keys() & after.keys()
        if all(p[0] > stage["x"] + 1 and p[2] < stage["x"] + stage["width"] - 2 for p in (before[c], after[c]))
    ]
    assert inner and all(after[c][0] - before[c][0] == pytest.approx(40, abs=1) for c in inner)
    camera, address = page.evaluate("({...explorer.map.camera})"), page.evaluate("location.hash")
    page.reload()
    watched.wait_until("Boolean(explorer.map)")
    again = page.evaluate("({...explorer.map.camera})")
    assert again == {name: pytest.approx(value, rel=1e-4, abs=1e-3) for name, value in camera.items()}
    page.wait_for_timeout(500)
    assert page.evaluate("location.hash") == address


def test_the_hover_card_follows_the_pointer_and_stays_in_the_window(watched):
    page = watched.open("#/map")
    watched.wait_until("Boolean(explorer.map)")
    page.wait_for_timeout(300)
    box = page.locator("canvas.points").bounding_box()
    bottom = min(box["y"] + box["height"], 898)
    places = page.evaluate(
        """(height) => { const found = [], c = document.querySelector('canvas.points'), step = 6;
        for (let y = 4; y < height; y += step) for (let x = 4; x < c.clientWidth; x += step)
          if (explorer.map.nearest(x, y) >= 0) found.push([x, y]);
        const by = (k, sign) => found.slice().sort((a, b) => sign * (a[k] - b[k]))[0];
        return [by(0, 1), by(0, -1), by(1, 1), by(1, -1), found[Math.floor(found.length / 2)]]; }""",
        bottom - box["y"],
    )
    tops = set()
    for x, y in places:
        page.mouse.move(box["x"] + x, box["y"] + y)
        watched.wait_until("!document.querySelector('.tip').hidden")
        page.wait_for_timeout(60)
        tip = page.locator(".tip").bounding_box()
        assert tip["x"] >= 0 and tip["y"] >= 0 and tip["x"] + tip["width"] <= 1280 and tip["y"] + tip["height"] <= 900
        tops.add((round(tip["x"]), round(tip["y"])))
    assert len(tops) >= min(3, len({tuple(place) for place in places}))
    last = page.locator(".tip").bounding_box()
    page.mouse.move(box["x"] + x + 2, box["y"] + y)
    page.wait_for_timeout(100)
    if page.locator(".tip").is_visible() and last["x"] + last["width"] + 4 < 1280:
        assert page.locator(".tip").bounding_box()["x"] == pytest.approx(last["x"] + 2, abs=0.6)


def test_the_legend_of_the_map_is_true_of_each_colouring(watched):
    page = watched.open("#/map?cluster=1&color=component-1")
    watched.wait_until("document.querySelector('.view-map .legend').textContent.length > 0")
    count = page.evaluate("explorer.load('map/clusters').then(f => f.decoded.reduce((n, c) => n + (c === 1), 0))")
    assert f"cluster 1: {count:,} tokens" in page.inner_text(".legend")
    assert "whether they are in cluster 1" in page.get_attribute("canvas.points", "aria-label")
    page.fill("input[aria-label='Cluster to mark']", "")
    name = page.evaluate("explorer.components.names()[1]")
    watched.wait_until(f"document.querySelector('.view-map .legend').textContent.includes('{name} by')")
    page.select_option("select[aria-label='Colour by']", "cluster")
    watched.wait_until("document.querySelector('.view-map .legend').textContent.includes('neighbours differ')")
    assert "in no cluster" in page.inner_text(".legend") and "coloured by cluster" in page.get_attribute(
        "canvas.points", "aria-label"
    )


def test_every_document_is_listed_with_its_tokens_and_clusters(watched):
    page = watched.open("#/documents")
    files = page.evaluate(
        "Promise.all(explorer.site.search.documents.map((_, i) => explorer.numbered('documents', i, 4)))"
    )
    entries, width = [entry for file in files for entry in file], page.evaluate("explorer.site.positions - 1")
    assert page.inner_text("h1") == f"{len(entries):,} documents"
    rows = page.eval_on_selector_all(
        "figure.table tbody tr", "n => n.map(r => Array.from(r.cells, c => c.textContent))"
    )
    assert len(rows) == min(100, len(entries))
    for row, (_, contexts, members, clusters, _) in zip(rows, entries):
        assert row[1:4] == [f"{len(contexts) * width:,}", f"{members:,}", f"{clusters:,}"]
    if len(entries) > 100:
        page.locator("a[aria-label='Next page']").click()
        page.wait_for_selector("text=2 / ")
        assert page.locator("figure.table tbody tr").count() == min(100, len(entries) - 100)
    page = watched.open("#/text/0")
    page.locator("a:has-text('All documents')").click()
    page.wait_for_selector(".view-documents")
    page.fill("input[name=q]", entries[-1][0])
    page.keyboard.press("Enter")
    watched.wait_until("document.querySelectorAll('figure.table tbody tr').length === 1")
    page.locator("figure.table tbody th a").click()
    page.wait_for_selector(".view-document")


def test_pictures_are_saved_as_svg_and_png_and_tables_as_csv(watched):
    page = watched.open("#/cluster/0")
    for kind, start in (("SVG", b"<svg"), ("PNG", b"\x89PNG"), ("CSV", b"rank,context")):
        with page.expect_download() as saved:
            page.locator(f"button:has-text('{kind}')").first.click()
        assert Path(saved.value.path()).read_bytes().startswith(start)


def test_colour_scales_take_equal_steps_of_lightness_and_never_turn_back(watched_hostile):
    page = watched_hostile.open("#/clusters")
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        for scale, ends in (("diverging", (0, 1)), ("diverging", (0, -1)), ("sequential", (0, 1))):
            steps = [ends[1] * n / 10 for n in range(11)]
            channels = [page.evaluate(f"explorer.colors.{scale}Channels({t})") for t in steps]
            lightness = [oklab_lightness(c) for c in channels]
            moves = [b - a for a, b in itertools.pairwise(lightness)]
            assert all(m * moves[0] > 0 for m in moves), (theme, scale)
            assert max(map(abs, moves)) < 1.35 * min(map(abs, moves)), (theme, scale, moves)


def oklab_lightness(channels):
    """Lightness of an sRGB colour in OKLab, by the matrices of Ottosson (2020)."""
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
    return np.cbrt(np.array(to_cones) @ linear) @ [0.2104542553, 0.793617785, -0.0040720468]


def test_an_address_of_nothing_says_so(watched_hostile):
    for route in ("#/cluster/99", "#/cluster/x", "#/component/L9H9", "#/text/9999", "#/text/0/99", "#/document/none"):
        assert "Not shown" in watched_hostile.open(route).inner_text("main")


@pytest.fixture(scope="module")
def live_address():
    if tiny() is None or not (tiny() / "live.js").is_file():
        pytest.skip("the explorer of tiny has not been made")
    command = [sys.executable, "-u", "-m", "assets.cli", "explore", "--experiment", "tiny", "--live"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    said = ""
    while not (found := re.search(r"http://127\.0\.0\.1:\d+/", said)):
        line = server.stdout.readline()
        assert line, said
        said += line
    yield found[0]
    server.terminate()
    server.wait(timeout=20)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_a_text_of_ones_own_is_measured_and_survives_reload_and_back(browser, live_address, width, theme):
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme)
    complaints, requests = [], []
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{live_address}#/text")
    page.wait_for_selector("textarea")
    page.fill("textarea", "for line in self: <script>document.title = 'run'</script>")
    page.get_by_text("compare with a second text").click()
    page.locator("textarea").nth(1).fill("for line in path: <b>x</b>")
    page.get_by_text("Measure", exact=True).click()
    page.wait_for_selector(".context-block", timeout=60_000)
    page.select_option("select[aria-label='Colour by']", "component-2")
    page.locator(".context-block").nth(1).locator(".t").nth(2).click()
    page.wait_for_selector(".tokencard")
    address = page.evaluate("location.hash")
    assert "for" not in address and "color=component-2" in address  # no text in it unless that is asked for
    page.reload()
    page.wait_for_selector(".tokencard", timeout=60_000)
    assert page.evaluate("location.hash") == address and page.input_value("textarea").startswith("for line in self")
    page.evaluate("location.hash = '#/run'")
    page.wait_for_selector(".view-run")
    page.go_back()
    page.wait_for_selector(".tokencard", timeout=60_000)
    assert page.evaluate("location.hash") == address
    assert page.evaluate("document.querySelectorAll('main script, main b').length") == 0 and "run" not in page.title()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert complaints == [] and all(url.startswith(live_address) or url == "data:," for url in requests)
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing_in_two_texts_of_ones_own(browser, live_address, width, theme):
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme, bypass_csp=True)
    page.goto(f"{live_address}#/text?a=import%20os%0Aos.path&b=import%20os%0Aos.walk(os)&token=b4&color=pc-1")
    page.wait_for_selector(".tokencard", timeout=60_000)
    page.evaluate(AXE.read_text(encoding="utf-8"))
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert [(v["id"], v["nodes"][0]["failureSummary"]) for v in result["violations"] if v["impact"] != "minor"] == []
    page.close()
