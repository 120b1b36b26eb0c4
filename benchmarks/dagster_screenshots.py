"""Pictures of the Dagster UI for docs/dagster.md, of a server that runs: `python benchmarks/dagster_screenshots.py`."""

import argparse
import json
import shutil
import urllib.request
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
BACKFILLS = "query { partitionBackfillsOrError(limit: 1) { ... on PartitionBackfills { results { id } } } }"
VIEWS = {"graph": "/asset-groups", "asset": "/assets/aux_correlation?view=overview"}


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="http://127.0.0.1:3000")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "docs")
    options = parser.parse_args()
    latest = last_backfill(options.address)
    views = VIEWS | ({"backfill": f"/runs/b/{latest}"} if latest else {})
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        for name, route in views.items():
            page.goto(options.address + route)
            page.wait_for_timeout(8000)  # the UI asks again and again, and is never idle
            if name == "asset":
                page.get_by_text("Metadata", exact=True).first.evaluate("it => it.scrollIntoView()")
                page.wait_for_timeout(500)
            page.screenshot(path=options.folder / f"dagster-{name}.png")
        browser.close()


def last_backfill(address: str) -> str | None:
    """Number of the backfill that was launched last."""
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": BACKFILLS}).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        found = json.load(response)["data"]["partitionBackfillsOrError"].get("results", [])
    return found[0]["id"] if found else None


if __name__ == "__main__":
    main()
