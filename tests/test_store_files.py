"""No link or stranger's file in the store's folder leads root elsewhere."""

import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from dpsd.errors import DpsdError, NotPermitted
from dpsd.paths import shipped
from dpsd.store import Store
from dpsd.store.files import SIDES
from tests.test_store import ADMIN, DAEMON, SHARED, add, as_root, become, entry, place, url

__all__ = ["place", "url"]  # fixtures

pytestmark = as_root


@pytest.fixture
def home(place: Path) -> Path:
    """The store's folder as the package makes it."""
    os.chown(place, DAEMON, SHARED)
    place.chmod(0o2770)
    return place


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A name that only root could make a file of."""
    return tmp_path / "victim"


def opened(url: str) -> None:
    with Store.open(url, upgrade=True) as store:
        store.claimed()
        store.commit([add(entry())])


@pytest.mark.parametrize("side", SIDES)
def test_no_link_is_followed(home: Path, url: str, victim: Path, side: str) -> None:
    Path(f"{home}/dpsd.db{side}").symlink_to(victim)
    with pytest.raises(NotPermitted, match="symbolic link"):
        opened(url)
    with pytest.raises(DpsdError):
        Store.open(url, claim=True)
    assert not victim.exists()


@pytest.mark.parametrize("side", SIDES)
def test_a_hard_link_to_another_file_is_let_be(home: Path, url: str, side: str) -> None:
    other = home.parent / f"{home.name}-other"
    other.write_bytes(b"")
    before = other.stat()
    try:
        os.link(other, f"{home}/dpsd.db{side}")
        with pytest.raises(NotPermitted, match="a link to another file"):
            opened(url)
        after = other.stat()
        assert (after.st_uid, after.st_gid, after.st_mode, after.st_size) == (
            before.st_uid, before.st_gid, before.st_mode, 0,
        )  # fmt: skip
    finally:
        other.unlink()


@pytest.mark.parametrize("side", SIDES)
def test_a_pipe_delays_nobody(home: Path, url: str, side: str) -> None:
    os.mkfifo(f"{home}/dpsd.db{side}")
    with pytest.raises(NotPermitted, match="no plain file"):
        opened(url)


def test_a_strangers_file_is_let_be(home: Path, url: str) -> None:
    (home / "dpsd.db").write_bytes(b"")
    os.chown(home / "dpsd.db", ADMIN, ADMIN)
    with pytest.raises(NotPermitted, match=f"user {ADMIN}"):
        opened(url)


def test_a_folder_of_roots_is_roots_alone(place: Path, url: str) -> None:
    os.chown(place, 0, SHARED)
    place.chmod(0o2770)
    with pytest.raises(NotPermitted, match="chown"):
        opened(url)
    assert list(place.iterdir()) == []


def test_a_swap_at_any_moment_gains_nothing(home: Path, url: str, victim: Path) -> None:
    """A member of the group puts files and links in each other's place while root works."""
    opened(url)
    stopping = threading.Event()

    def swap() -> None:  # root's own hand, which is faster than a member's could be
        while not stopping.is_set():
            for side in ("", "-wal", "-journal", ".lock"):
                link = home / "link"
                link.symlink_to(victim)
                os.replace(link, f"{home}/dpsd.db{side}")
                file = home / "file"
                file.touch()
                os.chown(file, DAEMON, SHARED)
                os.replace(file, f"{home}/dpsd.db{side}")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(200):
            with suppress(DpsdError):
                opened(url)
            with suppress(DpsdError):
                Store.open(url, claim=True).close()
    finally:
        stopping.set()
        swapper.join()
    assert not victim.exists()


def test_root_works_as_the_owner_and_is_root_again(home: Path, url: str, tmp_path: Path) -> None:
    opened(url)
    assert {(p.stat().st_uid, p.stat().st_gid) for p in home.iterdir()} == {(DAEMON, SHARED)}
    mine = tmp_path / "mine"
    mine.touch()
    assert mine.stat().st_uid == 0
    assert become(ADMIN, [SHARED], lambda: opened(url)) == ""


def test_a_checkout_that_only_root_may_read(
    home: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations = tmp_path / "migrations"
    shutil.copytree(shipped("migrations"), migrations)
    tmp_path.chmod(0o700)
    monkeypatch.setattr("dpsd.store.schema.shipped", lambda _: migrations)
    opened(url)
    assert {(p.stat().st_uid, p.stat().st_gid) for p in home.iterdir()} == {(DAEMON, SHARED)}
