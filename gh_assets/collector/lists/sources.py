"""Locate and read awesome lists, and detect that they changed.

A list is a local file or folder, or the README, a file or a folder of a repository on GitHub. Files on GitHub are read
as GitHub renders them, so that every markup it knows can be read; where a server does not render, their text is parsed.

Source: docs.github.com/rest/repos/contents.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

import orjson

from gh_assets.collector.input_tables import read_text
from gh_assets.collector.lists.awesome import repositories_of, repository_of
from gh_assets.collector.lists.links import html_links
from gh_assets.collector.lists.markup import MARKUP_SUFFIXES, MAX_SIZE, READABLE_MARKUPS, TOO_LARGE, links_in, suffix_of
from gh_assets.errors import InputError
from gh_assets.github.client import GitHubClient
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
_PAGES_OF_FILES = ("blob", "tree", "raw", "edit", "blame")
_NEVER_A_REPOSITORY = MARKUP_SUFFIXES - {".org", ".rest", ".wiki", ".pod"}
_REDIRECTS = (301, 302, 307)
_NOT_RENDERED = (403, 406, 415, 422)
"""Status codes of servers that cannot render a file, such as GitHub for a file of more than a megabyte."""

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
        Files in a known markup and folders that it links to in its own repository or on this machine, in a form that
        `read_list` accepts.
    pages : list of str
        Files and folders on GitHub that a local list links to.
    missing : list of str
        Relative links of a local list to files that do not exist.
    notes : list of str
        Remarks for the user, in whole sentences.
    """

    source: ListSource
    repositories: list[str]
    files: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
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
    is_local_form = text.startswith((".", "/", "~"))
    try:
        if path.is_file():
            return ListSource(text, path)
        is_folder = bool(text) and path.is_dir()
    except OSError:  # a name too long for a file
        is_folder = False
    name = None if is_local_form else _on_github(text, api_url)
    if name is not None:
        return ListSource(name)
    if is_folder:
        return ListSource(text, path)
    raise InputError(f"The awesome list {text!r} is neither a file that exists nor owner/name on GitHub: give {FORMS}.")


def _on_github(text: str, api_url: str) -> str | None:
    """Return ``owner/name[/path]`` of a name or an address on GitHub, None for anything else."""
    host = urlsplit(api_url).hostname or ""
    hosts = {"github.com", "www.github.com", "raw.githubusercontent.com", host, host.removeprefix("api.")}
    ssh = re.fullmatch(r"(?:ssh://)?git@([^:/]+)[:/](.+)", text)
    if ssh is not None:
        text = f"https://{ssh[1]}/{ssh[2]}"
    try:
        address = urlsplit(text if "//" in text else f"//{text}")
        named_host = address.hostname
    except ValueError:
        return None
    if named_host in hosts:
        parts = [unquote(part) for part in address.path.split("/") if part]
        if named_host == "raw.githubusercontent.com":
            parts.insert(2, "raw")
        if len(parts) < 2 or repository_of(f"https://github.com/{parts[0]}/{parts[1]}") is None:
            return None
        rest = parts[2:]
        if rest:
            if rest[0] not in _PAGES_OF_FILES or len(rest) < 2:
                return None
            rest = _path_of_page(rest)
    elif "//" in text:
        return None
    else:
        parts = text.rstrip("/").split("/")
        rest = parts[2:]
        if rest[:1] in (["blob"], ["tree"]) and len(rest) > 1:  # an address without its host
            rest = _path_of_page(rest)
    owner_and_name = "/".join(parts[:2]).removesuffix(".git")
    if not is_full_name(owner_and_name) or any(part in ("", ".", "..") for part in rest):
        return None
    if not rest and suffix_of(owner_and_name) in _NEVER_A_REPOSITORY:
        return None
    return "/".join([owner_and_name, *rest])


def _path_of_page(parts: list[str]) -> list[str]:
    """Return the path in a repository of its page ``blob/main/path`` or ``tree/refs/tags/v1/path``."""
    return parts[4:] if parts[1:3] in (["refs", "heads"], ["refs", "tags"]) else parts[2:]


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
    notes: list[str] = []
    try:
        documents = list(_local(source, notes) if source.local is not None else _remote(source, client, notes))
    except _UnreadableError as error:
        raise InputError(f"The awesome list {source.name} {error}.") from error
    if not documents:
        reason = " ".join(notes) or f"No file in it is written in {READABLE_MARKUPS}."
        raise InputError(f"The folder {source.name} has no list that can be read. {reason}")
    urls = [url for document in documents for url in document.urls]
    content = ListContent(source, repositories_of(urls), notes=notes)
    if source.local is not None:
        _find_local_files(documents, content)
    else:
        content.files = _files_beside(source.repository, documents)
    return content


