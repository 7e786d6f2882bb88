"""Plans cuts and insertions in a YAML text where keys and values stand, so that every other byte stays as it was.

Works on mappings and lists, in block or flow style; what it cannot do raises :class:`Unsupported`. It proves nothing: the caller reads
the result again and compares meanings.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pydantic import JsonValue

from reconciler.config._layout import Entry, Kind, Layout, Node
from reconciler.config._render import block as block
from reconciler.config._render import flow, key_text, line, quoted


class Unsupported(Exception):
    """This construct cannot be edited by splicing; ``at`` is the index of the character where it stands, if that is known."""

    def __init__(self, why: str, at: int | None = None) -> None:
        super().__init__(why)
        self.at = at


class Splicer:
    """One edit of one text: plan changes with the methods, then take :meth:`result`."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.text = layout.text
        self.lines = layout.lines
        self._changes: list[tuple[int, int, int, int, str]] = []
        """Start, end, minus the indentation (of lines put in at one place the deeper go first), order of planning, new text."""

    def result(self) -> str:
        """The text with all planned changes; Unsupported when two of them touch."""
        pieces: list[str] = []
        at = 0
        ordered = sorted(self._changes, key=lambda change: (change[0], change[1] > change[0], *change[2:4]))
        for start, end, _, _, new in ordered:
            if start < at:
                raise Unsupported("two changes touch each other", start)
            pieces += (self.text[at:start], new)
            at = end
        return "".join((*pieces, self.text[at:]))

    def put(self, at: int, new: str, indent: int = 0) -> None:
        """Insert."""
        self._changes.append((at, at, -indent, len(self._changes), new))

    def cut(self, start: int, end: int, new: str = "") -> None:
        """Take characters out, and put others in their place."""
        if start < end or new:
            self._changes.append((start, end, 0, len(self._changes), new))

    # ---- what the file's author is used to ----------------------------------------------------------------------

    def column(self, container: Node) -> int:
        """The column of a block collection's entries, from 0."""
        return len(self.lines.prefix(container.entries[0].start))

    def step(self, container: Node | None) -> int:
        """Columns by which the file indents: as in the nearest mapping in block style below the container, else as at the top."""
        for node in (container, self.layout.root):
            if node is None or node.kind is not Kind.MAPPING or node.flow or not node.entries:
                continue
            column = self.column(node)
            for inner in (entry.value for entry in node.entries):
                if inner.kind is Kind.MAPPING and inner.in_block and inner.entries:
                    deeper = self.column(inner) - column
                    if deeper > 0:
                        return deeper
        return 2

    def _dash(self) -> int | None:
        """Columns before the dashes of a list, below its key; None when the file shows none."""
        for node in self.layout.root.walk() if self.layout.root is not None else ():
            if node.kind is not Kind.MAPPING or node.flow:
                continue
            for entry in node.entries:
                value = entry.value
                if value.kind is Kind.SEQUENCE and value.in_block and value.entries and entry.key is not None:
                    return max(self.column(value) - self.column(node), 0)
        return None

    def rendered(self, value: Mapping[str, JsonValue], container: Node | None) -> list[str]:
        """Lines of block style as the file has them."""
        return block(value, self.step(container), dash=self._dash())

    def like(self, container: Node, value: JsonValue) -> str:
        """The value on one line, in quotes where the container is written as JSON."""
        return flow(value, as_json=self._is_json(container)) if container.flow else line(value)

    @staticmethod
    def _is_json(container: Node) -> bool:
        return (
            container.flow
            and bool(container.entries)
            and all(entry.key is not None and entry.key.style == '"' for entry in container.entries)
        )

    # ---- putting in ---------------------------------------------------------------------------------------------

    def put_lines(self, at: int, lines: Sequence[str], indent: int) -> None:
        """Insert whole lines where a line begins."""
        newline = self.lines.ending(at)
        self.put(at, "".join(f"{' ' * indent if line else ''}{line}{newline}" for line in lines), indent)

    def add(self, container: Node, new: Mapping[str, JsonValue], *, first: bool = False) -> None:
        """Put pairs at the end (or the beginning) of a mapping that is not empty."""
        if container.flow:
            key = quoted if self._is_json(container) else key_text
            self._add_flow(container, [f"{key(name)}: {self.like(container, new[name])}" for name in new], first=first)
            return
        head = container.entries[0]
        column = self.column(container)
        if not first:
            self.put_lines(self.behind(container.entries[-1], column), self.rendered(new, container), column)
            return
        self._put_before(head, self.rendered(new, container), column)

    def add_items(self, container: Node, index: int, new: Sequence[JsonValue]) -> None:
        """Put items into a list that is not empty, before the one at ``index``, or at the end."""
        if container.flow:
            texts = [self.like(container, value) for value in new]
            if index < len(container.entries):
                self.put(container.entries[index].start, "".join(f"{text}, " for text in texts))
            else:
                self._add_flow(container, texts)
            return
        column = self.column(container)
        lines = [f"- {line(value)}" for value in new]
        if index == len(container.entries):
            self.put_lines(self.behind(container.entries[-1], column), lines, column)
            return
        entry = container.entries[index]
        self._put_before(entry, lines, column)

    def _put_before(self, entry: Entry, lines: Sequence[str], column: int) -> None:
        """Insert lines above an entry and its comments; behind the dash of an outer list, where it stands on that one's line."""
        if not self.lines.prefix(entry.start).strip(" "):
            self.put_lines(self._before(entry, column), lines, column)
            return
        between = self.lines.ending(self.lines.after(entry.start)) + " " * column
        self.put(entry.start, "".join(line + between for line in lines))

    def fill(self, container: Node, new: Mapping[str, JsonValue]) -> None:
        """Put pairs between the brackets of an empty mapping."""
        self.put(container.body + 1, ", ".join(f"{key_text(name)}: {flow(value)}" for name, value in new.items()))

    def _add_flow(self, container: Node, new: Sequence[str], *, first: bool = False) -> None:
        head, last = container.entries[0], container.entries[-1]
        if first:
            if self._owns_lines(container, 0):
                prefix, newline = self.lines.prefix(head.start), self.lines.ending(self.lines.after(head.start))
                self.put(self.lines.start(head.start), "".join(f"{prefix}{text},{newline}" for text in new))
            else:
                self.put(head.start, "".join(f"{text}, " for text in new))
            return
        if not self._owns_lines(container, len(container.entries) - 1):
            at, space = self._behind_value(last)
            self.put(at, space + "".join(f", {text}" for text in new))
            return
        comma = self.layout.comma(last.end, container.end)
        if comma is None:
            at, space = self._behind_value(last)
            self.put(at, f"{space},")
        at = self.lines.after(last.end if comma is None else comma)
        prefix, newline = self.lines.prefix(last.start), self.lines.ending(at)
        ends = [","] * (len(new) - 1) + ["," if comma is not None else ""]
        self.put(at, "".join(f"{prefix}{text}{end}{newline}" for text, end in zip(new, ends, strict=True)))

    def _behind_value(self, entry: Entry) -> tuple[int, str]:
        """Where a comma goes behind an entry, and a space if it needs one: right behind a colon it would be read as text."""
        if entry.key is None or entry.end != entry.mark or entry.mark == entry.key.end:
            return entry.end, ""
        at = entry.end
        while self.text[at] in " \t":
            at += 1
        return at, "" if at > entry.end else " "

    def _owns_lines(self, container: Node, index: int) -> bool:
        """Whether an entry between brackets has its lines for itself (its comma and a comment aside)."""
        entry = container.entries[index]
        if self.lines.prefix(entry.start).strip(" \t"):
            return False
        rest = self.text[entry.end : self.lines.end(entry.end)].lstrip(" \t")
        if rest.startswith(","):
            rest = rest[1:].lstrip(" \t")
        return not rest or rest.startswith("#")

    # ---- taking out ---------------------------------------------------------------------------------------------

    def remove(self, container: Node, gone: Collection[Entry]) -> None:
        """Take entries out of a collection that keeps others."""
        entries = container.entries
        if container.flow:
            for first, last in _runs([index for index, entry in enumerate(entries) if entry in gone]):
                self._remove_flow(container, first, last)
            return
        column = self.column(container)
        for index, entry in enumerate(entries):
            if entry not in gone:
                continue
            if not self.lines.prefix(entry.start).strip(" "):
                stop = self.behind(entry, column)
                if index and self._keeps_blanks(entries[index - 1].value):
                    while stop < self.layout.finish and not self.text[stop : self.lines.end(stop)].strip(" "):
                        stop = self.lines.after(stop)
                self.cut(self._before(entry, column), stop)
            elif index + 1 < len(entries):
                self.cut(entry.start, entries[index + 1].start)
            else:
                raise Unsupported("something else stands before it on its line", entry.start)

    def _keeps_blanks(self, node: Node) -> bool:
        """Whether blank lines right below a value are part of it (``|+``): those behind a neighbour that goes must go too."""
        while node.in_block and node.entries:
            node = node.entries[-1].value
        return node.literal and "+" in self.text[node.body : self.layout.header(node)]

    def _remove_flow(self, container: Node, first: int, last: int) -> None:
        """Entries between brackets, from the first to the last."""
        entries = container.entries
        closing = container.end - 1
        ends_all = last == len(entries) - 1
        comma = self.layout.comma(entries[last].end, closing if ends_all else entries[last + 1].start)
        if ends_all and comma is None and first:
            before = self.layout.comma(entries[first - 1].end, entries[first].start)
            assert before is not None  # the grammar has one between two entries
            self.cut(before, before + 1)
        if all(self._owns_lines(container, index) for index in range(first, last + 1)):
            stop = entries[last].end if comma is None else comma
            self.cut(self.lines.start(entries[first].start), self.lines.after(stop))
        elif not ends_all:
            self.cut(entries[first].start, entries[last + 1].start)
        else:
            between = self.text[entries[first - 1].end : entries[first].start] if first else "#"
            start = entries[first].start if "#" in between else entries[first].start - self._gap(entries[first].start)
            self.cut(start, entries[last].end)
            if comma is not None and first:
                self.cut(comma, comma + 1)

    def _gap(self, index: int) -> int:
        """Blanks and line ends right before a place."""
        at = index
        while at and self.text[at - 1] in " \t\r\n":
            at -= 1
        return index - at

    def clear(self, entry: Entry, container: Node) -> None:
        """Make an entry's block collection an empty one, ``{}`` or ``[]``; comments that belong to none of its entries stay."""
        value = entry.value
        inner = self.column(value)
        for each in value.entries:
            if self.lines.prefix(each.start).strip(" "):
                self.replace(entry, {} if value.kind is Kind.MAPPING else [], container)
                return
            self.cut(self._before(each, inner), self.behind(each, inner))
        self.put(self._seat(entry), " {}" if value.kind is Kind.MAPPING else " []")

    def _before(self, entry: Entry, column: int) -> int:
        """Where the comment lines right above an entry begin, at its own column: they speak of it."""
        at = self.lines.start(entry.start)
        while at:
            above = self.lines.start(at - 1)
            if not self.text[above:at].startswith(" " * column + "#"):
                break
            at = above
        return at

    def behind(self, entry: Entry, column: int) -> int:
        """Where the line after an entry begins; comment lines below that are indented deeper than the entry belong to it."""
        return self.below(self.lines.after(entry.end), column)

    def below(self, start: int, column: int) -> int:
        """The end of the comment lines from here on that are indented deeper than a column, with the blank lines among them."""
        at = stop = start
        while at < self.layout.finish:
            after = self.lines.after(at)
            line = self.text[at:after]
            bare = line.lstrip(" \t")
            if bare.startswith("#"):
                if len(line[: len(line) - len(bare)].expandtabs()) <= column:
                    break
                stop = after
            elif bare.strip():
                break
            at = after
        return stop

    # ---- putting one thing in the place of another --------------------------------------------------------------

    def _seat(self, entry: Entry) -> int:
        """Where a value on the key's own line goes: behind the mark, or behind the anchor that stands there."""
        value = entry.value
        return self.layout.anchor_end(value) if value.anchor is not None else entry.mark

    def _clear_value(self, entry: Entry, *, with_space: bool) -> int:
        """Cut the value; the index where the text of another one on the key's line goes, after a space if that was cut too."""
        value, seat = entry.value, self._seat(entry)
        if value.empty:
            return seat
        if value.literal:
            start = seat if with_space else value.body
            self.cut(start, self.layout.header(value))
            self.cut(self.lines.after(value.body), self.lines.after(value.end))
            return start
        below = self.lines.start(value.body) != self.lines.start(seat)
        if value.in_block and below:
            self.cut(self.lines.after(seat), self.lines.after(value.end))
            return seat
        if with_space and below:
            self.cut(self.lines.start(value.body), self.lines.after(value.end))
            return seat
        start = seat if with_space else value.body
        self.cut(start, value.end)
        return start

    def replace(self, entry: Entry, new: JsonValue, container: Node) -> None:
        """Put another value at a key or in the place of an item, in the container's own style."""
        value = entry.value
        if container.flow or entry.key is None or not isinstance(new, dict) or not new:
            at = self._clear_value(entry, with_space=False)
            space = " " if at == self._seat(entry) and at != value.body else ""
            if value.empty and entry.key is not None and entry.mark == entry.key.end:
                space = ": "
            elif value.empty:
                space = " "
            self.put(at, space + self._scalar_like(value, new, container))
            return
        lines = self.rendered(new, container)
        self.put_below(entry, lines, container)

    def put_below(self, entry: Entry, lines: Sequence[str], container: Node) -> None:
        """Put lines of block style below a key in the place of its value."""
        self._clear_value(entry, with_space=True)
        after = self.lines.after(entry.end)
        column = self.column(container)
        indent = column + self.step(container)
        if entry.value.empty and (hint := self.below(after, column)) != after:
            first = self.text[after:hint].lstrip("\r\n")
            blanks = len(first) - len(first.lstrip(" "))
            indent = blanks if first[blanks : blanks + 1] == "#" and blanks > column else indent
        self.put_lines(after, lines, indent)

    def _scalar_like(self, old: Node, new: JsonValue, container: Node) -> str:
        """The new value with the old one's quotes, where both are text."""
        if isinstance(new, str) and old.style == "'" and new.isprintable():
            return "'" + new.replace("'", "''") + "'"
        if isinstance(new, str) and old.style == '"':
            return quoted(new)
        return self.like(container, new)


def _runs(indexes: Sequence[int]) -> list[tuple[int, int]]:
    """Consecutive numbers as first and last."""
    runs: list[tuple[int, int]] = []
    for index in indexes:
        if runs and runs[-1][1] == index - 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    return runs
