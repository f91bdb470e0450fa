"""The commands against a store on S3."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from ckpt_async import StoreAddress
from ckpt_async.stores.contract import Body
from ckpt_async.testing.access import ACCESS_SPEC
from tests.cli.conftest import PATHSPEC, Run
from tests.engine.desk import read_tree, write_tree
from tests.fixtures_s3 import S3Place


@pytest.mark.slow
def test_one_round(run: Run, s3_place: S3Place, s3_address: StoreAddress, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPT_ASYNC_STORE", s3_address.url)
    monkeypatch.setenv("CKPT_ASYNC_ACCESS", ACCESS_SPEC)
    files = {"weights.bin": os.urandom(9 << 20), "sub/state.json": b"{}", "empty": b""}
    write_tree(tmp_path / "model", files)
    for storage_format in ("files", "tar"):
        assert run("push", "model", "--as", PATHSPEC, "--format", storage_format).code == 0
    answer = run("verify", "--json")
    assert [line["status"] for line in answer.lines] == ["verified", "verified"]
    assert run("diff", f"{PATHSPEC}:1000", f"{PATHSPEC}:latest").code == 0
    assert run("pull", f"{PATHSPEC}:latest", "out").code == 0
    assert read_tree(tmp_path / "out") == files

    key = f"{run('show', f'{PATHSPEC}:latest', '--json').json['key'].replace('.1001.', '.1002.')}/weights.bin"

    async def begin() -> None:
        async with s3_place.store() as store:
            upload_id = await store.begin_multipart(key)
            await store.put_part(key, upload_id, 1, 0, Body.of(b"a part"))

    anyio.run(begin)
    assert run("doctor", "--json").json["findings"] == []
    (finding,) = run("doctor", "--older-than", "0s", "--json").json["findings"]
    assert (finding["kind"], finding["on"]) == ("abandoned-upload", key)
    assert run("doctor", "--older-than", "0s", "--fix", "--yes").code == 0
    assert run("doctor", "--older-than", "0s").code == 0
    assert run("delete", f"{PATHSPEC}:latest", "--yes").code == 0
    assert [one["attempt"] for one in run("list", "--json").json["checkpoints"]] == [1000]
