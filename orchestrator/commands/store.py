"""`orchestrator store verify|gc`: check every checksum; remove what no recipe refers to."""

from __future__ import annotations

import argparse

from unlearn.core.paths import local_path

from ..base.errors import UserError
from ..store import open_store
from .ending import print_json


def main(args: argparse.Namespace) -> int:
    folder = local_path(args.store)
    if not args.store.startswith("s3://") and not all(
        (folder / name).is_dir() for name in ("objects", "tmp", "claims")
    ):
        raise UserError(f"STORE: {args.store!r}: no store there; give the folder that holds objects/, tmp/ and claims/")
    store = open_store(args.store)
    keys = list(store.keys())
    if args.action == "verify":
        damaged = [key for key in keys if not store.verify(key)]
        document = {"objects": len(keys), "damaged": damaged}
        text = f"{len(keys)} objects, {len(damaged)} damaged and set aside; running their experiments again makes just these anew"
    else:
        if not args.keep:
            raise UserError("--keep: missing: name the output folders whose objects stay")
        # Planning brings torch, which `verify` need not wait for.
        from ..experiments.collect_garbage import LITTER_SECONDS, require_idle, used_keys

        if args.yes:
            require_idle(store, args.keep)
        used = used_keys(args.keep, store)
        doomed = [key for key in keys if key not in used]
        litter = store.litter(LITTER_SECONDS)
        if args.yes:
            require_idle(store, args.keep)  # planning may have taken minutes
            for key in doomed:
                store.remove(key)
            store.clear(litter)
        document = {"objects": len(keys), "removed" if args.yes else "would_remove": doomed, "litter": litter}
        left = f", {len(litter)} leftovers of attempts that died" if litter else ""
        text = f"{len(keys)} objects, {len(doomed)} unused{left}{', removed' if args.yes else '; add --yes to remove them'}"
    if args.json:
        print_json(document)
    else:
        print(text)
    return 0
