from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ckpt_async.words.errors import InvalidArgument
from ckpt_async.words.settings import Settings, coerce_settings, read_size, settings_from_dict


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("async_upload", "yes"),
        ("async_upload", None),
        ("async_upload", 2),
        ("async_upload", ""),
        ("worker", "Process"),
        ("worker", "fork"),
        ("worker", None),
        ("worker", ["process"]),
        ("max_pending", 0),
        ("max_pending", -1),
        ("max_pending", 1.5),
        ("max_pending", "1.5"),
        ("max_pending", True),
        ("max_pending", "many"),
        ("max_pending", None),
        ("max_pending", "9" * 5000),
        ("max_pending_bytes", 0),
        ("max_pending_bytes", -5),
        ("max_pending_bytes", "0.4"),
        ("max_pending_bytes", "20 apples"),
        ("max_pending_bytes", "GB"),
        ("max_pending_bytes", "1e400"),
        ("max_pending_bytes", "nan"),
        ("max_pending_bytes", "inf"),
        ("max_pending_bytes", True),
        ("max_pending_bytes", [1]),
        ("max_lag", 0),
        ("max_lag", "soon"),
        ("max_bandwidth", 0),
        ("max_bandwidth", "fast"),
        ("max_memory", "15MiB"),
        ("max_memory", 0),
        ("max_memory", "much"),
        ("max_memory", True),
        ("on_full", "drop"),
        ("on_full", "BLOCK"),
        ("on_full", None),
        ("flush_timeout", 0),
        ("flush_timeout", -1),
        ("flush_timeout", "inf"),
        ("flush_timeout", 31 * 24 * 3600),
        ("flush_timeout", float("nan")),
        ("flush_timeout", "soon"),
        ("flush_timeout", True),
        ("flush_timeout", None),
        pytest.param("flush_timeout", 10**400, id="flush_timeout-huge"),
        ("spool_dir", 5),
        ("spool_dir", ["x"]),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_the_value_and_what_is_allowed(name: str, value: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        coerce_settings({"async_upload": True, name: value})
    assert caught.value.on == f"{name}={value!r}"
    assert caught.value.hint.startswith("Allowed: ")


def test_an_unknown_name_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidArgument, match=r"async_uplaod.*There are: async_upload, worker"):
        coerce_settings({"async_uplaod": True})
    with pytest.raises(InvalidArgument):
        coerce_settings({"parts_in_flight": 3})


def test_texts_of_a_command_line_mean_what_they_say() -> None:
    texts = {
        "async_upload": "True",
        "worker": "thread",
        "max_pending": "3",
        "max_pending_bytes": "20GB",
        "max_lag": "600",
        "on_full": "drop_oldest",
        "max_bandwidth": "200 MB/s",
        "flush_timeout": "90",
        "spool_dir": "None",
    }
    assert coerce_settings(texts) == Settings(True, "thread", 3, 20 * 10**9, 600.0, "drop_oldest", 200 * 10**6, 90.0, None)


@pytest.mark.parametrize(("text", "meant"), [("True", True), ("1", True), (1, True), ("False", False), ("0", False), (0, False)])
def test_a_switch_is_never_on_because_its_text_is_not_empty(text: object, meant: bool) -> None:
    assert coerce_settings({"async_upload": text}).async_upload is meant


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (1, 1),
        ("1500000", 1_500_000),
        ("20 GiB", 20 * 2**30),
        ("512MiB", 2**29),
        ("1.5k", 1500),
        ("1e3", 1000),
        ("2tb", 2 * 10**12),
        (" 7 b ", 7),
    ],
)
def test_sizes(value: object, size: int) -> None:
    assert read_size("max_pending_bytes", value) == size


@pytest.mark.parametrize(("value", "meant"), [("256MB", 256 * 10**6), (16 * 2**20, 16 * 2**20), ("None", None), (None, None)])
def test_memory(value: object, meant: int | None) -> None:
    assert coerce_settings({"max_memory": value}).max_memory_bytes == meant


def test_a_folder_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert coerce_settings({"spool_dir": "x/../y"}).spool_dir == os.path.join(os.getcwd(), "y")
    assert coerce_settings({"spool_dir": Path("/z")}).spool_dir == "/z"
    assert coerce_settings({"spool_dir": "~/s"}).spool_dir == "/home/me/s"
    assert coerce_settings({"spool_dir": None, "max_pending_bytes": ""}) == Settings()


def test_settings_survive_the_spool() -> None:
    chosen = Settings(True, "thread", 3, 5, "raise", 1.5, "/x", 2)
    assert settings_from_dict(json.loads(json.dumps(chosen.to_dict()))) == chosen
