"""Generates grade-school word problems with worked answers, in the layout of GSM8K.

Each record is {"question": ..., "answer": ...}; the answer shows its steps with GSM8K's calculator
annotations (<<48/2=24>>24) and ends with "#### N".  Every problem is drawn from a seeded generator,
so a split is reproduced by its seed.

    python3 word_problems.py --seed 7 --count 1319 > test.jsonl
"""

import argparse
import json
import random

from long_problems import inventory, invoice, long_chain, relay
from short_problems import (
    ages,
    change_chain,
    comparison,
    farm,
    percentage,
    reading,
    rows_and_seats,
    saving,
    sharing,
    shopping,
    travel,
    wages,
)
from story import Story

# A story occurs as often as it stands here.
EASY = [
    change_chain,
    change_chain,
    change_chain,
    shopping,
    shopping,
    wages,
    sharing,
    comparison,
    comparison,
    percentage,
    travel,
    farm,
    reading,
    ages,
    rows_and_seats,
    saving,
]
HARD = [inventory, invoice, relay, long_chain]
HARD_SHARE = 0.6


def problem(rng):
    return rng.choice(HARD if rng.random() < HARD_SHARE else EASY)(Story(rng))


def generate(seed, count, skip=frozenset()):
    """Yields `count` distinct problems whose questions are not in `skip`."""
    rng = random.Random(seed)
    seen = set(skip)
    while count:
        record = problem(rng)
        if record["question"] in seen:
            continue
        seen.add(record["question"])
        count -= 1
        yield record


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    args = parser.parse_args()
    for record in generate(args.seed, args.count):
        print(json.dumps(record))
