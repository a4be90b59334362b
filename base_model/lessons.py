"""Batches for pretraining: plain text, spans said again, sentences with a question about themselves, numbers, sums.

Each function returns token ids and a mask of the same shape: True where the loss counts.
"""

import re

import torch
from corpus import VOCABULARY

KINDS = ("random", "text", "mixed")  # of copied spans


def text_batch(stream, rows, window, rng):
    """Pieces of plain text."""
    starts = [rng.randrange(len(stream) - window - 1) for _ in range(rows)]
    batch = torch.stack([stream[start : start + window] for start in starts]).long()
    return batch, torch.ones_like(batch, dtype=torch.bool)


def random_span(stream, length, kind, rng):
    """A list of `length` tokens: uniformly random, a piece of text, or the two mixed, as in addresses."""
    if kind == "random":
        return [rng.randrange(1, VOCABULARY) for _ in range(length)]
    start = rng.randrange(len(stream) - length - 1)
    span = stream[start : start + length].tolist()
    if kind == "mixed":
        span = [rng.randrange(1, VOCABULARY) if rng.random() < 0.4 else token for token in span]
    return span


def copy_batch(stream, rows, window, rng, longest=12, simple=False):
    """Spans said twice; the loss is on what can be copied.

    simple: one span a row, said twice with nothing between. Otherwise the row goes on with further spans,
    and half of the rows say only a part again, after a gap, as an argument is a part of a request.
    The first token of a repeat never counts: nothing says where a repeat begins.
    """
    batch, mask = torch.zeros(rows, window, dtype=torch.long), torch.zeros(rows, window, dtype=torch.bool)
    for row in range(rows):
        ids, copied = [], []
        kind, gapped = rng.choice(KINDS), not simple and rng.random() < 0.5
        while len(ids) < window:
            span = random_span(stream, rng.randint(4, longest), kind, rng)
            ids += span
            copied += [False] * len(span)
            if gapped:
                gap = random_span(stream, rng.randint(1, 12), rng.choice(KINDS), rng)
                ids += gap
                copied += [False] * len(gap)
                begin = rng.randrange(len(span) - 2)
                span = span[begin : rng.randint(begin + 2, len(span))]
            ids += span
            copied += [False] + [True] * (len(span) - 1)
            if simple:
                ids += [0] * (window - len(ids))
                copied += [False] * (window - len(copied))
        batch[row], mask[row] = torch.tensor(ids[:window]), torch.tensor(copied[:window])
    return batch, mask


# A recall lesson asks a sentence what followed a word in it: `I need a table at Sino.` -> `at: "Sino"`.
# A span goes up to where a phrase may end: punctuation, or a word that begins the next phrase.
CUES = "about|in|at|for|to|with|on|from|by|near|called|named|is|of|find|see|play|like|want|need|into|book|the|are|was"
NEXT_PHRASE = "and|to|in|at|for|with|on|from|by|that|is|are|was|please|or|but|if|as|when|which|who|has|have|had"
WORD = r"[^\s\"]*[^\s\".,!?;:]"
SPANS = (
    re.compile(
        rf"\b({CUES}) ({WORD}(?: {WORD}){{0,5}}?)(?=[.,!?;:]*\s(?:{NEXT_PHRASE})\b|[.,!?;:]+(?:\s|$)|$)", re.I | re.M
    ),
    re.compile(rf"\b({CUES}) ({WORD}(?: {WORD}){{0,7}})(?=[.,!?;:]+(?:\s|$)|$)", re.I | re.M),
)
FORMS = ('{}: "{}"', '{}: "{}"', '"{}": "{}"', "{} = {}", "({}) {}")
SYLLABLES = """ka lo mi ren tas vel dor ash bri chen du el fa gor hu ith jo kel lun mar nov or pra qui ros sel tor ul
    van wex yor zan é ö ñ ü á""".split()
DOMAINS = ("com", "org", "net", "co.uk", "de", "io", "fr", "edu", "pl")


def made_up_word(rng):
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 3)))


