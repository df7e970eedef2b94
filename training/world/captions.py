"""Captions in varied wording: set phrases, free choices, and facts."""

from __future__ import annotations

from collections import Counter

import numpy as np

from training.world.phrases import (
    NUMBERS,
    ROWS,
    article,
    full,
    listing,
    place,
    plain,
    plural,
    upper,
)
from training.world.scenes import DIRECTIONS, Chart, Clip, Event, Shapes, Thing, Words, choose

Rng = np.random.Generator


def _opening(rng: Rng, count: str, noun: str) -> str:
    """A first sentence around a counted noun such as 'three shapes'."""
    verb = "is" if count.startswith("one ") else "are"
    light = choose(rng, ("light", "pale", "plain"))
    return choose(
        rng,
        (
            f"The {noun} shows {count} on a {light} background.",
            f"There {verb} {count} in this {noun}.",
            f"This {noun} contains {count}.",
            f"In this {noun} we can see {count} on a {light} background.",
            f"{upper(count)} can be seen in this {noun}.",
            f"This is a simple {noun} with {count}.",
        ),
    )


def mention(rng: Rng, thing: Thing) -> str:
    """A clause that names a thing with its size, colour, shape and place."""
    what, where = article(full(rng, thing)), place(rng, thing.cell)
    style = rng.random()
    if style < 0.3:
        return f"there is {what} in the {where}"
    if style < 0.5:
        return f"{what} {choose(rng, ('sits', 'stands', 'rests', 'is placed'))} in the {where}"
    if style < 0.75:
        return f"in the {where} {choose(rng, ('there is', 'is', 'we find', 'you can see'))} {what}"
    return f"the {where} {choose(rng, ('holds', 'shows', 'contains', 'is taken by'))} {what}"


def _mentions(rng: Rng, things: list[Thing]) -> str:
    """Sentences that name all things."""
    sentences, i = [], 0
    first = rng.random() < 0.4
    while i < len(things):
        take = 2 if i + 1 < len(things) and rng.random() < 0.35 else 1
        clauses = [mention(rng, thing) for thing in things[i : i + take]]
        i += take
        joined = f", {choose(rng, ('and', 'while'))} ".join(clauses)
        if i > take and rng.random() < 0.2:
            joined = f"{choose(rng, ('next', 'then', 'further on'))}, {joined}"
        elif i == take and first:
            joined = f"{choose(rng, ('first', 'to begin with'))}, {joined}"
        elif i == len(things) and i > take and rng.random() < 0.3:
            joined = f"{choose(rng, ('finally', 'last of all', 'lastly'))}, {joined}"
        sentences.append(upper(joined) + ".")
    return " ".join(sentences)


def relation(rng: Rng, one: Thing, two: Thing) -> str:
    """'the red circle is above the blue square', in a direction in which they differ."""
    dx, dy = two.cell % 3 - one.cell % 3, two.cell // 3 - one.cell // 3
    if dx and (not dy or rng.random() < 0.5):
        words = ("to the left of", "left of") if dx > 0 else ("to the right of", "right of")
        return f"the {plain(one)} is {choose(rng, words)} the {plain(two)}"
    words = ("above", "higher than") if dy > 0 else ("below", "lower than")
    return f"the {plain(one)} is {choose(rng, words)} the {plain(two)}"


