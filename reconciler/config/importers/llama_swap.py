"""llama-swap's ``config.yaml``: models become instances that start on demand, peers become external ones, the rest is reported.

What it is made for, letting models take each other's place on a GPU (groups, matrix, routing), has no counterpart here yet; that is
said for the file as a whole, because llama-swap runs one model at a time even where it is not told to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.config._guard import rejected
from reconciler.config._tree import Place, Sequence, Table, plain
from reconciler.config.importers._macros import Macros, Undefined, as_text
from reconciler.config.importers._swap_model import REASONS, Defaults, Model
from reconciler.config.importers._variables import Variables
from reconciler.config.importers._walk import Section, read_table, scalar_text
from reconciler.config.importers._words import Text, Unsayable, bare, file_text, refs
from reconciler.config.importers.contract import ELSEWHERE, Draft, Imported, Lost, Understand, Unknown
from reconciler.core.spec import OptionValue

_PORTS = 900
"""How many ports follow the first, as in our own default range."""
_TOGETHER = "llamactl does not stop one model for another yet: everything that is asked for runs side by side"
_IDLE = "give each an idle_timeout, and let run together only what fits"
_OWN_LOG = "llamactl writes its own log (--log-format), and one file for each instance"
_SHORTEST_START = 15
"""Seconds below which llama-swap does not let a start take its time, whatever the file says."""
_WANTED = "a file of llama-swap has `models:`, each with its cmd"
_ROUTERS = "routing", "groups", "matrix"
_FILE_REASONS: dict[str, tuple[str, str | None]] = {
    "logLevel": (_OWN_LOG, None),
    "logTimeFormat": (_OWN_LOG, None),
    "logToStdout": (_OWN_LOG, "llamactl logs NAME shows what a server writes"),
    "metricsMaxInMemory": ("llamactl keeps no history of requests; /metrics is for Prometheus", None),
    "captureBuffer": ("llamactl keeps no requests or replies", None),
    "store": ("llamactl keeps no history of requests", None),
    "ui": ("there is nothing like it to set here", None),
    "performance": ("llamactl does not record the host's load; /metrics is for Prometheus", None),
    "sendLoadingState": REASONS["sendLoadingState"],
    "includeAliasesInList": ("/v1/models always lists aliases", None),
    "upstream": ("a server's own routes are at /api/v1/instances/NAME/proxy/", None),
    "tailcat": ("llamactl listens on addresses of its host only", "server: host and port"),
    "logRequests": (_OWN_LOG, None),
    "selectors": ("an alias belongs to one instance; nothing chooses among several", "aliases: on one of them"),
}
_PEER_REASONS: dict[str, tuple[str, str | None]] = {
    "timeouts": REASONS["timeouts"],
    "filters": ("llamactl passes requests on as they are", "let the clients send what they mean"),
}


class LlamaSwap:
    """``llamactl import llama-swap``."""

    kind = "llama-swap"
    help = "llama-swap's config.yaml"
    needs_file = True

    def read(self, data: bytes, *, name: str, understand: Understand, unknown: Unknown) -> Imported:
        """The file's models and peers; Rejected with the place when it is no such file."""
        table, lost = read_table(data, name, wanted=_WANTED)
        file = _File(Section(table, "", lost), name)
        return file.imported(understand, unknown)


