"""The commands that change nothing: list, show, pull, verify, diff."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from ckpt_async import CheckpointRecord, InvalidArgument, StoreAddress
from ckpt_async.cli.desk import FlowPreset
from ckpt_async.cli.verifying import Sample, choose_sample, read_sample
from ckpt_async.words import keys
from tests.cli.conftest import PATHSPEC, Run, train
from tests.engine.desk import read_tree


def stored(folder: Path, record: CheckpointRecord, path: str = "") -> Path:
    return folder / "store" / record.key / path


class TestList:
    def test_newest_first_with_marks(self, run: Run, saved: Sequence[CheckpointRecord]) -> None:
        answer = run("list", "--json")
        assert (answer.code, answer.err) == (0, "")
        found = answer.json["checkpoints"]
        assert [one["key"] for one in found] == [record.key for record in reversed(saved)]
        assert [one["latest"] for one in found] == [True, False, False]
        assert found[0]["reference"] == f"{PATHSPEC}:0:mfchckpt:2"
        assert found[0]["metadata"] == {"epoch": 2, "loss": 0.333}
        assert found[0]["size_bytes"] == saved[2].size_bytes
        assert answer.json["damaged"] == []

    def test_for_people(self, run: Run, saved: Sequence[CheckpointRecord]) -> None:
        answer = run("list", "TrainFlow/12")
        lines = answer.out.splitlines()
        assert lines[0] == f"Task {PATHSPEC}"
        assert lines[1].split() == ["attempt", "name", "number", "size", "saved"]
        assert lines[2].split()[:3] == ["0", "mfchckpt", "2"]
        assert lines[2].endswith("latest")
        assert lines[-1].startswith("3 checkpoints, 667 kB. Store: ")

    def test_filters(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        train(StoreAddress(str(tmp_path / "store")), tmp_path, task="35", epochs=1, attempt=2)

        def found(*arguments: object) -> list[str]:
            return [
                one["reference"].removeprefix("TrainFlow/12/train/")
                for one in run("list", "--json", *arguments).json["checkpoints"]
            ]

        assert found() == ["35:2:mfchckpt:0", "34:0:mfchckpt:2", "34:0:best:1", "34:0:mfchckpt:0"]
        assert found("TrainFlow/12/train/34", "--name", "best") == ["34:0:best:1"]
        assert found("--attempt", 2) == ["35:2:mfchckpt:0"]
        assert found("TrainFlow/1") == []
        assert found("--limit", 1) == ["35:2:mfchckpt:0"]
        answer = run("list", "--limit", 1, "TrainFlow")
        assert "1 checkpoint, 222 kB; 3 older ones not shown." in answer.out
        assert run("list").out.splitlines()[0].split()[0] == "task"

    def test_nothing(self, run: Run) -> None:
        answer = run("list", "TrainFlow")
        assert (answer.code, answer.out.startswith("No checkpoints of TrainFlow in ")) == (0, True)

    def test_a_damaged_record_is_named(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        (tmp_path / "store" / keys.task_record_key_of(saved[0].key, PATHSPEC)).write_text("{")
        answer = run("list", "--json")
        assert (answer.code, len(answer.json["checkpoints"]), len(answer.json["damaged"])) == (1, 2, 1)
        assert "A damaged checkpoint record is left out" in answer.err

    def test_of_a_flow(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        store = StoreAddress(str(tmp_path / "store"))
        train(store, tmp_path, run="13", epochs=1)
        preset = FlowPreset("TrainFlow", lambda: store)
        assert len(run("list", "--json", preset=preset).json["checkpoints"]) == 4
        assert len(run("list", "13", "--json", preset=preset).json["checkpoints"]) == 1
        assert len(run("list", "--json", preset=FlowPreset("OtherFlow", lambda: store)).json["checkpoints"]) == 0
        assert run("show", "13:latest", preset=preset).code == 0

    def test_names_of_others_do_not_reach_the_terminal_raw(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        assert run("push", "file", "--name", "red\x1b[31m[bold]").code == 0
        answer = run("list")
        assert "\x1b" not in answer.out
        assert "red\\x1b[31m[bold]" in answer.out


    def test_a_metric_that_is_no_number(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        run("push", "file", "--metadata", "loss=NaN", "--metadata", "name=größe")
        answer = run("list", "--json")
        assert answer.json["checkpoints"][0]["metadata"] == {"loss": None, "name": "größe"}
        assert "NaN" not in answer.out


class TestShow:
    def test_all_of_it(self, run: Run, saved: Sequence[CheckpointRecord]) -> None:
        answer = run("show", f"{PATHSPEC}:latest", "--json")
        assert answer.code == 0
        assert [file["path"] for file in answer.json["files"]] == ["epoch-2.json", "frozen.bin", "weights.bin"]
        assert all(len(file["crc32"]) == 8 for file in answer.json["files"])
        text = run("show", f"{PATHSPEC}:latest").out
        assert "metadata loss: 0.333" in text
        assert "a retry: may resume from it" in text

    def test_many_files(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "many").mkdir()
        for number in range(25):
            (tmp_path / "many" / f"f{number:02d}").write_bytes(b"x")
        run("push", "many", "--as", PATHSPEC)
        answer = run("show", PATHSPEC)
        assert "f19" in answer.out and "f20" not in answer.out
        assert "and 5 more files: --files names them all." in answer.out
        assert "f24" in run("show", PATHSPEC, "--files").out


class TestPull:
    def test_into_a_folder(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        answer = run("pull", f"{PATHSPEC}:0:best", "out", "--json")
        assert (answer.code, answer.json["folder"], answer.json["verified"]) == (0, str(tmp_path / "out"), True)
        assert sorted(read_tree(tmp_path / "out")) == ["epoch-1.json", "frozen.bin", "weights.bin"]
        answer = run("pull", f"{PATHSPEC}:0:best", "out")
        assert (answer.code, "out" in answer.err) == (2, True)  # it is not empty any more

    def test_all_or_nothing(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        stored(tmp_path, saved[1], "weights.bin").write_bytes(b"\xff" * 120_000)
        answer = run("pull", saved[1].key, "out")
        assert answer.code == 1
        assert "weights.bin' should have the digest" in answer.err
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


class TestVerify:
    def test_contents(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        answer = run("verify", "--json")
        assert answer.code == 0
        assert [(line["checkpoint"]["key"], line["status"]) for line in answer.lines] == [
            (record.key, "verified") for record in reversed(saved)
        ]
        # Of the same size: only reading it tells.
        stored(tmp_path, saved[0], "weights.bin").write_bytes(b"\xff" * 120_000)
        answer = run("verify")
        assert answer.code == 1
        assert f"{PATHSPEC}:0:mfchckpt:0: file 'weights.bin' should have the digest" in answer.out
        assert "3 checkpoints: 2 verified, 1 damaged." in answer.out
        answer = run("verify", "--sample", 0)
        assert (answer.code, "3 checkpoints: 3 complete." in answer.out) == (0, True)
        assert run("verify", f"{PATHSPEC}:latest").code == 0
        assert run("verify", saved[0].key).code == 1

    def test_shape(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        stored(tmp_path, saved[0], "weights.bin").unlink()
        answer = run("verify", "--sample", 0, "--json")
        assert answer.code == 1
        assert answer.lines[2]["problems"] == ["its file 'weights.bin' is missing"]
        (tmp_path / "store" / keys.task_record_key_of(saved[1].key, PATHSPEC)).write_text("{")
        answer = run("verify", "--sample", 0, "--json")
        assert [line["status"] for line in answer.lines] == ["damaged", "complete", "damaged"]
        assert answer.lines[0]["checkpoint"] is None

    def test_what_has_no_checksums(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        foreign = dataclasses.replace(saved[0], manifest="")
        (tmp_path / "store" / saved[0].manifest).unlink()
        for key in (keys.record_key(foreign.key), keys.task_record_key_of(foreign.key, PATHSPEC)):
            (tmp_path / "store" / key).write_bytes(foreign.to_json())
        answer = run("verify", f"{PATHSPEC}:0::0", "--json")
        assert (answer.code, answer.lines[0]["status"]) == (0, "no checksums")
        answer = run("diff", f"{PATHSPEC}:0::0", f"{PATHSPEC}:0::1", "--json")
        assert answer.json["compared_by"] == "size"
        assert [(one["path"], one["kind"]) for one in answer.json["differences"]] == [("epoch-1.json", "added")]

    @pytest.mark.parametrize(
        ("text", "sample"),
        [("1.0", Sample(1.0)), ("0.1", Sample(0.1)), (".5", Sample(0.5)), ("5", Sample(count=5)), ("0", Sample())],
    )
    def test_samples(self, text: str, sample: Sample) -> None:
        assert read_sample(text) == sample

    @pytest.mark.parametrize("text", ["", "-1", "1.5", "all", "nan", "1e3"])
    def test_what_is_no_sample(self, text: str) -> None:
        with pytest.raises(InvalidArgument):
            read_sample(text)

    def test_the_newest_is_in_every_sample(self, saved: Sequence[CheckpointRecord]) -> None:
        newest_first = list(reversed(saved))
        assert choose_sample(newest_first, Sample(count=1)) == {saved[2].key}
        assert choose_sample(newest_first, Sample(0.5)) == choose_sample(newest_first, Sample(count=2))
        assert len(choose_sample(newest_first, Sample(0.34))) == 2
        assert choose_sample(newest_first, Sample(1.0)) == {record.key for record in saved}
        assert choose_sample(newest_first, Sample(count=0)) == choose_sample([], Sample(1.0)) == frozenset()


class TestDiff:
    def test_files(self, run: Run, saved: Sequence[CheckpointRecord]) -> None:
        answer = run("diff", f"{PATHSPEC}:0::0", f"{PATHSPEC}:latest", "--json")
        assert answer.code == 1
        assert [(one["path"], one["kind"]) for one in answer.json["differences"]] == [
            ("epoch-2.json", "added"),
            ("weights.bin", "changed"),
        ]
        assert (answer.json["same_files"], answer.json["compared_by"]) == (1, "checksum")
        text = run("diff", f"{PATHSPEC}:0::0", f"{PATHSPEC}:latest").out
        assert "1 added, 0 removed, 1 changed, 1 the same; +12 bytes" in text

    def test_the_same(self, run: Run, saved: Sequence[CheckpointRecord]) -> None:
        answer = run("diff", saved[0].key, saved[0].key)
        assert (answer.code, "0 added, 0 removed, 0 changed, 2 the same" in answer.out) == (0, True)

    def test_an_archive_and_files(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        (tmp_path / "model" / "epoch-2.json").unlink()
        run("push", "model", "--format", "tar", "--as", "TrainFlow/12/train/99")
        answer = run("diff", f"{PATHSPEC}:latest", "TrainFlow/12/train/99", "--json")
        assert [(one["path"], one["kind"]) for one in answer.json["differences"]] == [("epoch-2.json", "removed")]


class TestStore:
    def test_none_is_named(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("CKPT_ASYNC_STORE")
        monkeypatch.setattr("ckpt_async.cli.desk.entry_points", lambda group: ())
        answer = run("list")
        assert (answer.code, "no store is named. Pass --store" in answer.err) == (2, True)

    @pytest.mark.parametrize(
        ("url", "code", "words"),
        [
            ("ftp://x", 2, "there is no store for ftp://"),
            ("s3://", 2, "it names no bucket"),
            ("missing", 3, "there is no folder"),
        ],
    )
    def test_a_wrong_one(self, run: Run, url: str, code: int, words: str) -> None:
        for answer in (run("--store", url, "list"), run("list", "--store", url)):
            assert (answer.code, words in answer.err, answer.out) == (code, True, "")

    def test_the_folder_around_metaflows_own(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        (tmp_path / "home").mkdir()
        shutil.move(tmp_path / "store", tmp_path / "home" / ".metaflow")
        assert len(run("list", "--store", "home", "--json").json["checkpoints"]) == 3
        # The option behind the command goes before the one in front of it.
        assert len(run("--store", "missing", "list", "--store", "home/.metaflow", "--json").json["checkpoints"]) == 3
