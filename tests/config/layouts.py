"""Files as people write them, and worse: every style of YAML that the strict reader takes, put together at random.

A file is made of pieces whose borders are known, so that a test can say which bytes an edit of one instance must not touch
without asking the code under test.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

NAMES = ("a", "b-1", "on", "1", "1.0", "null", "long.name_2")
COMMENT_TEXT = ("# note", "#", "# tab\there", "# ünïcode 🦙", '# "quote: {', "# a: 1", "#!x", "# - item")
SCALARS = (
    "1", "0.50", "true", "~", "null", "word", "two words", "'it''s'", '"q \\" # no"', '"\\U0001F999 x"', "🦙", "http://x/y",
    "- -", "${VAR}", "'${V:-x}'", "-1", "0x1F", "1e3", '""', "''", "a#b", "x: y".replace(": ", ":"), "\"tab\\t\"", "*base-scalar",
)  # fmt: skip
FLOWS = (
    "[]", "{}", "[1, two, 'three']", "[ 1,2 , ]", "{a: 1, b: [x, {y: z}]}", '{"a":1,"b":"c"}', "{ }", "[[1], [2, 3]]", "*base-map",
    "{k: , l: 2}", "&unused [1]",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A file in pieces; the text is all of them one after the other."""

    head: str
    """Up to and with the `instances` line."""
    chunks: tuple[tuple[str, str], ...]
    """Each instance's name and lines, comments right above it and deeper below it included."""
    tail: str
    mark: str = ""

    @property
    def text(self) -> str:
        """The whole file."""
        return self.mark + self.head + "".join(chunk for _, chunk in self.chunks) + self.tail

    def around(self, name: str) -> tuple[str, str]:
        """What stands before and after one instance."""
        at = [each for each, _ in self.chunks].index(name)
        before = "".join(chunk for _, chunk in self.chunks[:at])
        after = "".join(chunk for _, chunk in self.chunks[at + 1 :])
        return self.mark + self.head + before, after + self.tail


