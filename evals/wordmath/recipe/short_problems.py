"""Short word problems of a few steps. Each function fills a Story and returns its record."""

from story import CONTAINERS, DAYS, ITEMS, PLACES


def change_chain(s):
    """A stock of things that grows and shrinks."""
    (name, he, his), (friend, _, _) = s.people(2)
    item = s.rng.choice(ITEMS)
    have = s.num(5, 60)
    s.say(
        s.pick(
            f"{name} has {have} {item}.",
            f"{name} starts the day with {have} {item}.",
            f"There are {have} {item} in {name}'s room.",
        )
    )
    for _ in range(s.num(2, 4)):
        kind = s.num(0, 5)
        if kind == 0:
            n = s.num(2, 50)
            s.say(
                s.pick(
                    f"{he.capitalize()} buys {n} more {item}.",
                    f"{he.capitalize()} finds {n} more {item} at the {s.rng.choice(PLACES)}.",
                    f"Then {friend} gives {name} {n} {item}.",
                )
            )
            have = s.calc(have, "+", n, f"Now {name} has {{e}} {item}.")
        elif kind == 1 and have > 5:
            n = s.num(1, have - 2)
            s.say(
                s.pick(
                    f"{he.capitalize()} gives {n} {item} to {friend}.",
                    f"{he.capitalize()} loses {n} of the {item}.",
                    f"Then {he} sells {n} {item}.",
                )
            )
            have = s.calc(have, "-", n, f"That leaves {{e}} {item}.")
        elif kind == 2 and have <= 120:
            word, k = s.pick(("doubles", 2), ("triples", 3))
            s.say(f"A week later {name} {word} the number of {item} {he} has.")
            have = s.calc(have, "*", k, f"After that {he} has {{e}} {item}.")
        elif kind == 3 and have % 2 == 0 and have > 4:
            s.say(
                s.pick(
                    f"{he.capitalize()} gives half of {his} {item} to {friend}.",
                    f"Half of the {item} are sold.",
                )
            )
            half = s.calc(have, "/", 2, f"Half of the {item} is {{e}}.")
            have = s.calc(have, "-", half, f"So {{e}} {item} remain.")
        elif kind == 4:
            boxes, each = s.num(2, 9), s.num(2, 12)
            box = s.rng.choice(CONTAINERS)
            s.say(f"{he.capitalize()} gets {boxes} {box} with {each} {item} in each.")
            new = s.calc(boxes, "*", each, f"The {box} hold {{e}} {item}.")
            have = s.calc(have, "+", new, f"Now there are {{e}} {item}.")
        else:
            n = s.num(3, 30)
            s.say(f"On {s.rng.choice(DAYS)} {he} gets {n} {item} as a present.")
            have = s.calc(have, "+", n, f"With the present {he} has {{e}} {item}.")
    return s.record(
        s.pick(
            f"How many {item} does {name} have now?",
            f"How many {item} does {name} have in the end?",
        ),
        have,
    )


def shopping(s):
    """Prices, a total and the change."""
    name, he, his = s.people(1)[0]
    first, second = s.rng.sample(ITEMS, 2)
    n1, p1, n2, p2 = s.num(2, 12), s.num(2, 15), s.num(2, 12), s.num(2, 15)
    s.say(f"{name} buys {n1} {first} for ${p1} each and {n2} {second} for ${p2} each.")
    a = s.calc(n1, "*", p1, f"The {first} cost ${{e}}.".replace("${e}", "{e} dollars"))
    b = s.calc(n2, "*", p2, f"The {second} cost {{e}} dollars.")
    total = s.calc(a, "+", b, "Together they cost {e} dollars.")
    kind = s.num(0, 3)
    if kind == 0:
        return s.record(f"How much does {name} spend in total?", total)
    if kind == 1:
        paid = total + s.num(1, 60)
        s.say(f"{he.capitalize()} pays with ${paid}.")
        return s.record(
            s.pick(
                "How much change does " + he + " get?", f"How many dollars does {name} get back?"
            ),
            s.calc(paid, "-", total, "The change is {e} dollars."),
        )
    if kind == 2:
        off = s.num(1, min(20, total - 1))
        s.say(f"A coupon takes ${off} off the bill.")
        return s.record(
            f"How much does {name} pay?",
            s.calc(total, "-", off, f"With the coupon {name} pays {{e}} dollars."),
        )
    weeks = s.num(2, 6)
    s.say(f"{he.capitalize()} does this every week.")
    return s.record(
        f"How much does {name} spend in {weeks} weeks?",
        s.calc(total, "*", weeks, f"In {weeks} weeks that is {{e}} dollars."),
    )