def note_of_other_files(content: ListContent, sources: Iterable[str] = ()) -> str | None:
    """Return a remark about a list that has few repositories and links to other files, None about any other list.

    Parameters
    ----------
    content : ListContent
    sources : iterable of str
        Names of all lists that are read.
    """
    own = content.source.repository
    named = list(sources)
    files = _without_named(content.files, [name for name in named if name != own])
    pages = _without_named(content.pages, named)
    count = len(content.repositories)
    if content.source.local is None:
        count -= own.lower() in (name.lower() for name in content.repositories)
    if count >= MIN_LINKS_OF_A_LIST or not (files or pages or content.missing):
        return None
    start = (
        f"The awesome list {content.source.name} links to {count or 'no'} "
        f"{'repository' if count == 1 else 'repositories'} on GitHub and to other files or folders that may be lists"
    )
    others = [*files, *pages] or content.missing
    examples = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
    if not (files or pages):
        return (
            f"{start} but are not on this machine, {examples}: save them beside it, or name each as it is on GitHub, "
            f"owner/name/{others[0]}, or their folder."
        )
    folder = _folder_of(content.source, files) if not pages else _common_folder(pages) if not files else ""
    whole = f", or their folder {folder}" if folder else ""
    return f"{start}: to read these, name them as lists, too: {examples}{whole}."


def _without_named(names: Iterable[str], named: Sequence[str]) -> list[str]:
    """Return the names that are neither among those `named` nor in a folder among them."""
    return [name for name in names if not any(name == one or name.startswith(f"{one}/") for one in named)]


def _folder_of(source: ListSource, files: Sequence[str]) -> str:
    """Return the common folder of several files; empty if there is none, or if it is the list's own."""
    if source.local is None:
        return _common_folder(files)
    folders = {name.rpartition("/")[0] for name in files}
    if len(files) < 2 or len(folders) > 1:
        return ""
    folder = folders.pop()
    if not folder or Path(folder) == source.local.parent:
        return ""
    return _local_folder(folder)


def _common_folder(names: Sequence[str]) -> str:
    """Return the common folder of several files in a repository as ``owner/name/path``; empty if there is none."""
    folders = {name.rpartition("/")[0] for name in names}
    folder = folders.pop()
    return folder if len(names) > 1 and not folders and folder.count("/") > 1 else ""


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
    try:
        if located.local is not None:
            digest = hashlib.sha256()
            for path in _local_paths(located.local, []):
                digest.update(f"{path}\0".encode() + path.read_bytes())
            return digest.hexdigest()
        # A folder's listing has the hash of each file and folder in it, so its ETag covers all of them.
        raw = seen is not None and seen.startswith(_RAW_MARK)
        tag = seen.removeprefix(_RAW_MARK) if seen is not None else None
        response = _request(located, client, RAW if raw else _media_type(located.path), etag=tag)
        if not raw and response.status in _NOT_RENDERED:
            raw, response = True, _request(located, client, RAW)
        if response.status == 304 and seen is not None:
            return seen
        _check(located, response)
        return (_RAW_MARK if raw else "") + (response.etag or hashlib.sha256(response.content).hexdigest())
    except (_UnreadableError, OSError) as error:
        raise InputError(f"The awesome list {located.name} {_reason(error)}.") from error


_RAW_MARK = "raw:"
"""Prefix of the ETag of a text that the server did not render."""


class _UnreadableError(Exception):
    """A list cannot be read; the message is the predicate of a sentence about it, such as "cannot be read: …"."""


class _UnreadableTextError(_UnreadableError):
    """The text of a file cannot be parsed; the other files of its folder may be readable."""


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, _UnreadableError) else f"cannot be read: {error}"


# -- on GitHub -------------------------------------------------------------------------------------------------------


def _media_type(path: str) -> str:
    """Return the media type to request: only a listing for a folder, HTML for a file in a markup."""
    return HTML if not path or suffix_of(path) in MARKUP_SUFFIXES else JSON


def _request(source: ListSource, client: GitHubClient, accept: str, *, etag: str | None = None) -> GitHubResponse:
    location = f"/repos/{source.repository}/"
    location += f"contents/{quote(source.path)}" if source.path else "readme"
    for _ in range(5):
        response = client.get(location, accept=accept, etag=etag)
        if response.status not in _REDIRECTS or not response.headers.get("location"):
            break
        location = response.headers["location"]
    return response


