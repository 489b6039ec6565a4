"""Tests of the messages about errors of MongoDB."""

from pymongo.errors import AutoReconnect, OperationFailure

from gh_assets.storage.mongo import mongo_reason


def test_reason_has_name_and_code_of_an_error_and_no_document() -> None:
    unauthorized = OperationFailure("x", 13, {"codeName": "Unauthorized", "errmsg": "not authorized to insert"})
    assert mongo_reason(unauthorized) == "Unauthorized (code 13): not authorized to insert"
    duplicate = OperationFailure("x", 11000, {"codeName": "DuplicateKey", "errmsg": 'dup key: { login: "octocat" }'})
    assert mongo_reason(duplicate) == "DuplicateKey (code 11000)"
    assert mongo_reason(AutoReconnect("mongodb://user:secret@host")) == "AutoReconnect"
