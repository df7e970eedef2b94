"""Random scenes: shapes on a 3 x 3 grid, bar charts, printed words, and videos with events."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "diamond", "ring", "cross", "heart")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SIZES = ("small", "large")
LABELS = tuple("ABCDEFGHKMPRST")
MAX_VALUE = 20
CLIP_FRAMES = 8
DIRECTIONS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "diagonally up and left": (-1, -1),
    "diagonally up and right": (1, -1),
    "diagonally down and left": (-1, 1),
    "diagonally down and right": (1, 1),
}
_WORDS = """
apple arrow baker basket beach berry bird boat bread bridge bright brush bucket butter cabin
candle carpet castle chair cheese cherry city clock cloud coast coffee corn cotton cream
dance desert door dragon dream drum eagle earth engine farm field fire fish flag flower
forest fox frost garden ghost giant glass gold grape grass guitar hammer happy harbor hat
hill honey horse house ice island jacket jungle king kite ladder lake lamp leaf lemon letter
light lion magic maple market meadow milk mirror moon mouse music needle nest night north
ocean olive onion open orbit owl paint paper peach pencil pepper piano pilot planet plum
pocket pond queen quiet rabbit radio rain river road robot rocket rope salt sand school
secret shell ship shoe silver sky smile snow soup south spoon spring stone storm sugar
summer sun table tea tiger toast train tree tulip valley violet wagon water west whale wheel
wind window winter wolf wood yard zebra
"""
LEXICON = tuple(_WORDS.split())
BACKGROUNDS = (
    (255, 255, 255),
    (248, 244, 232),
    (236, 238, 242),
    (226, 238, 248),
    (234, 246, 230),
    (250, 234, 232),
    (240, 232, 246),
    (224, 224, 220),
)


@dataclass(frozen=True)
class Thing:
    """A coloured shape in a cell (0..8, row by row), off its centre by (dx, dy) cells."""

    shape: str
    color: str
    size: str
    cell: int
    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Look:
    """Background, size, noise and compression of an image."""

    background: tuple[int, int, int] = (255, 255, 255)
    pixels: int = 288
    noise: float = 0.0
    jpeg: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Shapes:
    """Some shapes on the grid, in reading order."""

    things: tuple[Thing, ...]
    look: Look = field(default_factory=Look)


@dataclass(frozen=True)
class Bar:
    """One bar of a chart."""

    label: str
    value: int
    color: str


@dataclass(frozen=True)
class Chart:
    """A bar chart with values above the bars and labels beneath."""

    bars: tuple[Bar, ...]
    look: Look = field(default_factory=Look)
    width: float = 0.6


@dataclass(frozen=True)
class Word:
    """A printed word in a row (0 top, 1 middle, 2 bottom) at a horizontal offset."""

    text: str
    color: str
    row: int
    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Words:
    """One to three printed words, from the top down."""

    words: tuple[Word, ...]
    look: Look = field(default_factory=Look)


@dataclass(frozen=True)
class Event:
    """Thing ``who`` moves, appears or leaves between two times, as fractions of the video."""

    kind: str  # "move", "appear", "leave"
    who: int
    start: float
    end: float
    direction: str = ""
    steps: int = 1


@dataclass(frozen=True)
class Clip:
    """Things with events in order; the ``cell`` of a thing is where it starts or appears."""

    things: tuple[Thing, ...]
    events: tuple[Event, ...]
    look: Look = field(default_factory=Look)

    def hidden_at_start(self) -> frozenset[int]:
        return frozenset(event.who for event in self.events if event.kind == "appear")

    def end_cell(self, who: int) -> int | None:
        """The last cell of a thing; None if it has left."""
        cell = self.things[who].cell
        for event in self.events:
            if event.who != who:
                continue
            if event.kind == "leave":
                return None
            if event.kind == "move":
                dx, dy = DIRECTIONS[event.direction]
                cell += event.steps * (dx + 3 * dy)
        return cell


@dataclass(frozen=True)
class Pair:
    """Two images of shapes."""

    first: Shapes
    second: Shapes


Picture = Shapes | Chart | Words
Scene = Picture | Clip | Pair


def choose(rng: np.random.Generator, options: tuple | list):  # type: ignore[no-untyped-def]
    """One of the options."""
    return options[int(rng.integers(len(options)))]


def random_look(rng: np.random.Generator, clip: bool = False) -> Look:
    return Look(
        background=choose(rng, BACKGROUNDS),
        pixels=int(rng.integers(8, 13 if clip else 17)) * 24,
        noise=float(rng.uniform(0, 4)) if rng.random() < 0.3 else 0.0,
        jpeg=int(rng.integers(60, 96)) if rng.random() < (0.4 if clip else 0.15) else 0,
        seed=int(rng.integers(2**31)),
    )


def random_thing(rng: np.random.Generator, cell: int) -> Thing:
    size = choose(rng, SIZES)
    reach = 0.05 if size == "large" else 0.14
    dx, dy = rng.uniform(-reach, reach, 2)
    scale = float(rng.uniform(0.93, 1.07))
    return Thing(choose(rng, SHAPES), choose(rng, COLORS), size, cell, float(dx), float(dy), scale)


def random_shapes(rng: np.random.Generator, low: int = 1, high: int = 6) -> Shapes:
    count = int(rng.integers(low, high + 1))
    cells = sorted(int(c) for c in rng.choice(9, count, replace=False))
    things = [random_thing(rng, cell) for cell in cells]
    if count > 2 and rng.random() < 0.4:  # repeat a colour or a shape, for questions that count
        source = things[int(rng.integers(count))]
        for i in rng.choice(count, int(rng.integers(1, count)), replace=False):
            old = things[int(i)]
            shape, color = old.shape, old.color
            shape, color = (source.shape, color) if rng.random() < 0.5 else (shape, source.color)
            things[int(i)] = Thing(shape, color, old.size, old.cell, old.dx, old.dy, old.scale)
    return Shapes(tuple(things), random_look(rng))


def random_chart(rng: np.random.Generator) -> Chart:
    count = int(rng.integers(3, 6))
    labels = sorted(str(label) for label in rng.choice(LABELS, count, replace=False))
    colors = [str(c) for c in rng.choice(COLORS, count, replace=False)]
    if rng.random() < 0.2:
        colors = [colors[0]] * count
    values = [int(v) for v in rng.choice(np.arange(1, MAX_VALUE + 1), count, replace=False)]
    bars = tuple(Bar(*bar) for bar in zip(labels, values, colors, strict=True))
    return Chart(bars, random_look(rng), float(rng.uniform(0.5, 0.75)))


def random_words(rng: np.random.Generator) -> Words:
    count = int(rng.integers(1, 4))
    rows = sorted(int(r) for r in rng.choice(3, count, replace=False))
    texts = [str(t) for t in rng.choice(LEXICON, count, replace=False)]
    words = []
    for row, text in zip(rows, texts, strict=True):
        dx, dy = rng.uniform(-0.12, 0.12), rng.uniform(-0.03, 0.03)
        scale = float(rng.uniform(0.9, 1.05))
        words.append(Word(text, choose(rng, COLORS), row, float(dx), float(dy), scale))
    return Words(tuple(words), random_look(rng))


def _move(rng: np.random.Generator, cell: int, taken: set[int]) -> tuple[str, int] | None:
    """A direction and a number of cells without obstacles."""
    options = []
    for name, (dx, dy) in DIRECTIONS.items():
        x, y = cell % 3, cell // 3
        for steps in (1, 2):
            x, y = x + dx, y + dy
            if not (0 <= x < 3 and 0 <= y < 3) or x + 3 * y in taken:
                break
            options.append((name, steps))
    return choose(rng, options) if options else None


def _exit(rng: np.random.Generator, cell: int, taken: set[int]) -> str | None:
    """A direction in which a thing can leave without crossing another."""
    options = []
    for name in ("left", "right", "up", "down"):
        dx, dy = DIRECTIONS[name]
        x, y = cell % 3 + dx, cell // 3 + dy
        free = True
        while 0 <= x < 3 and 0 <= y < 3:
            free = free and x + 3 * y not in taken
            x, y = x + dx, y + dy
        if free:
            options.append(name)
    return choose(rng, options) if options else None


def random_clip(rng: np.random.Generator) -> Clip:
    """One to three things; zero to three events, each in its own stretch of time."""
    count = int(rng.integers(1, 4))
    cells = [int(c) for c in rng.choice(9, count, replace=False)]
    things: list[Thing] = []
    for cell in cells:
        thing = random_thing(rng, cell)
        while any(t.shape == thing.shape or t.color == thing.color for t in things):
            thing = random_thing(rng, cell)
        things.append(thing)
    wanted = int(rng.choice([0, 1, 2, 3], p=[0.08, 0.37, 0.37, 0.18]))
    hidden = {i for i in range(1, count) if rng.random() < 0.35} if wanted else set()
    hidden = set(sorted(hidden)[:wanted])
    order = sorted(range(count), key=lambda i: things[i].cell)
    things = [things[i] for i in order]
    hidden = {order.index(i) for i in hidden}
    return Clip(tuple(things), _events(rng, things, hidden, wanted), random_look(rng, clip=True))


def _events(
    rng: np.random.Generator, things: list[Thing], hidden: set[int], wanted: int
) -> tuple[Event, ...]:
    plan: list[tuple[str, int, str, int]] = []
    at = {i: thing.cell for i, thing in enumerate(things)}
    waiting, fresh = set(hidden), set(hidden)
    while len(plan) < wanted:
        left = wanted - len(plan)
        if waiting and (len(waiting) >= left or rng.random() < 0.5):
            who = choose(rng, sorted(waiting))
            waiting.discard(who)
            plan.append(("appear", who, "", 1))
            continue
        movable = [i for i in at if i not in waiting and (i not in fresh or rng.random() < 0.3)]
        if not movable:
            if waiting:
                continue
            break
        who = choose(rng, movable)
        taken = {cell for i, cell in at.items() if i != who}
        leave = _exit(rng, at[who], taken) if rng.random() < 0.3 else None
        if leave:
            plan.append(("leave", who, leave, 1))
            del at[who]
            continue
        move = _move(rng, at[who], taken)
        if move is None:
            break
        plan.append(("move", who, *move))
        dx, dy = DIRECTIONS[move[0]]
        at[who] += move[1] * (dx + 3 * dy)
    if waiting:  # no further event is possible: let every hidden thing appear
        plan = plan[: wanted - len(waiting)] + [("appear", who, "", 1) for who in sorted(waiting)]
        gone = {who for kind, who, _, _ in plan if kind == "leave"}
        plan = [p for i, p in enumerate(plan) if p[1] not in gone or p[0] == "leave"]
    return _timed(rng, plan)


def _timed(rng: np.random.Generator, plan: list[tuple[str, int, str, int]]) -> tuple[Event, ...]:
    """Assign times to events; they are computed in frames of eight, then as fractions."""
    last = CLIP_FRAMES - 1
    starts = {0: [], 1: [2.2], 2: [1.2, 4.2], 3: [0.8, 2.9, 5.0]}[len(plan)]
    jitter = {0: 0.0, 1: 1.2, 2: 0.4, 3: 0.15}[len(plan)]
    events = []
    for (kind, who, direction, steps), start in zip(plan, starts, strict=True):
        begin = start + float(rng.uniform(-jitter, jitter))
        end = begin + float(rng.uniform(1.2, 1.7))
        events.append(Event(kind, who, begin / last, end / last, direction, steps))
    return tuple(events)


def random_pair(rng: np.random.Generator) -> Pair:
    return Pair(random_shapes(rng, 1, 5), random_shapes(rng, 1, 5))
