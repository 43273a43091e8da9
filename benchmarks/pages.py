"""A board of 20 runs x 50 concepts x 10 arms (to build in under 10 s), and a page of 50,000 replies (under 40 MB, to load in under 3 s).

Run: PYTHONPATH=tests python benchmarks/pages.py
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from synthetic_rows import KINDS, make_rows, make_run
from synthetic_samples import make_samples

from steer_bench.results.file import Results, save_results
from steer_bench.results.leaderboard import write_leaderboard
from steer_bench.results.samples import save_samples

STRENGTHS = {"native": 1.0, "linear": 0.9, "mlp": 0.92, "identity": 0.0, "procrustes": 0.6, "mean-map": 0.3}
CONTROLS = {"random": 0.05, "mean": 0.1, "wrong-concept": 0.02}  # and unsteered: 10 arms
FAKE_TARGETS = [f"target-{number:02d}" for number in range(20)]


def build_board(folder: Path) -> tuple[int, dict[str, tuple[float, float]]]:
    """Rows in all, and seconds to build the board with and without figures: by the clock, and of the processor."""
    files, n_rows = [], 0
    for number, target in enumerate(FAKE_TARGETS):
        rows = make_rows({**STRENGTHS, **CONTROLS}, target=target, n_concepts=50, n_items=4, seed=number)
        n_rows += len(rows)
        files.append(folder / f"run-{number:02d}.json")
        save_results(files[-1], Results(make_run(f"run-{number:02d}"), tuple(rows)))
    seconds = {}
    for figures in (False, True):
        start, begun = time.monotonic(), time.process_time()
        write_leaderboard(files, folder / "board", figures=figures)
        spent = time.monotonic() - start, time.process_time() - begun
        seconds["with figures" if figures else "without figures"] = spent
    return n_rows, seconds


def build_samples(folder: Path) -> tuple[int, Path, float]:
    """Replies, the page, and seconds to build it: 25 concepts x 40 prompts x (1 + 7 arms x 7 factors is 50)."""
    samples = make_samples(n_concepts=50, n_prompts=63, n_words=60)  # 16 replies a prompt
    n = len(samples.samples)
    save_results(folder / "results.json", Results(make_run(), tuple(make_rows(n_concepts=10))))
    save_samples(folder / "samples.json", samples)
    start = time.monotonic()
    write_leaderboard([folder / "results.json"], folder, figures=False, formats=["html"])
    return n, folder / "leaderboard.html", time.monotonic() - start


def load_page(page: Path) -> dict[str, float]:
    """Seconds in headless Chromium: to load and draw, to search all replies, to open a prompt."""
    from selenium import webdriver
    from selenium.webdriver.support.wait import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    flags = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking")
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*flags, "disable-component-update", "disable-sync", f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            browser.get("about:blank")
            start = time.monotonic()
            browser.get(page.as_uri())
            wait = WebDriverWait(browser, 30, poll_frequency=0.01)  # get() now and then returns while the page loads
            wait.until(lambda b: b.execute_script("return document.documentElement.dataset.ready") == "yes")
            loaded = time.monotonic() - start
            timed = "const start = performance.now(); {}; return (performance.now() - start) / 1000;"
            search = browser.execute_script(timed.format("location.hash; go({find: 'harbour wind'}, true)"))
            opened = browser.execute_script(
                timed.format("go({find: null, at: pointer(groups[groups.length - 1])}, true)")
            )
        finally:
            browser.quit()
    return {"load": loaded, "search": search, "open": opened}


def main() -> None:
    if KINDS and not shutil.which("chromium"):
        print("no chromium on PATH: the page is built but not loaded", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_rows, seconds = build_board(folder)
        print(f"board of 20 runs x 50 concepts x 10 arms ({n_rows:,} rows):")
        for what, (clock, processor) in seconds.items():
            print(f"  {what}: {clock:.1f} s ({processor:.1f} s of the processor)")
        n, page, built = build_samples(folder)
        print(f"page of {n:,} replies: {page.stat().st_size / 1e6:.1f} MB, built in {built:.1f} s")
        if shutil.which("chromium"):
            print("  " + ", ".join(f"{what} {value:.2f} s" for what, value in load_page(page).items()))


if __name__ == "__main__":
    main()
