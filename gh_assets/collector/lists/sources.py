"""Locate and read awesome lists, and detect that they changed.

A list is a local file or folder, or the README, a file or a folder of a repository on GitHub. Files on GitHub are read
as GitHub renders them, so that every markup it knows can be read; where a server does not render, their text is parsed.

Source: docs.github.com/rest/repos/contents.
"""

import hashlib
import posixpath
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

import orjson

from gh_assets.collector.input_tables import as_utf8
from gh_assets.collector.lists.links import (
    GITHUB_HOSTS,
    UnreadableTextError,
    html_links,
    repositories_of,
    repository_of,
)
from gh_assets.collector.lists.markup import MARKUP_SUFFIXES, MAX_SIZE, READABLE_MARKUPS, TOO_LARGE, links_in, suffix_of
from gh_assets.errors import InputError
from gh_assets.github.client import GitHubClient
from gh_assets.github.limits import MAX_REDIRECTS
from gh_assets.github.names import is_full_name
from gh_assets.github.responses import HTML, JSON, RAW, GitHubResponse

MIN_LINKS_OF_A_LIST = 5
"""A list with fewer repositories than this that links to other files is probably an index of lists."""

NAMED = 5
"""Maximum number of files that a note names."""

MAX_FILES = 100
MAX_DEPTH = 3
"""How much of a folder is read: number of files, and levels of folders."""

_NOT_LISTS = re.compile(
    r"(?:contribut|codeofconduct|licen[sc]e|copying|notice|changelog|changes$|history$|releasenotes|security|support$|"
    r"authors$|maintainers$|governance|citation|pullrequesttemplate|issuetemplate|funding$|codeowners$)"
)
_PAGES_OF_LISTS = ("blob", "tree")
_PAGES_OF_FILES = (*_PAGES_OF_LISTS, "raw", "edit", "blame")
_RAW_FILES = "raw.githubusercontent.com"
_NEVER_A_REPOSITORY = MARKUP_SUFFIXES - {".org", ".rest", ".wiki", ".pod"}
_NOT_RENDERED = (403, 406, 415, 422)
"""Status codes of servers that cannot render a file, such as GitHub for a file of more than a megabyte."""

_RAW_MARK = "raw:"
"""Prefix of the ETag of a text that the server did not render."""

FORMS = (
    "a file or folder on this machine, owner/name for a README on GitHub, owner/name/path for a file or folder in a "
    "repository, or the address of one of these on GitHub"
)
"""The forms in which a list can be given, as the end of a sentence."""


@dataclass(frozen=True)
class ListSource:
    """Where a list is.

    Attributes
    ----------
    name : str
        ``owner/name`` or ``owner/name/path`` on GitHub; a local file or folder as it was given.
    local : Path or None
        The file or folder, if it is a local one.
    """

    name: str
    local: Path | None = None

    @property
    def repository(self) -> str:
        return "/".join(self.name.split("/")[:2])

    @property
    def path(self) -> str:
        """The path in the repository; empty for its README."""
        return "/".join(self.name.split("/")[2:])


@dataclass
class ListContent:
    """Contents of a list.

    Attributes
    ----------
    source : ListSource
    repositories : list of str
        In order of appearance, without repetitions.
    files : list of str
        Files in a known markup and folders that it links to, in a form that `read_list` accepts: in its own repository,
        or, for a local list, on this machine and on GitHub.
    missing : list of str
        Relative links of a local list to files that do not exist.
    notes : list of str
        Remarks for the user, in whole sentences.
    """

    source: ListSource
    repositories: list[str]
    files: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class _Document:
    """Links of one file, whose path is the base of relative ones."""

    path: str
    urls: list[str]


def find_source(text: str, api_url: str) -> ListSource:
    """Return the list that a name or an address denotes.

    Parameters
    ----------
    text : str
        A file, ``owner/name``, ``owner/name/path``, or an address of a repository, file or folder. An existing file
        takes precedence; a local folder begins with ``./``, ``/`` or ``~`` where it could be a name on GitHub.
    api_url : str
        Address of the API, whose host is recognized in addition to github.com.

    Raises
    ------
    InputError
        If it is none of these.
    """
    text = text.strip()
    path = Path(text).expanduser()
    name = None if text.startswith((".", "/", "~")) else _name_on_github(text, api_url)
    with suppress(OSError):  # a name too long for a file
        if path.is_file() or (text and name is None and path.is_dir()):
            return ListSource(text, path)
    if name is not None:
        return ListSource(name)
    raise InputError(f"The awesome list {text!r} is neither a file that exists nor owner/name on GitHub: give {FORMS}.")


