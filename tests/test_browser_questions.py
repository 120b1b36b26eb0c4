"""Ten questions that a reader brings to the explorer, each answered in at most three interactions.

An interaction is a click, a key, or text typed into a field that has the focus. Asked of tiny's site where it has been
made, else of a made-up one; "this token" or "this component" begins on its page.
"""

import re

import pytest
from test_browser import Watched, live_address, tiny  # noqa: F401  (live_address is a fixture)

import sites
from susc_pipeline.explorer import site as site_module

pytestmark = pytest.mark.browser
MOST = 3


class Reader:
    """Someone at the page; each of the methods click, press and type is one interaction."""

    def __init__(self, watched):
        self.watched, self.page, self.count = watched, watched.page, 0

    def click(self, selector):
        self.count += 1
        self.page.locator(selector).first.click()

    def press(self, key):
        self.count += 1
        self.page.keyboard.press(key)

    def type(self, text):
        self.count += 1
        assert self.page.evaluate("document.activeElement.matches('input, textarea')"), "nothing to type into"
        self.page.keyboard.type(text)

    def sees(self, selector, pattern=None):
        """What stands there, in at most three interactions; the pattern must be in it."""
        self.page.wait_for_selector(selector, timeout=60_000)
        text = self.page.locator(selector).first.inner_text()
        assert pattern is None or re.search(pattern, text), text
        assert 0 < self.count <= MOST
        return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    if tiny() is not None:
        return tiny()
    folder = tmp_path_factory.mktemp("questions") / "explorer"
    shape, tables = sites.Shape(n_layers=4, n_heads=4), folder.parent / "tables"
    made = sites.site(shape, sites.HOSTILE_TEXTS, sites.HOSTILE_DOCUMENTS, folder=tables)
    site_module.save(made, folder)
    return folder


@pytest.fixture
def reader(browser, folder):
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    watched = Watched(page, folder)
    watched.open("")
    yield Reader(watched)
    watched.check()
    page.close()


def test_what_does_l2h1_do(reader):
    reader.press("/")
    reader.type("L2H1")
    reader.press("Enter")
    reader.page.wait_for_selector("h1:text-is('L2H1')")
    lead = reader.sees(".view-component .lead", "It most expresses")
    assert "attention head 1 of layer 2" in lead and "suppresses" in lead
    assert reader.page.locator(".line.valued").count() >= 2


def test_which_clusters_does_l3mlp_express(reader):
    reader.click("nav a:has-text('Components')")
    reader.click("figure svg a[href='#/component/L3MLP']")
    reader.page.wait_for_selector("h1:text-is('L3MLP')")
    reader.sees("section:has(> h3:has-text('Clusters most expressed')) .near li", r"\d+[\s\S]*± ")
    index = reader.page.evaluate("explorer.components.numbered('L3MLP')")
    means = reader.page.evaluate(f"explorer.components.means({index}).then(m => Array.from(m.mean))")
    listed = "section:has(> h3:has-text('Clusters most expressed')) .near li > a"
    first = int(reader.page.locator(listed).first.inner_text())
    assert means[first] == min(means) < 0


def test_how_sure_is_the_value_of_this_token(reader):
    reader.watched.open("#/text/1?color=component-1")
    reader.click(".text .t >> nth=4")
    shown = reader.sees(".tokencard .surely", r"[−\d.]+ ± [\d.]+")
    reader.sees(".tokencard .error", r"Error of its values")
    context, position = map(int, re.findall(r"\d+", reader.page.evaluate("location.hash"))[:2])
    expected = reader.page.evaluate(
        """async ([context, position]) => {
        const { site } = explorer, per = site.perFile.texts, axes = explorer.numbers(site.basis.components);
        const row = (context % per) * (site.positions - 1) + position - 1;
        return Promise.all(['scores', 'errors'].map(async (name) => {
          const values = explorer.numbers(await explorer.numbered(name, Math.floor(context / per)));
          let sum = 0;
          for (let k = 0; k < site.pcs; k++) sum += values[row * site.pcs + k] * axes[k * site.components.length + 1];
          return sum;
        }));
      }""",
        [context, position],
    )
    value, error = re.findall(r"[−-]?\d+\.\d+", shown)[:2]
    assert float(value.replace("−", "-")) == pytest.approx(expected[0], abs=0.0051)
    assert float(error) == pytest.approx(abs(expected[1]), abs=0.0051)


