"""The store: committed whole or not at all, damaged objects set aside, the first of racing attempts wins. Local and S3."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.base.errors import EnvironmentFault
from orchestrator.base.values import Record, digest
from orchestrator.store import CorruptObject, LocalStore, Store, open_store
from orchestrator.store.base import commit_document, parse_commit

KEY = digest("an object")


def commit(store: Store, key: str = KEY, content: bytes = b"content", **meta: Any) -> bool:
    with store.attempt(key) as attempt:
        attempt.path("data.bin").write_bytes(content)
        return attempt.commit({"kind": "test", **meta})


def test_what_is_committed_comes_back(store: Store) -> None:
    assert not store.has(KEY)
    assert commit(store, seconds=1.5)
    assert store.has(KEY)
    assert store.meta(KEY) == {"kind": "test", "seconds": 1.5}
    assert store.fetch(KEY, "data.bin").read_bytes() == b"content"
    assert (store.folder(KEY) / "data.bin").read_bytes() == b"content"
    assert list(store.keys()) == [KEY]
    assert store.verify(KEY)


def test_an_attempt_that_raises_leaves_nothing(store: Store) -> None:
    def attempt_and_die() -> None:
        with store.attempt(KEY) as attempt:
            attempt.path("data.bin").write_bytes(b"half")
            raise RuntimeError("died")

    with pytest.raises(RuntimeError):
        attempt_and_die()
    assert not store.has(KEY)
    assert list(store.keys()) == []


def test_the_first_commit_wins(store: Store) -> None:
    assert commit(store, content=b"first")
    assert not commit(store, content=b"second")
    assert store.fetch(KEY, "data.bin").read_bytes() == b"first"


def test_unknown_objects_and_files_are_key_errors(store: Store) -> None:
    with pytest.raises(KeyError):
        store.meta(KEY)
    commit(store)
    with pytest.raises(KeyError):
        store.fetch(KEY, "other.bin")


def test_remove_and_recreate(store: Store) -> None:
    commit(store)
    store.remove(KEY)
    assert not store.has(KEY)
    assert commit(store, content=b"again")


def test_a_store_travels_to_workers(store: Store) -> None:
    commit(store)
    assert pickle.loads(pickle.dumps(store)).fetch(KEY, "data.bin").read_bytes() == b"content"


def _damage(folder: Path, how: str) -> None:
    data, mark = folder / "data.bin", folder / "commit.json"
    if how == "truncated file":
        data.write_bytes(data.read_bytes()[:3])
    elif how == "flipped bit":
        content = bytearray(data.read_bytes())
        content[0] ^= 1
        data.write_bytes(content)
    elif how == "missing file":
        data.unlink()
    elif how == "empty mark":
        mark.write_bytes(b"")
    elif how == "torn mark":
        mark.write_bytes(mark.read_bytes()[:-20])
    elif how == "missing mark":
        mark.unlink()
    elif how == "edited mark":
        document = json.loads(mark.read_text())
        document["meta"]["seconds"] = 99
        mark.write_text(json.dumps(document))
    elif how == "foreign mark":
        document = json.loads(mark.read_text())
        document["key"] = digest("another")
        mark.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "how",
    [
        "truncated file",
        "flipped bit",
        "missing file",
        "empty mark",
        "torn mark",
        "missing mark",
        "edited mark",
        "foreign mark",
    ],
)
def test_damage_is_found_set_aside_and_repaired_alone(tmp_path: Path, how: str) -> None:
    store = LocalStore(tmp_path / "store")
    commit(store)
    commit(store, key=digest("neighbour"))
    _damage(store.root / "objects" / KEY[:2] / KEY, how)
    fresh = LocalStore(tmp_path / "store")
    if fresh.has(KEY):  # only a flipped bit leaves all sizes right: it is found when the file is read
        assert how == "flipped bit"
        with pytest.raises(CorruptObject, match="checksum"):
            fresh.fetch(KEY, "data.bin")
    assert not fresh.has(KEY)
    assert len(list((store.root / "aside").glob(f"{KEY}-*.json"))) == 1
    assert fresh.verify(digest("neighbour"))
    assert commit(fresh, content=b"made again")
    assert fresh.fetch(KEY, "data.bin").read_bytes() == b"made again"


def test_a_flipped_bit_of_a_commit_mark_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    key = "ab" * 32
    (tmp_path / "weights").write_bytes(b"w")
    meta: Record = {"kind": "train", "seconds": 0.019123004996799864, "name": "γ"}
    mark = commit_document(key, tmp_path, meta)
    text = json.dumps(mark, sort_keys=True).encode()
    assert parse_commit(key, text) == mark
    passed = []
    for bit in range(len(text) * 8):
        flipped = bytearray(text)
        flipped[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(ValueError):
            passed.append(parse_commit(key, bytes(flipped)))
    assert all(one == mark for one in passed)
    assert len(passed) < 5, "the last digit of a number, at most"


def test_a_file_changed_after_it_was_verified_is_found(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    commit(store)
    path = store.fetch(KEY, "data.bin")
    path.write_bytes(b"CONTENT")
    os.utime(path, (1, 1))
    with pytest.raises(CorruptObject):
        store.fetch(KEY, "data.bin")


def test_s3_damage_is_found(s3: Any) -> None:
    s3.create_bucket(Bucket="damage")
    store = open_store("s3://damage/x")
    commit(store)
    name = next(o["Key"] for o in s3.list_objects_v2(Bucket="damage")["Contents"] if o["Key"].endswith("data.bin"))
    s3.put_object(Bucket="damage", Key=name, Body=b"CONTENT")
    with pytest.raises(CorruptObject):
        store.fetch(KEY, "data.bin")
    assert not store.has(KEY)
    assert commit(store, content=b"made again")
    assert store.fetch(KEY, "data.bin").read_bytes() == b"made again"


def test_s3_looks_many_keys_up_in_listings(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.create_bucket(Bucket="many")
    writer = open_store("s3://many/x")
    keys = [f"{number:02x}{'0' * 60}{number % 2:02x}" for number in range(0, 6)]
    for key in keys[:4]:
        commit(writer, key)
    s3.put_object(Bucket="many", Key=f"x/objects/05/{keys[5]}/1234/data.bin", Body=b"cut off before its mark")
    store = open_store("s3://many/x")
    asked: list[str] = []
    store._client.meta.events.register("before-call.s3", lambda model, **_: asked.append(model.name))  # type: ignore[attr-defined]
    one_by_one = store.committed(keys)
    assert asked == ["GetObject"] * 6
    monkeypatch.setattr("orchestrator.store.s3.LISTED", 6)
    store = open_store("s3://many/x")
    store._client.meta.events.register("before-call.s3", lambda model, **_: asked.append(model.name))  # type: ignore[attr-defined]
    asked.clear()
    assert store.committed(keys) == one_by_one == set(keys[:4])
    assert set(asked) == {"ListObjectsV2"}
    asked.clear()
    monkeypatch.setattr("orchestrator.store.s3.LISTED", 2)
    assert store.committed(keys[:4]) == set(keys[:4])
    assert not asked, "what was seen is not looked up again"


@pytest.mark.parametrize("how", ["changed", "deleted"])
def test_s3_verify_looks_at_the_bucket_and_not_at_what_was_fetched(s3: Any, how: str) -> None:
    bucket = f"bucket-{os.urandom(6).hex()}"
    s3.create_bucket(Bucket=bucket)
    store = open_store(f"s3://{bucket}/p")
    commit(store)
    assert store.fetch(KEY, "data.bin").read_bytes() == b"content"
    assert store.verify(KEY)
    (name,) = [c["Key"] for c in s3.list_objects_v2(Bucket=bucket)["Contents"] if c["Key"].endswith("data.bin")]
    if how == "changed":
        s3.put_object(Bucket=bucket, Key=name, Body=b"c0ntent")
    else:
        s3.delete_object(Bucket=bucket, Key=name)
    assert not store.verify(KEY)
    assert not store.has(KEY), "set aside, to be made again"


def test_of_racing_threads_one_wins(store: Store) -> None:
    barrier, won = threading.Barrier(8), []

    def race(number: int) -> None:
        barrier.wait()
        won.append(commit(store, content=f"{number}".encode() * 1000))

    threads = [threading.Thread(target=race, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]
    assert len(set(store.fetch(KEY, "data.bin").read_bytes().decode())) == 1


def _killed_while_writing(root: str) -> None:
    attempt = LocalStore(root).attempt(KEY)
    attempt.path("data.bin").write_bytes(b"half written")
    os.kill(os.getpid(), 9)


def test_sigkill_while_writing_leaves_no_object(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed_while_writing, args=(str(tmp_path / "store"),))
    process.start()
    process.join()
    assert process.exitcode == -9
    store = LocalStore(tmp_path / "store")
    assert not store.has(KEY)
    assert commit(store)
    (folder,) = [p for p in (store.root / "tmp").iterdir() if p.name.startswith(KEY[:16])]
    os.utime(folder, (1, 1))
    assert store.litter(60.0) == [f"tmp/{folder.name}"]
    store.clear(store.litter(60.0))
    assert store.litter(0.0) == []
    assert store.has(KEY)


def test_an_unwritable_place_is_one_clear_line(tmp_path: Path, s3: Any) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("a file, not a folder")
    with pytest.raises(EnvironmentFault, match="--store"):
        LocalStore(blocker / "store")
    with pytest.raises(EnvironmentFault, match="no-such-bucket"):
        open_store("s3://no-such-bucket-anywhere/x")


def test_s3_litter_is_what_no_mark_names(s3: Any) -> None:
    bucket = f"bucket-{os.urandom(6).hex()}"
    s3.create_bucket(Bucket=bucket)
    store = open_store(f"s3://{bucket}/prefix")
    assert commit(store)
    assert not commit(store, content=b"a lost attempt, uploaded in vain")
    claim = store.claim(digest("held"))
    assert claim is not None
    assert store.litter(3600.0) == []
    with claim:
        names = store.litter(-60.0)
        assert sorted(name.split("/")[0] for name in names) == ["claims", "objects"]
        store.clear(names)
    assert store.litter(-60.0) == []
    assert store.verify(KEY)


def test_where_a_file_lies_can_be_read_by_arrow(store: Store) -> None:
    assert commit(store, content=b"by address")
    filesystem = store.filesystem()
    if filesystem is None:
        content = Path(store.location(KEY, "data.bin")).read_bytes()
    else:
        with filesystem.open_input_file(store.location(KEY, "data.bin")) as file:
            content = file.read()
    assert content == b"by address"


def test_many_look_ups_at_once(store: Store) -> None:
    keys = [digest(i) for i in range(40)]
    for key in keys[:5]:
        assert commit(store, key)
    assert store.committed(keys) == set(keys[:5])


def test_what_somebody_else_set_aside_is_missing_not_a_fault_of_the_unit(store: Store) -> None:
    """Another process finds the parent damaged while this one is about to read it: it heals like any damage."""
    assert commit(store)
    assert store.has(KEY)
    other = open_store(store.uri)
    other.set_aside(KEY, "damaged, says another process")
    with pytest.raises(CorruptObject, match="not in the store"):
        store.fetch(KEY, "data.bin")
    with pytest.raises(CorruptObject):
        store.meta(KEY)
    assert not store.has(KEY)
    with pytest.raises(KeyError):
        store.fetch(KEY, "data.bin")
    again = pickle.loads(pickle.dumps(_raised(store)))
    assert isinstance(again, CorruptObject)
    assert again.key == KEY


def _raised(store: Store) -> BaseException:
    try:
        store.fetch(KEY, "data.bin")
    except KeyError as error:
        return error
    raise AssertionError


def test_a_commit_that_lands_between_two_looks_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    read = Path.read_bytes

    def late(path: Path) -> bytes:
        if path.name == "commit.json" and not path.exists():
            monkeypatch.setattr(Path, "read_bytes", read)
            assert commit(LocalStore(tmp_path))  # another process, right after the look
            raise FileNotFoundError(path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", late)
    assert store.has(KEY)
    assert not list((tmp_path / "aside").iterdir())


def test_a_damaged_object_that_was_remade_meanwhile_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readers find the same damage; the slower one must not throw away what the faster one has made again."""
    import orchestrator.store.local as local

    slow, fast = LocalStore(tmp_path), LocalStore(tmp_path)
    assert commit(slow, finished=1)
    slow._folder(KEY).joinpath("data.bin").write_bytes(b"damaged")
    digest_of = local.sha256_file

    def late(path: Path) -> str:
        monkeypatch.setattr(local, "sha256_file", digest_of)
        found = digest_of(path)
        with pytest.raises(CorruptObject):
            fast.fetch(KEY, "data.bin")
        assert commit(fast, finished=2)
        return found

    monkeypatch.setattr(local, "sha256_file", late)
    with pytest.raises(CorruptObject, match="not in the store"):
        slow.fetch(KEY, "data.bin")
    assert slow.fetch(KEY, "data.bin").read_bytes() == b"content"
