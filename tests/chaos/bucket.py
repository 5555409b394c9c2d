"""The same disturbances with a store on S3, which a server on loopback stands for."""

from __future__ import annotations

import json
import logging
import random
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from .kills import kill_driver, kill_workers
from .lab import Clean, Lab, Place
from .scenario import Report
from .watch import Attempts


class Bucket:
    """An S3 server of this process with one bucket. All units are below `store/`."""

    NAME = "chaos"

    def __init__(self) -> None:
        import boto3
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else it prints a line for each request
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        host, port = self._server.get_host_and_port()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=self.NAME)

    def objects(self, prefix: str) -> dict[str, float]:
        """Returns name → when it was written, for what lies below `prefix`."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.NAME, Prefix=prefix)
        return {
            item["Key"].removeprefix(prefix): item["LastModified"].timestamp()
            for page in pages
            for item in page.get("Contents", [])
        }

    def close(self) -> None:
        self._server.stop()


class Watch:
    """Counts executions by what they have uploaded: each has a prefix of its own, the commit mark names one of them."""

    def __init__(self, place: BucketPlace):
        self._place = place

    @property
    def attempts(self) -> dict[str, Attempts]:
        marks = self._place.marks()
        found: dict[str, Attempts] = {}
        begun: dict[tuple[str, str], float] = {}
        for name, stamp in self._place.bucket.objects(self._place.objects).items():
            _, key, *rest = name.split("/")
            seen = found.setdefault(key[:16], Attempts())
            if rest == ["commit.json"]:
                seen.committed.append(stamp)
                begun.setdefault((key[:16], marks[key]["attempt"]), stamp)  # some have no files
            else:
                attempt = (key[:16], rest[0])
                begun[attempt] = min(stamp, begun.get(attempt, stamp))
        for (key, _), stamp in begun.items():
            found[key].begun.append(stamp)
        return found

    def close(self) -> None:
        return None


class BucketPlace(Place):
    """An experiment whose store is a prefix of the bucket."""

    def __init__(self, lab: Lab, root: Path, bucket: Bucket):
        environment = {**bucket.environment, "ORCHESTRATOR_CACHE": str(root / "cache")}
        super().__init__(lab, root, lab.recipe, store=root / "none", environment=environment)
        (self.store / "tmp").mkdir(parents=True)  # where a store in a folder would leave its litter
        self.bucket, self.objects = bucket, f"{root.name}/objects/"
        self.uri = f"s3://{bucket.NAME}/{root.name}"

    @cached_property
    def watch(self) -> Any:
        return Watch(self)

    def marks(self) -> dict[str, dict[str, Any]]:
        found = {}
        for name in self.bucket.objects(self.objects):
            if name.endswith("/commit.json"):
                body = self.bucket.client.get_object(Bucket=self.bucket.NAME, Key=self.objects + name)["Body"]
                found[name.split("/")[1]] = json.loads(body.read())
        return found


class BucketLab:
    """A lab whose places have their stores in a bucket."""

    def __init__(self, lab: Lab, bucket: Bucket):
        self._lab, self._bucket = lab, bucket

    @property
    def clean(self) -> Clean:
        return self._lab.clean

    def say(self, text: str) -> None:
        self._lab.say(text)

    def place(self, name: str) -> BucketPlace:
        self._lab.places += 1
        return BucketPlace(self._lab, self._lab.root / f"{self._lab.places:02d}-s3-{name}", self._bucket)


def kill_driver_s3(lab: Lab, generator: random.Random, report: Report, kills: int = 4) -> None:
    """SIGKILL of the driver at random moments, with a store on S3."""
    with closing(Bucket()) as bucket:
        kill_driver(BucketLab(lab, bucket), generator, report, kills)


def kill_workers_s3(lab: Lab, generator: random.Random, report: Report, kills: int = 4) -> None:
    """SIGKILL of random worker processes, with a store on S3."""
    with closing(Bucket()) as bucket:
        kill_workers(BucketLab(lab, bucket), generator, report, kills)