def _check(source: ListSource, response: GitHubResponse) -> None:
    if response.status == 200:
        return
    if response.status == 451:
        raise _UnreadableError("is blocked by GitHub for legal reasons (status 451): leave it out")
    if response.status == 404 and source.path:
        advice = ": check its name and path, which has to be on the repository's default branch"
    elif response.status == 404:
        advice = (
            ": check its name, and if the repository has no README, name a file or folder of it, such as "
            f"{source.name}/lists"
        )
    elif response.status in (401, 403):
        advice = ": give a token that may read this repository, or leave the list out"
    elif response.status >= 500:
        advice = ": the server failed; try again later, and see githubstatus.com whether GitHub has an outage"
    else:
        advice = ""
    raise _UnreadableError(f"cannot be read from GitHub (status {response.status}){advice}")


def _remote(source: ListSource, client: GitHubClient, notes: list[str]) -> Iterator[_Document]:
    accept = _media_type(source.path)
    response = _request(source, client, accept)
    if response.status not in _NOT_RENDERED:
        _check(source, response)
        entries = _json_of(response)
        if isinstance(entries, list):
            yield from _folder(source, client, entries, notes)
            return
    yield _file(source, client, response if accept == HTML else _request(source, client, HTML))


def _file(source: ListSource, client: GitHubClient, response: GitHubResponse | None = None) -> _Document:
    """Return the links of a file or a README as GitHub renders it, or of its text where the server does not."""
    response = response or _request(source, client, HTML)
    path = source.path
    if response.status not in _NOT_RENDERED:
        _check(source, response)
        if "html" in response.headers.get("content-type", "") and response.content.lstrip()[:1] in (b"<", b""):
            rendered = html_links(response.content.decode("utf-8", errors="replace"))
            path = path or rendered.path
            if not rendered.is_plain:
                return _Document(path, rendered.urls)
    if not path:
        described = _request(source, client, JSON)
        _check(source, described)
        path = str(described.payload.get("path", "")) if isinstance(described.payload, dict) else ""
    text = _request(source, client, RAW)
    _check(source, text)
    try:
        return _Document(path, links_in(text.content.decode("utf-8", errors="replace"), path))
    except InputError as error:
        raise _UnreadableTextError(f"cannot be read: GitHub did not render {path}, and {error}") from error


def _json_of(response: GitHubResponse) -> object:
    if response.payload is not None or "json" not in response.headers.get("content-type", ""):
        return response.payload
    try:
        return orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None


def _folder(
    source: ListSource, client: GitHubClient, listing: Sequence[object], notes: list[str]
) -> Iterator[_Document]:
    """Yield all files of a folder that are in a known markup, those of folders in it last."""
    folders = [(listing, 1)]
    left = MAX_FILES
    while folders:
        entries, depth = folders.pop(0)
        valid = [entry for entry in entries if isinstance(entry, dict) and entry.get("path")]
        for entry in sorted(valid, key=lambda entry: str(entry["path"])):
            inner = ListSource(f"{source.repository}/{entry['path']}")
            if entry.get("type") == "dir" and depth < MAX_DEPTH:
                response = _request(inner, client, JSON)
                _check(inner, response)
                folders.append((response.payload if isinstance(response.payload, list) else [], depth + 1))
            elif entry.get("type") == "file" and may_be_a_list(inner.path):
                if not left:
                    notes.append(_too_many(source))
                    return
                left -= 1
                try:
                    document = _file(inner, client)
                except _UnreadableTextError as error:
                    notes.append(_left_out(inner.name, error))
                else:
                    yield document


def _too_many(source: ListSource) -> str:
    return (
        f"Of the folder {source.name} only {MAX_FILES} files were read: name the folders or files in it that are lists."
    )


def _left_out(name: str, error: _UnreadableTextError) -> str:
    return f"The file {name} was left out because it {error}."


def may_be_a_list(path: str) -> bool:
    """Return whether a file is in a known markup and not about how a repository is run, such as a licence."""
    stem = re.sub(r"[^a-z]", "", posixpath.basename(path).lower().rsplit(".", 1)[0])
    return suffix_of(path) in MARKUP_SUFFIXES and _NOT_LISTS.match(stem) is None


def _files_beside(repository: str, documents: Sequence[_Document]) -> list[str]:
    """Return files and folders of the same repository that documents link to, by relative or absolute address."""
    own = {document.path for document in documents}
    linked: dict[str, None] = {}
    for document in documents:
        for url in document.urls:
            path = _path_in(repository, document.path, url)
            if path is not None and path not in own:
                linked[f"{repository}/{path}"] = None
    return list(linked)


