"""The S3 server and the failing proxy of other tests behave as those tests assume."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.objectstore import ObjectStore

READ = """
import json, sys
from imgprep.storage import open_store
store = open_store(sys.argv[1])
try:
    print(json.dumps([store.read("a.txt").decode(), store.size_bytes("a.txt"), store.names()]))
except OSError as exc:
    print(json.dumps([type(exc).__name__, exc.strerror]))
"""


def read(store: ObjectStore) -> list[object]:
    """Read an object through our own store, in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ, f"{store.url}/folder"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not result.stderr
    value: list[object] = json.loads(result.stdout)
    return value


def test_objects_are_read(s3: ObjectStore) -> None:
    s3.put("folder/a.txt", b"hello")
    assert read(s3) == ["hello", 5, ["a.txt"]]
    assert s3.objects("folder/") == {"a.txt": b"hello"}
    assert s3.proxy.heard("GET", "/folder/a.txt")


@pytest.mark.parametrize(
    ("fault", "struck"),
    [
        ({"kind": "drop", "times": 2, "before_server": True}, 2),
        ({"kind": "drop", "times": 2}, 2),
        ({"kind": "drop", "times": 1, "after_bytes": 2, "path": "a.txt", "methods": "GET"}, 1),
        ({"kind": "status", "times": 2}, 2),
        ({"kind": "slow", "times": 1, "after_bytes": 1, "seconds": 0.01, "path": "a.txt"}, 1),
    ],
)
def test_temporary_faults_are_retried(
    s3: ObjectStore, fault: dict[str, object], struck: int
) -> None:
    s3.put("folder/a.txt", b"hello")
    made = s3.proxy.fail(**fault)  # type: ignore[arg-type]
    assert read(s3) == ["hello", 5, ["a.txt"]]
    assert made.struck == struck


def test_expired_credentials_are_reported_at_once(s3: ObjectStore) -> None:
    s3.put("folder/a.txt", b"hello")
    made = s3.proxy.fail("status", status=400, code="ExpiredToken")
    kind, words = read(s3)
    assert (kind, made.struck) == ("PermissionError", 1)
    assert "token has expired" in str(words)
