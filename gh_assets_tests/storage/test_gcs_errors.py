"""Tests of the errors of Cloud Storage: which are retried."""

import pytest
import requests
from google.api_core.exceptions import DataLoss, GoogleAPICallError, from_http_status
from google.auth.exceptions import RefreshError, TransportError

from gh_assets.storage.gcs_errors import is_retryable


def status_error(status: int) -> GoogleAPICallError:
    return from_http_status(status, "")  # type: ignore[no-untyped-call, no-any-return]


TEMPORARY = [
    *(status_error(status) for status in (408, 429, 500, 502, 503, 504)),
    ConnectionResetError(),
    requests.Timeout(),
    TransportError(requests.ConnectionError()),  # type: ignore[no-untyped-call]
    requests.JSONDecodeError("", "", 0),  # a truncated response
]
LASTING = [
    status_error(404),
    status_error(412),
    DataLoss(""),  # type: ignore[no-untyped-call]
    RefreshError("the key was deleted"),  # type: ignore[no-untyped-call]
    requests.exceptions.InvalidURL(),
    requests.exceptions.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"),
    ValueError(),
]


@pytest.mark.parametrize("error", TEMPORARY + LASTING, ids=repr)
def test_only_temporary_errors_are_retried(error: Exception) -> None:
    assert is_retryable(error) is (error in TEMPORARY)
