"""The messages that change MongoDB.

A message inserts a user, updates one document, or both; either part may be empty::

    {"insert": {"uid": 5001, "login": "octo"},
     "update": {"collection": "repos", "where": {"_id": 7}, "change": {"$max": {"stars": 12}}}}

An update contains its condition and its change, so that a new kind of update needs no new code here. Updates are
limited to changes that are idempotent and commutative:

* ``$max`` and ``$min`` of fields, with ``where: {"_id": …}``;
* ``$set`` of one versioned sub-document, called a register, which replaces an older version as a whole, with
  ``where: {"_id": …, "<register>.version": {"$lt": version}}``. The version is a time followed by a digest of the
  content (see `versioned`), so that of two registers with the same time the same one wins everywhere.

A stream can therefore be applied twice, in any order, by concurrent consumers, or again after a crash, with the same
result. ``$push``, ``$addToSet`` and ``$inc`` are rejected because they grow without bound or count twice. Numerous
facts, such as stars, are one small document each.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import re
from collections.abc import Mapping
from typing import Any, Self

import orjson
from bson import BSON
from bson.errors import InvalidDocument
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from gh_assets.storage.documents import as_stored
from gh_assets.storage.mongo import Collections

COLLECTIONS = frozenset(
    {
        Collections.USERS,
        Collections.REPOS,
        Collections.UNSTARS,
        Collections.STARGAZER_STATE,
        Collections.STARRED_STATE,
        Collections.STAR_HISTORY_STATE,
        Collections.FEEDBACK,
    }
)
"""Collections that messages may change."""

OPERATORS = frozenset({"$set", "$max", "$min"})
"""Operators that messages may use."""

MAX_BYTES = 64 * 1024
"""Maximum size of an update; documents stay far below MongoDB's limit of 16 MB."""

_PROTECTED: Mapping[str, frozenset[str]] = {Collections.USERS: frozenset({"login", "seen"})}
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,63}")
_VERSION = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z-[0-9a-f]{16}")

Document = dict[str, Any]
DocumentId = int | str


class UserInsert(BaseModel):
    """A user; of several logins of one id, the one seen last is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    uid: int = Field(description="GitHub's database id", ge=-(2**63), lt=2**63)
    login: str = Field(pattern=r"^[A-Za-z0-9_\[\]-]{1,100}$")
    seen_at: dt.datetime | None = Field(default=None, description="Time at which the login was read (UTC)")

    @field_validator("seen_at", mode="before")
    @classmethod
    def _parse_time(cls, value: Any) -> Any:
        value = dt.datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(value, dt.datetime) and value.tzinfo is None:
            raise ValueError("seen_at has no time zone")
        return value

    @property
    def seen(self) -> str:
        """Sort key of the logins of one user: by time, then by name."""
        return f"{_stamp(self.seen_at) if self.seen_at is not None else ''} {self.login}"


class Update(BaseModel):
    """A change of one document of an allowed collection; the module describes the permitted changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    collection: str
    where: Document
    change: dict[str, Document]
    _is_valid: bool = PrivateAttr(False)

    @field_validator("collection")
    @classmethod
    def _check_collection(cls, name: str) -> str:
        if name not in COLLECTIONS:
            raise ValueError(f"the collection {name[:80]!r} is not one of {', '.join(sorted(COLLECTIONS))}")
        return name

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self._is_valid:
            return self  # pydantic validates it once more as a part of a message
        identity = self.where.get("_id")
        if isinstance(identity, bool) or not isinstance(identity, (int, str)) or identity == "":
            raise ValueError("where must name one document by its _id, a number or a string")
        if not self.change:
            raise ValueError("change is empty")
        for operator, fields in self.change.items():
            if operator not in OPERATORS:
                raise ValueError(f"the operator {operator[:40]!r} is not one of {', '.join(sorted(OPERATORS))}")
            if not fields:
                raise ValueError(f"{operator} changes no field")
            self._check_fields(operator, fields)
        if "$set" in self.change:
            self._check_register()
        elif set(self.where) != {"_id"}:
            raise ValueError("where of $max and $min must be the _id alone: another condition depends on the order")
        self._check_size()
        self._is_valid = True
        return self

    def _check_fields(self, operator: str, fields: Document) -> None:
        for name, value in fields.items():
            if not _FIELD.fullmatch(name):
                raise ValueError(f"the field {name[:80]!r} is not a plain lower-case name")
            if name in _PROTECTED.get(self.collection, ()):
                raise ValueError(f"the field {name!r} of {self.collection} is changed by inserts only")
            _check_value(value)
            ordered = isinstance(value, (int, float, str, dt.datetime)) and not isinstance(value, bool)
            if operator != "$set" and not ordered:
                raise ValueError(f"{operator} of {name!r} needs a number, a string or a time")

    def _check_size(self) -> None:
        try:
            size = len(BSON.encode(dict(self.change)))
        except (InvalidDocument, OverflowError) as error:
            raise ValueError(f"the change cannot be stored: {error}") from None
        if size > MAX_BYTES:
            raise ValueError(f"the change has {size} bytes, more than {MAX_BYTES}")

    def _check_register(self) -> None:
        registers = self.change["$set"]
        if len(self.change) != 1 or len(registers) != 1:
            raise ValueError("$set must be the only operator and set one register")
        ((name, value),) = registers.items()
        if not isinstance(value, dict) or not isinstance(value.get("version"), str):
            raise ValueError(f"the register {name!r} has no version")
        version = value["version"]
        if not _VERSION.fullmatch(version) or version.rsplit("-", 1)[1] != _digest(value):
            raise ValueError(f"the version of the register {name!r} does not match its content")
        if self.where != {"_id": self.where["_id"], f"{name}.version": {"$lt": version}}:
            raise ValueError(f'where must be the _id and "{name}.version": {{"$lt": the new version}}')


