"""``GET /metrics``: the status as Prometheus text, made afresh at each scrape. Nothing is counted here that is not in the status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.control.leases import Leases
from reconciler.core.lifecycle import Phase

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_HELP = {
    "llamactl_config_valid": "1 when the file on disk is the one in force.",
    "llamactl_generation": "Generation of the accepted file.",
    "llamactl_instance_ready": "1 when as many replicas take requests as declared.",
    "llamactl_instance_phase": "1 for the phase the instance is in.",
    "llamactl_instance_restarts_total": "Unasked exits and failed starts.",
    "llamactl_instance_in_flight": "Requests that are being answered.",
    "llamactl_instance_waiting": "Requests that wait for a start.",
}


def _labels(**labels: str) -> str:
    escaped = (
        (key, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for key, value in labels.items()
    )
    return ",".join(f'{key}="{value}"' for key, value in escaped)


def _samples(status: Mapping[str, Any], leases: Leases) -> Iterator[tuple[str, str, float]]:
    yield "llamactl_config_valid", "", float(bool(status["config"]["valid"]))
    yield "llamactl_generation", "", float(status["generation"])
    for instance in status["instances"]:
        name = str(instance["name"])
        demand = leases.demand(name)
        own = _labels(instance=name)
        yield "llamactl_instance_ready", own, float(bool(instance["ready"]))
        for phase in Phase:
            yield (
                "llamactl_instance_phase",
                _labels(instance=name, phase=phase),
                float(instance["phase"] == phase.value),
            )
        yield "llamactl_instance_restarts_total", own, float(instance["restarts"])
        yield "llamactl_instance_in_flight", own, float(demand.in_flight)
        yield "llamactl_instance_waiting", own, float(demand.waiting)


def render(status: Mapping[str, Any], leases: Leases) -> str:
    """The exposition text, samples grouped by metric."""
    grouped: dict[str, list[str]] = {name: [] for name in _HELP}
    for name, labels, value in _samples(status, leases):
        grouped[name].append(f"{name}{{{labels}}} {value:g}" if labels else f"{name} {value:g}")
    lines = []
    for name, samples in grouped.items():
        kind = "counter" if name.endswith("_total") else "gauge"
        lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} {kind}", *samples]
    return "\n".join(lines) + "\n"
