"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dlm.errors import StorageError
from dlm.files import check_writable, write_whole


def test_what_cannot_be_written_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "a.json", "old")

    def full(self: Path, text: str, encoding: str) -> int:
        self.touch()
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match=r"a.json cannot be written \(No space left.*make room"):
        write_whole(tmp_path / "a.json", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_link_stays_and_a_file_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    (tmp_path / "there").chmod(0o640)
    (tmp_path / "link").symlink_to("there")
    (tmp_path / "further").symlink_to(tmp_path / "link")
    (tmp_path / "dangling").symlink_to("new")
    for name in ("further", "dangling"):
        check_writable(tmp_path / name)
        write_whole(tmp_path / name, "text")
    assert (tmp_path / "further").is_symlink()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_text() == (tmp_path / "new").read_text() == "text"
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o640
    assert {path.name for path in tmp_path.iterdir()} == {"there", "link", "further", "dangling", "new"}


def test_a_pipe_is_written_and_never_replaced(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    check_writable(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_whole(pipe, "text")
    assert os.read(reader, 10) == b"text"
    os.close(reader)
    assert pipe.is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("place", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_a_descriptor_is_written(place: str, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w+") as file:
        file.write("before ")
        file.flush()
        target = Path(place.format(file.fileno()))
        check_writable(target)
        write_whole(target, "text")
    assert (tmp_path / "log").read_text() == "before text"
    with pytest.raises(StorageError, match="Bad file descriptor"):
        check_writable(Path("/dev/fd/987"))


def test_the_standard_streams_and_devices_stay_what_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("-", "/dev/stdout", "/dev/stderr", os.devnull):
        check_writable(Path(name))
        write_whole(Path(name), f"to {name} ")
    assert Path(os.devnull).is_char_device()
    assert capfd.readouterr() == ("to - to /dev/stdout ", "to /dev/stderr ")


@pytest.mark.parametrize("name", ["", "nowhere/file", "file/below", "loop"])
def test_what_cannot_be_written_is_said_before(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for write in (check_writable, lambda path: write_whole(path, "text")):
        with pytest.raises(StorageError, match="cannot be written"):
            write(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "loop"}
