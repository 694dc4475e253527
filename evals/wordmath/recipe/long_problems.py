"""Long word problems of about six steps. Each function fills a Story and returns its record."""

from story import CONTAINERS, ITEMS


def inventory(s):
    """Two stocks that change by turns, then a sale of what is left."""
    (name, he, his), (friend, _, _) = s.people(2)
    items = s.rng.sample(ITEMS, 2)
    have = [s.num(20, 99), s.num(20, 99)]
    s.say(f"{name} has {have[0]} {items[0]} and {have[1]} {items[1]}.")
    for _ in range(s.num(3, 5)):
        which = s.num(0, 1)
        item, count = items[which], have[which]
        kind = s.num(0, 3)
        if kind == 0:
            n = s.num(11, 120)
            s.say(
                s.pick(
                    f"{he.capitalize()} buys {n} more {item}.",
                    f"{friend} gives {him(he)} {n} {item}.",
                )
            )
            have[which] = s.calc(count, "+", n, f"Now {name} has {{e}} {item}.")
        elif kind == 1 and count > 12:
            n = s.num(3, count - 3)
            s.say(
                s.pick(
                    f"{he.capitalize()} sells {n} {item}.",
                    f"{he.capitalize()} gives {n} {item} to {friend}.",
                )
            )
            have[which] = s.calc(count, "-", n, f"That leaves {{e}} {item}.")
        elif kind == 2 and count < 400:
            s.say(f"The number of {item} doubles.")
            have[which] = s.calc(count, "*", 2, f"Then there are {{e}} {item}.")
        else:
            boxes, each = s.num(3, 12), s.num(3, 15)
            box = s.rng.choice(CONTAINERS)
            s.say(f"{boxes} {box} with {each} {item} in each arrive.")
            more = s.calc(boxes, "*", each, f"The {box} hold {{e}} {item}.")
            have[which] = s.calc(count, "+", more, f"Now there are {{e}} {item}.")
    if s.num(0, 2) == 0:
        return s.record(
            f"How many {items[0]} and {items[1]} does {name} have altogether?",
            s.calc(have[0], "+", have[1], "Altogether there are {e}."),
        )
    if s.num(0, 1):
        more, less = (0, 1) if have[0] >= have[1] else (1, 0)
        return s.record(
            f"How many more {items[more]} than {items[less]} are there in the end?",
            s.calc(have[more], "-", have[less], "The difference is {e}."),
        )
    p = [s.num(2, 12), s.num(2, 12)]
    s.say(
        f"In the end {he} sells all {items[0]} for ${p[0]} each "
        f"and all {items[1]} for ${p[1]} each."
    )
    a = s.calc(have[0], "*", p[0], f"The {items[0]} bring {{e}} dollars.")
    b = s.calc(have[1], "*", p[1], f"The {items[1]} bring {{e}} dollars.")
    return s.record(
        "How many dollars does that bring?", s.calc(a, "+", b, "Together that is {e} dollars.")
    )


def invoice(s):
    """Three or four lines of an invoice with larger numbers, a discount and a share."""
    name, he, his = s.people(1)[0]
    kinds = s.rng.sample(ITEMS, s.num(3, 4))
    lines = [(k, s.num(11, 40), s.num(3, 29)) for k in kinds]
    s.say(
        f"{name} orders "
        + ", ".join(f"{n} {k} at ${p} each" for k, n, p in lines[:-1])
        + f" and {lines[-1][1]} {lines[-1][0]} at ${lines[-1][2]} each."
    )
    total = None
    for k, n, p in lines:
        cost = s.calc(n, "*", p, f"The {k} cost {{e}} dollars.")
        total = cost if total is None else s.calc(total, "+", cost, "So far that is {e} dollars.")
    kind = s.num(0, 3)
    if kind == 0:
        return s.record("What is the bill?", total)
    if kind == 1:
        off = s.num(15, 99)
        s.say(f"The shop takes ${off} off.")
        return s.record(
            "What is left to pay?", s.calc(total, "-", off, "That leaves {e} dollars to pay.")
        )
    if kind == 2:
        ship = s.num(12, 95)
        s.say(f"Shipping costs ${ship}.")
        return s.record(
            "What is the bill with shipping?",
            s.calc(total, "+", ship, "With shipping it is {e} dollars."),
        )
    people = s.rng.choice([k for k in range(2, 10) if total % k == 0] or [1])
    if people == 1:
        return s.record("What is the bill?", total)
    s.say(f"{people} friends share the bill equally.")
    return s.record(
        "How much does each of them pay?", s.calc(total, "/", people, "Each pays {e} dollars.")
    )