def _summary(rng: Rng, things: list[Thing]) -> list[str]:
    """Closing sentences: counts, comparisons, relations, rows."""
    small = sum(t.size == "small" for t in things)
    colors, shapes = Counter(t.color for t in things), Counter(t.shape for t in things)
    out = []
    if len(things) > 1:
        if small in (0, len(things)):
            kind = "large" if small == 0 else "small"
            out.append(f"All of them are {kind}.")
        else:
            verb = "is" if small == 1 else "are"
            out.append(
                f"Of these, {NUMBERS[small]} {verb} small and {NUMBERS[len(things) - small]} "
                f"{'is' if len(things) - small == 1 else 'are'} large."
            )
        color, count = colors.most_common(1)[0]
        if count > 1:
            out.append(f"The color {color} appears {NUMBERS[count]} times.")
        else:
            out.append(f"{choose(rng, ('No two shapes', 'No two of them'))} share a color.")
        shape, count = shapes.most_common(1)[0]
        if count > 1:
            out.append(f"There are {plural(count, shape)} in total.")
        one, two = (int(i) for i in rng.choice(len(things), 2, replace=False))
        names = Counter(plain(t) for t in things)
        if names[plain(things[one])] == names[plain(things[two])] == 1:
            text = relation(rng, things[one], things[two])
            out.append(upper(f"{choose(rng, ('', '', 'we can also see that '))}{text}."))
    rows = []
    for row, name in enumerate(ROWS):
        inside = [article(plain(t)) for t in things if t.cell // 3 == row]
        rows.append(f"the {name} row {'holds ' + listing(inside) if inside else 'is empty'}")
    out.append(upper(f"{choose(rng, ('', 'row by row, ', 'to sum up, '))}{'; '.join(rows)}."))
    return out


TRAITS = {
    "circle": "perfectly round",
    "square": "made of four equal sides",
    "triangle": "pointed at the top",
    "star": "drawn with five points",
    "diamond": "standing on its tip",
    "ring": "round and hollow",
    "cross": "made of two crossing bars",
    "heart": "curved at the top and pointed below",
}


def _traits(rng: Rng, things: list[Thing], chance: float) -> list[str]:
    """Sentences that describe a shape; they follow from its name."""
    more = ("", "", " and has sharp edges", " and evenly filled")
    return [
        f"The {plain(t)} is {TRAITS[t.shape]}{choose(rng, more)}."
        for t in things
        if rng.random() < chance
    ]


def _closing(rng: Rng, noun: str) -> list[str]:
    if rng.random() < 0.6:
        return []
    return [
        choose(
            rng,
            (
                f"Nothing else can be seen in the {noun}.",
                f"The rest of the {noun} is empty.",
                f"Overall, it is a clean and simple {noun}.",
            ),
        )
    ]


def _pick(rng: Rng, options: list[str], most: int) -> list[str]:
    """Up to ``most`` of the options, in their order."""
    count = min(len(options), int(rng.integers(0, most + 1)))
    return (
        [options[i] for i in sorted(rng.choice(len(options), count, replace=False))]
        if count
        else []
    )


def caption_shapes(rng: Rng, scene: Shapes) -> str:
    things = list(scene.things)
    noun = choose(rng, ("image", "picture"))
    counted = plural(len(things), choose(rng, ("shape", "shape", "object")))
    parts = [_opening(rng, counted, noun), _mentions(rng, things)]
    most = 4 if len(things) < 4 else 2
    parts += _traits(rng, things, 0.8 if len(things) < 4 else 0.15)
    parts += _pick(rng, _summary(rng, things), most) + _closing(rng, noun)
    return " ".join(parts)


def caption_chart(rng: Rng, scene: Chart) -> str:
    bars = scene.bars
    counted = f"{NUMBERS[len(bars)]} bars"
    parts = [
        choose(
            rng,
            (
                f"This is a bar chart with {counted}.",
                f"The image shows a bar chart with {counted}.",
                f"The chart compares {counted}, labeled {listing([b.label for b in bars])}.",
                f"A simple bar chart with {counted} is shown.",
                f"We see {counted} in this chart, from {bars[0].label} to {bars[-1].label}.",
            ),
        )
    ]
    for i, bar in enumerate(bars):
        verb = choose(rng, ("reaches", "stands at", "has a value of", "is marked"))
        name = f"bar {bar.label}"
        style = rng.random()
        if style < 0.4:
            text = f"the {bar.color} {name} {verb} {bar.value}"
        elif style < 0.7:
            text = f"{name} is {bar.color} and {verb} {bar.value}"
        else:
            text = f"{name}, drawn in {bar.color}, {verb} {bar.value}"
        if i and rng.random() < 0.3:
            text = f"{choose(rng, ('next', 'then', 'after that'))}, {text}"
        parts.append(upper(text) + ".")
    high, low = max(bars, key=lambda b: b.value), min(bars, key=lambda b: b.value)
    top = choose(rng, ("tallest", "highest"))
    bottom = choose(rng, ("shortest", "lowest"))
    rank = [b.label for b in sorted(bars, key=lambda b: -b.value)]
    ending = [
        f"The {top} bar is {high.label}, at {high.value}.",
        f"The {bottom} bar is {low.label}, with only {low.value}.",
        f"From high to low, the order is {listing(rank)}.",
        f"The gap between {high.label} and {low.label} is {high.value - low.value}.",
    ]
    if len({b.color for b in bars}) == 1:
        ending.append(f"All bars are {bars[0].color}.")
    return " ".join(parts + _pick(rng, ending, 4))


def caption_words(rng: Rng, scene: Words) -> str:
    words = scene.words
    noun = choose(rng, ("image", "picture"))
    counted = plural(len(words), choose(rng, ("word", "printed word")))
    parts = [_opening(rng, counted, noun)]
    for word in words:
        where, quoted = ROWS[word.row], f'"{word.text}"'
        style = rng.random()
        if style < 0.35:
            text = f"the word {quoted} is printed in {word.color} at the {where}"
        elif style < 0.7:
            verb = choose(rng, ("we read", "it says", "stands"))
            text = f"at the {where} {verb} {quoted} in {word.color}"
        else:
            verb = choose(rng, ("reads", "says"))
            text = f"the {word.color} text at the {where} {verb} {quoted}"
        parts.append(upper(text) + ".")
    long = max(words, key=lambda w: len(w.text))
    ending = [f'The word "{w.text}" has {NUMBERS[len(w.text)]} letters.' for w in words[:2]]
    if len(words) > 1:
        ending.append(f"Read from the top down, the text is {listing([w.text for w in words])}.")
        if sum(len(w.text) == len(long.text) for w in words) == 1:
            ending.append(f'The longest word is "{long.text}".')
        same = len({w.color for w in words}) == 1
        kind = "all of the words have the same color" if same else "the words differ in color"
        ending.append(upper(f"{choose(rng, ('', 'note that '))}{kind}."))
    ending.append("The letters are easy to read.")
    ending.append(f"There is nothing else in the {noun}.")
    return " ".join(parts + _pick(rng, ending, 4))


def event_text(rng: Rng, clip: Clip, event: Event, cell: int) -> str:
    """A clause on an event of a thing that is, or appears, in ``cell``."""
    name = plain(clip.things[event.who])
    if event.kind == "appear":
        verb = choose(rng, ("appears", "appears", "shows up", "pops up"))
        return f"a {full(rng, clip.things[event.who])} {verb} in the {place(rng, cell)}"
    if event.kind == "leave":
        verb = choose(rng, ("leaves", "leaves", "exits"))
        return f"the {name} {verb} the {choose(rng, ('picture', 'scene'))} {_side(event.direction)}"
    verb = choose(rng, ("moves", "moves", "slides", "travels"))
    return f"the {name} {verb} {move_text(rng, event, cell)}"


def move_text(rng: Rng, event: Event, cell: int) -> str:
    """Start, end and direction of a move; the direction last, since it follows from the others."""
    start, end = place(rng, cell), place(rng, clip_cell(cell, event))
    style = rng.random()
    if style < 0.25:
        return f"{event.direction} to the {end}"
    way = f", moving {event.direction}" if style < 0.7 else ""
    return f"from the {start} to the {end}{way}"


def _side(direction: str) -> str:
    return {"left": "on the left", "right": "on the right", "up": "at the top"}.get(
        direction, "at the bottom"
    )


def clip_cell(cell: int, event: Event) -> int:
    """The cell of a thing in ``cell`` after an event."""
    if event.kind != "move":
        return cell
    dx, dy = DIRECTIONS[event.direction]
    return cell + event.steps * (dx + 3 * dy)


def event_texts(rng: Rng, clip: Clip) -> list[str]:
    """One clause for each event, in order."""
    at = [thing.cell for thing in clip.things]
    out = []
    for event in clip.events:
        out.append(event_text(rng, clip, event, at[event.who]))
        at[event.who] = clip_cell(at[event.who], event)
    return out


def caption_clip(rng: Rng, clip: Clip) -> str:
    hidden = clip.hidden_at_start()
    visible = [thing for i, thing in enumerate(clip.things) if i not in hidden]
    noun = choose(rng, ("video", "clip"))
    counted = plural(len(visible), "shape")
    verb, plain_word = ("is" if len(visible) == 1 else "are"), choose(rng, ("light", "plain"))
    parts = [
        choose(
            rng,
            (
                f"The {noun} begins with {counted}.",
                f"At the start of the {noun} there {verb} {counted}.",
                f"This {noun} opens with {counted} on a {plain_word} background.",
                f"When the {noun} starts, we see {counted}.",
            ),
        ),
        _mentions(rng, visible),
        *_traits(rng, visible, 0.4),
    ]
    texts = event_texts(rng, clip)
    starters = (
        ("first", "to begin with"),
        ("then", "after that", "next"),
        ("finally", "in the end"),
    )
    for i, text in enumerate(texts):
        slot = 0 if i == 0 else 2 if i == len(texts) - 1 and rng.random() < 0.5 else 1
        if len(texts) == 1:
            starter = choose(rng, ("after a moment", "then", "soon"))
        else:
            starter = choose(rng, starters[slot])
        parts.append(upper(f"{starter}, {text}."))
    still = [t for i, t in enumerate(clip.things) if all(e.who != i for e in clip.events)]
    ending = []
    if not texts:
        parts.append(
            choose(rng, ("Nothing moves during the whole clip.", "Nothing happens after that."))
        )
    elif still:
        names = listing([f"the {plain(t)}" for t in still])
        ending.append(upper(f"{names} {'does' if len(still) == 1 else 'do'} not move at all."))
    last = [f"the {plain(t)}" for i, t in enumerate(clip.things) if clip.end_cell(i) is not None]
    if last:
        word = choose(rng, ("shows", "still shows"))
        ending.append(f"The last frame {word} {listing(last)}.")
    ends = sum(clip.end_cell(i) is not None for i in range(len(clip.things)))
    verb = "remains" if ends == 1 else "remain"
    ending.append(f"At the end, {plural(ends, 'shape')} {verb} in view.")
    ending.append(
        f"In total there {'is' if len(texts) == 1 else 'are'} {plural(len(texts), 'event')}."
    )
    return " ".join(parts + _pick(rng, ending, 3))


def caption(rng: Rng, scene: Shapes | Chart | Words | Clip) -> str:
    """A caption of any scene but a pair: of four the first that is long enough, or the longest."""
    tries: list[str] = []
    while len(tries) < 4:
        tries.append(_caption(rng, scene))
        if len(tries[-1].split()) >= 50:
            break
    return max(tries, key=len)


def _caption(rng: Rng, scene: Shapes | Chart | Words | Clip) -> str:
    if isinstance(scene, Shapes):
        return caption_shapes(rng, scene)
    if isinstance(scene, Chart):
        return caption_chart(rng, scene)
    return caption_words(rng, scene) if isinstance(scene, Words) else caption_clip(rng, scene)
