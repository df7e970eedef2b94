"""Questions about charts, printed words, videos and pairs of images."""

from __future__ import annotations

import numpy as np

from training.world.answers import Answered, number, one_of
from training.world.captions import clip_cell, mention
from training.world.phrases import EXPLAIN, NUMBERS, ROWS, article, listing, place, plain, upper
from training.world.scenes import Chart, Clip, Pair, Words, choose

Rng = np.random.Generator


def ask_chart(rng: Rng, scene: Chart) -> Answered:
    bars, style = scene.bars, rng.random()
    bar = choose(rng, bars)
    high, low = max(bars, key=lambda b: b.value), min(bars, key=lambda b: b.value)
    if style < 0.3:
        question = one_of(
            rng,
            f"What is the value of {bar.label}?",
            f"How high is bar {bar.label}?",
            f"Which value does {bar.label} have?",
        )
        answer = choose(rng, (f"{bar.value}.", f"Bar {bar.label} stands at {bar.value}."))
        return Answered(question, answer, "value", str(bar.value))
    if style < 0.5:
        top = rng.random() < 0.5
        one, word = (high, ("highest", "tallest")) if top else (low, ("lowest", "shortest"))
        question = one_of(
            rng, f"Which bar is the {choose(rng, word)}?", f"Which label has the {word[0]} value?"
        )
        answer = f"{one.label}."
        if rng.random() < 0.5:
            question += " " + choose(rng, EXPLAIN)
            values = listing([f"{b.label} is {b.value}" for b in bars])
            answer = f"{values}, so the {word[0]} is {one.label}."
        return Answered(question, answer, "extreme", one.label)
    if style < 0.65:
        one, two = (bars[int(i)] for i in rng.choice(len(bars), 2, replace=False))
        best = one if one.value > two.value else two
        question = one_of(
            rng,
            f"Which is higher, {one.label} or {two.label}?",
            f"Is {one.label} or {two.label} the taller bar?",
        )
        answer = f"{best.label}."
        if rng.random() < 0.7:
            question += " " + choose(rng, EXPLAIN)
            answer = (
                f"{one.label} is {one.value} and {two.label} is {two.value}, so it is {best.label}."
            )
        return Answered(question, answer, "compare", best.label)
    if style < 0.75:
        question = one_of(
            rng, f"What color is bar {bar.label}?", f"Which color has bar {bar.label}?"
        )
        answer = choose(rng, (upper(bar.color) + ".", f"Bar {bar.label} is {bar.color}."))
        return Answered(question, answer, "color", bar.color)
    if style < 0.82:
        question = one_of(rng, "How many bars are there?", "Count the bars.")
        return Answered(question, number(rng, len(bars), "bar"), "counting", NUMBERS[len(bars)])
    one, two = (bars[int(i)] for i in rng.choice(len(bars), 2, replace=False))
    if style < 0.91:
        question = one_of(
            rng,
            f"What is the sum of {one.label} and {two.label}?",
            f"How much are {one.label} and {two.label} together?",
        )
        value = one.value + two.value
        answer = f"{one.label} is {one.value} and {two.label} is {two.value}, which makes {value}."
        return Answered(question, answer, "sum", str(value))
    if one.value < two.value:
        one, two = two, one
    question = one_of(
        rng,
        f"How much higher is {one.label} than {two.label}?",
        f"What is the difference between {one.label} and {two.label}?",
    )
    value = one.value - two.value
    answer = f"{one.label} is {one.value} and {two.label} is {two.value}, a difference of {value}."
    return Answered(question, answer, "sum", str(value))


def ask_words(rng: Rng, scene: Words) -> Answered:
    words, style = scene.words, rng.random()
    word = choose(rng, words)
    where = f"at the {ROWS[word.row]}"
    if style < 0.4:
        question = one_of(
            rng,
            f"What does the word {where} say?",
            f"Which word is {where}?",
            f"Read the word {where}.",
        )
        answer = choose(rng, (f'"{word.text}".', f'It says "{word.text}".'))
        return Answered(question, answer, "reading", word.text)
    if style < 0.6:
        question = one_of(
            rng,
            "Read the text.",
            "Which words are printed here?",
            "What is written in the picture?",
        )
        texts = [f'"{w.text}"' for w in words]
        answer = f"{'The word is' if len(words) == 1 else 'The words are'} {listing(texts)}."
        return Answered(question, answer, "reading", " ".join(w.text for w in words))
    if style < 0.8:
        question = one_of(
            rng, f'What color is the word "{word.text}"?', f"Which color has the word {where}?"
        )
        answer = f'The word "{word.text}" {where} is {word.color}.'
        return Answered(question, answer, "color", word.color)
    if style < 0.9:
        question = one_of(rng, "How many words are there?", "Count the words.")
        return Answered(question, number(rng, len(words), "word"), "counting", NUMBERS[len(words)])
    question = one_of(rng, f'Where is the word "{word.text}"?', f'Where does it say "{word.text}"?')
    return Answered(
        question, choose(rng, (f"{upper(where)}.", f"It is {where}.")), "row", ROWS[word.row]
    )