@dataclass(slots=True)
class _File:
    """One file while it is read."""

    section: Section
    name: str
    macros: Macros = field(default_factory=Macros)

    def imported(self, understand: Understand, unknown: Unknown) -> Imported:
        section = self.section
        models = section.section("models")
        if models is None and "peers" not in section.table.entries:
            place = section.table.place
            message = "this is no configuration of llama-swap: it has no `models:`"
            raise rejected(Place(self.name, place.line, place.column), message, hint=_WANTED)
        macros = section.section("macros")
        self.macros = self.macros.with_section(macros)
        defaults = Defaults(
            ttl=section.integer("globalTTL") or 0,
            start_timeout=self._start_timeout(),
            grace=section.integer("unloadTimeout") or 0,
            preload=self._preload(models),
        )
        drafts: list[Draft] = []
        variables = Variables(understand)
        for name, model in models.sections() if models is not None else ():
            draft = Model(name, model, self.macros, defaults, understand, unknown, variables).draft()
            drafts += [] if draft is None else [draft]
        self._routing(models)
        self._profiles()
        peers = section.section("peers")
        bare_names = self._bare_names(peers, drafts)
        for name, peer in peers.sections() if peers is not None else ():
            drafts += self._peer(name, peer, bare_names)
        sections, lines = self._sections()
        self.macros.tell_unused(macros)
        section.rest(_FILE_REASONS)
        return Imported(drafts=tuple(drafts), lost=tuple(section.lost), sections=sections, lines=lines)

    def _start_timeout(self) -> int | None:
        seconds = self.section.integer("healthCheckTimeout")
        if seconds is not None and seconds < _SHORTEST_START:
            why = f"it is {_SHORTEST_START} seconds here, because llama-swap waits no shorter than that"
            self.section.lose("healthCheckTimeout", why, "start_timeout: on an instance may be shorter")
            return _SHORTEST_START
        return seconds

    def _preload(self, models: Section | None) -> frozenset[str]:
        hooks = self.section.section("hooks")
        startup = hooks.section("on_startup") if hooks is not None else None
        if hooks is None or startup is None:
            return frozenset()
        known = models.table.entries if models is not None else {}
        names = set()
        for item in startup.items("preload"):
            name = scalar_text(item) or ""
            if name in known:
                names.add(name)
            else:
                why = "no model of this file has that name"
                startup.lost.append(Lost(what=f"{startup.path('preload')}: {name!r}", why=why, line=item.place.line))
        startup.rest({"profile": ("nothing is switched at run time here, so no profile is in use at the start", None)})
        hooks.rest({})
        return frozenset(names)

    def _routing(self, models: Section | None) -> None:
        """Groups, matrix and routing, each part by itself; or what llama-swap does without any of them."""
        section = self.section
        said = [key for key in _ROUTERS if key in section.table.entries]
        if not said and models is not None and len(models.table.entries) > 1:
            why = f"llama-swap runs one model at a time; {_TOGETHER}"
            section.lost.append(Lost(what="models", why=why, cure=_IDLE, line=section.line("models")))
        routing = section.section("routing")
        if routing is not None:
            self._router(routing)
        groups = section.section("groups")
        if groups is not None:
            self._groups(groups)
        matrix = section.section("matrix")
        if matrix is not None:
            _matrix(matrix)

    def _router(self, routing: Section) -> None:
        router = routing.section("router")
        if router is not None:
            settings = router.section("settings")
            if settings is not None:
                for key, read in (("groups", self._groups), ("matrix", _matrix)):
                    below = settings.section(key)
                    if below is not None:
                        read(below)
                settings.rest({})
            router.rest({"use": (_TOGETHER, _IDLE)})
        routing.rest({"scheduler": ("requests are passed on as they come; none goes before another", None)})

    def _groups(self, groups: Section) -> None:
        for _, group in groups.sections():
            members = ", ".join(scalar_text(item) or "?" for item in group.items("members")) or "nothing"
            swaps, excludes, persists = (_flag(group, key) for key in ("swap", "exclusive", "persistent"))
            swap = "one at a time" if swaps is not False else "together"
            others = "; running one ends every other group" if excludes is not False else ""
            kept = "; no other group may end them" if persists else ""
            why = f"it says that {members} run {swap}{others}{kept}. {_TOGETHER}"
            group.lost.append(Lost(what=group.where, why=why, cure=_IDLE, line=group.line()))
            group.rest({})

    def _profiles(self) -> None:
        profiles = self.section.section("profiles")
        if profiles is None:
            return
        why = "which model a name leads to is not switched at run time here: an alias belongs to one instance"
        for key in profiles.table.entries:
            node = profiles.node(key)
            if isinstance(node, Sequence):  # what a profile was before llama-swap had groups
                members = ", ".join(scalar_text(item) or "?" for item in node.items) or "nothing"
                together = f"it says that {members} run together, asked for as {key}:MODEL. {_TOGETHER}"
                profiles.lose(key, together, "ask for each by its own name, and let run together only what fits")
            else:
                profiles.lose(key, why, "edit aliases: in the file; that restarts nothing")

    def _bare_names(self, peers: Section | None, drafts: list[Draft]) -> dict[str, str]:
        """Why a peer's model cannot be asked for by its bare name, by that name."""
        taken: dict[str, str] = {}
        owners: dict[str, list[str]] = {}
        for name, entry in peers.table.entries.items() if peers is not None else ():
            models = entry.node.entries.get("models") if isinstance(entry.node, Table) else None
            for item in models.node.items if models is not None and isinstance(models.node, Sequence) else ():
                owners.setdefault(scalar_text(item) or "", []).append(name)
        for model, having in owners.items():
            if len(having) > 1:
                taken[model] = (
                    f"{' and '.join(having)} both have it, so its bare name leads to neither, as in llama-swap"
                )
        for draft in drafts:
            aliases = draft.body.get("aliases")
            for model in (draft.name, *(aliases if isinstance(aliases, list) else ())):
                if model in owners:
                    taken[str(model)] = f"the bare name leads to the model {draft.name} of this file, as in llama-swap"
        return taken

    def _peer(self, name: str, peer: Section, bare_names: Mapping[str, str]) -> list[Draft]:
        """One external instance for each model that the peer has."""
        url = self._text(peer, "proxy")
        if url is None and "host" in peer.table.entries:
            url = self._text(peer, "host")
        key = self._peer_key(peer)
        drafts = []
        if url is None:
            peer.lose("proxy", "a peer without an address cannot be reached")
        elif not re.match(r"https?://|\$\{", url, re.IGNORECASE):
            peer.lose("proxy", "llamactl reaches servers by http:// and https:// only, so its models were left out")
            url = None
        for item in peer.items("models"):
            model = scalar_text(item)
            if model is None or url is None:
                why = "this is no model's name" if model is None else "its peer has no address"
                peer.lost.append(Lost(what=peer.path("models"), why=why, line=item.place.line))
                continue
            options: dict[str, OptionValue] = {"url": url, "model": model.replace("${", "$${"), **key}
            body: dict[str, OptionValue] = {"backend_type": ELSEWHERE, "backend_options": options}
            full, line = f"{name}/{model}", item.place.line
            if model in bare_names:
                why, cure = bare_names[model], f"ask for {full}"
                peer.lost.append(Lost(what=f"{peer.path('models')}: {model}", why=why, cure=cure, line=line))
            else:
                body["aliases"] = [full]
            drafts.append(Draft(name=full if model in bare_names else model, body=body, line=line))
        peer.rest(_PEER_REASONS)
        return drafts

    def _peer_key(self, peer: Section) -> dict[str, OptionValue]:
        raw = peer.text("apiKey")
        if not raw:
            return {}
        found = self._expanded(raw)
        variables = refs(found) if found is not None else ()
        if found is not None and len(variables) == 1 and len(found) == 1:
            return {"api_key": {"env": variables[0].name}}
        why = "a key does not stand in our file in clear"
        peer.lose("apiKey", why, "put it into a file or a variable: api_key: {file: …} or {env: NAME}")
        return {}

    def _expanded(self, raw: str) -> Text | None:
        try:
            return as_text(self.macros.expand(raw))
        except Undefined:
            return None

    def _text(self, section: Section, key: str) -> str | None:
        raw = section.text(key)
        if raw is None:
            return None
        try:
            return file_text(as_text(self.macros.expand(raw)))
        except (Undefined, Unsayable) as problem:
            section.lose(key, str(problem))
            return None

    def _sections(self) -> tuple[dict[str, dict[str, OptionValue]], dict[tuple[str | int, ...], int]]:
        """Keys that open the inference routes (as digests), and where the ports of the servers begin."""
        sections: dict[str, dict[str, OptionValue]] = {}
        first = self.section.integer("startPort")
        if first is not None:
            sections["server"] = {"port_range": f"{first}-{min(first + _PORTS - 1, 65535)}"}
        keys: list[OptionValue] = []
        lines: dict[tuple[str | int, ...], int] = {("server",): self.section.line("startPort")}
        for at, item in enumerate(self.section.items("apiKeys")):
            found = self._expanded(scalar_text(item) or "")
            text = None if found is None else bare(found)
            lines["auth", "inference_keys", len(keys)] = item.place.line
            variables = refs(found) if found is not None else ()
            if text:
                keys.append({"sha256": hashlib.sha256(text.encode()).hexdigest()})
            elif found is not None and len(found) == 1 and len(variables) == 1:
                keys.append({"env": variables[0].name})
            else:
                what = f"{self.section.path('apiKeys')}: item {at + 1}"
                self.section.lost.append(Lost(what=what, why="it is no key", line=item.place.line))
        if keys:
            sections["auth"] = {"inference_keys": keys}
        return sections, lines


def _matrix(matrix: Section) -> None:
    sets = matrix.section("sets")
    for key in sets.table.entries if sets is not None else ():
        assert sets is not None
        expression = sets.text(key)
        sets.lose(key, f"it says which models may run together ({expression}). {_TOGETHER}", _IDLE)
    matrix.rest({"vars": ("only the sets use it", None), "evict_costs": (_TOGETHER, None)})


def _flag(section: Section, key: str) -> bool | None:
    node = section.node(key)
    value = plain(node) if node is not None else None
    if node is not None and not isinstance(value, bool):
        section.lose(key, "true or false was expected here")
    return value if isinstance(value, bool) else None


IMPORTER = LlamaSwap()
