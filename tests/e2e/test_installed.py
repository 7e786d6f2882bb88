"""A running daemon goes by the installed version from the next load after it was read, and tells when that version is gone."""

from __future__ import annotations

from tests.daemons import Daemon
from tests.host.installs import llama_server

NEW = "--brand-new N                           what nobody knew before (default: 3)"
OUTDATED = "were read before it changed"


def save(daemon: Daemon, options: str) -> None:
    """Declare one instance that never runs, with these options."""
    daemon.file.write_text(
        f"server: {{ port: {daemon.port} }}\n"
        f"backends: {{ llama_executable: {daemon.folder}/llama-server }}\n"
        f"instances:\n  one:\n    backend_type: llama_cpp\n    enabled: false\n    backend_options: {{ model: m, {options} }}\n"
    )


def told(daemon: Daemon, text: str) -> int:
    """How often the log says so."""
    return daemon.output.read_text().count(text)


def in_force(daemon: Daemon, options: str, *, valid: bool) -> None:
    """Save, and wait for the verdict on exactly this content."""
    before = daemon.status()["config"]
    save(daemon, options)

    def judged() -> bool:
        now = daemon.status()["config"]
        return bool(now["valid"]) is valid and now != before

    daemon.until(judged, what=f"the file is {'in force' if valid else 'refused'}", deadline_s=20.0)


def test_a_table_counts_from_the_next_load_and_an_upgrade_is_told_once(daemon: Daemon) -> None:
    program = llama_server(daemon.folder / "llama-server", NEW)
    save(daemon, "ctx_size: 1")
    daemon.up()
    in_force(daemon, "brand_new: 1", valid=False)
    assert daemon.run("vocabulary", "llama-cpp", "-f", str(daemon.file)).code == 0
    in_force(daemon, "brand_new: 2", valid=True)
    assert told(daemon, f"read from {program}") == 1
    llama_server(program, NEW, version="7001")
    in_force(daemon, "brand_new: 3", valid=True)
    in_force(daemon, "ctx_size: 2", valid=True)
    assert told(daemon, OUTDATED) == 1
    assert daemon.run("vocabulary", "llama-cpp", "-f", str(daemon.file)).code == 0
    in_force(daemon, "brand_new: 4", valid=True)
    daemon.down()
    assert daemon.left_over() == []
