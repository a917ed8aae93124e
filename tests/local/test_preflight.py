"""Whatever the machine lacks is one clear line, before anything is started."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from local import claim, cluster, console, preflight, processes, settings


@pytest.fixture
def chosen(tmp_path: Path) -> settings.Settings:
    return settings.choose(tmp_path / "state", node=False, controllers="*")


def test_a_machine_that_has_everything_is_not_told_anything(chosen: settings.Settings) -> None:
    preflight.check(chosen)


def test_a_port_that_another_process_took_while_the_cluster_was_killed(chosen: settings.Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(console.LocalError, match=rf"- port {port}, which versitygw of this cluster had, is in use"):
            preflight.check(replace(chosen, ports={**chosen.ports, "s3": port}))


def test_a_node_without_root(chosen: settings.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(console.LocalError, match=r"- a node needs root \(without one: --control-plane-only\)"):
        preflight.check(replace(chosen, node=True))


def test_too_little_disk_and_memory(chosen: settings.Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.preflight._GIB", 1 << 60)
    with pytest.raises(console.LocalError) as raised:
        preflight.check(chosen)
    assert "of disk are needed at" in str(raised.value)
    assert "of memory are needed" in str(raised.value)


def test_a_missing_package_is_named_to_who_may_not_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(console.LocalError, match="missing: install one two"):
        preflight.install({"one": "no-such-program", "two": "/no/such/*", "three": "sh"})


def test_only_one_cluster_at_a_time_has_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.claim.NODE_SOCKETS", tmp_path / "run")
    monkeypatch.setattr("local.claim._OWNER", tmp_path / "run" / "owner")
    claim.take(Path("/first"))
    claim.take(Path("/first"))
    with pytest.raises(console.LocalError, match="local down --state /first"):
        claim.take(Path("/second"))
    assert claim.owner() == Path("/first")
    claim.give_back()
    assert claim.owner() is None


def test_taking_down_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    cluster.down(tmp_path / "nothing")
    assert processes.running(tmp_path / "nothing") == []