def _happening(rng: Rng, clip: Clip) -> list[tuple[str, str, str, str]]:
    """(subject, what it did, the kind, the key) of each event."""
    at, out = [t.cell for t in clip.things], []
    for event in clip.events:
        name, cell = plain(clip.things[event.who]), at[event.who]
        verb, key = {"appear": "appears", "leave": "leaves"}.get(event.kind, ""), event.direction
        if event.kind == "move":
            way = event.direction
            if rng.random() < 0.7:
                end = place(rng, clip_cell(cell, event))
                way = f"from the {place(rng, cell)} to the {end}, moving {event.direction}"
            verb = f"moves {way}"
        at[event.who] = clip_cell(cell, event)
        out.append((name, verb, event.kind, key if event.kind == "move" else verb))
    return out


def ask_clip(rng: Rng, clip: Clip) -> Answered:
    done, style = _happening(rng, clip), rng.random()
    who = int(rng.integers(len(clip.things)))
    thing = clip.things[who]
    if style < 0.25 and done:
        i = int(rng.integers(len(done)))
        name, verb, _, key = done[i]
        if [d[0] for d in done].count(name) == 1:
            question = one_of(rng, f"What does the {name} do?", f"What happens to the {name}?")
            return Answered(
                question, f"{choose(rng, ('It', f'The {name}'))} {verb}.", "motion", key
            )
    if style < 0.45 and len(done) > 1:
        last = rng.random() < 0.5
        name, verb, _, key = done[-1 if last else 0]
        word = "last" if last else "first"
        question = one_of(rng, f"What happens {word}?", f"What is the {word} event?")
        article_ = "a" if verb == "appears" else "the"
        return Answered(question, f"{upper(article_)} {name} {verb}.", "order", f"{name} {key}")
    if style < 0.6:
        moving = {plain(clip.things[e.who]) for e in clip.events if e.kind == "move"}
        question = one_of(rng, f"Does the {plain(thing)} move?", f"Is the {plain(thing)} moving?")
        key = "yes" if plain(thing) in moving else "no"
        verbs = [d[1] for d in done if d[0] == plain(thing)]
        more = [v for v in verbs if v.startswith("moves")]
        if more and rng.random() < 0.5:
            return Answered(question, f"Yes, it {listing(more)}.", "yes or no", key)
        return Answered(question, upper(key) + ".", "yes or no", key)
    if style < 0.7:
        end = sum(clip.end_cell(i) is not None for i in range(len(clip.things)))
        question = one_of(
            rng, "How many shapes are there at the end?", "How many shapes remain at the end?"
        )
        return Answered(question, number(rng, end, "shape"), "counting", NUMBERS[end])
    if style < 0.8:
        kind = choose(rng, ("move", "appear", "leave"))
        named = [d[0] for d in done if d[2] == kind]
        verb = {"move": "moves", "appear": "appears", "leave": "leaves"}[kind]
        question = one_of(rng, f"Which shape {verb}?", f"What {verb}?")
        if len(set(named)) == 1:
            return Answered(question, f"The {named[0]}.", "who", named[0])
    if style < 0.9 and clip.end_cell(who) is not None:
        cell = clip.end_cell(who) or 0
        question = one_of(
            rng,
            f"Where is the {plain(thing)} at the end?",
            f"Where does the {plain(thing)} end up?",
        )
        return Answered(question, f"In the {place(rng, cell)}.", "place", str(cell))
    question = one_of(
        rng, f"What color is the {thing.shape}?", f"Which color has the {thing.shape}?"
    )
    answer = choose(rng, (upper(thing.color) + ".", f"The {thing.shape} is {thing.color}."))
    return Answered(question, answer, "color", thing.color)


def ask_pair(rng: Rng, scene: Pair) -> Answered:
    """Questions over two pictures."""
    sides = (list(scene.first.things), list(scene.second.things))
    names, style = ("first", "second"), rng.random()
    if style < 0.45 and len(sides[0]) != len(sides[1]):
        more = rng.random() < 0.6
        best = int((len(sides[1]) > len(sides[0])) == more)
        word = "more" if more else "fewer"
        question = one_of(
            rng, f"Which picture has {word} shapes?", f"In which picture are there {word} shapes?"
        )
        answer = f"The {names[best]} picture."
        if rng.random() < 0.7:
            question += " " + choose(rng, EXPLAIN)
            counts = [NUMBERS[len(side)] for side in sides]
            found = f"The first has {counts[0]} and the second has {counts[1]}"
            answer = f"{found}, so it is the {names[best]}."
        return Answered(question, answer, "pair", names[best])
    side = int(rng.integers(2))
    things = sides[side]
    if style < 0.65:
        question = one_of(
            rng,
            f"How many shapes are in the {names[side]} picture?",
            f"Count the shapes of the {names[side]} picture.",
        )
        return Answered(
            question, number(rng, len(things), "shape"), "counting", NUMBERS[len(things)]
        )
    if style < 0.85:
        other = {plain(t) for t in sides[1 - side]}
        single = [t for t in things if plain(t) not in other]
        if single:
            name = plain(choose(rng, single))
            question = one_of(
                rng,
                f"Which picture shows {article(name)}?",
                f"In which picture is there {article(name)}?",
            )
            return Answered(question, f"The {names[side]} picture.", "pair", names[side])
    question = f"Describe the {names[side]} picture."
    clauses = [upper(mention(rng, t)) + "." for t in things]
    return Answered(question, " ".join(clauses), "describe", " ".join(str(t.cell) for t in things))
