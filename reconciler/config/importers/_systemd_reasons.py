"""Why settings of a systemd unit have no place in our file, and what to do about each. Data, by name and by prefix."""

from __future__ import annotations

from collections.abc import Mapping

_OWN_UNIT = "put it in llamactl's own unit (systemctl edit llamactl): the servers are its children"
_SANDBOX = "a sandbox is that of llamactl's own unit"
_LIMIT = "a limit is inherited from llamactl"
_CONTROL = "llamactl sets no limits of the control group"
_ORDER = "llamactl orders no starts between units"
_HOOK = "llamactl runs the server's command alone"
_OUTPUT = "llamactl keeps the output by itself"

_BY_NAME: Mapping[str, tuple[str, str | None]] = {
    **dict.fromkeys(
        ("User", "Group", "SupplementaryGroups", "DynamicUser"),
        ("all servers run as llamactl's own user", "run llamactl as that user"),
    ),
    **dict.fromkeys(("UMask", "AmbientCapabilities", "CapabilityBoundingSet", "SecureBits"), (_SANDBOX, _OWN_UNIT)),
    **dict.fromkeys(("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "BindPaths"), (_SANDBOX, _OWN_UNIT)),
    **dict.fromkeys(("BindReadOnlyPaths", "TemporaryFileSystem", "RootDirectory", "RootImage"), (_SANDBOX, _OWN_UNIT)),
    **dict.fromkeys(("NoNewPrivileges", "MemoryDenyWriteExecute", "RemoveIPC", "PAMName"), (_SANDBOX, _OWN_UNIT)),
    **dict.fromkeys(("DeviceAllow", "DevicePolicy", "Slice", "Delegate"), (_CONTROL, _OWN_UNIT)),
    "Nice": ("it is inherited from llamactl", "write executable: nice -n N PROGRAM"),
    "CPUAffinity": ("it is inherited from llamactl", "write executable: taskset -c CPUS PROGRAM"),
    **dict.fromkeys(
        ("IOSchedulingClass", "IOSchedulingPriority"),
        ("it is inherited from llamactl", "write executable: ionice -c CLASS PROGRAM"),
    ),
    **dict.fromkeys(
        ("NUMAPolicy", "NUMAMask"), ("it is inherited from llamactl", "write executable: numactl ... PROGRAM")
    ),
    "CPUSchedulingPolicy": ("it is inherited from llamactl", "write executable: chrt ... PROGRAM"),
    **dict.fromkeys(
        ("ExecStartPre", "ExecStartPost", "ExecCondition"),
        (_HOOK, "do it in a unit that llamactl.service is ordered after, or in a script named as executable"),
    ),
    "ExecStop": (_HOOK, "set stop.signal and stop.grace"),
    "ExecStopPost": (_HOOK, None),
    "ExecReload": ("a change of the file replaces what changed", None),
    **dict.fromkeys(("SuccessExitStatus", "RestartPreventExitStatus", "RestartForceExitStatus"), (
        "any exit that nobody asked for is a failure", "set restart.policy")),
    **dict.fromkeys(("SendSIGKILL", "FinalKillSignal", "RestartKillSignal", "SendSIGHUP"), (
        "after stop.grace everything that is left is killed", None)),
    "RemainAfterExit": ("a server that ended is not running", None),
    "GuessMainPID": ("the program that llamactl starts is the main process", None),
    "PIDFile": ("the program that llamactl starts is the main process", None),
    "RestartSteps": ("each wait is twice as long as the one before", "set restart.max_delay"),
    "RuntimeMaxSec": ("llamactl ends no server for its age", None),
    "NotifyAccess": ("llamactl asks the server over HTTP whether it is ready", None),
    "WatchdogSec": ("llamactl probes the server over HTTP", "set probe"),
    **dict.fromkeys(("SyslogIdentifier", "SyslogFacility", "SyslogLevel"), (_OUTPUT, "read it with llamactl logs NAME")),
    **dict.fromkeys(("OOMScoreAdjust", "OOMPolicy"), ("it is inherited from llamactl", _OWN_UNIT)),
    **dict.fromkeys(("LoadCredential", "SetCredential", "LoadCredentialEncrypted"), (
        "a server is handed no credentials of systemd", "name the file itself, readable by llamactl")),
    "WantedBy": ("llamactl's own unit is what starts at boot, and it starts every instance", "systemctl enable llamactl"),
    "RequiredBy": ("other units cannot depend on an instance", "let them depend on llamactl.service"),
    "Alias": ("it names the unit, not what it serves", "clients may use other names with aliases"),
    "Documentation": ("it is for people", "keep it as a comment"),
    "Description": ("it is for people", None),
    **dict.fromkeys(("StartLimitAction", "FailureAction", "SuccessAction", "OnFailure", "OnSuccess"), (
        "llamactl starts nothing when a server fails", "watch its events or metrics")),
}  # fmt: skip
_BY_PREFIX: tuple[tuple[str, tuple[str, str | None]], ...] = (
    ("Limit", (_LIMIT, _OWN_UNIT)),
    ("Protect", (_SANDBOX, _OWN_UNIT)),
    ("Private", (_SANDBOX, _OWN_UNIT)),
    ("Restrict", (_SANDBOX, _OWN_UNIT)),
    ("SystemCall", (_SANDBOX, _OWN_UNIT)),
    ("Lock", (_SANDBOX, _OWN_UNIT)),
    ("IPAddress", (_SANDBOX, _OWN_UNIT)),
    ("Memory", (_CONTROL, _OWN_UNIT)),
    ("CPU", (_CONTROL, _OWN_UNIT)),
    ("IO", (_CONTROL, _OWN_UNIT)),
    ("Tasks", (_CONTROL, _OWN_UNIT)),
    ("AllowedCPUs", (_CONTROL, _OWN_UNIT)),
    ("AllowedMemoryNodes", (_CONTROL, _OWN_UNIT)),
    ("Standard", (_OUTPUT, "read it with llamactl logs NAME")),
    ("Log", (_OUTPUT, "read it with llamactl logs NAME")),
    ("RuntimeDirectory", ("llamactl makes no folders for a server", "make it with tmpfiles.d")),
    ("StateDirectory", ("llamactl makes no folders for a server", "make it with tmpfiles.d")),
    ("CacheDirectory", ("llamactl makes no folders for a server", "make it with tmpfiles.d")),
    ("LogsDirectory", ("llamactl makes no folders for a server", "make it with tmpfiles.d")),
    ("ConfigurationDirectory", ("llamactl makes no folders for a server", "make it with tmpfiles.d")),
    ("Condition", ("llamactl looks at no conditions", "set enabled: false where it should not run")),
    ("Assert", ("llamactl looks at no conditions", "set enabled: false where it should not run")),
)


def reason(section: str, key: str) -> tuple[str, str | None]:
    """Why a setting is not carried over, and what to do."""
    if key in _BY_NAME:
        return _BY_NAME[key]
    for prefix, told in _BY_PREFIX:
        if key.startswith(prefix):
            return told
    if section == "Unit":
        return _ORDER, "let llamactl's own unit have it"
    return "not carried over: llamactl has no such setting", None