def relay(s):
    """A chain of people, each amount given relative to an earlier one."""
    people = [p[0] for p in s.people(s.num(4, 5))]
    item = s.rng.choice(ITEMS)
    amount = {people[0]: s.num(8, 60)}
    s.say(f"{people[0]} has {amount[people[0]]} {item}.")
    for i, who in enumerate(people[1:], 1):
        ref = s.rng.choice(people[max(0, i - 2) : i])
        kind = s.num(0, 3)
        if kind == 0:
            n = s.num(5, 75)
            s.say(f"{who} has {n} more {item} than {ref}.")
            amount[who] = s.calc(amount[ref], "+", n, f"{who} has {{e}} {item}.")
        elif kind == 1 and amount[ref] > 8:
            n = s.num(2, amount[ref] - 3)
            s.say(f"{who} has {n} fewer {item} than {ref}.")
            amount[who] = s.calc(amount[ref], "-", n, f"{who} has {{e}} {item}.")
        elif kind == 2 and amount[ref] < 150:
            k, word = s.pick((2, "twice"), (3, "three times"), (4, "four times"))
            s.say(f"{who} has {word} as many {item} as {ref}.")
            amount[who] = s.calc(amount[ref], "*", k, f"{who} has {{e}} {item}.")
        else:
            divisor, word = s.rng.choice(
                [
                    d
                    for d in ((2, "half"), (3, "a third"), (4, "a quarter"))
                    if amount[ref] % d[0] == 0
                ]
                or [(1, "just")]
            )
            s.say(
                f"{who} has {word} as many {item} as {ref}."
                if divisor > 1
                else f"{who} has just as many {item} as {ref}."
            )
            amount[who] = (
                s.calc(amount[ref], "/", divisor, f"{who} has {{e}} {item}.")
                if divisor > 1
                else amount[ref]
            )
    if s.num(0, 1):
        return s.record(f"How many {item} does {people[-1]} have?", amount[people[-1]])
    total = amount[people[0]]
    for who in people[1:]:
        total = s.calc(total, "+", amount[who], f"With {who} that makes {{e}} {item}.")
    return s.record(f"How many {item} do they have altogether?", total)


def long_chain(s):
    """One number through many operations."""
    name, he, his = s.people(1)[0]
    value = s.num(12, 99)
    s.say(f"{name} thinks of a number game and starts with {value} points.")
    for _ in range(s.num(5, 8)):
        kind = s.num(0, 3)
        if kind == 0 or value < 6:
            n = s.num(7, 160)
            s.say(f"{he.capitalize()} wins {n} points.")
            value = s.calc(value, "+", n, "Now it is {e} points.")
        elif kind == 1:
            n = s.num(2, min(value - 1, 200))
            s.say(f"{he.capitalize()} loses {n} points.")
            value = s.calc(value, "-", n, "Now it is {e} points.")
        elif kind == 2 and value < 300:
            k, word = s.pick((2, "doubles"), (3, "triples"))
            s.say(f"A bonus {word} the points.")
            value = s.calc(value, "*", k, "Now it is {e} points.")
        else:
            divisor, word = s.rng.choice(
                [
                    d
                    for d in (
                        (2, "halves the points"),
                        (3, "leaves a third of the points"),
                        (5, "leaves a fifth of the points"),
                    )
                    if value % d[0] == 0
                ]
                or [(1, "changes nothing")]
            )
            s.say(f"A penalty {word}.")
            if divisor > 1:
                value = s.calc(value, "/", divisor, "Now it is {e} points.")
    return s.record(f"How many points does {name} have in the end?", value)


def him(he):
    return "him" if he == "he" else "her"
