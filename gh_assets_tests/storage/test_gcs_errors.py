"""Tests of the errors of Cloud Storage: which are retried."""

from __future__ import annotations

import http.client

import pytest
import requests
import urllib3
from google.api_core.exceptions import DataLoss, from_http_status
from google.auth.exceptions import RefreshError, TransportError
from google.cloud.storage.exceptions import InvalidResponse
from google.cloud.storage.retry import DEFAULT_RETRY

from gh_assets.storage.gcs_errors import RETRYABLE_STATUS_CODES, is_retryable


def _response(status: int) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    return response


ERRORS: list[Exception] = [
    *(from_http_status(status, "") for status in range(400, 600)),
    *(InvalidResponse(_response(status)) for status in range(400, 600)),
    TransportError(requests.ConnectionError()),
    TransportError(ValueError()),
    RefreshError("the key was deleted"),
    ConnectionResetError(),
    requests.ConnectionError(),
    requests.Timeout(),
    requests.exceptions.ChunkedEncodingError(),
    requests.exceptions.InvalidURL(),
    http.client.BadStatusLine(""),
    http.client.IncompleteRead(b""),
    http.client.ResponseNotReady(),
    urllib3.exceptions.PoolError(None, ""),
    urllib3.exceptions.ProtocolError(),
    urllib3.exceptions.SSLError(),
    urllib3.exceptions.TimeoutError(),
    urllib3.exceptions.LocationParseError(""),
    DataLoss(""),
    ValueError(),
]


def test_errors_are_retried_as_google_retries_them() -> None:
    """If this fails after an upgrade, Google retries other errors: follow it in `gcs_errors`."""
    assert [repr(error) for error in ERRORS if is_retryable(error) != DEFAULT_RETRY._predicate(error)] == []


def test_truncated_response_is_retried_and_an_untrusted_certificate_is_not() -> None:
    assert is_retryable(requests.JSONDecodeError("", "", 0))
    assert not is_retryable(requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"))


@pytest.mark.parametrize("status", sorted(RETRYABLE_STATUS_CODES))
def test_temporary_statuses_are_retried(status: int) -> None:
    assert is_retryable(from_http_status(status, ""))
