"""llama-swap's ``config.yaml``: models become instances that start on demand, peers become external ones, the rest is reported.

What it is made for, letting models take each other's place on a GPU (groups, matrix, routing), has no counterpart here yet; that is
said for the file as a whole, because llama-swap runs one model at a time even where it is not told to.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from reconciler.config._guard import rejected
from reconciler.config._tree import Place, plain
from reconciler.config.importers._macros import Macros, Undefined, as_text
from reconciler.config.importers._swap_model import REASONS, Defaults, Model
from reconciler.config.importers._walk import Section, read_table, scalar_text
from reconciler.config.importers._words import Text, Unsayable, bare, file_text, refs
from reconciler.config.importers.contract import ELSEWHERE, Draft, Imported, Lost, Understand, Unknown
from reconciler.core.spec import OptionValue

_PORTS = 900
"""How many ports follow the first, as in our own default range."""
_TOGETHER = "llamactl does not stop one model for another yet: everything that is asked for runs side by side"
_IDLE = "give each an idle_timeout, and let run together only what fits"
_OWN_LOG = "llamactl writes its own log (--log-format), and one file for each instance"
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
        table, lost = read_table(data, name)
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
            raise rejected(
                Place(self.name, place.line, place.column), message, hint="name the file that llama-swap is given"
            )
        self.macros = self.macros.with_section(section.section("macros"))
        defaults = Defaults(
            ttl=section.integer("globalTTL") or 0,
            start_timeout=section.integer("healthCheckTimeout"),
            grace=section.integer("unloadTimeout") or 0,
            preload=self._preload(models),
        )
        drafts: list[Draft] = []
        for name, model in models.sections() if models is not None else ():
            draft = Model(name, model, self.macros, defaults, understand, unknown).draft()
            drafts += [] if draft is None else [draft]
        self._routing(models)
        self._profiles()
        peers = section.section("peers")
        for name, peer in peers.sections() if peers is not None else ():
            drafts += self._peer(name, peer)
        sections = self._sections()
        section.rest(_FILE_REASONS)
        return Imported(drafts=tuple(drafts), lost=tuple(section.lost), sections=sections)

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
        startup.rest({})
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
            profiles.lose(key, why, "edit aliases: in the file; that restarts nothing")

    def _peer(self, name: str, peer: Section) -> list[Draft]:
        """One external instance for each model that the peer has."""
        url = self._text(peer, "proxy")
        if url is None and "host" in peer.table.entries:
            url = self._text(peer, "host")
        key = self._peer_key(peer)
        drafts = []
        if url is None:
            peer.lose("proxy", "a peer without an address cannot be reached")
        for item in peer.items("models"):
            model = scalar_text(item)
            if model is None or url is None:
                why = "this is no model's name" if model is None else "its peer has no address"
                peer.lost.append(Lost(what=peer.path("models"), why=why, line=item.place.line))
                continue
            options: dict[str, OptionValue] = {"url": url, "model": model.replace("${", "$${"), **key}
            drafts.append(
                Draft(name=model, body={"backend_type": ELSEWHERE, "backend_options": options}, line=item.place.line)
            )
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

    def _sections(self) -> dict[str, dict[str, OptionValue]]:
        """Keys that open the inference routes (as digests), and where the ports of the servers begin."""
        sections: dict[str, dict[str, OptionValue]] = {}
        first = self.section.integer("startPort")
        if first is not None:
            sections["server"] = {"port_range": f"{first}-{min(first + _PORTS - 1, 65535)}"}
        keys: list[OptionValue] = []
        for at, item in enumerate(self.section.items("apiKeys")):
            found = self._expanded(scalar_text(item) or "")
            text = None if found is None else bare(found)
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
        return sections


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
