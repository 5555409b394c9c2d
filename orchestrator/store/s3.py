"""A store in an S3 bucket. The commit mark is put with `If-None-Match: *`, so that the first of
racing attempts wins.

Each attempt uploads under a prefix of its own and the mark says which one counts. What a lost or
dead attempt uploaded is unreachable and removed by garbage collection. Files are cached on the
local disk (`FileCache`), verified by checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import ClientError
from pyarrow.fs import S3FileSystem

from ..base.errors import EnvironmentFault, first_line
from ..base.values import Record
from .base import COMMIT_MARK, Attempt, CorruptObject, Mark, MissingObject, Store, commit_document, is_key, parse_commit
from .cache import FileCache
from .claims import ClaimBoard

BLOCK = 1 << 20  # bytes read at a time
LOOKUPS = 32  # requests under way at once
LISTED = 1000  # so many keys or more are looked up in listings
ABSENT = ("NoSuchKey", "404")
COMMITS = 5  # tries, where two commits meet in the same moment
TAKEN = ("PreconditionFailed", "412", "ConditionalRequestConflict")


class S3Store(Store):
    """A store at `s3://bucket/prefix`. Credentials and endpoint come from the usual AWS variables
    (`AWS_ENDPOINT_URL`)."""

    def __init__(self, uri: str):
        self.uri = uri.rstrip("/")
        bucket, _, prefix = self.uri.removeprefix("s3://").partition("/")
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = boto3.client("s3", config=Config(max_pool_connections=LOOKUPS, retries={"mode": "standard"}))
        self._cache = FileCache()
        # Commits never change, so one that was seen needs no second look. Where it has been set
        # aside since, reading it raises `MissingObject` and the unit is made again.
        self._committed: set[str] = set()
        try:
            self._client.head_bucket(Bucket=bucket)
        except Exception as error:
            raise EnvironmentFault(f"store {uri}: the bucket cannot be reached ({first_line(error)})") from None

    def __reduce__(self) -> tuple[type[S3Store], tuple[str]]:
        return (S3Store, (self.uri,))

    def _key(self, key: str, name: str) -> str:
        return f"{self._prefix}objects/{key[:2]}/{key}/{name}"

    def claim_board(self) -> ClaimBoard:
        return _Prefix(self._client, self._bucket, f"{self._prefix}claims/")

    def has(self, key: str) -> bool:
        if key not in self._committed and self.mark(key) is not None:
            self._committed.add(key)
        return key in self._committed

    def committed(self, keys: Iterable[str]) -> set[str]:
        wanted = set(keys)
        unseen = list(wanted - self._committed)
        with ThreadPoolExecutor(LOOKUPS) as pool:
            if len(unseen) < LISTED:
                list(pool.map(self.has, unseen))
            else:
                # A damaged mark is listed too. Reading it finds that, and its unit is made again.
                for found in pool.map(self._marked, {key[:2] for key in unseen}):
                    self._committed |= found & wanted
        return wanted & self._committed

    def _marked(self, start: str) -> set[str]:
        """Returns the keys with a commit mark that begin with these two digits."""
        listed = (item["Key"] for item in self._list(f"{self._prefix}objects/{start}/"))
        return {name.split("/")[-2] for name in listed if name.endswith(f"/{COMMIT_MARK}")}

    def attempt(self, key: str) -> Attempt:
        return Attempt(self, key, self._cache.attempt(key))

    def _commit(self, key: str, folder: Path, meta: Record) -> bool:
        document = commit_document(key, folder, meta)
        document["attempt"] = uuid.uuid4().hex
        body = json.dumps(document, sort_keys=True).encode()
        try:
            for name in document["files"]:
                self._client.upload_file(
                    str(folder / name), self._bucket, self._key(key, f"{document['attempt']}/{name}")
                )
        except Exception as error:
            raise EnvironmentFault(f"store {self.uri}: cannot be written ({first_line(error)})") from error
        for _ in range(COMMITS):
            try:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._key(key, COMMIT_MARK), Body=body, IfNoneMatch="*"
                )
                return True
            except Exception as error:
                if _code(error) not in TAKEN:
                    raise EnvironmentFault(f"store {self.uri}: cannot be written ({first_line(error)})") from error
            mark = self.mark(key)
            if mark is not None:  # ours, where the answer to an earlier request was lost
                return bool(mark.get("attempt") == document["attempt"])
        raise EnvironmentFault(f"store {self.uri}: {key[:12]} cannot be committed: others write and remove it again")

    def mark(self, key: str) -> Mark | None:
        try:
            text = self._client.get_object(Bucket=self._bucket, Key=self._key(key, COMMIT_MARK))["Body"].read()
        except Exception as error:
            if _code(error) in ABSENT:
                self._committed.discard(key)
                return None
            raise EnvironmentFault(f"store {self.uri}: cannot be read ({first_line(error)})") from error
        try:
            return parse_commit(key, text)
        except ValueError as error:
            self.set_aside(key, str(error))
            return None

    def fetch(self, key: str, name: str) -> Path:
        mark = self.mark(key)
        if mark is None or name not in mark["files"]:
            raise MissingObject(key, name)
        digest = mark["files"][name]["sha256"]
        remote = self._key(key, f"{mark['attempt']}/{name}")
        try:
            found = self._cache.file(digest, lambda to: self._client.download_file(self._bucket, remote, str(to)))
            if found is not None:
                return found
        except Exception as error:
            if _code(error) not in ABSENT:
                raise EnvironmentFault(f"store {self.uri}: cannot be read ({first_line(error)})") from error
        if self.mark(key) != mark:  # set aside and made again by somebody else meanwhile: look anew
            raise MissingObject(key, name)
        self.set_aside(key, f"{name} is missing or does not match its checksum")
        raise CorruptObject(key, f"{name} is missing or does not match its checksum")

    def verify(self, key: str) -> bool:
        # Past the local copies: what they hold is no news of what the bucket holds.
        mark = self.mark(key)
        if mark is None:
            return False
        for name, entry in mark["files"].items():
            if self._remote_sha256(self._key(key, f"{mark['attempt']}/{name}")) != entry["sha256"]:
                if self.mark(key) == mark:
                    self.set_aside(key, f"{name} is missing or does not match its checksum")
                return False
        return True

    def _remote_sha256(self, name: str) -> str:
        """Returns the SHA-256 of what the bucket holds, empty where it holds nothing."""
        found = hashlib.sha256()
        try:
            for block in self._client.get_object(Bucket=self._bucket, Key=name)["Body"].iter_chunks(BLOCK):
                found.update(block)
        except Exception as error:
            if _code(error) in ABSENT:
                return ""
            raise EnvironmentFault(f"store {self.uri}: cannot be read ({first_line(error)})") from error
        return found.hexdigest()

    def folder(self, key: str) -> Path:
        mark = self.mark(key)
        if mark is None:
            raise MissingObject(key, "no commit mark")
        folder = self._cache.folder(f"{key}-{mark['attempt']}")
        for name in mark["files"]:
            link = folder / f".{name}.{uuid.uuid4().hex[:8]}"
            os.link(self.fetch(key, name), link)
            os.replace(link, folder / name)
        return folder

    def set_aside(self, key: str, reason: str) -> None:
        self._committed.discard(key)
        source = {"Bucket": self._bucket, "Key": self._key(key, COMMIT_MARK)}
        note = f"{self._prefix}aside/{key}-{uuid.uuid4().hex[:8]}"
        try:
            self._client.copy_object(Bucket=self._bucket, Key=f"{note}/{COMMIT_MARK}", CopySource=source)
            body = json.dumps({"key": key, "reason": reason, "time": time.time()}).encode()
            self._client.put_object(Bucket=self._bucket, Key=f"{note}.json", Body=body)
        except Exception as error:
            if _code(error) not in ABSENT:
                raise EnvironmentFault(f"store {self.uri}: cannot be written ({first_line(error)})") from error
        self._client.delete_object(Bucket=self._bucket, Key=self._key(key, COMMIT_MARK))

    def keys(self) -> Iterator[str]:
        for item in self._list(f"{self._prefix}objects/"):
            name = item["Key"].split("/")[-2]
            if item["Key"].endswith(f"/{COMMIT_MARK}") and is_key(name):
                yield name

    def remove(self, key: str) -> None:
        self._committed.discard(key)
        # The mark first: the object vanishes at once.
        self._client.delete_object(Bucket=self._bucket, Key=self._key(key, COMMIT_MARK))
        self._delete(item["Key"] for item in self._list(self._key(key, "")))

    def litter(self, older_than: float) -> list[str]:
        found: list[str] = []
        kept: dict[str, str] = {}
        now = time.time()
        for item in self._list(f"{self._prefix}objects/"):
            key, *rest = item["Key"].removeprefix(f"{self._prefix}objects/").split("/")[1:]
            if (
                not is_key(key)
                or rest == [COMMIT_MARK]
                or len(rest) != 2
                or now - item["LastModified"].timestamp() <= older_than
            ):
                continue
            if key not in kept:
                mark = self.mark(key)
                kept[key] = "" if mark is None else mark.get("attempt", "")
            if rest[0] != kept[key]:
                found.append(item["Key"])
        claims = [item for item in self._list(f"{self._prefix}claims/") if is_key(item["Key"].split("/")[-1])]
        found += [item["Key"] for item in claims if now - item["LastModified"].timestamp() > older_than]
        return [name.removeprefix(self._prefix) for name in found]

    def clear(self, names: Iterable[str]) -> None:
        self._delete(f"{self._prefix}{name}" for name in names)

    def location(self, key: str, name: str) -> str:
        mark = self.mark(key)
        if mark is None:
            raise MissingObject(key, name)
        return f"{self._bucket}/{self._key(key, mark['attempt'])}/{name}"

    def filesystem(self) -> S3FileSystem:
        # Arrow finds credentials in the same places as boto3.
        options: dict[str, str] = {"region": self._client.meta.region_name or "us-east-1"}
        if os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT_URL_S3"):
            options["endpoint_override"] = self._client.meta.endpoint_url
        return S3FileSystem(**options)

    def _list(self, prefix: str) -> Iterator[Record]:
        return _objects(self._client, self._bucket, prefix)

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._client.delete_object(Bucket=self._bucket, Key=name)


class _Prefix(ClaimBoard):
    """Claims as small objects below a prefix; one appears only where there is none."""

    def __init__(self, client: BaseClient, bucket: str, prefix: str):
        self._client, self._bucket, self._prefix = client, bucket, prefix

    def create(self, key: str, text: str) -> bool:
        try:
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=text.encode(), IfNoneMatch="*")
            return True
        except Exception as error:
            if _code(error) in TAKEN:
                return False
            raise EnvironmentFault(f"store s3://{self._bucket}: cannot be written ({first_line(error)})") from error

    def claimed(self) -> list[str]:
        names = (item["Key"].removeprefix(self._prefix) for item in _objects(self._client, self._bucket, self._prefix))
        return [name for name in names if is_key(name)]

    def read(self, key: str) -> str | None:
        try:
            body: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()
            return body.decode(errors="replace")
        except Exception as error:
            if _code(error) in ABSENT:
                return None
            raise EnvironmentFault(f"store s3://{self._bucket}: cannot be read ({first_line(error)})") from error

    def replace(self, key: str, text: str) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=text.encode())

    def delete(self, key: str, text: str) -> None:
        if self.read(key) == text:
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)


def _objects(client: BaseClient, bucket: str, prefix: str) -> Iterator[Record]:
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Contents", [])


def _code(error: Exception) -> str:
    response = error.response if isinstance(error, ClientError) else {}
    return str(response.get("Error", {}).get("Code", ""))
