"""A daemon's status as the commands read it: the fields of an instance, and when it is as the file says."""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.cli.answers import Node

READY, STOPPED = "ready", "stopped"
_LEAVING = frozenset({"draining", "stopping", "stopped"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaView:
    """One process."""

    name: str
    pid: int
    port: int
    revision: str
    phase: str
    adopted: bool
    started_at: str
    degraded: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """One instance."""

    name: str
    backend: str
    state: str
    phase: str
    ready: bool
    revision: str
    generation: int
    observed_generation: int
    replicas: tuple[ReplicaView, ...]
    restarts: int
    stalled: str | None
    """Why it is stalled, when it is."""
    exit_reason: str
    log_tail: tuple[str, ...]
    next_action: str
    warnings: tuple[str, ...]

    @property
    def current(self) -> bool:
        """It serves as declared, by present processes; all that may be left to do is that older ones finish their streams."""
        if not self.ready:
            return False
        if self.observed_generation >= self.generation:
            return True
        staying = [replica for replica in self.replicas if replica.phase not in _LEAVING]
        fresh = all(replica.revision == self.revision and replica.phase == READY for replica in staying)
        return fresh and 0 < len(staying) < len(self.replicas)

    @property
    def pids(self) -> tuple[int, ...]:
        """Of all its processes."""
        return tuple(replica.pid for replica in self.replicas)

    @property
    def brief(self) -> str:
        """Phase, and how far it is."""
        fresh = [replica for replica in self.replicas if replica.revision == self.revision]
        ready = sum(replica.phase == READY for replica in fresh)
        if len(fresh) > 1:
            return f"{self.phase}, {ready} of {len(fresh)} ready"
        if self.phase == READY and not self.current:
            old = any(replica.revision != self.revision for replica in self.replicas)
            return "ready at the old revision, the new one is starting" if old else "ready until its successor is"
        return self.phase


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusView:
    """All of it."""

    generation: int
    observed_generation: int
    config_valid: bool
    config_file: str
    config_hash: str
    problems: tuple[Node, ...]
    held: Node | None
    pending: bool
    """The file was saved, and the daemon has not taken that up yet."""
    systemd: bool
    instances: dict[str, InstanceView]


def instance_view(node: Node) -> InstanceView:
    """An instance as the daemon described it."""
    exit_node = node.node("last_exit")
    next_node = node.node("next_action")
    return InstanceView(
        name=node.text("name"),
        backend=node.text("backend_type"),
        state=node.text("state"),
        phase=node.text("phase"),
        ready=node.flag("ready"),
        revision=node.text("revision"),
        generation=node.number("generation"),
        observed_generation=node.number("observed_generation"),
        replicas=tuple(_replica_view(replica) for replica in node.nodes("replicas")),
        restarts=node.number("restarts"),
        stalled=_stalled(node),
        exit_reason=exit_node.text("reason") if exit_node else "",
        log_tail=exit_node.texts("log_tail") if exit_node else (),
        next_action=": ".join(filter(None, (next_node.text("what"), next_node.text("why")))) if next_node else "",
        warnings=_warnings(node),
    )


def _replica_view(node: Node) -> ReplicaView:
    return ReplicaView(
        name=node.text("name"),
        pid=node.number("pid"),
        port=node.number("port"),
        revision=node.text("revision"),
        phase=node.text("phase"),
        adopted=node.flag("adopted"),
        started_at=node.text("started_at"),
        degraded=node.texts("degraded"),
    )


def _stalled(node: Node) -> str | None:
    for condition in node.nodes("conditions"):
        if condition.text("type") == "Stalled" and _is_true(condition):
            return condition.text("message") or condition.text("reason") or "it is stalled"
    return None


def _is_true(condition: Node) -> bool:
    """Conditions are booleans here and words in Kubernetes; both are read."""
    return condition.raw.get("status") in (True, "True", "true")


def _warnings(node: Node) -> tuple[str, ...]:
    """Texts, or problems with a message."""
    listed = node.raw.get("warnings")
    if isinstance(listed, list) and any(isinstance(item, dict) for item in listed):
        return tuple(item.text("message") for item in node.nodes("warnings"))
    return node.texts("warnings")


def status_view(node: Node) -> StatusView:
    """The whole status."""
    config = node.node("config")
    daemon = node.node("daemon")
    instances = [instance_view(each) for each in node.nodes("instances")]
    return StatusView(
        generation=node.number("generation"),
        observed_generation=node.number("observed_generation"),
        config_valid=config.flag("valid") if config else True,
        config_file=config.text("file") if config else "",
        config_hash=config.text("hash") if config else "",
        problems=tuple(config.nodes("problems")) if config else (),
        held=config.node("held") if config else None,
        pending=config.flag("pending") if config else False,
        systemd=daemon.flag("systemd") if daemon else False,
        instances={instance.name: instance for instance in instances},
    )