def made_up_entity(rng):
    """A number, an address or a name that no corpus holds, so that nothing but copying can repeat it."""
    kind = rng.random()
    if kind < 0.35:
        form = rng.choice(("{}", "{}", "{}.{}", "{},{}", "{} + {}", "{} x {}"))
        return form.format(*(str(rng.randrange(10 ** rng.randint(1, 4))) for _ in range(2)))
    if kind < 0.6:
        joint, number = rng.choice(("", ".", "_", "-", "+")), rng.choice(("", str(rng.randrange(100))))
        host = made_up_word(rng) + rng.choice(("", f"-{made_up_word(rng)}"))
        return f"{made_up_word(rng)}{joint}{made_up_word(rng)}{number}@{host}.{rng.choice(DOMAINS)}"
    words = [made_up_word(rng) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.7:
        words = [word.capitalize() for word in words]
    return rng.choice((" ", " ", " ", "-")).join(words)


UNITS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen""".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(number):
    """0 to 9,999 in English words."""
    if number < 20:
        return UNITS[number]
    if number < 100:
        return TENS[number // 10 - 2] + (f"-{UNITS[number % 10]}" if number % 10 else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = number % size
    joint = " and " if rest < 100 else " "
    return f"{in_words(number // size)} {name}" + (f"{joint}{in_words(rest)}" if rest else "")


def number_lesson(rng):
    """A few numbers in words and again in digits, as cheques have them: text hardly says which is which."""
    numbers = [rng.randrange(rng.choice((21, 101, 101, 10000))) for _ in range(rng.randint(1, 4))]
    form = rng.choice(("{} = {}", "{}: {}", "{} ({})"))
    if rng.random() < 0.5:
        return rng.choice((", ", "\n", "; ")).join(form.format(in_words(number), number) for number in numbers)
    words = ", ".join(rng.choice((in_words(number), str(number))) for number in numbers)
    return form.format(words, ", ".join(map(str, numbers)))


# Sums in words and in signs, as schoolbooks have them: so little text hardly says that a product is a multiplication.
SUMS = (
    ("{a} + {b}", "{a} plus {b}", "{a} and {b} together", "the sum of {a} and {b}", "add {a} and {b}",
     "{a} increased by {b}", "{a}, and {b} more"),
    ("{a} - {b}", "{a} minus {b}", "{a} less {b}", "the difference of {a} and {b}", "subtract {b} from {a}",
     "{a} reduced by {b}", "take {b} from {a}", "take {b} away from {a}", "{b} less than {a}", "of {a}, {b} are gone"),
    ("{a} x {b}", "{a} times {b}", "{a} multiplied by {b}", "the product of {a} and {b}", "multiply {a} by {b}",
     "multiply {a} and {b}", "{a} groups of {b}"),
    ("{a} : {b}", "{a} divided by {b}", "{a} over {b}", "the quotient of {a} and {b}", "divide {a} by {b}",
     "divide {a} among {b}", "share {a} between {b}", "split {a} into {b} parts", "one of {b} equal parts of {a}"),
    ("{a} ^ {b}", "{a} to the power of {b}", "the power {b} of {a}", "raise {a} to the {b}"),
    ("{a} x 2", "twice {a}", "double {a}", "two times {a}"),
    ("{a} : 2", "half of {a}", "halve {a}", "one half of {a}"),
    ("{a}²", "{a} squared", "the square of {a}", "{a} by itself"),
    ("√{a}", "the square root of {a}", "the root of {a}"),
    ("{a}% of {b}", "{a} percent of {b}", "{a} per cent of {b}", "{a} hundredths of {b}"),
)  # fmt: skip
SIGNS = [str.maketrans("+-x:^", signs) for signs in ("+−×÷^", "+-x:^", "+–·/^")]  # each book has its own


def sum_lesson(rng):
    """One to four sums, each said in words and written in signs; said, one number in five is in words too."""
    form, signs, lines = rng.choice(("{}: {}", "{}: {}", "{} = {}", "{} ({})")), rng.choice(SIGNS), []
    for _ in range(rng.randint(1, 4)):
        formula, *sayings = rng.choice(SUMS[: rng.choice((4, len(SUMS)))])  # the first four more often
        numbers = {name: rng.randrange(10 ** rng.randint(1, 4)) for name in "ab"}
        spoken = {name: in_words(number) if rng.random() < 0.2 else number for name, number in numbers.items()}
        if rng.random() < 0.1:
            numbers["a"] = spoken["a"] = f"{numbers['a']}.{rng.randrange(100)}"
        said, written = rng.choice(sayings).format(**spoken), formula.format(**numbers)
        if formula in (SUMS[0][0], SUMS[1][0]) and rng.random() < 0.3:
            number, (sign, word) = rng.randrange(1, 100), rng.choice((("x", "times"), (":", "divided by")))
            said, written = f"{said}, all of it {word} {number}", f"({written}) {sign} {number}"
        lines.append(form.format(said, written.translate(signs)))
    return "\n".join(lines)


def recall_lesson(passage, rng):
    """The passage, half of its asked-for spans replaced by made-up ones, and what followed one to three words.

    None for a passage in which no cue is followed by a span.
    """
    found = list(rng.choice(SPANS).finditer(passage))
    rng.shuffle(found)
    text, end, answers = "", 0, []
    for match in sorted(found[: rng.randint(1, 3)], key=lambda match: match.start()):
        if match.start() >= end:
            span = match[2] if rng.random() < 0.5 else made_up_entity(rng)
            text += passage[end : match.start(2)] + span
            end = match.end(2)
            answers.append((match[1], span))
    if not answers:
        return None
    rng.shuffle(answers)
    form = rng.choice(FORMS)
    return f"{(text + passage[end:]).rstrip()}\n" + rng.choice(("\n", "; ")).join(form.format(*a) for a in answers)


def recall_batch(passages, tokenizer, rows, window, rng):
    """Recall lessons, one in ten of numbers and one of sums instead, each ended by the end-of-text token."""
    ids = []
    while len(ids) < rows * window:
        chosen = rng.choices(passages, k=rows * window // 50)
        other = rng.choices((None, number_lesson, sum_lesson), (8, 1, 1), k=len(chosen))
        lessons = [make(rng) if make else recall_lesson(text, rng) for make, text in zip(other, chosen, strict=True)]
        encoded = tokenizer.backend_tokenizer.encode_batch([lesson for lesson in lessons if lesson])
        ids += [token for lesson in encoded for token in (*lesson.ids, tokenizer.eos_token_id)]
    batch = torch.tensor(ids[: rows * window]).view(rows, window)
    return batch, torch.ones_like(batch, dtype=torch.bool)
