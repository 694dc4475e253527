"""The words of the problems, and a problem under construction."""

NAMES = [
    ("Maria", "she", "her"),
    ("Tom", "he", "his"),
    ("Aisha", "she", "her"),
    ("Ben", "he", "his"),
    ("Chloe", "she", "her"),
    ("David", "he", "his"),
    ("Elena", "she", "her"),
    ("Felix", "he", "his"),
    ("Grace", "she", "her"),
    ("Hugo", "he", "his"),
    ("Ines", "she", "her"),
    ("Jack", "he", "his"),
    ("Kira", "she", "her"),
    ("Leo", "he", "his"),
    ("Mina", "she", "her"),
    ("Noah", "he", "his"),
    ("Olga", "she", "her"),
    ("Paul", "he", "his"),
    ("Rosa", "she", "her"),
    ("Sam", "he", "his"),
    ("Tina", "she", "her"),
    ("Victor", "he", "his"),
    ("Wendy", "she", "her"),
    ("Yusuf", "he", "his"),
]
ITEMS = [
    "apples",
    "pencils",
    "marbles",
    "stickers",
    "books",
    "cookies",
    "shells",
    "stamps",
    "coins",
    "oranges",
    "balloons",
    "cards",
    "candles",
    "flowers",
    "muffins",
    "toys",
    "bottles",
    "buttons",
    "eggs",
    "lemons",
]
CONTAINERS = ["boxes", "bags", "baskets", "crates", "jars", "packs"]
PLACES = ["market", "school fair", "bakery", "farm", "library", "corner shop", "museum", "garden"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


class Story:
    """One problem under construction: its sentences, its worked steps and its current value."""

    def __init__(self, rng):
        self.rng = rng
        self.text = []
        self.steps = []

    def pick(self, *options):
        return self.rng.choice(options)

    def num(self, low, high):
        return self.rng.randint(low, high)

    def people(self, n):
        return self.rng.sample(NAMES, n)

    def say(self, sentence):
        self.text.append(sentence)

    def calc(self, a, op, b, sentence):
        """Adds a step; `sentence` holds {e} where the annotated equation goes."""
        value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[op]
        if op == "/":
            assert b and a % b == 0
        equation = f"{a} {op} {b} = <<{a}{op}{b}={value}>>{value}"
        self.steps.append(sentence.replace("{e}", equation))
        return value

    def record(self, question, answer):
        self.say(question)
        return {
            "question": " ".join(self.text),
            "answer": "\n".join(self.steps) + f"\n#### {answer}",
        }
