"""The commands that change what is stored: push, delete, prune, pin, unpin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ckpt_async import CheckpointRecord, StoreAddress
from ckpt_async.cli.desk import FlowPreset
from ckpt_async.words import keys
from tests.cli.conftest import PATHSPEC, Run, train
from tests.engine.desk import read_tree, write_tree

FILES = {"a": b"one", "sub/b": b"two" * 1000, "empty": b""}


def objects(folder: Path) -> list[str]:
    """What is in the store, but for its folder of temporary files."""
    return sorted(path for path in read_tree(folder / "store") if not path.startswith(".ckpt"))


class TestPush:
    @pytest.mark.parametrize("storage_format", ["files", "tar"])
    def test_there_and_back(self, run: Run, tmp_path: Path, storage_format: str) -> None:
        write_tree(tmp_path / "model", FILES)
        (tmp_path / "model" / "hollow").mkdir()
        answer = run(
            "push", "model", "--as", PATHSPEC, "--format", storage_format, "--metadata", "loss=0.5", "--metadata", "by=me", "--json"
        )
        assert (answer.code, answer.json["reference"], answer.json["files"]) == (0, f"{PATHSPEC}:1000:mfchckpt:0", 3)
        assert answer.json["metadata"] == {"loss": 0.5, "by": "me"}
        assert run("pull", f"{PATHSPEC}:latest", "back").code == 0
        assert read_tree(tmp_path / "back") == FILES
        assert (tmp_path / "back" / "hollow").is_dir()
        assert run("verify").code == 0
        assert run("doctor", "--older-than", "0s").code == 0

    def test_each_push_is_newer_than_the_one_before(self, run: Run, tmp_path: Path, saved: Sequence[CheckpointRecord]) -> None:
        (tmp_path / "file").write_bytes(b"x")
        assert [run("push", "file", "--as", PATHSPEC, "--json").json["attempt"] for _ in range(2)] == [1000, 1001]
        found = run("list", "--json").json["checkpoints"]
        assert ([one["attempt"] for one in found], found[0]["latest"]) == ([1001, 1000, 0, 0, 0], True)
        assert run("push", "file", "--as", PATHSPEC, "--no-latest", "--json").json["may_resume"] is False
        assert run("show", f"{PATHSPEC}:latest", "--json").json["attempt"] == 1001

    def test_an_attempt_that_another_push_has_taken_is_passed_by(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"x")
        first = run("push", "file", "--as", PATHSPEC, "--json").json["key"]
        taken = tmp_path / "store" / keys.manifest_key(first.replace(".1000.", ".1001."))
        taken.write_text("{}")
        assert run("push", "file", "--as", PATHSPEC, "--json").json["attempt"] == 1002
        assert taken.read_text() == "{}"
        # It has died: the doctor sees to it.
        answer = run("doctor", "--older-than", "0s", "--json")
        assert [(one["kind"], one["what"]) for one in answer.json["findings"]] == [("orphan", "a manifest of no checkpoint")]
        assert run("doctor", "--older-than", "0s", "--fix", "--yes").code == 0
        assert not taken.exists()

    def test_default_names(self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOGNAME", "ada")
        write_tree(tmp_path / "my model", FILES)
        assert run("push", "my model", "--json").json["pathspec"] == "push/ada/my-model/1"
        preset = FlowPreset("TrainFlow", lambda: StoreAddress(str(tmp_path / "store")))
        assert run("push", "my model", "--json", preset=preset).json["pathspec"] == "TrainFlow/push/my-model/1"

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["missing"], 2, "there is nothing at this path"),
            (["model", "--as", "TrainFlow/12"], 2, "FLOW/RUN/STEP/TASK"),
            (["model", "--format", "zip"], 2, "Use 'files' or 'tar'"),
            (["model", "--name", ""], 2, "the name is empty"),
            (["model", "--metadata", "loss"], 2, "KEY=VALUE"),
        ],
    )
    def test_wrong_arguments(self, run: Run, tmp_path: Path, arguments: Sequence[str], code: int, words: str) -> None:
        write_tree(tmp_path / "model", FILES)
        answer = run("push", *arguments)
        assert (answer.code, words in answer.err) == (code, True), answer.err
        assert objects(tmp_path) == []


class TestDelete:
    def test_asks_and_shows(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        before = objects(tmp_path)
        answer = run("delete", f"{PATHSPEC}:0:best")
        assert answer.code == 6
        assert f"{PATHSPEC}:0:best:1" in answer.out
        assert "Delete 1 checkpoint with 222 kB" in answer.err
        assert "Pass --yes" in answer.err
        answer = run("delete", f"{PATHSPEC}:0:best", "--dry-run")
        assert (answer.code, "Would delete 1 checkpoint" in answer.out) == (0, True)
        assert objects(tmp_path) == before

    def test_several(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        answer = run("delete", f"{PATHSPEC}:0:best", saved[2].key, saved[2].key, "--yes", "--json")
        assert (answer.code, answer.json["deleted"]) == (0, [saved[1].key, saved[2].key])
        assert run("show", f"{PATHSPEC}:latest", "--json").json["key"] == saved[0].key
        # Where one can't be found, none is deleted.
        answer = run("delete", saved[0].key, saved[1].key, "--yes")
        assert answer.code == 4
        assert len(run("list", "--json").json["checkpoints"]) == 1

    def test_what_an_interrupted_call_has_left(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        mark = tmp_path / "store" / keys.deletion_key(saved[0].key)
        mark.parent.mkdir(parents=True)
        mark.write_bytes(saved[0].to_json())
        for key in (keys.record_key(saved[0].key), keys.task_record_key_of(saved[0].key, PATHSPEC)):
            (tmp_path / "store" / key).unlink()
        answer = run("delete", saved[0].key, "--yes")
        assert (answer.code, f"What is left of {saved[0].key}" in answer.out) == (0, True)
        assert not [path for path in objects(tmp_path) if ".0.mfchckpt.0" in path]


class TestPrune:
    def test_rules(self, run: Run, saved: Sequence[CheckpointRecord]) -> None:
        answer = run("prune", PATHSPEC, "--keep-last", 1, "--dry-run", "--json")
        assert answer.code == 0
        assert [(one["kept"], one["name"]) for one in answer.json["judged"]] == [
            (True, "mfchckpt"),
            (True, "best"),
            (False, "mfchckpt"),
        ]
        answer = run("prune", PATHSPEC, "--keep-last", 1)
        assert (answer.code, "Nothing was deleted; 1 checkpoint with 222 kB would be." in answer.out) == (6, True)
        answer = run("prune", "TrainFlow", "--keep-last", 1, "--yes")
        assert (answer.code, "Deleted 1 checkpoint" in answer.out) == (0, True)
        assert len(run("list", "--json").json["checkpoints"]) == 2
        answer = run("prune", PATHSPEC, "--keep-last", 1)
        assert (answer.code, "Nothing is to be deleted." in answer.out) == (0, True)

    def test_of_several_tasks(self, run: Run, saved: Sequence[CheckpointRecord], tmp_path: Path) -> None:
        train(StoreAddress(str(tmp_path / "store")), tmp_path, run="13", epochs=4)
        assert run("prune", "TrainFlow", "--keep-last", 1, "--name", "mfchckpt", "--yes").code == 0
        left = [one["reference"] for one in run("list", "--json").json["checkpoints"]]
        assert left == [
            "TrainFlow/13/train/34:0:mfchckpt:3",
            "TrainFlow/13/train/34:0:best:1",
            f"{PATHSPEC}:0:mfchckpt:2",
            f"{PATHSPEC}:0:best:1",
        ]

    def test_pins(self, run: Run, saved: Sequence[CheckpointRecord]) -> None:
        assert run("pin", saved[0].key, "--json").json["pinned"] is True
        answer = run("prune", PATHSPEC, "--keep-last", 1, "--yes", "--json")
        assert (answer.code, answer.json["deleted"]) == (0, [])
        assert "pinned" in answer.json["judged"][2]["why"]
        assert run("unpin", saved[0].key).code == 0
        assert run("prune", PATHSPEC, "--keep-last", 1, "--yes", "--json").json["deleted"] == [saved[0].key]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([PATHSPEC], "no rule says what is kept"),
            (["--keep-last", 1], "it is not said of what"),
            ([PATHSPEC, "--keep-last", "some"], "Allowed: a whole number"),
        ],
    )
    def test_wrong_arguments(self, run: Run, saved: Sequence[CheckpointRecord], arguments: Sequence[object], words: str) -> None:
        answer = run("prune", *arguments, "--yes")
        assert (answer.code, words in answer.err) == (2, True)
        assert len(run("list", "--json").json["checkpoints"]) == 3