@dataclass(frozen=True, slots=True)
class _Maker:
    draw: DrawFn
    newlines: tuple[str, ...]

    def line(self, text: str) -> str:
        return text + self.draw(st.sampled_from(self.newlines))

    def pick(self, *choices: str) -> str:
        return self.draw(st.sampled_from(choices))

    def chance(self, one_in: int) -> bool:
        return self.draw(st.integers(1, one_in)) == 1

    def behind(self) -> str:
        """What may stand at a line's end."""
        return self.pick(" ", "   ") + self.pick(*COMMENT_TEXT) if self.chance(3) else self.pick("", "", "", "  ")

    def fill(self, column: int) -> str:
        """Blank lines and comments of any indentation up to ``column``, between two entries."""
        text = ""
        for _ in range(self.draw(st.sampled_from((0, 0, 0, 1, 2)))):
            if self.chance(2):
                text += self.line(self.pick("", "", "  "))
            else:
                text += self.line(" " * self.draw(st.sampled_from((0, column))) + self.pick(*COMMENT_TEXT))
        return text

    def scalar_lines(self, column: int, step: int) -> str:
        """A scalar value behind a colon, with its line ends; its further lines stand deeper than ``column``."""
        deeper = " " * (column + step)
        match self.draw(st.integers(0, 6)):
            case 0:
                return self.line(" folded") + self.line(f"{deeper}plain text") + self.line(deeper + "of lines")
            case 1:
                return self.line(' "quoted') + self.line("") + self.line(deeper + 'lines" # end')
            case 2:
                head = self.pick("|", ">", "|-", ">-", "|+", ">+")
                blanks = "".join(self.line("") for _ in range(self.draw(st.integers(0, 2))))
                behind = self.pick("", " # head")
                return (
                    self.line(f" {head}{behind}")
                    + self.line(deeper + "line # no comment")
                    + self.line("")
                    + self.line(deeper + "  more: 1")
                    + blanks
                )
            case 3:
                return self.line(f" |{step}") + self.line(deeper + "  led by blanks") + self.line(deeper + "x")
            case 4:
                return self.line(self.behind() or " # nothing yet" if self.chance(2) else "")
            case _:
                return self.line(" " + self.pick(" ", "") + self.pick(*SCALARS) + self.behind())

    def flow_lines(self, column: int, step: int) -> str:
        if self.chance(2):
            return self.line(" " + self.pick(*FLOWS) + self.behind())
        deeper = " " * (column + step)
        comma = self.pick(",", "")
        return (
            self.line(" {" + self.pick("", " # opening"))
            + self.line(f"{deeper}p: 1,{self.behind()}")
            + self.line(f"{deeper}'q': [a, b]{comma}{self.behind()}")
            + self.line(f"{deeper}}}")
        )

    def list_lines(self, column: int, step: int) -> str:
        inner = self.draw(st.sampled_from((column, column + step)))
        text = self.line(self.pick("", " # list"))
        for _ in range(self.draw(st.integers(1, 3))):
            text += self.fill(inner) if self.chance(3) else ""
            match self.draw(st.integers(0, 3)):
                case 0:
                    text += self.line(f"{' ' * inner}- k: 1") + self.line(f"{' ' * inner}  l: two{self.behind()}")
                case 1:
                    text += self.line(f"{' ' * inner}-   - deep") + self.line(f"{' ' * inner}    - er")
                case _:
                    text += self.line(
                        f"{' ' * inner}- {self.pick('--x', '1', 'c d', '{e: f}', '*base-scalar')}{self.behind()}"
                    )
        return text

    def value_lines(self, column: int, step: int, depth: int) -> str:
        match self.draw(st.integers(0, 5)):
            case 0 | 1:
                return self.scalar_lines(column, step)
            case 2:
                return self.flow_lines(column, step)
            case 3:
                return self.list_lines(column, step)
            case _ if depth < 2:
                anchor = " &own" + str(self.draw(st.integers(0, 99))) if self.chance(6) else ""
                return self.line(anchor + self.behind()) + self.pairs(column + step, step, depth + 1)
            case _:
                return self.scalar_lines(column, step)

    def pairs(self, column: int, step: int, depth: int) -> str:
        keys = self.draw(st.lists(st.sampled_from(("k", "model", "x-n", '"q k"', "'s'", "enabled", "list", "e-f")), min_size=1,
                                  max_size=4, unique=True))  # fmt: skip
        text = ""
        if self.chance(6):
            text += self.line(f"{' ' * column}<<: {self.pick('*base-map', '[*base-map, *base-two]')}{self.behind()}")
        for key in keys:
            text += self.fill(column)
            gap = self.pick("", "", " ")
            if key == "enabled":
                text += self.line(f"{' ' * column}enabled{gap}: {self.pick('true', 'false', 'True')}{self.behind()}")
            elif self.chance(12):
                text += self.line(f"{' ' * column}? {key}") + " " * column + ":" + self.line(" explicit")
            else:
                text += f"{' ' * column}{key}{gap}:" + self.value_lines(column, step, depth)
        return text

    def instance(self, name: str, column: int, step: int, earlier: list[str]) -> str:
        """One instance, its own comments included."""
        key = f'"{name}"' if name in ("1", "1.0", "null") else self.pick(name, f'"{name}"', f"'{name}'")
        text = ""
        for _ in range(self.draw(st.sampled_from((0, 0, 1, 2)))):
            text += self.line(" " * column + self.pick(*COMMENT_TEXT))
        start = f"{' ' * column}{key}:"
        anchor = ""
        if self.chance(5):
            anchor = f" &i{len(earlier)}"
        match self.draw(st.integers(0, 9)):
            case 0:
                text += self.line(start + self.pick("", " null", " ~", " {}", " { }", anchor or "") + self.behind())
                anchor = ""
            case 1:
                anchor = ""
                text += self.line(start + " " + self.pick("*base-map", *earlier) + self.behind())
            case 2:
                flow = (
                    "{model: x, l: [1], <<: *base-map}",
                    "{ model: x }",
                    '{"m":{"n":1},"e":"f"}',
                    "{m: 1, enabled: true,}",
                )
                text += self.line(start + anchor + " " + self.pick(*flow) + self.behind())
            case 3:
                anchor = ""
                text += start + self.flow_lines(column, step)
            case _:
                text += self.line(start + anchor + self.behind()) + self.pairs(column + step, step, 0)
        if anchor:
            earlier.append("*" + anchor[2:])
        if self.chance(4):
            text += self.line(" " * (column + step) + "# deeper")
        return text


HEADS = (
    "", "# yaml-language-server: $schema=./s.json", "server:   {port:  1}  # aligned", "server:\n  host: h\n  # c\n  port: 2",
    "defaults: {enabled: false, idle_timeout: 30m}", "x-text: |+\n  keep\n\n", "x-list:\n- 1\n# left\n- 2", "x-tab: 1\t# behind a tab",
)  # fmt: skip
TAILS = (
    "",
    "# the end",
    "server: {port: 3}",
    "\n\nx-tail: >\n  folded\n\n  more",
    "x-u: [*base-map, *base-scalar]",
    "   # odd",
    "\n\n",
)


