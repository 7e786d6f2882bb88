"""Programs that stand before a server's own in a pasted command, as data: which are left out, which are kept, which cannot be read."""

from __future__ import annotations

DROPPED = {
    "nohup": "llamactl keeps its servers running by itself",
    "exec": "llamactl starts the program directly",
    "command": "llamactl starts the program directly",
    "setsid": "llamactl gives every server its own session",
    "time": "it only measures",
    "caffeinate": "it only keeps the machine awake",
}
"""They change nothing that an instance needs, each with the reason why it is left out."""
WRAPPERS = frozenset(
    {
        *("nice", "ionice", "taskset", "numactl", "chrt", "stdbuf", "setarch", "prlimit"),
        *("uv", "uvx", "pipx", "poetry", "pipenv", "pdm", "rye", "pixi", "hatch", "conda", "mamba", "micromamba"),
        *("apptainer", "singularity", "llamactl"),
    }
)
"""Programs that become, or directly run, the program behind them: kept as part of the executable."""
CONTAINERS = frozenset({"docker", "podman", "nerdctl"})
ENV = frozenset({"env", "/usr/bin/env", "/bin/env"})

_INNER = "paste the server's own command, without what stands around it"
_USER = "run llamactl itself as the user that the server needs, and leave {} out"
_VENV = "give the path of the program in that environment, as /path/to/venv/bin/NAME"
_SERVICE = "paste the server's own command, as the service has it under command:"
REFUSED = {
    **{name: _USER.format(name) for name in ("sudo", "doas", "su", "runuser", "gosu", "setpriv", "chroot")},
    "timeout": "leave timeout out; start_timeout, idle_timeout and restart are settings of an instance",
    "ssh": "run llamactl on that host and paste the inner command, or declare the server as external",
    "cd": "set working_directory in place of cd, and paste the server's own command",
    "pushd": "set working_directory in place of pushd, and paste the server's own command",
    "source": _VENV,
    ".": _VENV,
    "torchrun": "let the server start its own workers",
    "mpirun": "paste the command of one process",
    "srun": "run llamactl inside the allocation and paste the inner command",
    "sbatch": "run llamactl inside the allocation and paste the inner command",
    "docker-compose": _SERVICE,
    "podman-compose": _SERVICE,
    "kubectl": "declare the server in the cluster as external, or paste the command of its container",
    "ulimit": "set the limit for llamactl itself, and leave ulimit out",
    "set": "leave it out, and paste the server's own command",
    "unset": "set the variable to null under environment in the instance",
    **dict.fromkeys(
        ("systemd-run", "tmux", "screen", "eval", "xargs", "watch", "script", "unbuffer", "strace"), _INNER
    ),
    **dict.fromkeys(("bash", "sh", "zsh", "dash", "ksh", "fish", "pwsh", "powershell", "cmd", "cmd.exe"), _INNER),
    **dict.fromkeys(("accelerate", "ray"), "let the server start its own workers"),
}
"""Programs that change who runs, where or through what, each with what to do instead."""
NEVER_BETWEEN = frozenset(REFUSED) - {".", "set", "script", "watch", "source", "ray", "cmd", "su", "cd"}
"""Those that are also refused behind a wrapper; the others are likelier values of its options."""

ENV_CURES = {
    "-i": "set inherit_environment: false in the instance",
    "-": "set inherit_environment: false in the instance",
    "--ignore-environment": "set inherit_environment: false in the instance",
    "-u": "set the variable to null under environment in the instance",
    "--unset": "set the variable to null under environment in the instance",
    "-C": "set working_directory in the instance",
    "--chdir": "set working_directory in the instance",
    "-S": "write the words without -S and its quotes",
    "--split-string": "write the words without -S and its quotes",
}
"""What to do instead of each option of ``env``."""