def _name_on_github(text: str, api_url: str) -> str | None:
    """Return ``owner/name[/path]`` of a name or an address on GitHub, None for anything else."""
    api_host = urlsplit(api_url).hostname or ""
    text = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", text)
    try:
        address = urlsplit(text if "//" in text else f"//{text}")
        host = address.hostname
    except ValueError:
        return None
    if host in (*GITHUB_HOSTS, _RAW_FILES, api_host, api_host.removeprefix("api.")):
        parts = _parts_of(address)
        if host == _RAW_FILES:
            parts.insert(2, "raw")
        path = _path_of_page(parts[2:], _PAGES_OF_FILES) if parts[2:] else []
        if path is None or repository_of(f"https://github.com/{'/'.join(parts[:2])}") is None:
            return None
    elif "//" in text:
        return None
    else:
        parts = text.rstrip("/").split("/")
        page = _path_of_page(parts[2:])  # an address without its host
        path = parts[2:] if page is None else page
    repository = "/".join(parts[:2]).removesuffix(".git")
    if not is_full_name(repository) or any(part in ("", ".", "..") for part in path):
        return None
    if not path and suffix_of(repository) in _NEVER_A_REPOSITORY:
        return None
    return "/".join([repository, *path])


def _parts_of(address: SplitResult) -> list[str]:
    return [unquote(part) for part in address.path.split("/") if part]


def _path_of_page(parts: Sequence[str], pages: Collection[str] = _PAGES_OF_LISTS) -> list[str] | None:
    """Return the path in a repository of its page ``blob/main/path`` or ``tree/refs/tags/v1/path``, None of another."""
    if len(parts) < 2 or parts[0] not in pages:
        return None
    return list(parts[4:] if parts[1:3] in (["refs", "heads"], ["refs", "tags"]) else parts[2:])


def read_list(source: str | ListSource, client: GitHubClient) -> ListContent:
    """Read a list.

    Parameters
    ----------
    source : str or ListSource
        See `find_source`.
    client : GitHubClient

    Raises
    ------
    InputError
        If it does not exist, cannot be read, or is a folder without lists.
    """
    if isinstance(source, str):
        source = find_source(source, client.api_url)
    if source.local is not None:
        return read_local_list(source.name, source.local)
    return _content(source, _files_on_github(source, client))


def read_local_list(name: str, place: Path) -> ListContent:
    """Read a list that is a file or folder on this machine.

    Raises
    ------
    InputError
        See `read_list`.
    """
    return _content(ListSource(name, place), _local_files(name, place))


def _content(source: ListSource, files: "Iterable[_File]") -> ListContent:
    """Read the files of a list."""
    documents: list[_Document] = []
    notes: list[str] = []
    for number, (name, read) in enumerate(files):
        if number == MAX_FILES:
            notes.append(
                f"Of the folder {source.name} only {MAX_FILES} files were read: name the folders or files in it that "
                "are lists."
            )
            break
        try:
            documents.append(read())
        except (UnreadableTextError, OSError) as error:
            if name == source.name or isinstance(error, OSError):
                raise InputError(f"The awesome list {source.name} cannot be read: {error}.") from error
            notes.append(f"The file {name} was left out because it cannot be read: {error}.")
    if not documents:
        reason = " ".join(notes) or f"No file in it is written in {READABLE_MARKUPS}."
        raise InputError(f"The folder {source.name} has no list that can be read. {reason}")
    urls = [url for document in documents for url in document.urls]
    return ListContent(source, repositories_of(urls), *_linked_files(source, documents), notes)


def note_of_other_files(content: ListContent, sources: Iterable[str]) -> str | None:
    """Return a remark about a list that has few repositories and links to other files, None about any other list.

    Parameters
    ----------
    content : ListContent
    sources : iterable of str
        Names of all lists that are read.
    """
    own = content.source.repository
    named = [name for name in sources if name != own]
    # Neither those that are read nor those in a folder that is read.
    files = [file for file in content.files if not any(f"{file}/".startswith(f"{name}/") for name in named)]
    is_local = content.source.local is not None
    count = sum(is_local or name.lower() != own.lower() for name in content.repositories)
    others = files or content.missing
    if count >= MIN_LINKS_OF_A_LIST or not others:
        return None
    start = (
        f"The awesome list {content.source.name} links to {count or 'no'} "
        f"{'repository' if count == 1 else 'repositories'} on GitHub and to other files or folders that may be lists"
    )
    examples = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
    if not files:
        return (
            f"{start} but are not on this machine, {examples}: save them beside it, or name each as it is on GitHub, "
            f"owner/name/{others[0]}, or their folder."
        )
    folder = _common_folder(content.source, files)
    whole = f", or their folder {folder}" if folder else ""
    return f"{start}: to read these, name them as lists, too: {examples}{whole}."