def wages(s):
    """Hours at an hourly rate, with overtime or savings."""
    name, he, his = s.people(1)[0]
    rate, hours, days = s.num(8, 25), s.num(2, 9), s.num(2, 6)
    s.say(f"{name} earns ${rate} an hour and works {hours} hours a day, {days} days a week.")
    week_hours = s.calc(hours, "*", days, f"{name} works {{e}} hours a week.")
    pay = s.calc(week_hours, "*", rate, f"{he.capitalize()} earns {{e}} dollars a week.")
    kind = s.num(0, 2)
    if kind == 0:
        return s.record(f"How much does {name} earn in a week?", pay)
    if kind == 1:
        spend = s.num(5, min(pay - 1, 150))
        s.say(f"Every week {he} spends ${spend} on food and rent.")
        left = s.calc(pay, "-", spend, f"{he.capitalize()} keeps {{e}} dollars a week.")
        weeks = s.num(2, 5)
        return s.record(
            f"How much does {name} save in {weeks} weeks?",
            s.calc(left, "*", weeks, f"In {weeks} weeks {he} saves {{e}} dollars."),
        )
    bonus = s.num(10, 90)
    s.say(f"This week {he} also gets a bonus of ${bonus}.")
    return s.record(
        f"How much does {name} get this week?",
        s.calc(pay, "+", bonus, f"With the bonus {he} gets {{e}} dollars."),
    )


def sharing(s):
    """Things in containers, shared out evenly."""
    name, he, his = s.people(1)[0]
    item, box = s.rng.choice(ITEMS), s.rng.choice(CONTAINERS)
    friends = s.num(2, 9)
    each = s.num(2, 15)
    boxes = s.rng.choice([b for b in range(2, 13) if (friends * each) % b == 0] or [1])
    if boxes == 1:
        boxes, per = friends, each
    else:
        per = friends * each // boxes
    s.say(f"{name} has {boxes} {box} of {item}, and each holds {per} {item}.")
    total = s.calc(boxes, "*", per, f"There are {{e}} {item} in all.")
    if s.num(0, 1):
        eaten = s.num(1, 4) * friends
        if eaten < total:
            s.say(f"{he.capitalize()} puts {eaten} {item} away.")
            total = s.calc(total, "-", eaten, f"That leaves {{e}} {item} to share.")
    s.say(f"{he.capitalize()} shares the {item} equally among {friends} friends.")
    share = s.calc(total, "/", friends, f"Each friend gets {{e}} {item}.")
    if s.num(0, 2) == 0:
        extra = s.num(1, 12)
        s.say(f"One of the friends already had {extra} {item}.")
        return s.record(
            f"How many {item} does that friend have now?",
            s.calc(share, "+", extra, f"That friend has {{e}} {item}."),
        )
    return s.record(f"How many {item} does each friend get?", share)


def comparison(s):
    """Amounts given relative to one another."""
    (a, _, _), (b, _, _), (c, _, _) = s.people(3)
    item = s.rng.choice(ITEMS)
    base = s.num(3, 40)
    s.say(f"{a} has {base} {item}.")
    kind = s.num(0, 2)
    if kind == 0:
        k, word = s.pick((2, "twice"), (3, "three times"), (4, "four times"))
        s.say(f"{b} has {word} as many {item} as {a}.")
        second = s.calc(base, "*", k, f"{b} has {{e}} {item}.")
    elif kind == 1:
        more = s.num(2, 30)
        s.say(f"{b} has {more} more {item} than {a}.")
        second = s.calc(base, "+", more, f"{b} has {{e}} {item}.")
    else:
        fewer = s.num(1, base - 1)
        s.say(f"{b} has {fewer} fewer {item} than {a}.")
        second = s.calc(base, "-", fewer, f"{b} has {{e}} {item}.")
    kind = s.num(0, 2)
    if kind == 0:
        more = s.num(2, 25)
        s.say(f"{c} has {more} more {item} than {b}.")
        third = s.calc(second, "+", more, f"{c} has {{e}} {item}.")
    elif kind == 1 and second % 2 == 0:
        s.say(f"{c} has half as many {item} as {b}.")
        third = s.calc(second, "/", 2, f"{c} has {{e}} {item}.")
    else:
        s.say(f"{c} has as many {item} as {a} and {b} together.")
        third = s.calc(base, "+", second, f"{c} has {{e}} {item}.")
    if s.num(0, 1):
        return s.record(f"How many {item} does {c} have?", third)
    pair = s.calc(base, "+", second, f"{a} and {b} have {{e}} {item}.")
    return s.record(
        f"How many {item} do the three of them have altogether?",
        s.calc(pair, "+", third, "All three have {e} " + item + "."),
    )


