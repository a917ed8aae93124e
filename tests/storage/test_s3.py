"""What a user gets wrong about S3, and what the network does, on a real server."""

import socket
import threading
from contextlib import closing
from typing import Self

import pytest

from specop.api import reasons
from specop.api.jobs import StoreConfig
from specop.common.errors import Terminal, UserError
from specop.storage.base import CHUNK, StorageUnreachable, Store
from specop.storage.s3 import S3Store
from tests.storage.server import S3Server

pytestmark = pytest.mark.control_plane


@pytest.fixture
def keys(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3


CALLS = {
    "head": lambda store, uri: store.head(uri),
    "get": lambda store, uri: store.get(uri),
    "put": lambda store, uri: store.put(uri, b""),
    "put_if_absent": lambda store, uri: store.put_if_absent(uri, b""),
    "list": lambda store, uri: list(store.list(uri)),
    "delete": lambda store, uri: store.delete(uri),
}


def refusal(store: Store, call: str, uri: str) -> Terminal:
    with pytest.raises(UserError) as caught:
        CALLS[call](store, uri)
    assert uri in caught.value.message
    return caught.value


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_bucket_is_named(keys: S3Server, call: str) -> None:
    error = refusal(S3Store(keys.config), call, "s3://no-such-bucket/key")
    assert (error.reason, "'no-such-bucket'" in error.message) == (reasons.BUCKET_NOT_FOUND, True)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys_are_denied(keys: S3Server, call: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = keys.new_bucket()
    monkeypatch.setenv(wrong, "wrong")
    error = refusal(S3Store(keys.config), call, f"s3://{bucket}/key")
    assert error.reason == reasons.STORAGE_ACCESS_DENIED
    assert keys.secret_key not in error.message


def test_missing_keys_are_denied(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in s3.environment:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    assert refusal(S3Store(s3.config), "get", "s3://bucket/key").reason == reasons.STORAGE_ACCESS_DENIED


def test_a_name_that_is_no_bucket(keys: S3Server) -> None:
    assert refusal(S3Store(keys.config), "get", "s3://No_Bucket!/key").reason == reasons.BUCKET_NOT_FOUND


def test_nobody_there_is_unreachable_and_says_where(keys: S3Server) -> None:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with pytest.raises(StorageUnreachable, match="did not answer"):
        S3Store(StoreConfig(endpoint_url=url), attempts=2).get("s3://bucket/key")


def test_a_stream_goes_on_where_a_connection_broke(keys: S3Server) -> None:
    bucket, data = keys.new_bucket(), bytes(range(256)) * (12 * CHUNK // 256)
    S3Store(keys.config).put(f"s3://{bucket}/key", data)
    with CuttingProxy(keys.url, after=3 * CHUNK) as proxy:
        store = S3Store(StoreConfig(endpoint_url=proxy.url, region="us-east-1"))
        assert b"".join(store.stream(f"s3://{bucket}/key")) == data
        assert store.get_range(f"s3://{bucket}/key", CHUNK, 9 * CHUNK) == data[CHUNK : 10 * CHUNK]
    assert proxy.connections > 4


class CuttingProxy:
    """Passes bytes on and cuts each connection after so many bytes of answer."""

    def __init__(self, upstream: str, after: int) -> None:
        self._upstream = ("127.0.0.1", int(upstream.rpartition(":")[2]))
        self._after = after
        self.connections = 0

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        workers = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            self.connections += 1
            workers.append(threading.Thread(target=self._serve, args=(client,)))
            workers[-1].start()
        for worker in workers:
            worker.join()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._upstream) as server:
            upward = threading.Thread(target=_copy, args=(client, server, None))
            upward.start()
            _copy(server, client, self._after)
            for end in (client, server):
                end.close()
            upward.join()


def _copy(source: socket.socket, goal: socket.socket, limit: int | None) -> None:
    passed = 0
    try:
        while (limit is None or passed < limit) and (data := source.recv(65536)):
            goal.sendall(data)
            passed += len(data)
    except OSError:
        return
    finally:
        for end in (source, goal):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