def _common_folder(source: ListSource, files: Sequence[str]) -> str | None:
    """Return the folder that several files have in common, unless it is a whole repository or the list's own folder."""
    folders = {file.rpartition("/")[0] for file in files}
    folder = folders.pop()
    own = None if source.local is None else _local_name(source.local.parent)
    return folder if len(files) > 1 and not folders and folder != own and not is_full_name(folder) else None


def fingerprint_of_list(source: str, client: GitHubClient, seen: str | None) -> str:
    """Return a value that changes when the list does: an ETag of GitHub, or the hash of local files.

    Parameters
    ----------
    source : str
        As for `read_list`.
    client : GitHubClient
    seen : str or None
        The previous fingerprint; if it is still current, the request costs no quota.

    Raises
    ------
    InputError
        If the list cannot be read.
    """
    located = find_source(source, client.api_url)
    if located.local is not None:
        digest = hashlib.sha256()
        try:
            for path in _paths_in(located.local)[:MAX_FILES]:
                digest.update(f"{path}\0".encode() + path.read_bytes())
        except OSError as error:
            raise InputError(f"The awesome list {located.name} cannot be read: {error}.") from error
        return digest.hexdigest()
    # A folder's listing has the hash of each file and folder in it, so its ETag covers all of them.
    is_raw = seen is not None and seen.startswith(_RAW_MARK)
    etag = seen.removeprefix(_RAW_MARK) if seen is not None else None
    accept = RAW if is_raw else _media_type(located.path)
    response = _get(located, client, accept, etag=etag, valid=(304,) if is_raw else (304, *_NOT_RENDERED))
    if response.status in _NOT_RENDERED:
        is_raw, response = True, _get(located, client, RAW)
    if response.status == 304 and seen is not None:
        return seen
    return _RAW_MARK * is_raw + (response.etag or hashlib.sha256(response.content).hexdigest())


# -- on GitHub -------------------------------------------------------------------------------------------------------


def _media_type(path: str) -> str:
    """Return the media type to request: only a listing for a folder, HTML for a file in a markup."""
    return HTML if not path or suffix_of(path) in MARKUP_SUFFIXES else JSON


def _get(
    source: ListSource, client: GitHubClient, accept: str, *, etag: str | None = None, valid: Collection[int] = ()
) -> GitHubResponse:
    """Request a list.

    Raises
    ------
    InputError
        If the status is neither 200 nor one of those that are `valid`.
    """
    location = f"/repos/{source.repository}/"
    location += f"contents/{quote(source.path)}" if source.path else "readme"
    response = client.get(location, accept=accept, etag=etag, redirects=MAX_REDIRECTS)
    if response.status in (200, *valid):
        return response
    if response.status == 451:
        raise InputError(
            f"The awesome list {source.name} is blocked by GitHub for legal reasons (status 451): leave it out."
        )
    advice = ""
    if response.status == 404 and source.path:
        advice = ": check its name and path, which has to be on the repository's default branch"
    elif response.status == 404:
        advice = (
            ": check its name, and if the repository has no README, name a file or folder of it, such as "
            f"{source.name}/lists"
        )
    elif response.status == 403:
        advice = ": give a token that may read this repository, or leave the list out"
    raise InputError(f"The awesome list {source.name} cannot be read from GitHub (status {response.status}){advice}.")


_File = tuple[str, Callable[[], _Document]]
"""The name of a file of a list, and the function that reads it."""


def _files_on_github(source: ListSource, client: GitHubClient) -> Iterator[_File]:
    accept = _media_type(source.path)
    response = _get(source, client, accept, valid=_NOT_RENDERED)
    listing = _json_of(response)
    if isinstance(listing, list):
        for file in _files_in(source, client, listing):
            yield file.name, partial(_read_file, file, client)
    else:
        yield source.name, partial(_read_file, source, client, response if accept == HTML else None)


def _json_of(response: GitHubResponse) -> object:
    if response.payload is not None or "json" not in response.headers.get("content-type", ""):
        return response.payload
    try:
        return orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None


def _read_file(source: ListSource, client: GitHubClient, response: GitHubResponse | None = None) -> _Document:
    """Return the links of a file or a README as GitHub renders it, or of its text where the server does not."""
    response = response or _get(source, client, HTML, valid=_NOT_RENDERED)
    path = source.path
    is_html = "html" in response.headers.get("content-type", "") and response.content.lstrip()[:1] in (b"<", b"")
    if response.status == 200 and is_html:
        rendered = html_links(response.content.decode("utf-8", errors="replace"))
        path = path or rendered.path
        if not rendered.is_plain:
            return _Document(path, rendered.urls)
    if not path:
        described = _get(source, client, JSON).payload
        path = str(described.get("path", "")) if isinstance(described, dict) else ""
    text = _get(source, client, RAW).content.decode("utf-8", errors="replace")
    try:
        return _Document(path, links_in(text, path))
    except UnreadableTextError as error:
        raise UnreadableTextError(f"GitHub did not render {path}, and {error}") from error


