"""Locating and reading lists in local files and on GitHub."""

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response

from gh_assets.collector.lists.sources import find_source, fingerprint_of_list, read_list
from gh_assets.collector.repositories import KnownRepositories, collect_repositories, read_lists
from gh_assets.embedded.standin.world import Repository, World
from gh_assets.errors import InputError
from gh_assets.github.client import GitHubClient
from gh_assets_tests.conftest import GitHubOf, serving
from gh_assets_tests.support.github import client_of, scripted
from gh_assets_tests.support.worlds import LIST

GITHUB = "https://api.github.com"

ORG = """* Planning
  - [[https://github.com/garden/planner][planner]]
    - [[https://github.com/garden/planner-el][an editor's mode]]
  - https://github.com/soil/probe - moisture
  - =https://github.com/seeds/verbatim=
"""
# As org-ruby renders it and GitHub links bare addresses afterwards.
ORG_HTML = """<h1><a id="user-content-planning" class="anchor" href="#planning"></a>Planning</h1>
<ul>
  <li><a href="https://github.com/garden/planner">planner</a>
    <ul>
      <li><a href="https://github.com/garden/planner-el">an editor&#8217;s mode</a></li>
    </ul>
  </li>
  <li><a href="https://github.com/soil/probe" rel="nofollow">https://github.com/soil/probe</a> - moisture</li>
  <li><code>https://github.com/seeds/verbatim</code></li>
</ul>
"""
ADOC = """= Tools

* https://github.com/garden/planner[planner] - beds by the season
* link:https://github.com/seeds/catalog[Catalog]
* {blank}https://github.com/soil/probe
"""
# As asciidoctor renders it.
ADOC_HTML = """<h1>Tools</h1>
<div><ul>
<li><p><a href="https://github.com/garden/planner">planner</a> - beds by the season</p></li>
<li><p><a href="https://github.com/seeds/catalog">Catalog</a></p></li>
<li><p><a href="https://github.com/soil/probe">https://github.com/soil/probe</a></p></li>
</ul></div>
"""
RST = "* `planner <https://github.com/garden/planner>`_\n* Catalog_\n\n.. _Catalog: https://github.com/seeds/catalog\n"
SPLIT = """# Tools

- [Planning](lists/planning.md) and [Seeds](./lists/seeds.md#top), [how to contribute](CONTRIBUTING.md)
- [Licence](LICENSE.md) [conduct](.github/code-of-conduct.md) [headings](#tools) [picture](logo.png)

Made with [listmaker](https://github.com/tools/listmaker).
"""
PLANNING = "- [x](https://github.com/garden/planner)\n"
SEEDS = "`x <https://github.com/seeds/catalog>`_\n"


def world(*lists: Repository) -> World:
    return World(list(lists), [], [], [entry.full_name for entry in lists], "a test")


FILES = {
    "lists/planning.md": PLANNING,
    "lists/more/seeds.rst": SEEDS,
    "lists/CONTRIBUTING.md": "https://github.com/no/contributing",
    "lists/script.py": "# https://github.com/no/script",
    "docs/notes.txt": "https://github.com/a/text",
    "code/main.py": "",
}


def split_list() -> Repository:
    return Repository(7, "tools/list", readme=SPLIT, files=dict(FILES))


@pytest.fixture
def client(github_of: GitHubOf) -> GitHubClient:
    """A client of a GitHub that has `split_list`."""
    return github_of(world(split_list()))[1]


