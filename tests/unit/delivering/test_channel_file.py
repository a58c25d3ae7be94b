"""A local file as a target: messages are appended, attachments kept, no file is overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from hermes_celery.delivering.channel_file import FileChannel
from hermes_celery.errors import DeliveryFault


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the directory that files are delivered to."""
    return tmp_path / "output"


def attachment(tmp_path: Path, content: str, *, name: str = "daily.md", folder: str = "a") -> Path:
    path = tmp_path / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    return path


def send(root: Path, text: str, *files: Path, url: str = "file://daily.md") -> None:
    FileChannel(url, root=root).send(text, title="", files=files)


def kept(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in root.iterdir()}


def test_an_attachment_with_the_name_of_the_file_does_not_overwrite_it(
    root: Path, tmp_path: Path
) -> None:
    # At the first message the target file does not exist yet.
    send(root, "one", attachment(tmp_path, "first"))
    send(root, "two", attachment(tmp_path, "second"))
    assert kept(root) == {
        "daily.md": "one\n(attachment daily.md is daily-1.md)\n"
        "two\n(attachment daily.md is daily-2.md)\n",
        "daily-1.md": "first",
        "daily-2.md": "second",
    }


def test_an_attachment_overwrites_no_other_file(root: Path, tmp_path: Path) -> None:
    send(root, "w", url="file://weekly.md")
    files = [
        attachment(tmp_path, content, name=name, folder=folder)
        for name, content, folder in (
            ("chart.png", "a", "a"), ("chart.png", "b", "b"), ("weekly.md", "x", "a"),
        )
    ]  # fmt: skip
    send(root, "one", *files)
    found = kept(root)
    assert (found["chart.png"], found["chart-1.png"]) == ("a", "b")
    assert (found["weekly.md"], found["weekly-1.md"]) == ("w\n", "x")


def test_a_repeated_attempt_stores_each_attachment_once(root: Path, tmp_path: Path) -> None:
    chart = attachment(tmp_path, "a", name="chart.png")
    send(root, "one", chart)
    send(root, "one", chart)
    assert kept(root) == {"daily.md": "one\none\n", "chart.png": "a"}


def test_an_attachment_is_never_written_through_a_symlink(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("theirs")
    root.mkdir()
    (root / "chart.png").symlink_to(outside)
    (root / "chart-1.png").symlink_to(tmp_path / "not-there")
    send(root, "one", attachment(tmp_path, "a", name="chart.png"))
    assert outside.read_text() == "theirs"
    assert not (tmp_path / "not-there").exists()
    assert (root / "chart-2.png").read_text() == "a"


def test_the_file_itself_may_be_attached(root: Path) -> None:
    send(root, "one")
    send(root, "two", root / "daily.md")
    assert kept(root) == {"daily.md": "one\ntwo\n"}


def test_a_missing_attachment_fails_the_delivery_and_writes_nothing(
    root: Path, tmp_path: Path
) -> None:
    with pytest.raises(DeliveryFault, match="No such file"):
        send(root, "one", tmp_path / "gone.png")
    assert kept(root) == {}