def _files_in(folder: ListSource, client: GitHubClient, listing: Sequence[object]) -> Iterator[ListSource]:
    """Yield all files of a folder that are in a known markup, those of folders in it last."""
    listings = deque([(listing, 1)])
    while listings:
        entries, depth = listings.popleft()
        valid = [entry for entry in entries if isinstance(entry, dict) and entry.get("path")]
        for entry in sorted(valid, key=lambda entry: str(entry["path"])):
            inner = ListSource(f"{folder.repository}/{entry['path']}")
            if entry.get("type") == "dir" and depth < MAX_DEPTH:
                below = _get(inner, client, JSON).payload
                listings.append((below if isinstance(below, list) else [], depth + 1))
            elif entry.get("type") == "file" and may_be_a_list(inner.path):
                yield inner


# -- on this machine -------------------------------------------------------------------------------------------------


def _local_files(name: str, place: Path) -> Iterator[_File]:
    for path in _paths_in(place):
        yield name if path == place else str(path), partial(_read_local, path)


def _paths_in(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return [
        path
        for path in sorted(place.rglob("*"), key=lambda path: (len(path.parts), path))
        if len(path.relative_to(place).parts) <= MAX_DEPTH and may_be_a_list(path.name) and path.is_file()
    ]


def _read_local(path: Path) -> _Document:
    """Return the links of a file in UTF-8 or UTF-16."""
    if path.stat().st_size > MAX_SIZE:
        raise UnreadableTextError(TOO_LARGE)
    try:
        text = as_utf8(path.read_bytes()).decode()
    except UnicodeDecodeError as error:
        raise UnreadableTextError("it is not UTF-8: save it as UTF-8") from error
    return _Document(str(path), links_in(text, path.name))


# -- links to other files --------------------------------------------------------------------------------------------


def may_be_a_list(path: str) -> bool:
    """Return whether a file is in a known markup and not about how a repository is run, such as a licence."""
    stem = re.sub(r"[^a-z]", "", posixpath.basename(path).lower().rsplit(".", 1)[0])
    return suffix_of(path) in MARKUP_SUFFIXES and _NOT_LISTS.match(stem) is None


def _may_hold_lists(path: str, link: str) -> bool:
    """Return whether a relative link may lead to a list or a folder of lists: it ends in a slash, or has no suffix."""
    name = posixpath.basename(path)
    is_named = name not in ("", ".", "..") and not name.startswith(".")
    may_be_a_folder = link.endswith("/") or (not suffix_of(name) and _NOT_LISTS.match(name.lower()) is None)
    return bool(link) and (may_be_a_list(path) or (is_named and may_be_a_folder))


def _linked_files(source: ListSource, documents: Sequence[_Document]) -> tuple[list[str], list[str]]:
    """Return the files and folders that documents link to and that may be lists, and those that do not exist."""
    own = {document.path for document in documents}
    files: dict[str, None] = {}
    missing: dict[str, None] = {}
    for base, url in ((document.path, url) for document in documents for url in document.urls):
        with suppress(OSError, ValueError):  # neither an address nor a path
            address = urlsplit(url)
            page = _page_of(address)
            link = "" if address.scheme or address.netloc else unquote(address.path)
            if source.local is None:
                path = posixpath.normpath(posixpath.join("/", posixpath.dirname(base), link)).lstrip("/")
                if page is None and _may_hold_lists(path, link):
                    page = source.repository, path
                if page is not None and page[0].lower() == source.repository.lower() and page[1] not in own:
                    files[f"{source.repository}/{page[1]}"] = None
            elif page is not None:
                files["/".join(page)] = None
            elif _may_hold_lists(name := posixpath.normpath(link).lstrip("/"), link):
                local = Path(base).parent / name
                if not local.exists():
                    missing[name] = None
                elif str(local) not in own and (local.is_dir() or may_be_a_list(name)):
                    files[_local_name(local)] = None
    return list(files), list(missing)


def _page_of(address: SplitResult) -> tuple[str, str] | None:
    """Return the repository and the path in it of a page on GitHub, if it may show a list."""
    is_here = address.netloc.lower() in GITHUB_HOSTS or (not address.netloc and address.path.startswith("/"))
    parts = _parts_of(address)
    path = "/".join(_path_of_page(parts[2:]) or ()) if is_here else ""
    if not path or not (parts[2] == "tree" or may_be_a_list(path)):
        return None
    return "/".join(parts[:2]), path


def _local_name(path: Path) -> str:
    """Return a path in a form that cannot be mistaken for a name on GitHub."""
    name = str(path)
    return name if name.startswith(("/", "~", ".")) else f"./{name}"