def write(files: Mapping[str, str | bytes]) -> None:
    """Write files to the current folder, that of the test."""
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def notes_about(client: GitHubClient, *lists: str) -> list[str]:
    notes: list[str] = []
    read_lists(lists, client, notes.append)
    return notes


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("owner/name", "owner/name"),
        ("https://github.com/owner/name", "owner/name"),
        ("http://www.github.com/owner/name/", "owner/name"),
        ("github.com/owner/name", "owner/name"),
        ("  https://github.com/owner/name?tab=readme-ov-file#contents ", "owner/name"),
        ("git@github.com:owner/name.git", "owner/name"),
        ("ssh://git@github.com/owner/name.git", "owner/name"),
        ("https://github.com/owner/name.git", "owner/name"),
        ("https://github.com/owner/name/tree/main", "owner/name"),
        ("https://github.com/owner/name/tree/main/lists/", "owner/name/lists"),
        ("https://github.com/o/n/blob/main/lists/x.md#top", "o/n/lists/x.md"),
        ("https://github.com/o/n/blob/main/a%20list.md", "o/n/a list.md"),
        ("https://raw.githubusercontent.com/o/n/refs/heads/main/lists/x.md", "o/n/lists/x.md"),
        ("https://raw.githubusercontent.com/o/n/main/x.md", "o/n/x.md"),
        ("owner/name/lists/x.org", "owner/name/lists/x.org"),
        ("owner/name/lists/", "owner/name/lists"),
        ("o/n/blob/main/lists/x.md", "o/n/lists/x.md"),
        ("o/n/tree/main/lists", "o/n/lists"),
        ("o/n/blob/refs/tags/v1/x.md", "o/n/x.md"),
        ("https://github.com/o/n/blob/refs/tags/v1/x.md", "o/n/x.md"),
        ("nodejs/nodejs.org", "nodejs/nodejs.org"),
    ],
)
def test_names_and_addresses_of_lists_on_github(text: str, name: str) -> None:
    assert find_source(text, GITHUB).name == name


@pytest.mark.parametrize(
    ("api", "address"),
    [("https://ghe.example/api/v3", "https://ghe.example"), ("https://api.octo.ghe.com", "octo.ghe.com")],
)
def test_addresses_on_an_enterprise_server(api: str, address: str) -> None:
    assert find_source(f"{address}/o/n/blob/main/x.md", api).name == "o/n/x.md"


@pytest.mark.parametrize(
    "text",
    [
        "word",
        "missing.md",
        "lists/missing.rst",
        "./a/b",
        "~/a/b",
        "https://example.com/owner/name",
        "https://github.com/owner",
        "https://github.com/topics/python",
        "https://github.com/owner/name/issues",
        "https://[github.com/owner/name",
        "owner/name/../x",
        "x" * 5000,
        "",
    ],
)
def test_anything_else_is_refused_with_the_accepted_forms(text: str) -> None:
    with pytest.raises(InputError, match="neither a file that exists nor owner/name on GitHub: give a file"):
        find_source(text, GITHUB)


def test_an_existing_file_takes_precedence_over_a_name_on_github() -> None:
    write({"owner/name": "https://github.com/a/b", "other/folder/list.md": ""})
    assert find_source("owner/name", GITHUB).local is not None
    assert find_source("other/folder", GITHUB).local is None, "a folder may be a clone of what is meant"
    assert find_source("./other/folder", GITHUB).local is not None


@pytest.mark.parametrize(
    ("file", "text", "html", "repositories"),
    [
        ("README.org", ORG, ORG_HTML, ["garden/planner", "garden/planner-el", "soil/probe"]),
        ("readme.adoc", ADOC, ADOC_HTML, ["garden/planner", "seeds/catalog", "soil/probe"]),
        ("Readme.rst", RST, None, ["garden/planner", "seeds/catalog"]),
        ("README.rest", RST, None, ["garden/planner", "seeds/catalog"]),
        ("ReadMe.mdown", "- https://github.com/a/b", None, ["a/b"]),
        ("README", "- https://github.com/a/b and [x](https://github.com/c/d)", None, ["a/b", "c/d"]),
        ("README.txt", "https://github.com/a/b.\n", None, ["a/b"]),
        ("docs/README.md", "https://github.com/a/b.\n", None, ["a/b"]),
    ],
)
def test_a_readme_in_any_markup_is_read_as_the_same_file_here(
    github_of: GitHubOf, file: str, text: str, html: str | None, repositories: list[str]
) -> None:
    rendered = {} if html is None else {file: html}
    _, client = github_of(world(Repository(1, "a/list", readme=text, readme_name=file, rendered=rendered)))
    local = f"./{file}"
    write({local: "\ufeff" + text})
    for source in ("a/list", f"a/list/{file}", local):
        assert read_list(source, client).repositories == repositories


