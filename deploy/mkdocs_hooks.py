"""Hooks of MkDocs: files of the checkout that pages of docs/ link to, such as README.md, become files of the site.

GitHub and the site read the same Markdown. A page of docs/ says `../README.md`, and README.md says `docs/method.md`; the site has
no folder above its pages, so both links are rewritten while it is built. Nothing is written into docs/.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside docs/, and every other file of the checkout that a page links to."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(CHECKOUT / source).read_text(encoding="utf-8")))
    for file in list(files.documentation_pages()):
        for link in LINK.findall(file.content_string):
            target = _in_checkout(file.src_uri, link)
            if not target.startswith("docs/") and target not in PAGES:
                _add(files, config, target, file.src_uri)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page, with each link to a file of the checkout turned into one to the file of the site."""

    def rewritten(found: re.Match) -> str:
        target = _in_checkout(page.file.src_uri, found[1])
        return posixpath.relpath(_in_site(target), posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(rewritten, markdown)


def _in_checkout(page: str, link: str) -> str:
    """The path below the checkout that a link of a page of the site names."""
    folder = "" if page in PAGES.values() else "docs"
    return posixpath.normpath(posixpath.join(folder, posixpath.dirname(page), link))


def _in_site(target: str) -> str:
    if target in PAGES:
        return PAGES[target]
    return target.removeprefix("docs/") if target.startswith("docs/") else f"checkout/{target}"


def _add(files: Files, config: MkDocsConfig, target: str, page: str) -> None:
    path = CHECKOUT / target
    if not path.is_file() or target.startswith(".."):
        raise PluginError(f"{page} links to {target}, which is no file of the checkout")
    if _in_site(target) not in files.src_uris:
        files.append(File.generated(config, _in_site(target), abs_src_path=str(path)))