def percentage(s):
    """A part of a hundred, ten, four or two."""
    name, he, his = s.people(1)[0]
    item = s.rng.choice(ITEMS)
    percent, divisor = s.pick((10, 10), (20, 5), (25, 4), (50, 2))
    total = divisor * s.num(2, 40)
    s.say(s.pick(f"{name} collects {total} {item}.", f"A shop has {total} {item}."))
    s.say(s.pick(f"{percent}% of the {item} are broken.", f"{percent}% of the {item} are red."))
    part = s.calc(total, "/", divisor, f"{percent}% of the {item} is {{e}}.")
    other = s.calc(total, "-", part, "The others are {e}.")
    kind = s.num(0, 2)
    if kind == 0:
        return s.record(f"How many {item} are left without those?", other)
    if kind == 1:
        price = s.num(2, 9)
        s.say(f"The other {item} are sold for ${price} each.")
        return s.record(
            "How much money does that bring?",
            s.calc(other, "*", price, "The sale brings {e} dollars."),
        )
    more = s.num(3, 30)
    s.say(f"Then {more} more {item} of the other kind arrive.")
    return s.record(
        f"How many {item} of the other kind are there now?",
        s.calc(other, "+", more, "Now there are {e} of them."),
    )


def travel(s):
    """Speeds, times and distances."""
    name, he, his = s.people(1)[0]
    v1, t1, v2, t2 = s.num(3, 80), s.num(2, 6), s.num(3, 80), s.num(1, 6)
    how = s.pick("drives", "rides a bus", "cycles", "takes a train")
    s.say(
        f"{name} {how} for {t1} hours at {v1} miles an hour "
        f"and then for {t2} hours at {v2} miles an hour."
    )
    a = s.calc(v1, "*", t1, "The first part is {e} miles.")
    b = s.calc(v2, "*", t2, "The second part is {e} miles.")
    total = s.calc(a, "+", b, "The whole way is {e} miles.")
    kind = s.num(0, 2)
    if kind == 0:
        return s.record(f"How many miles does {name} travel?", total)
    if kind == 1:
        return s.record(
            f"How many miles does {name} travel there and back?",
            s.calc(total, "*", 2, "There and back it is {e} miles."),
        )
    goal = total + s.num(1, 99)
    s.say(f"The whole trip is {goal} miles.")
    return s.record(
        "How many miles are left?", s.calc(goal, "-", total, "There are {e} miles left.")
    )


def farm(s):
    """Daily yields over days, with a use and a sale."""
    name, he, his = s.people(1)[0]
    animal, thing = s.pick(
        ("hens", "eggs"),
        ("bees", "jars of honey"),
        ("cows", "buckets of milk"),
        ("trees", "baskets of fruit"),
    )
    count, each = s.num(2, 15), s.num(1, 6)
    s.say(f"{name} has {count} {animal}, and each gives {each} {thing} a day.")
    daily = s.calc(count, "*", each, f"A day brings {{e}} {thing}.")
    if daily > 3:
        used = s.num(1, daily - 2)
        s.say(f"{his.capitalize()} family uses {used} {thing} a day.")
        daily = s.calc(daily, "-", used, f"That leaves {{e}} {thing} a day.")
    if s.num(0, 1):
        price = s.num(2, 9)
        s.say(f"{he.capitalize()} sells the rest for ${price} each.")
        money = s.calc(daily, "*", price, f"{he.capitalize()} makes {{e}} dollars a day.")
        if s.num(0, 1):
            return s.record(
                f"How many dollars does {name} make in a week?",
                s.calc(money, "*", 7, "In a week that is {e} dollars."),
            )
        return s.record(f"How many dollars does {name} make each day?", money)
    days = s.num(2, 9)
    return s.record(
        f"How many {thing} are left over after {days} days?",
        s.calc(daily, "*", days, f"After {days} days there are {{e}} {thing}."),
    )


