"""A real folder, written to by real processes: what becomes a checkpoint, and what never does."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest

from ckpt_async import CheckpointError, SaveRefused
from ckpt_async.integrations.saver import fresh_folder
from ckpt_async.watching import notices as notices_module, watcher as watcher_module
from tests.engine.desk import DEADLINE_S, Desk, wait_for
from tests.watching.conftest import QUIET_S, MakeWatching, Watching, is_whole, whole


def assert_all_whole(stored: list[dict[str, bytes]]) -> None:
    for files in stored:
        assert files, "an empty checkpoint"
        assert all(is_whole(content) for content in files.values()), f"half-written: {sorted(files)}"


def test_a_file_that_is_written_in_place_is_saved_when_its_writer_is_done(watching: Watching) -> None:
    """The writer pauses, with the file open, for longer than the quiet period."""
    watching.watch()
    writer = watching.write("in_place", "1", str(QUIET_S * 1.5))
    watching.written(writer)
    watching.saves(1)
    stored = watching.stored()
    assert_all_whole(stored)
    assert stored[-1] == {"model.pt": (watching.folder / "model.pt").read_bytes()}


@pytest.mark.slow
@pytest.mark.parametrize("worker", ["process", "thread"])
def test_folders_that_are_renamed_into_place_while_older_ones_go(make_watching: MakeWatching, worker: str) -> None:
    watching = make_watching(worker)
    watching.watch()
    watching.written(watching.write("renamed", "4", "0.02"))
    wait_for(lambda: "checkpoint-3" in str(watching.said), "the last one is saved")
    stored = watching.stored()
    assert_all_whole(stored)
    for files in stored:
        assert not any("tmp-" in path for path in files)
        folders = {path.partition("/")[0] for path in files}
        assert set(files) == {f"{folder}/{name}" for folder in folders for name in ("model", "optimizer", "state")}
    assert {path.partition("/")[0] for path in stored[-1]} == {"checkpoint-2", "checkpoint-3"}


@pytest.mark.slow
def test_folders_whose_files_are_written_one_after_another(watching: Watching) -> None:
    watching.watch(quiet_s=0.5)
    writer = watching.write("folders", "3", "0.02")
    assert writer.stdin is not None
    for count in (1, 2, 3):
        watching.saves(count)
        writer.stdin.write("go on\n")
        writer.stdin.flush()
    watching.written(writer)
    stored = watching.stored()
    assert_all_whole(stored)
    assert [len(files) for files in stored] == [3, 6, 6]
    # What had not changed since the save before was not taken for new.
    assert [record.metadata["watch"] for record in reversed(watching.records())] == [[f"checkpoint-{n}"] for n in range(3)]


def test_a_marker_needs_no_quiet_period(watching: Watching) -> None:
    watching.watch(quiet_s=DEADLINE_S, max_wait_s=2 * DEADLINE_S)
    (watching.folder / "step-1").mkdir()
    (watching.folder / "step-1" / "model").write_bytes(whole("model"))
    (watching.folder / "step-1" / "_SUCCESS").touch()
    watching.saves(1)
    assert watching.stored() == [{"step-1/model": whole("model"), "step-1/_SUCCESS": b""}]


def test_without_the_marker_that_is_asked_for_nothing_is_complete(watching: Watching) -> None:
    watcher = watching.watch(markers=("DONE",), marker_needed=True, quiet_s=0.05)
    (watching.folder / "model").write_bytes(whole("model"))
    assert watcher.stop(failed=False, timeout_s=DEADLINE_S) is None
    assert watching.checkpointer.stats.saves == 0
    assert "is not saved: the folder itself has no marker (DONE)" in watching.said[-1]


@pytest.mark.slow
def test_thousands_of_small_files_are_one_checkpoint(watching: Watching) -> None:
    watching.watch()
    watching.written(watching.write("many", "1000"))
    wait_for(lambda: any("many" in line for line in watching.said), "it is saved")
    watching.checkpointer.flush(DEADLINE_S)
    assert len(watching.desk.content(watching.records()[0])) == 1000


def test_what_is_temporary_is_never_saved_and_what_is_ignored_goes_along(watching: Watching) -> None:
    """A log that never comes to rest, and a temporary file that lies there for ever."""
    watching.watch()
    watching.write("logging", "events.out.tfevents.17")
    (watching.folder / "model.tmp").write_bytes(b"half")
    (watching.folder / "model").write_bytes(whole("model"))
    watching.saves(1)
    (files,) = watching.stored()
    log = files.pop("events.out.tfevents.17")
    assert files == {"model": whole("model")}
    assert log == (watching.folder / "events.out.tfevents.17").read_bytes()[: len(log)]


def test_what_never_comes_to_rest_is_named(watching: Watching) -> None:
    watching.watch(quiet_s=0.1, max_wait_s=0.3)
    watching.write("logging", "progress.txt")
    watching.says("has not been complete for 300 ms, and is not saved: progress.txt")
    assert watching.checkpointer.stats.saves == 0


def test_a_folder_that_is_removed_and_made_anew_is_watched_on(watching: Watching) -> None:
    watching.watch()
    (watching.folder / "first").write_bytes(whole("first"))
    watching.saves(1)
    os.rename(watching.folder, watching.folder.with_name("away"))
    watching.folder.mkdir()
    (watching.folder / "second").write_bytes(whole("second"))
    watching.saves(2)
    assert watching.stored() == [{"first": whole("first")}, {"second": whole("second")}]


def test_links_are_followed_and_one_to_nothing_is_said_until_it_leads_somewhere(watching: Watching) -> None:
    watching.watch()
    (watching.folder / "model").write_bytes(whole("model"))
    (watching.folder / "last").symlink_to("newer")
    watching.says("'last' is a link to nothing")
    assert watching.checkpointer.stats.saves == 0
    (watching.folder / "newer").write_bytes(whole("newer"))
    watching.saves(1)
    assert watching.stored() == [{"model": whole("model"), "last": whole("newer"), "newer": whole("newer")}]


def test_notices_that_are_lost_cost_time_and_nothing_else(watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the kernel's queue has overflowed: nothing is told of, and when that is seen, the listening begins anew."""
    begun = 0

    async def silent(root: str, quiet_s: float, stop: anyio.Event) -> AsyncGenerator[set[tuple[str, str]], None]:
        nonlocal begun
        begun += 1
        await stop.wait()
        while False:
            yield set()

    monkeypatch.setattr(notices_module, "notices", silent)
    monkeypatch.setattr(watcher_module, "LOOK_EVERY_S", 0.2)
    watching.watch()
    watching.written(watching.write("in_place", "1", str(QUIET_S)))
    watching.saves(1)
    assert_all_whole(watching.stored())
    assert begun > 1


