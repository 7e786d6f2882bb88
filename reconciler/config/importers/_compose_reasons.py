"""Why settings of a compose file have no place in our file, and what to do about each. Data, by name."""

from __future__ import annotations

from collections.abc import Mapping

from reconciler.config.importers._compose_text import RESOLVED

_OWN_PORT = "llamactl assigns the port, and clients reach the server through llamactl's own"
SETTINGS: Mapping[str, tuple[str, str | None]] = {
    "ports": (_OWN_PORT, "let clients ask llamactl (server.port), or pin the backend's with port"),
    "expose": (_OWN_PORT, None),
    "container_name": ("a replacement runs beside the old container for a while, so the name cannot be fixed", None),
    "healthcheck": (
        "llamactl asks the server's own routes whether it is ready and alive",
        "set start_timeout if loading takes longer than its default, and probe for the checks after that",
    ),
    "depends_on": ("llamactl orders no starts", "a server that needs another one is restarted until it finds it"),
    "logging": ("llamactl keeps the output by itself", "read it with llamactl logs NAME"),
    "networks": ("the container shares the host's network, so that the port llamactl assigns can be reached", None),
    "links": ("the container shares the host's network", "reach other services over their published ports"),
    "secrets": ("not mounted", "mount the file with -v FILE:/run/secrets/NAME:ro in executable"),
    "configs": ("not mounted", "mount the file with -v FILE:/TARGET:ro in executable"),
    "build": ("llamactl builds no images", "build it with docker compose build"),
    "develop": ("it is for development only", None),
    "mac_address": ("the container shares the host's network", None),
}
"""Of a service."""
SECTIONS: Mapping[str, tuple[str, str | None]] = {
    "name": ("llamactl has no projects; it is used for the names of volumes", None),
    "include": ("other files are not read", RESOLVED),
    "networks": ("the containers share the host's network, so that the ports llamactl assigns can be reached", None),
    "secrets": ("docker run has none", "mount the file with -v FILE:/run/secrets/NAME:ro in executable"),
    "configs": ("docker run has none", "mount the file with -v FILE:/TARGET:ro in executable"),
}
"""Beside ``services``."""