@pytest.mark.parametrize(("file", "text"), [("README.org", ORG), ("README.adoc", ADOC)])
def test_the_text_is_parsed_where_the_server_does_not_render(github_of: GitHubOf, file: str, text: str) -> None:
    standin, client = github_of(world(Repository(1, "a/list", readme=text, readme_name=file)))
    assert "garden/planner" in read_list("a/list", client).repositories
    assert standin.served["readme 415"] == 1


@pytest.mark.parametrize("media_type", ["text/plain", "application/vnd.github.raw+json", "application/json"])
def test_the_response_of_a_server_that_ignores_media_types_is_read(media_type: str) -> None:
    def respond(request: Request) -> Response:
        if request.headers["accept"] == "application/vnd.github+json":
            return Response(b'{"type": "file", "path": "README.org"}', media_type="application/json")
        return Response(ORG.encode(), media_type=media_type)

    with serving(scripted([respond])) as url, client_of(url) as client:
        found = read_list("a/list", client).repositories
    assert found == ["garden/planner", "garden/planner-el", "soil/probe"]


def test_all_lists_of_a_folder_are_read(client: GitHubClient) -> None:
    named = read_lists(["https://github.com/tools/list/tree/main/lists"], client)
    assert named == {
        "garden/planner": ["garden/planner", "tools/list/lists"],
        "seeds/catalog": ["seeds/catalog", "tools/list/lists"],
    }
    assert read_list("tools/list/docs/notes.txt", client).repositories == ["a/text"]


def test_all_lists_of_a_local_folder_are_read(client: GitHubClient) -> None:
    write(FILES)
    assert read_list("./lists", client).repositories == ["garden/planner", "seeds/catalog"]
    before = fingerprint_of_list("./lists", client, None)
    write({"lists/more/seeds.rst": PLANNING})
    assert fingerprint_of_list("./lists", client, before) != before


