"""Pictures of every view of an explorer, at both widths and in both themes: `make screenshots`."""

import argparse
import shutil
from pathlib import Path

from resources import experiment as experiments

CHECKOUT = Path(__file__).resolve().parent.parent
WIDTHS = {"wide": (1280, 900), "narrow": (390, 844)}
VIEWS = {
    "clusters": "#/clusters",
    "card": "#/cluster/39",
    "components": "#/components",
    "component": "#/component/L1H2",
    "text": "#/text/3/24",
    "map": "#/map",
    "run": "#/run",
    "compare": "#/compare",
    "search": "#/search?q=self",
    "documents": "#/documents",
}
ARGUMENTS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiment")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "build" / "screenshots")
    options = parser.parse_args()
    page_file = experiments.store(experiments.load(options.experiment)).page()
    if not page_file.is_file():
        raise SystemExit(f"{page_file} is missing; make run writes it")
    options.folder.mkdir(parents=True, exist_ok=True)
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=ARGUMENTS)
        for size, (width, height) in WIDTHS.items():
            for theme in ("light", "dark"):
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
                for name, route in VIEWS.items():
                    page = context.new_page()
                    page.goto(f"file://{page_file}{route}")
                    page.wait_for_selector(".view")
                    page.wait_for_timeout(600)
                    page.screenshot(
                        path=options.folder / f"{name}-{size}-{theme}.png",
                        full_page=name in ("card", "component", "run"),
                    )
                    page.close()
        browser.close()
    print(f"{len(list(options.folder.glob('*.png')))} pictures in {options.folder}")


if __name__ == "__main__":
    main()