def test_does_a_control_also_find_this_cluster(reader):
    reader.click("table.clusters tbody th a")
    reader.page.wait_for_selector(".view-cluster")
    cluster = int(re.findall(r"\d+", reader.page.evaluate("location.hash"))[0])
    names = reader.page.evaluate(
        """(cluster) => { const per = explorer.site.perFile.cards;
        return explorer.numbered('cards', Math.floor(cluster / per)).then((file) => file.cards[cluster % per].controls); }""",
        cluster,
    )
    if names is None:
        pytest.skip("no control was made in this run")
    reader.sees(
        ".facts div:has(dt:has-text('also found by')), .facts:has(dt:has-text('also found by'))", "also found by"
    )
    text = reader.page.inner_text(".view-cluster .facts")
    assert all(re.sub(r"[^\w]+", " ", name).strip().split()[0] in text for name, _ in names) and (
        names or "none" in text
    )


def test_which_documents_hold_it(reader):
    reader.click("table.clusters tbody th a")
    listed = reader.sees("section:has(> h2:text-is('Documents')) .plain", r"\d+ of \d+")
    counts = [int(n) for n in re.findall(r"(\d+) of", listed)]
    assert counts == sorted(counts, reverse=True) and counts[0] > 0


def test_is_it_more_than_one_token(reader):
    reader.click("table.clusters tbody th a")
    note = reader.sees("section:has(> h2:text-is('Tokens')) .note", r"[\d,]+ different")
    cluster = int(re.findall(r"\d+", reader.page.evaluate("location.hash"))[0])
    different, listed = reader.page.evaluate(
        """(cluster) => { const per = explorer.site.perFile.cards;
        return explorer.numbered('cards', Math.floor(cluster / per)).then(({ cards }) => {
          const card = cards[cluster % per]; return [card.nTokens, card.tokens.length]; }); }""",
        cluster,
    )
    assert int(note.split()[0].replace(",", "")) == different
    assert reader.page.locator("section:has(> h2:text-is('Tokens')) .bars li").count() == min(20, listed)
    reader.sees(".view-cluster .label", r"gain|token")


@pytest.mark.parametrize("clustered", [True, False])
def test_where_is_my_word(reader, clustered):
    """A word of which some occurrence is in a cluster, and one of which none is."""
    found = reader.page.evaluate(
        """async (clustered) => {
        const files = await Promise.all(explorer.site.search.words.map((_, i) => explorer.numbered('words', i, 4)));
        return files.flat().find(([key, , inside]) => /^[a-z]{3,}$/.test(key) && (inside > 0) === clustered) ?? null;
      }""",
        clustered,
    )
    if found is None:
        pytest.skip("this site has no such word")
    word, (token, *_) = found[0], found[3]
    reader.press("/")
    reader.type(word)
    reader.press("Enter")
    reader.sees(".occurrences .line")
    width = reader.page.evaluate("explorer.site.positions - 1")
    address = f"#/text/{token // width}/{token % width + 1}"
    assert reader.page.locator(".occurrences .token").first.get_attribute("href") == address
    inside = reader.page.locator(".occurrences .loss a").count()
    assert clustered or inside == 0  # of a clustered word the first ten need not hold a member


def test_what_does_this_component_do_to_my_sentence(browser, live_address):  # noqa: F811
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{live_address}#/component/L2H1")
    page.wait_for_selector("h1:text-is('L2H1')", timeout=60_000)
    reader = Reader(Watched(page, ""))
    reader.click("a:has-text('in a text of your own')")
    page.wait_for_selector("textarea")
    reader.type("for line in self: return line")
    reader.press("Control+Enter")
    reader.sees(".context-block .t")
    assert "L2H1 " in page.locator(".context-block .t").first.get_attribute("title")
    assert "L2H1" in page.inner_text(".ownresults .legend")
    page.close()


def test_which_components_act_alike(reader):
    reader.press("h")
    reader.click("figure svg a[href='#/component/L2H1']")
    reader.page.wait_for_selector("h1:text-is('L2H1')")
    reader.sees("figure.table:has(figcaption:has-text('Components that go with it')) tbody tr", r"\w+\s+[−\d.]+")


def test_what_differs_between_two_runs(reader):
    reader.click("nav a:has-text('Compare')")
    reader.page.wait_for_selector(".view-compare p.note, .view-compare .pager")
    if not reader.page.locator(".view-compare .pager a").count():
        pytest.skip("the settings of this run name no other to compare with")
    reader.click(".view-compare .pager a >> nth=-1")
    reader.sees("section:has(> h2:text-is('Lost')) .near li", r"\d+")
    reader.sees(".view-compare dl.facts", r"adjusted Rand index")
