"""Pages of documentation: every link and anchor leads somewhere, and every page is in the navigation of the site."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = [
    *sorted((CHECKOUT / "docs").glob("*.md")),
    *(CHECKOUT / f"{n}.md" for n in ("README", "CONTRIBUTING", "CHANGELOG")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(text):
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(text):
    """What GitHub makes of the headings: lower case, no punctuation, a dash for each space."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken(page, text):
    """The links of a page that lead nowhere."""
    found = []
    for link in LINK.findall(without_code(text)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        here = (
            text
            if target == page
            else target.read_text(encoding="utf-8")
            if target.suffix == ".md" and target.exists()
            else ""
        )
        if not target.is_file() or (anchor and anchor not in anchors(here)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_anchor_leads_somewhere(page):
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_a_link_that_leads_nowhere_is_seen():
    page = CHECKOUT / "docs" / "method.md"
    text = "# A heading, here\n[a](#a-heading-here) [b](#elsewhere) [c](no.md) [d](glossary.md#glossary) [e](glossary.md#no)"
    assert broken(page, text) == ["#elsewhere", "no.md", "glossary.md#no"]


def test_every_page_is_in_the_navigation_of_the_site_once():
    navigation = (CHECKOUT / "deploy" / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r": ([a-z-]+\.md)$", navigation, re.MULTILINE)
    own = [page.name for page in PAGES if page.parent.name == "docs"]
    assert sorted(named) == sorted([*own, "index.md", "contributing.md", "changelog.md"])


def test_each_function_that_the_method_names_for_an_equation_exists():
    page = (CHECKOUT / "docs" / "method.md").read_text(encoding="utf-8")
    table = page.partition("## Where each equation is computed")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    named = re.findall(r"`([\w/]+\.py):(\w+)`", table)
    assert len(rows) >= 20 and len(named) >= len(rows)
    for path, function in named:
        tree = ast.parse((CHECKOUT / "susc_pipeline" / path).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{path}:{function}"


def test_every_file_that_a_page_names_in_the_package_exists():
    folders = "sampling|susceptibility|model|representation|clustering|patterning"
    named = re.compile(rf"`(?:susc_pipeline/)?((?:{folders})/[\w/]+\.py)[:`]")
    found = [(page.name, path) for page in PAGES[:-1] for path in named.findall(page.read_text(encoding="utf-8"))]
    assert len(found) > 20
    assert [pair for pair in found if not (CHECKOUT / "susc_pipeline" / pair[1]).is_file()] == []


@pytest.fixture(scope="module")
def words():
    spec = importlib.util.spec_from_file_location("words", CHECKOUT / ".ci" / "words.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_retired_word_is_named_with_its_line_but_not_in_code(words):
    text = words.Text(
        "a.md",
        1,
        "# A\n\n`garbage` and\n```\nfindings\n```\nthe Findings of this reading, while reading; a lazy walk\n",
    )
    assert [line.partition(" is retired")[0] for line in words.retired(text)] == [
        "a.md:7: 'Findings'",
        "a.md:7: 'this reading'",
    ]


def test_sentences_end_where_a_reader_ends_them(words):
    prose = "One `a. b` two. Three\nfour ([link](a.b.md)).\n\n- five\n- six\n"
    found = list(words.sentences(f"# A head. With more\n\n{prose}\n| a. | b |\n\n    formula. here\n"))
    assert found == ["One code two.", "Three four ([link]).", "- five", "- six"]
    assert [words.n_words(one) for one in found] == [3, 3, 1, 1]
