"""S3 and what speaks its protocol, by boto3. Credentials come from the environment, as boto3 finds them.

Errors are told apart once, here: what a user must mend becomes a `UserError` with a reason, what may pass becomes
`StorageUnreachable` after the client's own retries with backoff. Races: `put_if_absent` is `If-None-Match: *`, decided
by the server; a stream pins the etag of its first answer, so that a resumed read never mixes two versions.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from boto3.exceptions import S3UploadFailedError
from botocore import exceptions as boto
from botocore.config import Config

from specop.api import reasons
from specop.api.jobs import StoreConfig
from specop.common.errors import Conflict, UserError
from specop.storage.base import CHUNK, NotFound, ObjectInfo, StorageUnreachable
from specop.storage.uri import Location, parse

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ATTEMPTS = 8
"""Of one call, with exponential backoff: a good half minute until a store counts as unreachable."""
_NOT_FOUND, _PRECONDITION_FAILED, _RANGE = 404, 412, 416
_CONFLICT = 409
_DENIED = (401, 403)
_BROKEN = (boto.ResponseStreamingError, boto.ReadTimeoutError, boto.IncompleteReadError, boto.ConnectionClosedError)


class S3Store:
    """`Store` over one endpoint; any number of buckets."""

    def __init__(self, config: StoreConfig, attempts: int = ATTEMPTS) -> None:
        self._attempts = attempts
        self._known_buckets: set[str] = set()
        self._client: S3Client = boto3.Session().client(
            "s3",
            endpoint_url=config.endpoint_url,
            region_name=config.region
            or os.environ.get("AWS_REGION")
            or os.environ.get("AWS_DEFAULT_REGION")
            or "us-east-1",
            verify=config.ca_bundle,
            config=Config(
                retries={"mode": "standard", "total_max_attempts": attempts},
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=32,
                s3={"addressing_style": "path" if config.endpoint_url else "auto"},
            ),
        )

    def head(self, uri: str) -> ObjectInfo:
        """See Store."""
        at = parse(uri)
        with self._translated(uri):
            answer = self._client.head_object(Bucket=at.bucket, Key=at.key)
        return ObjectInfo(uri, answer["ContentLength"], answer["ETag"])

    def get(self, uri: str) -> bytes:
        """See Store."""
        return b"".join(self.stream(uri))

    def get_range(self, uri: str, start: int, length: int) -> bytes:
        """See Store."""
        return b"".join(self._read(uri, start, None, f"bytes={start}-{start + length - 1}")) if length else b""

    def stream(self, uri: str, etag: str | None = None) -> Iterator[bytes]:
        """See Store."""
        return self._read(uri, 0, etag, None)

    def _read(self, uri: str, start: int, etag: str | None, wanted: str | None) -> Iterator[bytes]:
        """Bytes from `start` to the end of `wanted` (a Range header) or of the object, over broken connections."""
        at, position, broken = parse(uri), start, 0
        end = wanted.partition("-")[2] if wanted else ""
        while True:
            if position > start:
                wanted = f"bytes={position}-{end}"
            conditions: dict[str, Any] = {"Range": wanted} if wanted else {}
            if etag:
                conditions["IfMatch"] = etag
            with self._translated(uri):
                try:
                    answer = self._client.get_object(Bucket=at.bucket, Key=at.key, **conditions)
                    etag = answer["ETag"]
                    for chunk in answer["Body"].iter_chunks(CHUNK):
                        position += len(chunk)
                        broken = 0
                        yield chunk
                except boto.ClientError as error:
                    if _status(error) != _RANGE:
                        raise
                except _BROKEN:
                    broken += 1
                    if broken >= self._attempts:
                        raise
                    time.sleep(min(2**broken / 10, 10))
                    continue
            return

    def put(self, uri: str, data: bytes) -> None:
        """See Store."""
        at = parse(uri)
        with self._translated(uri):
            self._client.put_object(Bucket=at.bucket, Key=at.key, Body=data)

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """See Store."""
        at = parse(uri)
        for attempt in range(self._attempts):
            with self._translated(uri):
                try:
                    self._client.put_object(Bucket=at.bucket, Key=at.key, Body=data, IfNoneMatch="*")
                except boto.ClientError as error:
                    if _status(error) == _PRECONDITION_FAILED:
                        return False
                    if _status(error) != _CONFLICT:
                        raise
                else:
                    return True
            time.sleep(min(2**attempt / 10, 5))  # 409: another writer is under way; whether it won is not known yet
        raise StorageUnreachable(f"{uri}: the store reports a conflicting write over and over.")

    def list(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        """See Store."""
        at, start = parse(prefix), parse(after).key if after else ""
        with self._translated(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=at.bucket, Prefix=at.key, StartAfter=start):
                for item in page.get("Contents", []):
                    yield ObjectInfo(f"s3://{at.bucket}/{item['Key']}", item["Size"], item["ETag"])

    def delete(self, uri: str) -> None:
        """See Store."""
        at = parse(uri)
        with suppress(NotFound), self._translated(uri):  # S3 does not say so, other stores may
            self._client.delete_object(Bucket=at.bucket, Key=at.key)

    def upload(self, path: Path, uri: str) -> None:
        """See Store."""
        at = parse(uri)
        with self._translated(uri):
            try:
                self._client.upload_file(str(path), at.bucket, at.key)
            except S3UploadFailedError as error:
                # boto3 wraps the server's answer; a failure without one is a broken connection
                raise (error.__context__ if isinstance(error.__context__, boto.ClientError) else error) from None

    @contextmanager
    def _translated(self, uri: str) -> Iterator[None]:
        at = parse(uri)
        try:
            yield
        except boto.ClientError as error:
            raise self._meaning(error, uri, at) from error
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError) as error:
            raise UserError(
                reasons.STORAGE_ACCESS_DENIED,
                f"No credentials for {uri}: the Secret must hold AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or the ServiceAccount be bound to a cloud identity.",
            ) from error
        except boto.ParamValidationError as error:
            raise UserError(
                reasons.BUCKET_NOT_FOUND, f"{uri} does not name a bucket and a key that S3 allows."
            ) from error
        except (boto.BotoCoreError, S3UploadFailedError) as error:
            url = self._client.meta.endpoint_url
            raise StorageUnreachable(
                f"{url} did not answer for {uri} ({type(error).__name__}): check endpointUrl, certificates and network."
            ) from error

    def _meaning(self, error: boto.ClientError, uri: str, at: Location) -> Exception:
        code, status = error.response.get("Error", {}).get("Code", ""), _status(error)
        if code == "NoSuchBucket" or (status == _NOT_FOUND and not self._bucket_exists(at.bucket)):
            return UserError(
                reasons.BUCKET_NOT_FOUND,
                f"There is no bucket {at.bucket!r} at {self._client.meta.endpoint_url}: create it or mend {uri}.",
            )
        if status == _NOT_FOUND:
            return NotFound(uri)
        if status in _DENIED:
            return UserError(
                reasons.STORAGE_ACCESS_DENIED,
                f"Storage refused access to {uri} ({code}): check the keys in the Secret and what they may do.",
            )
        if status == _PRECONDITION_FAILED:
            return Conflict(f"{uri} was replaced while it was read.")
        if status >= 500 or status == 429:  # noqa: PLR2004 - names of these would say less
            return StorageUnreachable(f"{uri}: the store answers {status} {code}, over {self._attempts} attempts.")
        return UserError(
            reasons.STORAGE_ACCESS_DENIED, f"Storage refused {uri}: {status} {code}. Check region and endpointUrl."
        )

    def _bucket_exists(self, bucket: str) -> bool:
        """HEAD of a missing object does not say whether its bucket is there; asked once a bucket."""
        if bucket not in self._known_buckets:
            try:
                self._client.head_bucket(Bucket=bucket)
            except boto.ClientError as error:
                if _status(error) == _NOT_FOUND:
                    return False
            self._known_buckets.add(bucket)
        return True


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