def reading(s):
    """Pages read by day, pages left."""
    name, he, his = s.people(1)[0]
    d1, d2 = s.rng.sample(DAYS, 2)
    p1 = s.num(5, 50)
    s.say(f"{name} reads {p1} pages on {d1}.")
    if s.num(0, 1):
        s.say(f"On {d2} {he} reads twice as many pages.")
        p2 = s.calc(p1, "*", 2, f"On {d2} {name} reads {{e}} pages.")
    else:
        more = s.num(2, 30)
        s.say(f"On {d2} {he} reads {more} pages more than on {d1}.")
        p2 = s.calc(p1, "+", more, f"On {d2} {name} reads {{e}} pages.")
    read = s.calc(p1, "+", p2, f"So far {name} has read {{e}} pages.")
    if s.num(0, 2) == 0:
        return s.record(f"How many pages does {name} read on both days?", read)
    per_day, days = s.num(2, 30), s.num(2, 9)
    left = per_day * days
    s.say(f"The book has {read + left} pages.")
    rest = s.calc(read + left, "-", read, f"There are {{e}} pages left.")
    if s.num(0, 1):
        return s.record("How many pages are left?", rest)
    s.say(f"{he.capitalize()} wants to finish it in {days} more days.")
    return s.record(
        "How many pages must " + he + " read each day?",
        s.calc(rest, "/", days, "That is {e} pages a day."),
    )


def ages(s):
    """Ages now and in some years."""
    (a, he, his), (b, _, _) = s.people(2)
    age = s.num(4, 30)
    s.say(f"{a} is {age} years old.")
    k, word = s.pick((2, "twice"), (3, "three times"))
    if s.num(0, 1):
        s.say(f"{b} is {word} as old as {a}.")
        other = s.calc(age, "*", k, f"{b} is {{e}} years old.")
    else:
        more = s.num(2, 25)
        s.say(f"{b} is {more} years older than {a}.")
        other = s.calc(age, "+", more, f"{b} is {{e}} years old.")
    years = s.num(2, 20)
    kind = s.num(0, 2)
    if kind == 0:
        return s.record(
            f"How old will {b} be in {years} years?",
            s.calc(other, "+", years, f"In {years} years {b} will be {{e}}."),
        )
    if kind == 1:
        return s.record(
            f"How old are {a} and {b} together?", s.calc(age, "+", other, "Together they are {e}.")
        )
    later_a = s.calc(age, "+", years, f"In {years} years {a} will be {{e}}.")
    later_b = s.calc(other, "+", years, f"In {years} years {b} will be {{e}}.")
    return s.record(
        f"What will the sum of their ages be in {years} years?",
        s.calc(later_a, "+", later_b, "The sum will be {e}."),
    )


def rows_and_seats(s):
    """Rows of seats, sold and empty."""
    rows, seats = s.num(3, 20), s.num(4, 20)
    place = s.pick("hall", "theatre", "cinema", "bus station", "stadium")
    s.say(f"A {place} has {rows} rows with {seats} seats in each row.")
    total = s.calc(rows, "*", seats, f"The {place} has {{e}} seats.")
    taken = s.num(1, total - 1)
    s.say(f"{taken} seats are taken.")
    empty = s.calc(total, "-", taken, "So {e} seats are empty.")
    if s.num(0, 1):
        return s.record("How many seats are empty?", empty)
    price = s.num(2, 12)
    s.say(f"A ticket costs ${price}.")
    if s.num(0, 1):
        return s.record(
            "How much money would the empty seats bring?",
            s.calc(empty, "*", price, "The empty seats would bring {e} dollars."),
        )
    return s.record(
        "How much money do the taken seats bring?",
        s.calc(taken, "*", price, "The taken seats bring {e} dollars."),
    )


def saving(s):
    """Saving toward a goal."""
    name, he, his = s.people(1)[0]
    thing = s.pick("a bicycle", "a tent", "a guitar", "a camera", "a trip")
    weekly, weeks = s.num(3, 40), s.num(2, 12)
    have = s.num(5, 90)
    goal = have + weekly * weeks
    s.say(
        f"{name} wants {thing} that costs ${goal}. "
        f"{he.capitalize()} has ${have} and saves ${weekly} a week."
    )
    missing = s.calc(goal, "-", have, f"{name} still needs {{e}} dollars.")
    if s.num(0, 1):
        return s.record(
            f"How many weeks does {he} need?", s.calc(missing, "/", weekly, "That takes {e} weeks.")
        )
    gift = s.num(1, missing - 1) if missing > 1 else 1
    s.say(f"{his.capitalize()} aunt gives {name} ${gift}.")
    return s.record(
        "How many dollars are still missing?",
        s.calc(missing, "-", gift, "Then {e} dollars are missing."),
    )
