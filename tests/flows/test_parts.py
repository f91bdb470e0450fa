"""The parts of the extension that need no flow: attributes, identity, environment, signals, directories."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from metaflow import current

import ckpt_async
import ckpt_async.cli
from ckpt_async import (
    CheckpointRecord,
    CheckpointReference,
    InvalidArgument,
    Reader,
    Settings,
    StoreAddress,
    TaskIdentity,
)
from ckpt_async.reference import SaveState
from metaflow_extensions.ckpt_async.plugins.checkpoint.apart import Apart, run_apart
from metaflow_extensions.ckpt_async.plugins.checkpoint.artifacts import records_of
from metaflow_extensions.ckpt_async.plugins.checkpoint.attributes import check_environment, read_attributes
from metaflow_extensions.ckpt_async.plugins.checkpoint.callbacks import import_callback, read_callback_name
from metaflow_extensions.ckpt_async.plugins.checkpoint.current import CheckpointInfo
from metaflow_extensions.ckpt_async.plugins.checkpoint.directory import (
    make_directory,
    remove_directories_of_dead_attempts,
    remove_directory,
)
from metaflow_extensions.ckpt_async.plugins.checkpoint.environment import STORE, UID, TaskPlace, read_task
from metaflow_extensions.ckpt_async.plugins.checkpoint.errors import CheckpointNotPossible, WrongCheckpointAttribute
from metaflow_extensions.ckpt_async.plugins.checkpoint.names import DEFAULTS
from metaflow_extensions.ckpt_async.plugins.checkpoint.output import time_text
from metaflow_extensions.ckpt_async.plugins.checkpoint.references import load_in_place_of, read_reference
from metaflow_extensions.ckpt_async.plugins.checkpoint.scope import identifier_of, node_of_gang, scope_of
from metaflow_extensions.ckpt_async.plugins.checkpoint.signals import EXIT_TERMINATED, StopSignals
from metaflow_extensions.ckpt_async.plugins.checkpoint.store import (
    AZURE_ACCESS,
    GCS_ACCESS,
    S3_ACCESS,
    scratch_root,
    store_address,
    stored_address,
)

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = TaskIdentity("Flow", "1", "train", "2", 1, "0" * 12, "1" * 12)


def reference(version: int, status: str = "committed", name: str = "a|b") -> CheckpointReference:
    record = CheckpointRecord.of_save(
        IDENTITY, name=name, version=version, size_bytes=1500, metadata={}, storage_format="files", store_url="/store"
    )
    state = SaveState(str(version), 1500, status=status, blocked_s=0.5, upload_s=2.0, methods={"packed": 2})
    return CheckpointReference(record, state)


class TestAttributes:
    def test_defaults_are_those_of_the_engine(self) -> None:
        found = read_attributes({})
        assert found.settings == Settings()
        assert (found.load_policy, found.temp_dir_root, found.show_card) == ("fresh", None, True)
        assert found.to_attributes() == DEFAULTS

    def test_rules_and_callbacks_survive_the_command_line(self) -> None:
        values = {"keep_last": "3", "keep_best": "loss:min, acc:max:2", "keep_every": "1h", "on_event": read_callback_name}
        found = read_attributes(values)
        given = found.to_attributes()
        assert (given["keep_last"], given["keep_best"], given["keep_every"]) == (3, "loss:min:1,acc:max:2", "3600s")
        assert given["on_event"] == f"{read_callback_name.__module__}:read_callback_name"
        assert read_attributes({name: str(value) for name, value in given.items()}) == found
        assert import_callback(given["on_event"]) is read_callback_name
        assert import_callback("ckpt_async:Reader.list") is Reader.list

    @pytest.mark.parametrize(
        ("name", "value", "allowed"),
        [
            ("keep_last", 0, "a whole number, 1 or more"),
            ("keep_best", "loss", "'METRIC:min' or 'METRIC:max'"),
            ("keep_every", "often", "a period such as '30min'"),
            ("on_event", "hear", "'module:function'"),
            ("on_event", lambda _: None, "current.checkpoint.add_listener()"),
            ("on_event", 5, "'module:function'"),
        ],
    )
    def test_wrong_rules_and_callbacks_are_refused(self, name: str, value: object, allowed: str) -> None:
        with pytest.raises(WrongCheckpointAttribute) as caught:
            read_attributes({name: value})
        assert f"@checkpoint({name}=" in str(caught.value) and allowed in str(caught.value)

    @pytest.mark.parametrize("text", ["no_such_module_here:f", "os:no_such_name", "os:sep"])
    def test_a_callback_that_is_not_there_is_named(self, text: str) -> None:
        assert read_callback_name(text) == text
        with pytest.raises(WrongCheckpointAttribute, match=text):
            import_callback(text)

    def test_text_is_read_as_what_it_stands_for(self) -> None:
        found = read_attributes(
            {
                "async_upload": "True",
                "show_card": "False",
                "load_policy": "None",
                "temp_dir_root": "None",
                "max_pending_bytes": "1GiB",
            }
        )
        assert found.settings.async_upload is True
        assert found.show_card is False
        assert (found.load_policy, found.temp_dir_root) == ("none", None)
        assert found.settings.max_pending_bytes == 2**30

    def test_what_a_task_is_given_says_the_same(self) -> None:
        """Metaflow leaves out None and writes the rest as text."""
        found = read_attributes(
            {
                "load_policy": None,
                "flush_timeout": 2.5,
                "on_full": "raise",
                "show_card": 0,
                "spool_dir": "/spool",
                "s3_options": {"requester_pays": True, "sse_kms_key_id": "arn:aws:kms:eu-west-1:1:key/x"},
            }
        )
        assert found.s3_options == "requester_pays:true,sse_kms_key_id:arn:aws:kms:eu-west-1:1:key/x"
        text = {name: str(value) for name, value in found.to_attributes().items() if value is not None}
        assert read_attributes(text) == found

    @pytest.mark.parametrize(
        ("attribute", "value", "allowed"),
        [
            ("load_policy", "newest", "'fresh', 'eager', 'none' or None"),
            ("show_card", "maybe", "True or False"),
            ("temp_dir_root", 3, "the path of a folder, or None"),
            ("worker", "fork", "'process' or 'thread'"),
            ("flush_timeout", "inf", "a number of seconds above 0, up to 2592000 (30 days)"),
            ("async_upload", "yes", "True or False"),
            ("s3_options", 3, "a dict, or text such as 'checksums:md5,requester_pays:true'"),
        ],
    )
    def test_a_wrong_value_is_named(self, attribute: str, value: object, allowed: str) -> None:
        with pytest.raises(WrongCheckpointAttribute) as caught:
            read_attributes({attribute: value})
        assert caught.value.message == f"@checkpoint({attribute}={value!r}): the value is not allowed. Allowed: {allowed}."

    @pytest.mark.parametrize("value", [{"checksum": "md5"}, "checksum:md5"])
    def test_a_wrong_option_of_s3_is_named(self, value: object) -> None:
        with pytest.raises(WrongCheckpointAttribute) as caught:
            read_attributes({"s3_options": value})
        assert "checksum: there is none of that name. There are: addressing_style, " in caught.value.message
        check_environment({})
        with pytest.raises(WrongCheckpointAttribute) as caught:
            check_environment({"METAFLOW_CHECKPOINT_S3_OPTIONS": "checksum:md5"})
        assert caught.value.message.startswith("METAFLOW_CHECKPOINT_S3_OPTIONS=checksum:md5: checksum: there is none of that name")


class TestScope:
    def test_scope(self) -> None:
        assert scope_of({"other", "checkpoint:x"}, "user:me") == hashlib.sha256(b"x").hexdigest()[:12]
        assert scope_of({"other"}, "user:me") == hashlib.sha256(b"user:me").hexdigest()[:12]
        assert scope_of({"checkpoint:b", "checkpoint:a"}, "user:me") == scope_of(["checkpoint:a"], "")

    def test_identifiers(self) -> None:
        def one(value: Any) -> str:
            return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

        def all_of(*values: Any) -> str:
            return hashlib.sha256("".join(one(value) for value in values).encode()).hexdigest()[:12]

        stack = [(0, 2, "x"), (1, 3, {"b": 1, "a": 2})]
        assert identifier_of("train", None) == one("train")[:12]
        assert identifier_of("train", stack) == all_of("x", {"b": 1, "a": 2}, one("foreach-task-entropy"))
        assert identifier_of("train", stack, gang=True) == all_of("x", 0, one("parallel-task-entropy"))

    def test_values_that_json_can_not_hold_differ_by_place(self) -> None:
        found = {identifier_of("train", [(index, 2, object())]) for index in (0, 1, 0)}
        assert len(found) == 2

    @pytest.mark.parametrize("control_task", [None, "5"])
    def test_a_node_without_a_control_task_is_a_task_of_its_own(
        self, control_task: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        about = SimpleNamespace(node_index=1, num_nodes=3, control_task_id=control_task)
        monkeypatch.setattr(type(current), "parallel", about, raising=False)
        found = node_of_gang(None, parallel=True, control=False)
        said = capfd.readouterr().err
        assert (found, "never become whole" in said) == (((1, 3), False) if control_task else ((0, 1), True))


class TestStore:
    def test_addresses(self) -> None:
        assert store_address("s3", "s3://bucket/root/") == StoreAddress("s3://bucket/root", S3_ACCESS)
        assert store_address("local", "/data/.metaflow") == StoreAddress("/data/.metaflow")
        assert store_address("azure", "container/root") == StoreAddress("azure://container/root", AZURE_ACCESS)
        assert store_address("gs", "gs://bucket/root/") == StoreAddress("gs://bucket/root", GCS_ACCESS)
        # As records name them.
        assert stored_address("azure", "azure://container/root") == StoreAddress("azure://container/root", AZURE_ACCESS)

    @pytest.mark.parametrize(
        ("kind", "root", "words"),
        [
            ("ceph", "x", "Supported are: local, s3, azure, gs"),
            ("azure", None, "has no root"),
            ("gs", "bucket/root", "must begin with gs://BUCKET"),
            ("s3", None, "has no root"),
            # These would become folders.
            ("s3", "bucket/root", "must begin with s3://BUCKET"),
            ("s3", "s3://", "must begin with s3://BUCKET"),
            ("s3", "s3:///root", "must begin with s3://BUCKET"),
        ],
    )
    def test_others_are_refused(self, kind: str, root: str | None, words: str) -> None:
        with pytest.raises(CheckpointNotPossible) as caught:
            store_address(kind, root)
        assert words in caught.value.message

    def test_spools_stand_beside_the_checkpoint_directory(self) -> None:
        assert scratch_root("/named", "/temporary") == f"/named/ckpt-async-{os.getuid()}"
        assert scratch_root(None, "/temporary") == f"/temporary/ckpt-async-{os.getuid()}"


class TestEnvironment:
    def test_what_a_task_tells_its_children(self) -> None:
        code = (
            "import os, json, sys\n"
            "from metaflow_extensions.ckpt_async.plugins.checkpoint.environment import *\n"
            "from ckpt_async import *\n"
            f"export_task({IDENTITY!r}, TaskPlace(StoreAddress('s3://b', 'm:f'), '/scratch', 1, 4))\n"
            "print(json.dumps({name: value for name, value in os.environ.items() if name.startswith('METAFLOW_CHECKPOINT')}))"
        )
        printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        told = json.loads(printed)
        found = read_task(told)
        assert found is not None
        assert found.identity == IDENTITY
        assert found.place == TaskPlace(StoreAddress("s3://b", "m:f"), "/scratch", 1, 4)
        assert told[UID] == f"Flow/1/train/2/{IDENTITY.task_identifier}/{IDENTITY.scope}/1"
        assert told["METAFLOW_CHECKPOINT_TASK_IDENTIFIER"] == IDENTITY.task_identifier

    def test_outside_a_task(self) -> None:
        assert read_task({}) is None

    @pytest.mark.parametrize("environment", [{UID: "a/b"}, {UID: "a/b/c/d/e/f/x"}, {UID: "a/b/c/d/e/f/1", STORE: "{}"}])
    def test_nonsense_is_refused(self, environment: dict[str, str]) -> None:
        with pytest.raises(InvalidArgument):
            read_task(environment)


class TestApart:
    def test_results_and_errors_come_back(self) -> None:
        assert run_apart(lambda: 3) == 3
        with pytest.raises(ZeroDivisionError):
            run_apart(lambda: 1 // 0)

    def test_an_interrupted_call_goes_on(self) -> None:
        """What a handler raises comes out at once; the call itself ends in its own time."""
        begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

        def act() -> None:
            begun.set()
            may_end.wait(30)
            ended.set()

        def interrupt() -> None:
            begun.wait(30)
            signal.pthread_kill(main, signal.SIGUSR1)

        def strike(number: int, frame: object) -> None:
            raise KeyError("struck")

        main = threading.get_ident()
        previous = signal.signal(signal.SIGUSR1, strike)
        helper = threading.Thread(target=interrupt)
        try:
            helper.start()
            with pytest.raises(KeyError):
                run_apart(act)
            assert not ended.is_set()
        finally:
            may_end.set()
            helper.join()
            signal.signal(signal.SIGUSR1, previous)
        assert ended.wait(30)

    def test_a_wait_can_be_ended(self) -> None:
        may_end = threading.Event()
        call = Apart(lambda: may_end.wait(30))
        call.stop_waiting()
        assert call.wait() is None
        may_end.set()
        assert call.wait() is not None


class TestSignals:
    def test_sigterm_ends_the_step(self) -> None:
        signals = StopSignals(lambda text: None)
        signals.install()
        try:
            with pytest.raises(SystemExit) as caught:
                signal.raise_signal(signal.SIGTERM)
            assert caught.value.code == EXIT_TERMINATED
        finally:
            signals.restore()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_after_the_step_the_first_is_noted_and_the_second_ends_the_wait(self) -> None:
        said: list[str] = []
        stops: list[bool] = []
        signals = StopSignals(said.append)
        signals.install()
        try:
            signals.begin_end()
            assert signals.exit_of_late_signal() is None
            signals.while_waiting(lambda: stops.append(True))
            signal.raise_signal(signal.SIGINT)
            assert (len(said), stops) == (1, [])
            signal.raise_signal(signal.SIGTERM)
            assert stops == [True]
            assert isinstance(signals.exit_of_late_signal(), KeyboardInterrupt)
        finally:
            signals.restore()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_a_second_signal_before_the_wait_begins_is_not_lost(self) -> None:
        stops: list[bool] = []
        signals = StopSignals(lambda text: None)
        signals.install()
        try:
            signals.begin_end()
            signals.count_interrupt()
            signal.raise_signal(signal.SIGTERM)
            signals.while_waiting(lambda: stops.append(True))
            assert stops == [True]
        finally:
            signals.restore()

    def test_whoever_handles_a_signal_already_goes_on(self) -> None:
        def mine(number: int, frame: object) -> None: ...

        previous = signal.signal(signal.SIGTERM, mine)
        try:
            signals = StopSignals(lambda text: None)
            signals.install()
            assert signal.getsignal(signal.SIGTERM) is mine
            signals.restore()
            assert signal.getsignal(signal.SIGTERM) is mine
        finally:
            signal.signal(signal.SIGTERM, previous)

    def test_a_forked_child_dies_of_sigterm(self) -> None:
        signals = StopSignals(lambda text: None)
        signals.install()
        try:
            child = os.fork()
            if child == 0:
                signal.raise_signal(signal.SIGTERM)
                os._exit(0)
            _, status = os.waitpid(child, 0)
        finally:
            signals.restore()
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM


class TestDirectory:
    def test_only_what_dead_attempts_left_is_removed(self, tmp_path: Path) -> None:
        dead = subprocess.Popen([sys.executable, "-c", ""])
        dead.wait()
        own = make_directory(str(tmp_path), IDENTITY, 0)
        left = tmp_path / Path(own).name.replace(f"_1_{os.getpid()}_", f"_0_{dead.pid}_")
        alive = tmp_path / Path(own).name.replace(f"_1_{os.getpid()}_", f"_0_{os.getppid()}_")
        # Of a container that was started anew: the attempt that died in it had the number that is ours now.
        before = tmp_path / Path(own).name.replace("_1_", "_0_")
        other = tmp_path / "metaflow_checkpoint_other"
        for folder in (left, before, alive, other):
            folder.mkdir()
        (left / "file").write_text("x")
        remove_directories_of_dead_attempts(str(tmp_path), IDENTITY, 0)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([Path(own).name, alive.name, other.name])
        assert Path(own).name.startswith("metaflow_checkpoint_")

    def test_where_no_folder_is_nothing_is_left(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for parent in (tmp_path / "missing", tmp_path / "file"):
            remove_directories_of_dead_attempts(str(parent), IDENTITY, 0)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_a_root_that_can_not_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(InvalidArgument, match="temp_dir_root"):
            make_directory(str(tmp_path / "file" / "below"), IDENTITY, 0)

    def test_a_failed_load_leaves_the_old_content(self, tmp_path: Path) -> None:
        directory = tmp_path / "directory"
        (directory / "sub").mkdir(parents=True)
        (directory / "sub" / "old").write_text("old")

        def fails(target: str) -> None:
            raise InvalidArgument("load")

        with pytest.raises(InvalidArgument):
            load_in_place_of(str(directory), fails)
        assert (directory / "sub" / "old").read_text() == "old"

        def loads(target: str) -> None:
            Path(target).mkdir()
            (Path(target) / "new").write_text("new")

        load_in_place_of(str(directory), loads)
        assert [path.name for path in directory.iterdir()] == ["new"]
        remove_directory(str(directory))
        remove_directory(str(directory))
        load_in_place_of(str(directory), loads)
        assert [path.name for path in directory.iterdir()] == ["new"]
        assert [path.name for path in tmp_path.iterdir()] == ["directory"]


class TestText:
    def test_info_has_the_fields_both_ways(self) -> None:
        info = CheckpointInfo(reference(3).record)
        assert info.version_id == info["version_id"] == 3
        assert {"pathspec", "key", "attempt", "name", "created_on", "metadata", "size", "url", "storage_format"} <= set(info)
        assert info.to_dict() == reference(3).record.to_dict() | {
            "created_on": info.created_on,
            "saved_at_unix_ns": info.saved_at_unix_ns,
        }
        with pytest.raises(AttributeError, match="it has: size"):
            info.missing  # noqa: B018

    def test_references_of_every_kind(self) -> None:
        found = reference(3)
        assert read_reference(found["key"]) == found["key"]
        assert read_reference(found) == dict(found)
        assert read_reference(found.record) == {"key": found["key"], "url": found["url"]}
        with pytest.raises(InvalidArgument, match="an object with a key"):
            read_reference(3)

        class Artifact:
            @property
            def data(self) -> object:
                raise AssertionError("fetched for a message")

        with pytest.raises(InvalidArgument, match=r"Pass its \.data\."):
            read_reference(Artifact())

    def test_only_what_is_stored_becomes_an_artifact(self) -> None:
        records = records_of([reference(0), reference(1, "dropped"), reference(2), reference(3, "failed")])
        assert [record["version_id"] for record in records] == [2, 0]
        assert all(type(record) is dict for record in records)


def test_times_are_told_to_the_second() -> None:
    assert time_text("2026-11-23T14:47:07.123456") == "2026-11-23 14:47:07"
    assert time_text("2026-11-23T14:47:07") == "2026-11-23 14:47:07"
    assert time_text("yesterday") == "yesterday"


def test_only_public_names_of_the_engine_are_used() -> None:
    """What the engine does not name in public may change at any time."""
    public = {"ckpt_async": set(ckpt_async.__all__), "ckpt_async.cli": set(ckpt_async.cli.__all__)}
    used: set[str] = set()
    for path in Path(ROOT, "metaflow_extensions").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not [alias for alias in node.names if alias.name.startswith("ckpt_async.")], path
            elif isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").partition(".")[0] == "ckpt_async":
                names = {alias.name for alias in node.names}
                assert names <= public.get(node.module or "", set()), f"{path}: {node.module}: {names}"
                used |= names
    assert used


def test_importing_metaflow_loads_little_of_ours() -> None:
    """Every start of Metaflow pays for what is imported with it; and remote tasks of flows without `@checkpoint` have no engine."""
    ours = "metaflow_extensions.ckpt_async"
    code = (
        "import metaflow, sys; from metaflow import Checkpoint, checkpoint\n"
        f"names = ('ckpt_async', 'aiobotocore', 'anyio', '{ours}')\n"
        "print(*(name for name in sys.modules if name.startswith(names)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    expected = {
        ours,
        f"{ours}.config",
        f"{ours}.config.mfextinit_ckpt_async",
        f"{ours}.plugins",
        f"{ours}.toplevel",
        f"{ours}.toplevel.toplevel",
        f"{ours}.plugins.checkpoint",
    }
    expected |= {f"{ours}.plugins.checkpoint.{name}" for name in ("api", "decorator", "names")}
    assert set(printed.split()) == expected


def test_names_that_metaflow_gets() -> None:
    code = (
        "import metaflow\n"
        "from metaflow import Checkpoint, checkpoint, current\n"
        "assert metaflow.__version__.startswith('2.')\n"
        "from metaflow.metaflow_version import get_version\n"
        "assert 'ckpt_async' in get_version()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