class Message(BaseModel):
    """A message; an empty part may be missing, null or ``{}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    insert: UserInsert | None = None
    update: Update | None = None

    @field_validator("insert", "update", mode="before")
    @classmethod
    def _drop_empty(cls, part: Any) -> Any:
        return None if part == {} else part

    @classmethod
    def parse(cls, raw: bytes | str) -> Message:
        """Parse a message from JSON; times have the form ``{"$date": "2026-01-01T00:00:00Z"}``.

        Raises
        ------
        ValueError
            If it is not a valid message. The error quotes no values, which may be confidential.
        """
        try:
            return cls.model_validate(_decode(orjson.loads(raw)))
        except orjson.JSONDecodeError:
            raise ValueError("the message is not JSON") from None
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None

    def to_json(self) -> bytes:
        """Return the JSON that `parse` reads."""
        return orjson.dumps(self.model_dump(exclude_none=True), option=orjson.OPT_PASSTHROUGH_DATETIME, default=_encode)


def versioned(
    collection: str, identity: DocumentId, register: str, value: Mapping[str, Any], at: dt.datetime
) -> Update:
    """Create an update that sets a register unless the document has a later version of it.

    Parameters
    ----------
    collection : str
    identity : int or str
        The document's ``_id``.
    register : str
        Name of the sub-document.
    value : mapping
        Its content.
    at : datetime
        Time of the content, with a time zone: the latest version wins.
    """
    content = {name: as_stored(entry) for name, entry in value.items() if name != "version"}
    version = f"{_stamp(at)}-{_digest(content)}"
    older = {"_id": identity, f"{register}.version": {"$lt": version}}
    return Update(collection=collection, where=older, change={"$set": {register: content | {"version": version}}})


def _check_value(value: Any, depth: int = 0) -> None:
    if depth > 4:
        raise ValueError("a value is nested more than four levels deep")
    if isinstance(value, dict):
        for name, entry in value.items():
            if not isinstance(name, str) or not name or name[0] == "$" or "." in name or "\0" in name:
                raise ValueError(f"a value has the field {str(name)[:80]!r}, which is not a plain name")
            _check_value(entry, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            _check_value(entry, depth + 1)
    elif isinstance(value, bool) or value is None or isinstance(value, (str, bytes, dt.datetime)):
        return
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValueError("a number has more than 64 bits")
    elif isinstance(value, float):
        if value != value:
            raise ValueError("a number is NaN")
    else:
        raise ValueError(f"a value has the type {type(value).__name__}, which messages do not support")


def _digest(register: Mapping[str, Any]) -> str:
    content = {name: value for name, value in register.items() if name != "version"}
    options = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS
    canonical = orjson.dumps(content, option=options, default=_encode)
    return hashlib.blake2b(canonical, digest_size=8).hexdigest()


def _stamp(at: dt.datetime) -> str:
    return at.astimezone(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _encode(value: Any) -> Any:
    """Return the JSON form of a time or of bytes."""
    if isinstance(value, dt.datetime):
        return {"$date": _stamp(value)}
    if isinstance(value, bytes):
        return {"$binary": base64.b64encode(value).decode()}
    raise TypeError(type(value).__name__)


def _decode(value: Any) -> Any:
    """Restore the times and bytes in parsed JSON."""
    if isinstance(value, dict):
        if value.keys() == {"$date"} and isinstance(value["$date"], str):
            time = dt.datetime.fromisoformat(value["$date"])
            if time.tzinfo is None:
                raise ValueError("a time has no time zone")
            return time
        if value.keys() == {"$binary"} and isinstance(value["$binary"], str):
            return base64.b64decode(value["$binary"], validate=True)
        return {name: _decode(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_decode(entry) for entry in value]
    return value
