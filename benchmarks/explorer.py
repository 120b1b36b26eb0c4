"""The explorer at the published size: writing a made-up site of 57,000 clusters, and opening it in Chromium.

Prints seconds to write, size on disk, for each view the seconds until it is shown and the bytes that it loads, and the
frames a second of the map while it pans and zooms.
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import psutil

import sites
from susc_pipeline.explorer import site as site_module

BROWSER = "/usr/bin/chromium"
SOFTWARE_GRAPHICS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SHAPE = sites.Shape(
    n_clusters=57_000,
    n_layers=24,
    n_heads=16,
    n_pcs=48,
    n_shards=60,
    contexts_per_shard=400,
    context_length=128,
    n_edges=10,
    n_documents_per_shard=50,
    truth_shards=1,
)
VIEWS = [
    "#/clusters",
    "#/clusters?sort=size&falling=1",
    "#/clusters?by=L12H3&sort=deviation",
    "#/cluster/17",
    "#/components",
    "#/component/L12H3",
    "#/text/1200/64",
    "#/map",
    "#/map?color=component-200",
    "#/run",
    "#/compare",
    "#/search?q=word1234",
]
OF_THE_MAP = SHAPE._replace(n_clusters=2000, n_layers=2, n_heads=3, n_pcs=5)
MAPS = ["#/map", "#/map?color=component-5"]
FRAMES = """async () => {
  const layer = explorer.map, frame = () => new Promise(requestAnimationFrame);
  const run = async (count, step) => {
    const start = performance.now();
    for (let i = 0; i < count; i++) { step(i); await frame(); }
    return (1000 * count) / (performance.now() - start);
  };
  const turn = (i) => { layer.camera.zoom = 1 + 0.5 * Math.sin(i / 7); layer.pan(8 * Math.sin(i / 5), 0); };
  await run(60, turn);
  const moving = await run(120, turn), shown = layer.affordable();
  const whole = await run(20, (i) => { layer.camera.x += 0.01 * Math.sin(i); layer.draw(); });
  return { points: layer.count, frames_per_second_moving: moving, points_drawn_moving: shown, frames_per_second_all: whole };
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the site there, or measure the one that is there")
    parser.add_argument("--map", action="store_true", help="the map alone, on a site of few clusters and components")
    parser.add_argument("--shards", type=int, default=SHAPE.n_shards, help="of 50,800 tokens each")
    options = parser.parse_args()
    shape, views = (OF_THE_MAP, MAPS) if options.map else (SHAPE, VIEWS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "site"
        if not folder.is_dir():
            print(
                json.dumps(written(folder, Path(temporary) / "tables", shape._replace(n_shards=options.shards))),
                flush=True,
            )
        for row in opened(folder, views):
            print(json.dumps(row), flush=True)


def written(folder: Path, tables: Path, shape: sites.Shape) -> dict[str, object]:
    texts = ["".join(chr(33 + (n * k) % 90) for k in (7, 11, 13)) for n in range(300)]
    texts += [f" word{n}" if n % 2 else f"word{n}" for n in range(300, 50_000)]
    made = sites.site(shape, texts, [f"source{n}/document" for n in range(40)], folder=tables)
    before, started, processor = resident(), time.perf_counter(), time.process_time()
    with Peak() as peak:
        site_module.save(made, folder)
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {
        "clusters": shape.n_clusters,
        "members": int(made.clusters["size"].sum()),
        "tokens": shape.n_shards * shape.contexts_per_shard * (shape.context_length - 1),
        "components": made.components.height,
        "seconds_to_write": round(seconds, 1),
        "processor_seconds_to_write": round(processor, 1),
        "megabytes": round(sum(sizes) / 1e6, 1),
        "files": len(sizes),
        "largest_file_megabytes": round(max(sizes) / 1e6, 2),
        "gigabytes_resident_before": round(before / 1e9, 2),
        "gigabytes_resident_at_most": round(peak.bytes / 1e9, 2),
    }


def resident() -> int:
    return psutil.Process().memory_info().rss


class Peak:
    """The largest resident memory while it is entered; the process's own peak would hold what making the tables took."""

    def __enter__(self) -> "Peak":
        self.bytes, self.done = resident(), threading.Event()
        self.watcher = threading.Thread(target=self.watch)
        self.watcher.start()
        return self

    def watch(self) -> None:
        """Look until it is left."""
        while not self.done.wait(0.01):
            self.bytes = max(self.bytes, resident())

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.watcher.join()


def opened(folder: Path, views: list[str]):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=SOFTWARE_GRAPHICS)
        for view in views:
            seconds = []
            for _ in range(3):
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                loaded: list[str] = []
                page.on("request", lambda request, loaded=loaded: loaded.append(request.url))
                started = time.perf_counter()
                page.goto(f"file://{folder.resolve()}/index.html{view}")
                page.wait_for_selector(".view", timeout=60_000)
                if "/map" in view:  # the view is there when its points are drawn
                    page.wait_for_selector("canvas.points[aria-label]", timeout=60_000)
                    page.evaluate("new Promise(requestAnimationFrame)")
                seconds.append(round(time.perf_counter() - started, 2))
                if view == "#/map" and len(seconds) == 3:
                    page.wait_for_timeout(1000)
                    yield page.evaluate(FRAMES)
                page.close()
            files = [Path(url.partition("#")[0].removeprefix("file://")) for url in loaded if url.startswith("file://")]
            sizes = [path.stat().st_size for path in files if path.is_file()]
            yield {
                "view": view,
                "seconds_median": sorted(seconds)[1],
                "seconds": seconds,
                "megabytes": round(sum(sizes) / 1e6, 2),
                "files": len(files),
                "largest_megabytes": round(max(sizes) / 1e6, 2),
            }
        browser.close()


if __name__ == "__main__":
    main()
