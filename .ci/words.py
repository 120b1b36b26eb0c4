"""Words of the documentation and of docstrings: retired words fail, long sentences are counted; part of `make lint`.

A retired word is private jargon that a stranger reads twice. Sentences of over 25 words are counted, not refused: `python
.ci/words.py --long` lists the longest. Generated pages are left to the commands that write them.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("susc_pipeline", "resources", "assets")
GENERATED = ("columns.md", "configuration.md", "results.md")
MAX_WORDS = 25
N_SHOWN = 20
# Each with what to say in its place. "Walk" stays, for PageRank's is one; so does the verb "reading".
RETIRED = {
    r"looks": "search, pass, or name what is done",
    r"(?:a|the|this|each|usual|first|second) readings?": "interpretation, measurement",
    r"gathering": "collecting",
    r"spool(?:s|ed|ing)?": "write to disk",
    r"findings": "results",
    r"garbage": "unused files, unreachable objects",
}
PATTERN = re.compile(r"\b(?:" + "|".join(RETIRED) + r")\b", re.IGNORECASE)


class Text(NamedTuple):
    """A page, or a docstring with the line where it begins."""

    place: str
    line: int
    text: str


def texts(root: Path) -> Iterator[Text]:
    """Every page written by hand, and every string that stands alone in the code, which are the docstrings."""
    for path in pages(root):
        yield Text(str(path.relative_to(root)), 1, path.read_text(encoding="utf-8"))
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                yield Text(str(path.relative_to(root)), node.lineno, node.value.value)


def pages(root: Path) -> list[Path]:
    """The pages that are written by hand; the changelog tells of what had other names."""
    found = [path for path in sorted((root / "docs").glob("*.md")) if path.name not in GENERATED]
    return [root / "README.md", root / "CONTRIBUTING.md", *found]


def retired(text: Text) -> Iterator[str]:
    """A line for each retired word, code in a page left out."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", lambda found: "\n" * found[0].count("\n"), text.text, flags=re.DOTALL)
    for found in PATTERN.finditer(prose):
        instead = next(say for word, say in RETIRED.items() if re.fullmatch(word, found[0], re.IGNORECASE))
        line = text.line + prose.count("\n", 0, found.start())
        yield f"{text.place}:{line}: '{found[0]}' is retired; say: {instead}"


def sentences(page: str) -> Iterator[str]:
    """The sentences of a page's paragraphs and list items; not of tables, headings, formulas and code."""
    page = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    page = re.sub(r"^(?:\||#|!\[|    ).*$", "", page, flags=re.MULTILINE)
    page = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`\n]*`", "code", page))
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) )", page):
        yield from (part for part in re.split(r"(?<=[.!?])[*_)]*\s+", " ".join(paragraph.split())) if part)


def n_words(sentence: str) -> int:
    """Words of a sentence: what has a letter or a digit."""
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


def main(arguments: list[str]) -> int:
    """Print retired words and the count of long sentences; 1 where there is a retired word."""
    root = Path(__file__).resolve().parents[1]
    found = [line for text in texts(root) for line in retired(text)]
    print(*found, sep="\n", end="\n" if found else "")
    spoken = [(path.name, each) for path in pages(root) for each in sentences(path.read_text(encoding="utf-8"))]
    long = sorted((pair for pair in spoken if n_words(pair[1]) > MAX_WORDS), key=lambda pair: -n_words(pair[1]))
    print(f"{len(long)} of {len(spoken)} sentences of the pages have over {MAX_WORDS} words")
    if "--long" in arguments:
        print(*(f"{n_words(sentence)} {name}: {sentence}" for name, sentence in long[:N_SHOWN]), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
