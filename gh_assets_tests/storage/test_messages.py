"""Tests of messages: which updates are valid, and their JSON."""

import datetime as dt
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gh_assets.storage.messages import Message, versioned
from gh_assets_tests.support.messages import INVALID, START


@pytest.mark.parametrize(("message", "reason"), INVALID)
def test_invalid_message_raises_an_error_with_the_reason(message: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        Message.parse(json.dumps(message))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_bytes_are_parsed_as_a_message_or_raise_a_value_error(raw: bytes) -> None:
    try:
        parsed = Message.parse(raw)
    except ValueError:
        return
    assert Message.parse(parsed.to_json()) == parsed


@given(
    value=st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True),
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20)
        | st.binary(max_size=20) | st.datetimes(timezones=st.just(dt.UTC)) | st.lists(st.integers(0, 9), max_size=4),
        max_size=5,
    )
)  # fmt: skip
def test_message_is_equal_to_what_is_parsed_from_its_json(value: dict[str, Any]) -> None:
    message = Message(update=versioned("feedback", "a/b", "choice", value, START))
    assert Message.parse(message.to_json()) == message