def test_only_the_first_files_of_a_folder_are_read(client: GitHubClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gh_assets.collector.lists.sources.MAX_FILES", 1)
    write(FILES)
    for folder in ("./lists", "tools/list/lists"):
        content = read_list(folder, client)
        assert content.repositories == ["garden/planner"]
        assert content.notes == [
            f"Of the folder {folder} only 1 files were read: name the folders or files in it that are lists."
        ]


def test_a_list_that_is_spread_over_other_files_is_reported(client: GitHubClient) -> None:
    assert notes_about(client, "tools/list") == [
        "The awesome list tools/list links to 1 repository on GitHub and to other files or folders that may be lists: "
        "to read these, name them as lists, too: tools/list/lists/planning.md, tools/list/lists/seeds.md, or their "
        "folder tools/list/lists."
    ]
    assert notes_about(client, "tools/list", "tools/list/lists") == [], "lists that are named are not reported"


def test_links_of_a_readme_in_a_folder_and_by_absolute_address_lead_to_files(github_of: GitHubOf) -> None:
    text = (
        "[a](more.md) [b](/lists/b.org) [c](https://github.com/A/List/blob/main/c.adoc) [d](/a/list/blob/HEAD/d.rst) "
    )
    text += "[itself](README.md)"
    _, client = github_of(world(Repository(1, "a/list", readme=text, readme_name="docs/README.md")))
    files = read_list("a/list", client).files
    assert files == ["a/list/docs/more.md", "a/list/lists/b.org", "a/list/c.adoc", "a/list/d.rst"]


def test_an_index_of_folders_is_reported_with_their_names(github_of: GitHubOf) -> None:
    text = "[a](lists/) [b](/a/list/tree/main/more) [c](lists/c) [e](LICENSE) "
    text += "[d](https://github.com/a/list/tree/refs/tags/v1/d)"
    _, client = github_of(world(Repository(1, "a/list", readme=text)))
    (note,) = notes_about(client, "a/list")
    assert note.startswith("The awesome list a/list links to no repositories on GitHub and to other files or")
    assert note.endswith("name them as lists, too: a/list/lists, a/list/more, a/list/lists/c, a/list/d.")


@pytest.mark.parametrize(
    ("files", "end"),
    [
        (
            {
                "saved.md": "[a](https://github.com/o/n/blob/main/lists/a.md) https://github.com/o/n/blob/main/lists/b.md"
            },
            "name them as lists, too: o/n/lists/a.md, o/n/lists/b.md, or their folder o/n/lists.",
        ),
        (
            {"sub/index.md": "[a](lists/) https://github.com/a/b", "sub/lists/a.md": ""},
            "name them as lists, too: ./sub/lists.",
        ),
        (
            {"index.md": "[a](a.md) [b](b.md) https://github.com/a/b", "a.md": "", "b.md": ""},
            "name them as lists, too: ./a.md, ./b.md.",
        ),
        (
            {"saved/split.md": SPLIT},
            "are not on this machine, lists/planning.md, lists/seeds.md: save them beside it, or name each as it is on "
            "GitHub, owner/name/lists/planning.md, or their folder.",
        ),
        (
            {"saved/split.md": SPLIT, "saved/lists/planning.md": PLANNING, "saved/lists/seeds.md": PLANNING},
            "too: ./saved/lists/planning.md, ./saved/lists/seeds.md, or their folder ./saved/lists.",
        ),
    ],
)
def test_a_local_index_is_reported_with_what_it_links_to(client: GitHubClient, files: dict[str, str], end: str) -> None:
    write(files)
    (note,) = notes_about(client, next(iter(files)))
    assert note.endswith(end)


def test_utf_16_is_read_and_other_encodings_are_refused(client: GitHubClient) -> None:
    marked = ("\ufeff" + PLANNING).encode("utf-16-be")
    for content in (PLANNING.encode("utf-16"), marked, PLANNING.encode("utf-8-sig")):
        write({"list.md": content})
        assert read_list("list.md", client).repositories == ["garden/planner"]
    packed = gzip.compress(PLANNING.encode())
    for content in ("é https://github.com/a/b".encode("latin-1"), b"\xff\xfe\x00\xd8", packed):
        write({"list.md": content})
        with pytest.raises(InputError, match=r"list\.md cannot be read: it is not UTF-8: save it as UTF-8\."):
            read_list("list.md", client)


def test_an_unreadable_file_of_a_folder_is_left_out_with_a_note(github_of: GitHubOf) -> None:
    files = {"lists/a.md": PLANNING, "lists/b.textile": "x"}
    _, client = github_of(world(Repository(7, "tools/list", readme=SPLIT, files=files)))
    write({**files, "lists/c.md": b"\xe9"})
    for source, count in (("./lists", 2), ("tools/list/lists", 1)):
        content = read_list(source, client)
        assert content.repositories == ["garden/planner"]
        assert len(content.notes) == count
        assert "lists/b.textile was left out because it cannot be read: " in content.notes[0]
    Path("lists/a.md").unlink()
    with pytest.raises(InputError, match=r"has no list that can be read\. The file lists/b\.textile was left out"):
        read_list("./lists", client)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (451, "The awesome list a/list is blocked by GitHub for legal reasons .status 451.: leave it out"),
        (403, "a/list cannot be read from GitHub .status 403.: give a token that may read this repository"),
        (410, r"a/list cannot be read from GitHub .status 410.\."),
    ],
)
def test_a_refusal_by_github_says_what_to_do(status: int, message: str) -> None:
    refusal = Response(b"{}", status_code=status, media_type="application/json")
    with serving(scripted([refusal])) as url, client_of(url) as client, pytest.raises(InputError, match=message):
        read_list("a/list", client)