@pytest.mark.parametrize("why", ["no package", "no watches"])
def test_where_nobody_tells_the_folder_is_looked_at(watching: Watching, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "no package":
        monkeypatch.setattr(notices_module, "watchfiles_here", lambda: None)
    else:

        async def refused(*_: object, **__: object) -> AsyncGenerator[set[tuple[str, str]], None]:
            raise OSError(errno.ENOSPC, "OS file watch limit reached")
            yield set()

        monkeypatch.setattr("watchfiles.awatch", refused)
    watching.watch()
    writer = watching.write("in_place", "1", str(QUIET_S))
    watching.written(writer)
    watching.saves(1)
    assert_all_whole(watching.stored())
    assert len([line for line in watching.said if "are not told of" in line]) == 1


def test_where_writers_can_not_be_told_that_is_said_once(make_watching: MakeWatching) -> None:
    watching = make_watching("thread")
    watching.watch(quiet_s=0.05)
    for number in (1, 2):
        (watching.folder / "model").write_bytes(whole(f"model {number}"))
        watching.saves(number)
    assert len([line for line in watching.said if "can't be told here" in line]) == 1


# The end


def test_at_a_good_end_what_was_written_last_is_saved(watching: Watching) -> None:
    watcher = watching.watch()
    (watching.folder / "model").write_bytes(whole("model"))
    assert watcher.stop(failed=False, timeout_s=DEADLINE_S) is None
    assert watching.stored() == [{"model": whole("model")}]


def test_at_a_good_end_a_writer_that_is_still_at_it_is_waited_for(watching: Watching) -> None:
    watcher = watching.watch()
    watching.write("in_place", "1", str(QUIET_S))
    wait_for((watching.folder / "model.pt").exists, "it has begun")
    assert watcher.stop(failed=False, timeout_s=DEADLINE_S) is None
    assert_all_whole(watching.stored())


def test_at_a_failure_what_is_half_written_is_not_saved(watching: Watching) -> None:
    watcher = watching.watch(quiet_s=DEADLINE_S)
    (watching.folder / "first.done").write_bytes(whole("first"))
    watching.saves(1)
    (watching.folder / "second").write_bytes(b"half")
    assert watcher.stop(failed=True, timeout_s=DEADLINE_S) is None
    assert watching.stored() == [{"first.done": whole("first")}]
    assert "is not complete and is not saved: second was written to a moment ago" in watching.said[-1]


def test_the_end_waits_no_longer_than_it_may(watching: Watching) -> None:
    watcher = watching.watch(quiet_s=0.1, max_wait_s=0.3)
    watching.write("logging", "progress.txt")
    wait_for((watching.folder / "progress.txt").exists, "it has begun")
    assert watcher.stop(failed=False, timeout_s=DEADLINE_S) is None
    assert watching.checkpointer.stats.saves == 0
    assert "is not complete and is not saved: progress.txt" in watching.said[-1]


@pytest.mark.parametrize(
    ("timeout_s", "pressed"), [(2.0, False), (DEADLINE_S, True)], ids=["half of the time is over", "a signal has come meanwhile"]
)
def test_at_a_good_end_a_writer_is_not_waited_for_when_time_is_short(watching: Watching, timeout_s: float, pressed: bool) -> None:
    """Its file is not complete, which is no failure: there is time left for what was saved."""
    watcher = watching.watch()
    with (watching.folder / "model").open("wb", buffering=0) as file:
        file.write(b"half")
        assert watcher.stop(failed=False, timeout_s=timeout_s, pressed=lambda: pressed) is None
    assert watching.checkpointer.stats.saves == 0
    assert "is not complete and is not saved: model is open for writing" in watching.said[-1]


@pytest.mark.slow
def test_what_was_written_last_is_saved_also_where_the_quiet_period_is_most_of_the_time(watching: Watching) -> None:
    watcher = watching.watch(quiet_s=3.0)
    (watching.folder / "model").write_bytes(whole("model"))
    assert watcher.stop(failed=False, timeout_s=5.9) is None
    assert watching.stored() == [{"model": whole("model")}]


@pytest.mark.parametrize("failed", [False, True])
def test_a_load_that_is_under_way_does_not_hold_up_the_end(watching: Watching, failed: bool) -> None:
    watcher = watching.watch()
    ending = threading.Thread(target=watcher.stop, kwargs={"failed": failed, "timeout_s": DEADLINE_S})
    with watcher.loading():
        (watching.folder / "loaded").write_bytes(whole("loaded"))
        ending.start()
        ending.join(DEADLINE_S / 2)
        assert not ending.is_alive()
    assert watching.checkpointer.stats.saves == 0


def test_names_of_files_forge_no_lines(watching: Watching) -> None:
    watching.watch()
    (watching.folder / "a\nsaved\x1b[2J").write_bytes(whole("a"))
    watching.saves(1)
    watching.says("saved what was written: a\\nsaved\\x1b[2J")


def test_what_can_not_be_saved_is_said_and_returned_at_the_end(watching: Watching) -> None:
    watcher = watching.watch()
    (watching.folder / "model").write_bytes(whole("model"))
    (watching.folder / "loop").symlink_to("loop")
    watching.says("can't be saved")
    error = watcher.stop(failed=False, timeout_s=DEADLINE_S)
    assert isinstance(error, CheckpointError) and "leads back to itself" in str(error)


# Beside saves and loads that are called for


def test_what_an_integration_is_writing_is_part_of_no_other_save(watching: Watching) -> None:
    """It stands in the same folder, half written, and will be gone when its own save is taken."""
    watching.watch()
    with fresh_folder(SimpleNamespace(directory=str(watching.folder))) as writing:  # type: ignore[arg-type]
        Path(writing, "state.pt").write_bytes(b"half")
        (watching.folder / "model").write_bytes(whole("model"))
        watching.saves(1)
        watching.checkpointer.save(str(watching.folder))
    assert watching.stored() == [{"model": whole("model")}] * 2


def test_a_state_that_was_saved_by_hand_is_not_saved_again(watching: Watching) -> None:
    watcher = watching.watch()
    (watching.folder / "model").write_bytes(whole("model"))
    watching.checkpointer.save(str(watching.folder), metadata={"epoch": 3})
    assert watcher.stop(failed=False, timeout_s=DEADLINE_S) is None
    assert [record.metadata for record in watching.records_after_flush()] == [{"epoch": 3}]


def test_what_a_load_writes_is_not_saved(watching: Watching) -> None:
    (watching.folder / "loaded").write_bytes(whole("loaded"))
    watcher = watching.watch(known=True)
    with watcher.loading():
        (watching.folder / "another").write_bytes(whole("another"))
    (watching.folder / "new").write_bytes(whole("new"))
    watching.saves(1)
    assert watcher.stop(failed=False, timeout_s=DEADLINE_S) is None
    assert [record.metadata["watch"] for record in watching.records_after_flush()] == [["new"]]
    assert set(watching.stored()[0]) == {"loaded", "another", "new"}


def test_what_changes_while_it_is_taken_is_not_saved_as_it_was_not(watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer comes back between the last look and the snapshot."""
    watching.watch()
    model = watching.folder / "model"
    save = watching.checkpointer.save_as_seen
    came_back = threading.Event()

    def late(*arguments: object, **more: object) -> object:
        if not came_back.is_set():
            came_back.set()
            model.write_bytes(b"half")
        return save(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(watching.checkpointer, "save_as_seen", late)
    with model.open("wb") as file:
        file.write(whole("first"))
        file.flush()
    wait_for(came_back.is_set, "the writer has come back")
    model.write_bytes(whole("second"))
    watching.saves(1)
    assert watching.stored() == [{"model": whole("second")}]


def test_a_full_spool_is_said_and_the_newest_state_is_saved_when_there_is_room(
    make_desk: Callable[..., Desk], make_watching: MakeWatching, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = make_watching("thread")
    refusals = [SaveRefused("save a checkpoint", cause="the spool is full")]
    save = watching.checkpointer.save_as_seen

    def refusing(*arguments: object, **more: object) -> object:
        if refusals:
            raise refusals.pop()
        return save(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(watching.checkpointer, "save_as_seen", refusing)
    watching.watch(quiet_s=0.05)
    (watching.folder / "model").write_bytes(whole("first"))
    watching.says("can't be saved: could not save a checkpoint: the spool is full")
    (watching.folder / "model").write_bytes(whole("second"))
    watching.saves(1)
    assert watching.stored() == [{"model": whole("second")}]


def test_a_folder_that_is_not_there_yet_is_waited_for(make_watching: MakeWatching, tmp_path: Path) -> None:
    watching = make_watching("thread")
    watching.folder.rmdir()
    watching.watch(quiet_s=0.05)
    watching.folder.mkdir()
    (watching.folder / "model").write_bytes(whole("model"))
    watching.saves(1)
    assert watching.stored() == [{"model": whole("model")}]
