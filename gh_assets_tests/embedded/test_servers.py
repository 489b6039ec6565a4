"""Tests of the embedded servers: other users of the machine, and pages in a browser, have no access."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gh_assets.embedded import servers as services
from gh_assets.services.connections import connect_mongo
from gh_assets.settings import load_settings
from gh_assets.storage.objects import ObjectStore
from gh_assets_tests.support.bucket import bucket_client
from gh_assets_tests.support.dagster_dev import ROOT
from gh_assets_tests.support.other_user import CLIMBING, HTTP, MARK
from gh_assets_tests.support.serving import serving

CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture
def attacked(fresh_home: Path) -> Iterator[list[int]]:
    """Ports of all servers of a home with data, which are unchanged at the end."""
    endpoint, _ = services.cloud_storage(fresh_home)
    store = ObjectStore(bucket_client(fresh_home), "gh-assets", create=True)
    store.write("secret", b"content")
    database = connect_mongo(load_settings())
    database["users"].insert_one({"_id": 1, "login": "person-1"})
    names = set(database.client.list_database_names())
    github, _ = services.github_standin(fresh_home)
    port = database.client.address
    assert port is not None
    yield [urlsplit(endpoint).port or 0, port[1], urlsplit(github).port or 0]
    assert [found.name for found in store.list("")] == ["secret"]
    assert store.read("secret") == b"content"
    assert [bucket.name for bucket in store.client.list_buckets()] == ["gh-assets"]
    assert list(database["users"].find()) == [{"_id": 1, "login": "person-1"}]
    assert set(database.client.list_database_names()) == names
    assert not Path("/" + CLIMBING.lstrip("./")).exists()
    assert [path for path in fresh_home.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()] == []
    database.client.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_has_no_access(attacked: list[int], fresh_home: Path) -> None:
    # The folders above a home are usually accessible; the home itself is not.
    for folder in fresh_home.parents:
        if folder.stat().st_uid == os.geteuid() and folder not in (Path("/"), Path("/tmp")):
            folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-m", "gh_assets_tests.support.other_user", str(fresh_home), *map(str, attacked)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == []


PAGE = """<!doctype html><title>evil</title><iframe name="hidden"></iframe><script>
async function attempt(port) {
  const got = []
  for (const [method, path] of REQUESTS) {
    for (const mode of ["cors", "no-cors"]) {
      const body = ["POST", "PUT"].includes(method) ? MARK : undefined
      try {
        const answer = await fetch(`http://127.0.0.1:${port}${path}`, {method, mode, body, credentials: "include"})
        const text = await answer.text()
        if (answer.type !== "opaque" || text) got.push(`${method} ${path}: ${answer.status} ${text.slice(0, 99)}`)
      } catch (error) {}
    }
    if (method !== "POST") continue
    const form = document.createElement("form")
    const action = `http://127.0.0.1:${port}${path}`
    Object.assign(form, {method: "post", action, target: "hidden", enctype: "text/plain"})
    form.append(Object.assign(document.createElement("input"), {name: MARK, value: "x"}))
    document.body.append(form)
    form.submit()
  }
  await new Promise(done => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/`)
    socket.onopen = () => { got.push("a WebSocket opened"); done() }
    socket.onerror = done
  })
  return got
}
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="Debian's chromium is not installed")
def test_page_in_a_browser_has_no_access(attacked: list[int]) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    from starlette.responses import HTMLResponse

    content = PAGE.replace("REQUESTS", json.dumps(HTTP)).replace("MARK", json.dumps(MARK))
    with serving(HTMLResponse(content)) as url, playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(url)
        assert [page.evaluate("attempt", port) for port in attacked] == [[], [], []]
        browser.close()