@st.composite
def files(draw: DrawFn) -> Made:
    """A valid file with zero to four instances in block style (the bare reader may still refuse it: filter by reading)."""
    make = _Maker(draw, draw(st.sampled_from((("\n",), ("\n",), ("\r\n",), ("\n", "\r\n"), ("\r",)))))

    def lines(text: str) -> str:
        return "".join(make.line(each) for each in text.split("\n")) if text else ""

    start = draw(st.sampled_from(("", "", "---\n", "%YAML 1.2\n---\n", "--- # first\n")))
    head = lines(start.removesuffix("\n"))
    head += lines("x-base: &base-map\n  model: base  # shared\n  k: 1")
    head += lines("x-two: {<<: *base-map, s: &base-scalar v, t: &base-two {e-f: 2}}")
    for each in draw(st.lists(st.sampled_from(HEADS), max_size=2, unique=True)):
        head += lines(each) if not each.startswith("server") or "server" not in head else ""
    head += make.pick("instances:", '"instances":', "instances :")
    column, step = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    head += make.line(make.behind())
    names = draw(st.lists(st.sampled_from(NAMES), max_size=4, unique_by=str.lower))
    chunks: list[tuple[str, str]] = []
    earlier: list[str] = []
    for name in names:
        if draw(st.booleans()):
            blank = make.line("")
            chunks = [*chunks[:-1], (chunks[-1][0], chunks[-1][1] + blank)] if chunks else chunks
            head += "" if chunks else blank
        chunks.append((name, make.instance(name, column, step, earlier)))
    tail = ""
    for each in draw(st.lists(st.sampled_from(TAILS), max_size=2, unique=True)):
        tail += lines(each) if not each.startswith("server") or "server" not in head else ""
    if draw(st.integers(1, 8)) == 1:
        tail += make.line("...")
    made = Made(head=head, chunks=tuple(chunks), tail=tail, mark=draw(st.sampled_from(("", "", "\ufeff"))))
    if draw(st.integers(1, 4)) == 1:
        return _unended(made)
    return made


def _unended(made: Made) -> Made:
    """The same without the last line's end."""

    def cut(text: str) -> str:
        return text[:-2] if text.endswith("\r\n") else text[:-1]

    if made.tail:
        return Made(head=made.head, chunks=made.chunks, tail=cut(made.tail), mark=made.mark)
    if made.chunks:
        name, last = made.chunks[-1]
        return Made(head=made.head, chunks=(*made.chunks[:-1], (name, cut(last))), tail="", mark=made.mark)
    return Made(head=cut(made.head), chunks=(), tail="", mark=made.mark)


@st.composite
def bracketed(draw: DrawFn) -> str:
    """A file whose instances stand between brackets, on one line or on many, as JSON or not."""
    make = _Maker(draw, draw(st.sampled_from((("\n",), ("\r\n",)))))
    is_json = draw(st.booleans())
    values = ('{"m":"x"}', '{"m": [1, {"n": 2}], "enabled": true}', "{}", "null")
    loose = (
        "{m: x, l: [a, 'b']}",
        "{ m: x , enabled: true, }",
        "*b",
        "{<<: *b, m: x}",
        "",
        "~",
        "&own {m: x}",
        "{m: {n: 1}}",
    )
    names = draw(st.lists(st.sampled_from(NAMES), max_size=4, unique_by=str.lower))
    many = draw(st.booleans())
    text = ""
    for index, name in enumerate(names):
        key = f'"{name}"' if is_json or name in ("1", "1.0", "null") else name
        value = make.pick(*values) if is_json else make.pick(*values, *loose)
        is_last = index == len(names) - 1
        comma = ("" if is_json or draw(st.booleans()) else ",") if is_last else ","
        space = " " if not value else ""  # a bare colon at a line's end keeps the blank that a comma needs
        pair = f"{key}:{' ' if value else ''}{value}{space}{comma}"
        if many:
            text += make.line(" " * 4 + "# above") if draw(st.integers(1, 4)) == 1 and not is_json else ""
            text += make.line(" " * 4 + pair + ("" if is_json else make.behind()))
        else:
            text += make.pick("", " ") + pair
    opening = make.line("{" + ("" if is_json else make.pick("", " # opening"))) if many else "{"
    inner = opening + text + ("  " if many else make.pick("", " ")) + "}"
    if is_json:
        return '{"server": {"port": 1}, "instances": ' + inner + "}" + make.pick("", make.line(""))
    return (
        make.line("x: &b {t: 1}").replace("x:", "x-b:")
        + "instances: "
        + inner
        + make.behind()
        + make.line("")
        + "# end"
    )