def _path_in(repository: str, base: str, url: str) -> str | None:
    """Return the path in the repository that a link in its file `base` points to, if it may be a list."""
    try:
        address = urlsplit(url)
    except ValueError:
        return None
    page = _page_of(address)
    if page is not None:
        return page[1] if page[0].lower() == repository.lower() else None
    path = unquote(address.path)
    if address.scheme or address.netloc or not path:
        return None
    joined = posixpath.normpath(posixpath.join("/", posixpath.dirname(base), path)).lstrip("/")
    return joined if may_be_a_list(joined) or _may_be_a_folder(joined, path) else None


def _page_of(address: SplitResult) -> tuple[str, str] | None:
    """Return the repository and the path in it of a page on GitHub, if it may show a list."""
    parts = [part for part in unquote(address.path).split("/") if part]
    is_here = address.netloc.lower() in ("github.com", "www.github.com") or (
        not address.netloc and address.path.startswith("/")
    )
    if not is_here or parts[2:3] not in (["blob"], ["tree"]):
        return None
    path = "/".join(_path_of_page(parts[2:]))
    if not path or not (parts[2] == "tree" or may_be_a_list(path)):
        return None
    return f"{parts[0]}/{parts[1]}", path


def _may_be_a_folder(path: str, link: str) -> bool:
    """Return whether a relative link may lead to a folder of lists: it ends in a slash, or its name has no suffix."""
    name = posixpath.basename(path)
    is_named = name not in ("", ".", "..") and not name.startswith(".")
    return is_named and (link.endswith("/") or (not suffix_of(name) and _NOT_LISTS.match(name.lower()) is None))


# -- on this machine -------------------------------------------------------------------------------------------------


def _local_paths(place: Path, notes: list[str]) -> list[Path]:
    if place.is_file():
        return [place]
    paths = [
        path
        for path in sorted(place.rglob("*"), key=lambda path: (len(path.parts), path))
        if len(path.relative_to(place).parts) <= MAX_DEPTH and may_be_a_list(path.name) and path.is_file()
    ]
    if len(paths) > MAX_FILES:
        notes.append(_too_many(ListSource(str(place), place)))
    return paths[:MAX_FILES]


def _local(source: ListSource, notes: list[str]) -> Iterator[_Document]:
    assert source.local is not None
    for path in _local_paths(source.local, notes):
        try:
            document = _Document(str(path), links_in(_local_text(path), path.name))
        except OSError as error:
            inside = "" if path == source.local else f"{path}: "
            raise _UnreadableError(f"cannot be read: {inside}{error}") from error
        except InputError as error:
            unreadable = _UnreadableTextError(f"cannot be read: {error}")
            if path == source.local:
                raise unreadable from error
            notes.append(_left_out(str(path), unreadable))
        else:
            yield document


def _local_text(path: Path) -> str:
    """Read a file's text in UTF-8 or UTF-16."""
    if path.stat().st_size > MAX_SIZE:
        raise InputError(TOO_LARGE)
    with path.open("rb") as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
    try:
        if not is_compressed:
            return read_text(path).decode()
    except UnicodeDecodeError:
        pass
    raise InputError("it is not UTF-8: save it as UTF-8")


def _find_local_files(documents: Sequence[_Document], content: ListContent) -> None:
    """Record the files and folders that documents link to: local ones, those on GitHub, and missing ones."""
    own = {Path(document.path) for document in documents}
    local: dict[str, None] = {}
    pages: dict[str, None] = {}
    missing: dict[str, None] = {}
    for document in documents:
        for url in document.urls:
            try:
                address = urlsplit(url)
                page = _page_of(address)
                if page is not None:
                    pages["/".join(page)] = None
                    continue
                link = unquote(address.path)
                name = posixpath.normpath(link).lstrip("/")
                path = Path(document.path).parent / name
                if address.scheme or address.netloc or not link or path in own:
                    continue
                if may_be_a_list(name) and path.is_file():
                    local[str(path)] = None
                elif _may_be_a_folder(name, link) and path.is_dir():
                    local[_local_folder(str(path))] = None
                elif (may_be_a_list(name) or _may_be_a_folder(name, link)) and not path.exists():
                    missing[name] = None
            except (OSError, ValueError):  # neither an address nor a path
                continue
    content.files, content.pages, content.missing = list(local), list(pages), list(missing)


def _local_folder(folder: str) -> str:
    """Return a folder in a form that cannot be mistaken for a name on GitHub."""
    return folder if folder.startswith(("/", "~", ".")) else f"./{folder}"
