"""Take the screenshots of the documentation: Dagster's UI and the pages of a home, with headless Chromium.

Run: make screenshots. Needs Debian's chromium (or CHROMIUM=/path/to/it) and a home in which `make run` has run.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

EXPANDED = "global%40global%3Acollection%2Cglobal%40global%3Arecommender"
"""Groups of the asset graph that are expanded."""

PARTITION = "synthetic-command-line%2Ffast-shell-2"

OPENED = {"model": "learning_curve", "champion": "scores", "leaderboard": "plot", "plan": "overview"}
"""Plots in the metadata of assets, which a click opens."""

IMAGES = Path(__file__).parent / "images"
ROOT = Path(__file__).parent.parent


def wait_for(address: str, process: subprocess.Popen[Any], name: str) -> None:
    """Wait until a server responds; exit with a message if it does not start."""
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} did not start") from None
            time.sleep(0.2)


@contextmanager
def dagster_dev() -> Iterator[str]:
    """Run `dagster dev` in the checkout; yield its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "dagster"), "dev", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/server_info", process, "dagster dev")
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


@contextmanager
def served() -> Iterator[str]:
    """Run `gh-assets serve` in the checkout; yield its URL."""
    command = [str(Path(sys.executable).parent / "gh-assets"), "serve", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    url = next(line.split()[-1] for line in process.stderr if line.startswith("Serving on"))
    drain = threading.Thread(target=process.stderr.read, daemon=True)
    drain.start()
    try:
        wait_for(f"{url}/readyz", process, "gh-assets serve")
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


WEB_PAGES: dict[str, tuple[str, int, int, Literal["light", "dark"]]] = {
    "page": ("/u/synthetic-user-0007", 1200, 860, "light"),
    "page-dark": ("/model", 1200, 860, "dark"),
    "page-phone": ("/for?repo=synthetic-web-framework%2Ffriendly-router-1", 375, 812, "light"),
    "page-home": ("/", 1200, 620, "light"),
}
"""Screenshots of the pages: path, width, height and colour scheme."""


def take_web_pages(browser: Browser, url: str, only: str | None) -> None:
    """Take the screenshots of the pages."""
    for name, (path, width, height, scheme) in WEB_PAGES.items():
        if only in (None, name):
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(url + path)
            page.wait_for_load_state("networkidle")
            page.screenshot(path=IMAGES / f"{name}.png")
            page.close()
            print(IMAGES / f"{name}.png", flush=True)


def open_page(page: Page, url: str, shows: str) -> None:
    """Open a page of Dagster's UI and wait until it shows a text."""
    page.goto(url)
    page.get_by_text("Deployment").first.wait_for(timeout=60_000)
    skip = page.get_by_role("button", name="Skip")
    with contextlib.suppress(PlaywrightTimeoutError):  # a dialog covers the first page of a new home
        skip.click(timeout=5_000 if "asset-groups" in url else 500)
    page.get_by_text(shows, exact=True).last.wait_for(timeout=60_000)
    page.get_by_text(shows, exact=True).last.scroll_into_view_if_needed()
    page.wait_for_load_state("networkidle")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="take only this screenshot")
    options = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        raise SystemExit("Chromium is not installed: apt-get install chromium, or set CHROMIUM.")
    IMAGES.mkdir(exist_ok=True)
    pages = {
        "graph": (f"/asset-groups/?expanded={EXPANDED}", "recommendations"),
        "stargazers": (f"/assets/stargazers?view=partitions&partition={PARTITION}", "outcome"),
        "model": ("/assets/recvae_model?view=overview", "learning_curve"),
        "champion": ("/assets/champion?view=overview", "scores"),
        "leaderboard": ("/assets/leaderboard?view=overview", "plot"),
        "plan": ("/assets/collection_plan?view=overview", "overview"),
        "checks": ("/assets/user_item_matrix?view=checks", "every_user_has_a_star"),
        "automation": ("/automation", "new_repositories"),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        if options.only is None or options.only in WEB_PAGES:
            with served() as url:
                take_web_pages(browser, url, options.only)
        if options.only not in WEB_PAGES:
            with dagster_dev() as url:
                take_dagster_pages(browser, url, pages, options.only)
        browser.close()


def take_dagster_pages(browser: Browser, url: str, pages: Mapping[str, tuple[str, str]], only: str | None) -> None:
    """Take the screenshots of Dagster's UI."""
    page = browser.new_page(viewport={"width": 1500, "height": 820}, color_scheme="light")
    for name, (path, shows) in pages.items():
        if only in (None, name):
            # The graph shows the details of its nodes only on a wide page.
            page.set_viewport_size(
                {"width": 3000, "height": 1000} if name == "graph" else {"width": 1500, "height": 820}
            )
            open_page(page, url + path, shows)
            if name in OPENED:
                page.locator("tr", has_text=OPENED[name]).last.get_by_text("[Show Markdown]").click()
                page.locator("img[src^='data:']").last.wait_for()
                page.wait_for_timeout(1000)  # the dialog fades in
            page.screenshot(path=IMAGES / f"{name}.png")
            print(IMAGES / f"{name}.png", flush=True)


if __name__ == "__main__":
    main()
