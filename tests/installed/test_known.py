"""A table counts for the very program it was read from and for no other; looking it up starts nothing and costs next to nothing."""

from __future__ import annotations

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reconciler.backends._vocabulary import packaged_json
from reconciler.core.errors import Rejected
from reconciler.host import reading, tables
from reconciler.host.programs import NOT_FOUND, OPAQUE
from reconciler.installed.known import Installed
from tests.host.installs import Environment, llama_server, mlx_server, runs_of, script

KIND = "llama_cpp"
PATH = {"PATH": os.defpath}


def installed(folder: Path, said: list[str] | None = None, **environ: str) -> Installed:
    """With its state in this folder."""
    return Installed({**PATH, **environ}, folder / "state", say=(said if said is not None else []).append)


def test_without_a_kept_table_nothing_is_looked_at(tmp_path: Path) -> None:
    known = installed(tmp_path)
    missing = (str(tmp_path / "no" / "such" / "program"),)
    assert known.lookup(KIND, missing) is None
    assert known.notes == ()
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_for_one_program_and_the_same_object_each_time(tmp_path: Path) -> None:
    one, two = llama_server(tmp_path / "one"), llama_server(tmp_path / "two", version="2")
    installed(tmp_path).read(KIND, (str(one),))
    known = installed(tmp_path)
    table = known.lookup(KIND, (str(one),))
    assert table is not None
    assert known.lookup(KIND, (str(one),)) is table
    assert known.lookup(KIND, (str(two),)) is None
    assert known.lookup(KIND, (str(one), "serve")) is None, "other words, another program"
    assert [note.path for note in known.notes] == [str(one)]


def test_loads_in_several_threads_find_the_same_object(tmp_path: Path) -> None:
    program = llama_server(tmp_path / "one")
    installed(tmp_path).read(KIND, (str(program),))
    known = installed(tmp_path)
    together = threading.Barrier(8)

    def look(_: int) -> int:
        together.wait(20)
        return id(known.lookup(KIND, (str(program),)))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(look, range(8)))) == 1


def test_a_program_is_the_same_by_path_and_by_name(tmp_path: Path) -> None:
    program = llama_server(tmp_path / "bin" / "llama-server")
    known = installed(tmp_path, PATH=f"{tmp_path / 'bin'}:{os.defpath}")
    known.read(KIND, ("llama-server",))
    assert known.lookup(KIND, (str(program),)) is not None
    assert known.read(KIND, (str(program),)).cached
    assert runs_of(program) == 1


def test_an_outdated_table_is_told_once_until_it_is_read_anew(tmp_path: Path) -> None:
    program = llama_server(tmp_path / "one")
    said: list[str] = []
    known = installed(tmp_path, said)
    known.read(KIND, (str(program),))
    before = known.lookup(KIND, (str(program),))
    assert before is not None
    llama_server(program, version="2")
    for _ in range(3):
        table = known.lookup(KIND, (str(program),))
        assert table is not None, "an upgrade makes no file invalid"
        assert table["version"] == before["version"]
    assert len(said) == 1
    assert "were read before it changed; run `llamactl vocabulary llama-cpp --executable" in said[0]
    known.read(KIND, (str(program),))
    assert known.lookup(KIND, (str(program),)) is not None
    llama_server(program, version="3")
    table = known.lookup(KIND, (str(program),))
    assert table is not None
    assert table["version"] != before["version"], "the newest of those that were read"
    assert len(said) == 2


def test_a_default_program_is_named_by_the_short_command(tmp_path: Path) -> None:
    said: list[str] = []
    known = installed(tmp_path, said, PATH=f"{tmp_path}:{os.defpath}")
    program = llama_server(tmp_path / "llama-server")
    known.read(KIND, ("llama-server",))
    llama_server(program, version="2")
    assert known.lookup(KIND, ("llama-server",)) is not None
    assert "run `llamactl vocabulary llama-cpp` (" in said[0]


def test_what_another_reader_read_counts_until_it_is_read_anew(tmp_path: Path) -> None:
    program = llama_server(tmp_path / "one")
    file = installed(tmp_path).read(KIND, (str(program),)).file
    assert file is not None
    data = json.loads(file.read_text())
    file.write_text(json.dumps({**data, "reader": "another"}))
    said: list[str] = []
    assert installed(tmp_path, said).lookup(KIND, (str(program),)) is not None
    assert "by another version of llamactl" in said[0]


def test_a_table_that_the_backend_cannot_use_is_put_aside(tmp_path: Path) -> None:
    program = llama_server(tmp_path / "one")
    file = installed(tmp_path).read(KIND, (str(program),)).file
    assert file is not None
    data = json.loads(file.read_text())
    data["table"] = {"backend": KIND, "options": [{"name": "x", "flags": ["--x"], "kind": "unheard of"}]}
    file.write_text(json.dumps({**data, "sum": tables._sum(data["table"])}))
    known = installed(tmp_path)
    assert known.lookup(KIND, (str(program),)) is None
    assert known.lookup(KIND, (str(program),)) is None
    assert not file.exists()
    assert not known.read(KIND, (str(program),)).cached


