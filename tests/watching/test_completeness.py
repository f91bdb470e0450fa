"""When a folder is complete: the decisions alone, on invented histories and clocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings, strategies as st

from ckpt_async.watching.completeness import (
    Decision,
    Ending,
    FileSeen,
    GiveUp,
    History,
    Idle,
    Save,
    State,
    Wait,
    after_event,
    after_look,
    after_save,
    changed_tops,
    decide,
)
from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.watch_rules import WatchRules, read_watch_rules

RULES = WatchRules(quiet_s=2.0, max_wait_s=60.0)


def state(**times: int) -> State:
    """Files, by name and the time of their last write. ``__`` stands for a slash, ``_x_`` for a dot."""
    return {
        name.replace("__", "/").replace("_x_", "."): FileSeen(number, 100, at) for number, (name, at) in enumerate(times.items())
    }


def seen(files: State, at_s: float = 0.0, history: History | None = None) -> History:
    """A history in which these files were last seen changing at that time."""
    return after_look(after_event(history or History(), at_s), files, at_s)


def test_nothing_is_done_where_nothing_is_new() -> None:
    assert decide(History(), RULES, 100.0) == Idle()
    files = state(model=1)
    assert decide(after_save(seen(files), files, 1.0), RULES, 100.0) == Idle()


def test_a_quiet_period_completes_what_nobody_writes() -> None:
    history = seen(state(model=1), 10.0)
    assert decide(history, RULES, 11.9) == Wait(12.0, "model was written to a moment ago")
    assert decide(history, RULES, 12.0) == Save()
    assert decide(after_event(history, 11.0), RULES, 12.0) == Wait(13.0, "model was written to a moment ago")


def test_a_file_that_is_open_for_writing_is_never_complete() -> None:
    history = seen(state(model=1), 0.0)
    for now_s in (2.0, 50.0, 5000.0):
        assert decide(history, RULES, now_s, written=["model"]) == Wait(now_s + 1.0, "model is open for writing")


def test_where_writers_can_not_be_told_the_quiet_period_decides() -> None:
    history = seen(state(model=1), 0.0)
    assert isinstance(decide(history, RULES, 1.0, written=None), Wait)
    assert decide(history, RULES, 2.0, written=None) == Save()


def test_a_change_that_no_event_told_of_begins_a_quiet_period_at_the_look() -> None:
    history = seen(state(model=1), 0.0)
    history = after_look(history, state(model=1, optimizer=2), 30.0)
    assert isinstance(decide(history, RULES, 31.0), Wait)
    assert decide(history, RULES, 32.0) == Save()


def test_what_was_written_a_moment_ago_is_not_at_rest_whatever_was_told() -> None:
    """Notices can be lost: the time of the file itself is asked, too."""
    history = seen(state(model=1), 0.0)
    assert decide(history, RULES, 10.0, newest_age_s=0.5) == Wait(11.5, "model was written to a moment ago")
    assert decide(history, RULES, 10.0, newest_age_s=2.0) == Save()
    # A clock that runs ahead tells nothing.
    assert decide(history, RULES, 10.0, newest_age_s=-5.0) == Save()


def test_deleting_makes_no_checkpoint_and_begins_a_quiet_period() -> None:
    both = state(old=1, new=2)
    history = after_save(seen(both), both, 1.0)
    history = seen({"new": both["new"]}, 5.0, history)
    assert decide(history, RULES, 100.0) == Idle()


@pytest.mark.parametrize("marker", [".metadata", "_SUCCESS", "model.done"])
def test_a_new_marker_completes_its_folder_at_once(marker: str) -> None:
    files = {"step-5/a": FileSeen(1, 9, 10), f"step-5/{marker}": FileSeen(2, 0, 11)}
    assert decide(seen(files), RULES, 0.0) == Save()
    assert isinstance(decide(seen({**files, "elsewhere": FileSeen(3, 9, 10)}), RULES, 0.0), Wait)
    # Something in the folder is newer than its marker.
    assert isinstance(decide(seen({**files, "step-5/b": FileSeen(3, 9, 12)}), RULES, 0.0), Wait)


def test_a_marker_of_an_earlier_save_says_nothing_about_what_is_new() -> None:
    files = {"a": FileSeen(1, 9, 10), "x.done": FileSeen(2, 0, 20)}
    history = after_save(seen(files), files, 1.0)
    # Renamed into place, with the time that it was written at elsewhere: older than the marker.
    history = seen({**files, "a": FileSeen(7, 9, 15)}, 5.0, history)
    assert isinstance(decide(history, RULES, 5.0), Wait)


def test_a_folder_that_lacks_what_those_before_it_had_waits() -> None:
    first = {f"checkpoint-500/{name}": FileSeen(1, 9, 1) for name in ("model", "rng_0", "rng_1", "trainer_state.json")}
    history = after_save(seen(first), first, 1.0)
    second = {**first, "checkpoint-1000/model": FileSeen(2, 9, 2), "checkpoint-1000/rng_0": FileSeen(3, 9, 2)}
    history = seen(second, 10.0, history)
    waiting = decide(history, RULES, 20.0)
    assert waiting == Wait(70.0, "checkpoint-1000 has no rng_# yet, as those before it had (2 missing in all)")
    assert isinstance(decide(history, RULES, 70.0), Save)  # It will not come any more.
    assert decide(history, RULES, 20.0, ending=Ending.WELL, give_up_at_s=80.0) == GiveUp(waiting.why)
    third = {**second, **{f"checkpoint-1000/{name}": FileSeen(4, 9, 3) for name in ("rng_1", "trainer_state.json")}}
    assert decide(seen(third, 21.0, history), RULES, 23.0) == Save()


def test_a_marker_that_is_asked_for_is_needed() -> None:
    rules = dataclasses.replace(RULES, markers=("DONE",), marker_needed=True)
    flat = {"model": FileSeen(1, 9, 1)}
    assert "the folder itself has no marker (DONE)" in decide(seen(flat), rules, 30.0).why  # type: ignore[union-attr]
    history = seen({**flat, "DONE": FileSeen(2, 0, 2)})
    assert decide(history, rules, 0.0) == Save()
    history = after_save(history, history.seen, 1.0)
    # The same files once more, and not yet the marker.
    history = seen({"model": FileSeen(1, 9, 5), "DONE": FileSeen(2, 0, 2)}, 10.0, history)
    assert isinstance(decide(history, rules, 30.0), Wait)
    assert isinstance(decide(seen({"model": FileSeen(1, 9, 5), "DONE": FileSeen(2, 0, 6)}, 31.0, history), rules, 31.0), Save)


def test_beside_folders_with_markers_other_files_need_none() -> None:
    rules = dataclasses.replace(RULES, markers=("DONE",), marker_needed=True)
    files = {"step-1/model": FileSeen(1, 9, 1), "step-1/DONE": FileSeen(2, 0, 2), "results.json": FileSeen(3, 9, 3)}
    assert isinstance(decide(seen(files), rules, 1.0), Wait)
    assert decide(seen(files), rules, 2.0) == Save()
    files["step-2/model"] = FileSeen(4, 9, 4)
    assert "step-2 has no marker" in decide(seen(files), rules, 2.0).why  # type: ignore[union-attr]


def test_at_a_failure_nothing_is_waited_for() -> None:
    history = seen(state(model=1), 10.0)
    failed = Ending.FAILED
    assert decide(history, RULES, 11.0, ending=failed) == GiveUp("model was written to a moment ago")
    assert decide(history, RULES, 12.0, ending=failed) == Save()
    assert decide(history, RULES, 12.0, ending=failed, written=["model"]) == GiveUp("model is open for writing")


def test_a_good_end_waits_for_what_is_being_written_but_not_for_ever() -> None:
    history = seen(state(model=1), 10.0)
    assert isinstance(decide(history, RULES, 11.0, ending=Ending.WELL, give_up_at_s=70.0), Wait)
    assert isinstance(decide(history, RULES, 69.0, written=["model"], ending=Ending.WELL, give_up_at_s=70.0), Wait)
    assert isinstance(decide(history, RULES, 70.0, written=["model"], ending=Ending.WELL, give_up_at_s=70.0), GiveUp)


def test_what_is_new_is_named_by_its_first_part() -> None:
    assert changed_tops(seen(state(a__b=1, a__c=1, d=1))) == ["a", "d"]


@pytest.mark.parametrize(
    ("path", "temporary"),
    [
        *[
            (path, True)
            for path in ("model.tmp", "a/tmp-checkpoint-5/model", "5.orbax-checkpoint-tmp-17/x", ".partial-ab/f", "x/.~lock")
        ],
        *[
            (path, True)
            for path in ("m.part", "ckpt-1.data.tempstate99", "model.bin~", ".model.swp", ".ckpt-async-load-x/loaded/f")
        ],
        *[(path, False) for path in ("model.bin", "checkpoint-5/model", "partial/model", "tmp", "a.tmpl", "best.ckpt", "latest")],
    ],
)
def test_temporary_names(path: str, temporary: bool) -> None:
    assert RULES.is_temporary(path) is temporary


def test_rules_are_read_from_what_a_user_gives() -> None:
    assert read_watch_rules({}) == read_watch_rules({"watch_quiet": None, "watch_marker": "None"}) == WatchRules()
    rules = read_watch_rules(
        {"watch_quiet": "0.5", "watch_marker": "DONE, *.ok", "watch_ignore": ["wandb/*"], "watch_temporary": "x*"}
    )
    assert (rules.quiet_s, rules.markers, rules.marker_needed) == (0.5, ("DONE", "*.ok"), True)
    assert rules.is_ignored("wandb/run-1/log") and rules.is_ignored("run.log") and not rules.is_ignored("a/wandb.bin")
    assert rules.is_temporary("xy") and rules.is_temporary("a.tmp")


@pytest.mark.parametrize(
    "values",
    [{"watch_quiet": 0}, {"watch_quiet": True}, {"watch_quiet": "soon"}, {"watch_max_wait": float("nan")}, {"watch_marker": []},
     {"watch_marker": 7}, {"watch_ignore": "*"}, {"watch_ignore": "../x"}, {"watch_temporary": "/tmp/x"}, {"watch_why": 1}],
)  # fmt: skip
def test_wrong_rules_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        read_watch_rules(values)


# Any order of things


@dataclass
class World:
    """A folder, its writers and its watcher, by the clock of the test."""

    writers_told: bool
    now_s: float = 0.0
    files: dict[str, FileSeen] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    #: Files in which a writer is, between its first write and its last, whether it has them open or not.
    half: set[str] = field(default_factory=set)
    written_s: dict[str, float] = field(default_factory=dict)
    history: History = field(default_factory=History)
    saved: list[dict[str, FileSeen]] = field(default_factory=list)

    def write(self, path: str) -> None:
        old = self.files.get(path)
        inode = old.inode if old else len(self.written_s) + 1
        self.files[path] = FileSeen(inode, (old.size_bytes if old else 0) + 10, int(self.now_s * 1e9))
        self.written_s[path] = self.now_s

    def told(self) -> None:
        self.history = after_event(self.history, self.now_s)

    def look(self, ending: Ending = Ending.NOT_YET) -> Decision:
        counted = {path: file for path, file in self.files.items() if not RULES.is_temporary(path)}
        self.history = after_look(self.history, counted, self.now_s)
        new = [path for path, file in counted.items() if self.history.saved.get(path) != file]
        age_s = min((self.now_s - self.written_s[path] for path in new), default=None)
        written = sorted(self.open & set(new)) if self.writers_told else None
        decision = decide(self.history, RULES, self.now_s, written=written, newest_age_s=age_s, ending=ending, give_up_at_s=1e9)
        if isinstance(decision, Save):
            assert not self.half & set(counted), f"half-written files were saved: {self.half & set(counted)}"
            self.saved.append(counted)
            self.history = after_save(self.history, counted, self.now_s)
        return decision


steps = st.lists(
    st.tuples(
        st.sampled_from(["begin", "write", "end", "rename", "delete", "pass"]),
        st.sampled_from(["a", "b.done", "dir-1/c", "dir-2/c", "dir-2/x.done", "d.tmp"]),
        st.integers(0, 19),  # tenths of a second until then
        st.booleans(),  # whether it is told of
        st.booleans(),  # whether it is looked afterwards
    ),
    max_size=60,
)


def run(world: World, script: Iterable[tuple[str, str, int, bool, bool]]) -> None:
    for what, path, tenths, told, look in script:
        world.now_s += tenths / 10
        if what == "begin" and path not in world.open:
            world.open.add(path)
            world.half.add(path)
            world.write(path)
        elif what == "write" and path in world.open:
            world.write(path)
        elif what == "end" and path in world.open:
            world.write(path)
            world.open.discard(path)
            world.half.discard(path)
        elif what == "rename" and path in world.files and path not in world.open and path.endswith(".tmp"):
            world.files["renamed"] = world.files.pop(path)
            world.written_s["renamed"] = world.written_s[path]
        elif what == "delete" and path not in world.open:
            world.files.pop(path, None)
        # The kernel may lose some of what it has to tell.
        if told:
            world.told()
        if look:
            world.look()


@settings(max_examples=150, deadline=None, database=None)
@given(steps, st.sampled_from(list(Ending)))
def test_no_order_of_writing_looking_and_losing_notices_gives_a_half_written_file(
    script: list[tuple[str, str, int, bool, bool]], ending: Ending
) -> None:
    world = World(writers_told=True)
    run(world, script)
    world.look(ending)
    # All who write come to an end; so does the watching.
    for path in sorted(world.open):
        world.write(path)
    world.open.clear()
    world.half.clear()
    decision = world.look()
    for _ in range(5):
        if not isinstance(decision, Wait):
            break
        world.now_s = max(world.now_s, decision.until_s)
        decision = world.look()
    assert isinstance(decision, (Idle, Save))
    counted = {path: file for path, file in world.files.items() if not RULES.is_temporary(path)}
    newest = world.saved[-1] if world.saved else {}
    assert all(newest.get(path) == file for path, file in counted.items())


@settings(max_examples=150, deadline=None, database=None)
@given(steps)
def test_nor_does_it_where_writers_can_not_be_told_while_none_pauses_for_the_quiet_period(
    script: list[tuple[str, str, int, bool, bool]],
) -> None:
    world = World(writers_told=False)
    steady: list[tuple[str, str, int, bool, bool]] = []
    for what, path, tenths, told, look in script:
        if "done" in path:
            continue  # whoever writes a marker first and the rest later is caught by seeing him at it alone
        steady.append((what, path, tenths, told, look))
        # Whoever is writing does so at least that often.
        steady += [("write", open_path, 0, told, False) for open_path in ("a", "dir-1/c", "dir-2/c", "d.tmp")]
    run(world, steady)
    world.look(Ending.FAILED)