def test_a_list_without_any_repository_names_its_files_in_the_error(github_of: GitHubOf) -> None:
    _, client = github_of(world(Repository(1, "a/list", readme="[x](one.md)"), Repository(2, "a/empty", readme="# x")))
    with pytest.raises(InputError, match=r"links to no repositories on GitHub.*: a/list/one\.md\."):
        read_lists(["a/list"], client)
    with pytest.raises(InputError, match="a/empty links to no repository on GitHub"):
        read_lists(["a/empty"], client)


def test_notes_are_reported_once_and_the_table_has_the_canonical_list_name(github_of: GitHubOf) -> None:
    _, client = github_of(world(Repository(1, "tools/listmaker"), split_list()))
    notes: list[str] = []
    collected = collect_repositories(
        client, ["https://github.com/tools/list/", "tools/list"], KnownRepositories(), by_rest=True, notify=notes.append
    )
    assert len(notes) == 1
    assert collected.table["lists"].to_list() == [["tools/list"]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nobody/nothing", "nobody/nothing cannot be read from GitHub .status 404.: check its name, and if"),
        (
            "tools/list/lists/none.md",
            r"lists/none\.md cannot be read from GitHub .status 404.: check its name and path",
        ),
        ("tools/list/code", r"tools/list/code has no list that can be read\. No file in it is written in Markdown, "),
        ("missing.md", "neither a file that exists nor owner/name"),
        ("deep.md", r"The awesome list deep\.md cannot be read: it is nested deeper than 300"),
        ("list.textile", r"list\.textile cannot be read: it is written in Textile"),
    ],
)
def test_a_list_that_cannot_be_read_is_named(client: GitHubClient, source: str, message: str) -> None:
    write({"deep.md": "> " * 5000 + "x", "list.textile": "x"})
    with pytest.raises(InputError, match=message):
        read_list(source, client)


def test_the_list_of_a_renamed_repository_is_read(github_of: GitHubOf) -> None:
    entry = split_list()
    entry.former_names = ("old/list",)
    _, client = github_of(world(entry))
    assert read_list("old/list", client).repositories == ["tools/listmaker"]
    assert read_list("old/list/lists/planning.md", client).repositories == ["garden/planner"]


@pytest.mark.parametrize(
    ("source", "change"),
    [
        ("tools/list", lambda entry: setattr(entry, "readme", "https://github.com/a/b")),
        ("github.com/tools/list/blob/main/lists/planning.md",
         lambda entry: entry.files.update({"lists/planning.md": "x"})),
        ("tools/list/lists", lambda entry: entry.files.update({"lists/planning.md": "x"})),
        ("tools/list/lists", lambda entry: entry.files.update({"lists/more/seeds.rst": "x"})),
        ("tools/list/lists", lambda entry: entry.files.update({"lists/new.md": "x"})),
        ("a/org", lambda entry: None),
    ],
)  # fmt: skip
def test_an_unchanged_list_costs_no_quota_and_a_change_is_seen(
    github_of: GitHubOf, source: str, change: Callable[[Repository], None]
) -> None:
    entry = split_list()
    org = Repository(8, "a/org", readme=ORG, readme_name="README.org")  # not rendered
    standin, client = github_of(world(entry, org))
    first = fingerprint_of_list(source, client, None)
    used = standin.used("token")
    assert fingerprint_of_list(source, client, first) == first
    assert standin.used("token") == used
    change(entry)
    org.readme = ORG + "x"
    assert fingerprint_of_list(source, client, first) != first


def test_a_missing_list_has_no_fingerprint(client: GitHubClient) -> None:
    with pytest.raises(InputError, match="status 404"):
        fingerprint_of_list(f"{LIST}/none.md", client, None)
