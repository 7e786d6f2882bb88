"""What `.ci/run` checks beside its tools: the README's command, which tests were skipped, which processes were left.

Standard library only, so that it runs before anything is installed.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = "CI_RUN_MARK"
ENDING_S = 15.0
"""How long what was told to end may take to be gone, seconds: the default grace of an instance is 20 s, and tests set less."""
KERNEL_FEATURES = (
    re.compile(r"\bsystemd\b", re.IGNORECASE),
    re.compile(r"\bcgroup", re.IGNORECASE),
    re.compile(r"\bsubreaper\b", re.IGNORECASE),
    re.compile(r"\bpidfd\b", re.IGNORECASE),
    re.compile(r"\bnamespaces?\b", re.IGNORECASE),
)
"""What a skip's reason must speak of: things that a machine can lack and nobody can install."""


def say(text: str) -> None:
    """One line of the report."""
    print(text, flush=True)  # noqa: T201 - a report on stdout is what this program is for


def readme_command() -> str:
    """The command with which the README says the tests are run, word for word; SystemExit when there is not exactly one."""
    text = ROOT.joinpath("README.md").read_text()
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines: list[str] = [line for block in blocks for line in block.splitlines() if line.endswith(".venv/bin/pytest")]
    if len(set(lines)) != 1:
        raise SystemExit(f"README.md must show exactly one command that ends in .venv/bin/pytest; found {lines}")
    return lines[0]


def skipped(reports: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """(test, reason) of every test that a report calls skipped, expected failures included."""
    for report in reports:
        for case in ET.parse(report).getroot().iter("testcase"):
            for skip in case.findall("skipped"):
                yield f"{case.get('classname')}::{case.get('name')}", skip.get("message") or skip.text or ""


def check_skips(reports: Sequence[Path]) -> int:
    """Count and print the skips by reason; 1 when one is not for a kernel feature, or a report is missing."""
    missing = [str(report) for report in reports if not report.is_file()]
    found = list(skipped([report for report in reports if report.is_file()]))
    reasons = Counter(reason for _, reason in found)
    refused = [reason for reason in reasons if not any(feature.search(reason) for feature in KERNEL_FEATURES)]
    say(f"{len(found)} skipped")
    for reason, count in sorted(reasons.items()):
        say(f"  {count} x {reason}{'   <-- not a kernel feature: this must run' if reason in refused else ''}")
        if reason in refused:
            say("\n".join(f"      {test}" for test, why in found if why == reason))
    for report in missing:
        say(f"  {report} was not written: its tests did not run")
    return 1 if refused or missing else 0


def ours() -> dict[int, str]:
    """Living processes that carry this run's mark, by pid, without those that this program runs under."""
    mark = f"{MARK}={os.environ[MARK]}".encode()
    above = set(_ancestors(os.getpid()))
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended, or belongs to somebody else
        if mark in environment.split(b"\0") and state != "Z" and int(folder.name) not in above:
            found[int(folder.name)] = command.strip()
    return found


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 0:
        yield pid
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def check_left(patience_s: float) -> int:
    """Wait a moment for what is ending; 1 when something still lives, which is then ended."""
    if not Path("/proc/self/environ").exists():
        say("this system shows no environment of processes: not checked")
        return 0
    limit = time.monotonic() + patience_s
    while (left := ours()) and time.monotonic() < limit:
        time.sleep(0.2)
    for pid, command in left.items():
        say(f"left behind: {pid} {command[:200]}")
        os.kill(pid, signal.SIGKILL)  # it carries this run's mark, so this run started it
    say(f"{len(left)} processes left behind")
    return 1 if left else 0


def main(arguments: Sequence[str]) -> int:
    """One of the three checks."""
    match list(arguments):
        case ["readme-command"]:
            say(readme_command())
            return 0
        case ["skips", *reports]:
            return check_skips([Path(report) for report in reports])
        case ["left"]:
            return check_left(ENDING_S)
        case ["left", seconds]:
            return check_left(float(seconds))
    say("usage: check.py readme-command | skips REPORT... | left [SECONDS]")
    return 64


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