def test_a_program_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    program = llama_server(tmp_path / "one")
    program.write_text(program.read_text() + f"echo '# upgraded' >> {program}\n")
    with pytest.raises(Rejected) as caught:
        installed(tmp_path).read(KIND, (str(program),))
    assert "changed while it was read" in caught.value.problems[0].message
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [(["/no/such/program"], NOT_FOUND), (["docker", "run", "x"], OPAQUE), (["true"], reading.FAILED)],
)
def test_what_cannot_be_read_says_why_and_what_to_do(words: list[str], code: str, tmp_path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        installed(tmp_path).read(KIND, tuple(words))
    assert caught.value.problems[0].code == code
    assert caught.value.problems[0].hint


def test_a_distribution_outside_of_the_environment_is_found_by_asking_once(tmp_path: Path) -> None:
    made = mlx_server(tmp_path / "venv")
    elsewhere = tmp_path / "elsewhere"
    made.site.rename(elsewhere)
    made.site.mkdir()
    program = (str(made.folder / "bin" / "mlx_lm.server"),)
    known = installed(tmp_path, PYTHONPATH=str(elsewhere))
    assert known.read("mlx_lm", program).caveat is None
    later = installed(tmp_path, PYTHONPATH=str(elsewhere))
    assert later.lookup("mlx_lm", program) is not None
    [metadata] = elsewhere.glob("*.dist-info")
    (metadata / "RECORD").write_text("upgraded\n")
    assert later.lookup("mlx_lm", program) is not None
    assert later.notes[0].outdated


def test_a_program_whose_version_nothing_tells_is_read_with_a_caveat(tmp_path: Path) -> None:
    made = mlx_server(tmp_path / "venv")
    for file in made.site.glob("*.dist-info/*"):
        file.unlink()
    [folder] = made.site.glob("*.dist-info")
    folder.rmdir()
    program = (str(made.folder / "bin" / "mlx_lm.server"),)
    known = installed(tmp_path)
    assert "a change of it is not noticed" in (known.read("mlx_lm", program).caveat or "")
    assert installed(tmp_path).lookup("mlx_lm", program) is not None


def test_a_module_is_a_program_too(tmp_path: Path) -> None:
    made: Environment = mlx_server(tmp_path / "venv", "--extra")
    words = (str(made.python), "-m", "mlx_lm.server")
    known = installed(tmp_path)
    assert known.read("mlx_lm", words).path == " ".join(words)
    assert known.lookup("mlx_lm", words) is not None
    assert known.lookup("mlx_lm", (str(made.folder / "bin" / "mlx_lm.server"),)) is None
    made.install("1.0")
    assert known.lookup("mlx_lm", words) is not None
    assert known.notes[0].outdated


def test_nothing_is_started_by_a_lookup(tmp_path: Path) -> None:
    program = llama_server(tmp_path / "one")
    known = installed(tmp_path)
    known.read(KIND, (str(program),))
    script(program, f"#!/bin/sh\ntouch {tmp_path}/started\n")
    assert known.lookup(KIND, (str(program),)) is not None
    assert known.notes[0].outdated
    assert not (tmp_path / "started").exists()


def test_kinds_are_found_by_their_routes_and_only_where_options_can_be_read(tmp_path: Path) -> None:
    known = installed(tmp_path)
    assert {known.kind_of(name) for name in ("llama-cpp", "llama_cpp")} == {KIND}
    assert known.kind_of("mlx") == known.kind_of("mlx-lm") == "mlx_lm"
    assert [known.kind_of(name) for name in ("custom", "external", "simulator", "")] == [None] * 4
    assert all(packaged_json(kind) for kind in known.readable())
    assert packaged_json("custom") is None


def test_a_pasted_command_is_read_by_the_options_of_the_program_that_it_names(tmp_path: Path) -> None:
    program = llama_server(tmp_path / "llama-server", "--brand-new N                           as of late (default: 3)")
    known = installed(tmp_path, PATH=f"{tmp_path / 'nothing'}:{os.defpath}")
    backend = known.backends[KIND]
    command = f"{program} --model m.gguf --brand-new 7"
    assert backend.parse(command).extra_args == ("--brand-new", "7")
    known.read(KIND, (str(program),))
    parsed = backend.parse(command)
    assert parsed.backend_options["brand_new"] == 7
    assert not parsed.extra_args
    assert backend.parse("llama-server --model m.gguf --brand-new 7").extra_args == ("--brand-new", "7")


def test_a_program_that_is_asked_sees_no_gpu_and_no_network(tmp_path: Path) -> None:
    program = llama_server(tmp_path / "one")
    shebang, text = program.read_text().split("\n", 1)
    program.write_text(f"{shebang}\nenv > {tmp_path}/env\n{text}")
    known = installed(tmp_path, CUDA_VISIBLE_DEVICES="0,1", HIP_VISIBLE_DEVICES="0")
    known.read(KIND, (str(program),), declared={"CUDA_VISIBLE_DEVICES": "1", "HF_HUB_OFFLINE": "0", "OTHER": "x"})
    seen = set((tmp_path / "env").read_text().splitlines())
    assert {"CUDA_VISIBLE_DEVICES=", "HIP_VISIBLE_DEVICES=", "HF_HUB_OFFLINE=1", "OTHER=x"} <= seen
    for kind in known.readable():
        source = known.backends[kind].option_source
        assert source is not None
        assert dict(line.split("=", 1) for line in seen).items() >= source.environment.items(), f"{kind}: the same"
