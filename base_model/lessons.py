"""Batches for pretraining: plain text, spans said again, and lessons: short texts that end with what they asked for.

A batch is token ids and a mask of the same shape: True where the loss counts. `passages` are lines of the text.
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
        while len(ids) < window and not (simple and ids):
            span = random_span(stream, rng.randint(4, longest), kind, rng)
            said_again, gap = span, []
            if gapped:
                gap = random_span(stream, rng.randint(1, 12), rng.choice(KINDS), rng)
                begin = rng.randrange(len(span) - 2)
                said_again = span[begin : rng.randint(begin + 2, len(span))]
            ids += span + gap + said_again
            copied += [False] * (len(span + gap) + 1) + [True] * (len(said_again) - 1)
        said = len(ids[:window])
        batch[row, :said], mask[row, :said] = torch.tensor(ids[:window]), torch.tensor(copied[:window])
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
    van wex yor zan á é í ó ö ü ñ ã å ç ø ß š ž č ę ł ś ğ ı""".split()
DOMAINS = ("com", "org", "net", "co.uk", "de", "io", "fr", "edu", "pl")
LETTERS = r"[^\W\d_]{2,}"
BETWEEN = "and of in for with from to on at de la sur upon du von las".split()  # inside a name or a phrase that is one


def some_words(passages, rng, most):
    """One to `most` words that stand together in a passage, without the punctuation around them."""
    words = _said(passages, rng).split() or ["it"]
    begin = rng.randrange(len(words))
    return " ".join(words[begin : begin + rng.randint(1, most)]).strip(" .,!?;:\"'()") or "it"


def _passage(passages, rng):
    """A passage, one in three with a misspelt word."""
    words = rng.choice(passages).split(" ")
    at = rng.randrange(len(words))
    if rng.random() < 1 / 3 and re.fullmatch(LETTERS, words[at]):
        words[at] = misspelt(words[at], rng)
    return " ".join(words)


def misspelt(word, rng):
    """A word of two letters or more, two of them exchanged, or one left out or said twice."""
    at = rng.randrange(len(word) - 1)
    one, other = word[at : at + 2]
    return word[:at] + rng.choice((other + one, other, one + one + other)) + word[at + 2 :]


def _said(passages, rng):
    """A passage without the name of who says it."""
    name, _, said = _passage(passages, rng).partition(": ")
    return said.strip() or name


def made_up_word(passages, rng):
    """Syllables, or the beginning of one word of the text and the end of another."""
    if rng.random() < 0.4:
        return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(1, 3)))
    begin, end = (rng.choice(re.findall(LETTERS, _said(passages, rng)) or SYLLABLES) for _ in range(2))
    return begin[: rng.randint(1, 5)] + end[rng.randrange(len(end)) :].lower()


def made_up_number(_, rng):
    """One or two numbers, as they stand in prices and sums; one in five has few digits that come again and again."""
    form = rng.choice(("{}", "{}", "{}.{}", "{}.{}", "{},{}", "{} + {}", "{} x {}", "({} - {})", "{} * {}"))
    digits = "".join(rng.sample("0123456789", 2)) if rng.random() < 0.2 else "0123456789"
    return form.format(*("".join(rng.choices(digits, k=rng.choice((1, 2, 3, 4, 6)))) for _ in range(2)))


def made_up_address(passages, rng):
    """An e-mail address."""
    joint, number = rng.choice(("", ".", "_", "-", "+")), rng.choice(("", str(rng.randrange(100))))
    person, other, host, company = (made_up_word(passages, rng).lower() for _ in range(4))
    host = rng.choice((host, f"{host}{rng.choice(('', '-', '.'))}{company}"))
    return f"{person}{joint}{other}{number}@{host}.{rng.choice(DOMAINS)}"


def made_up_name(passages, rng):
    """One to three words that no text holds, most often capitalized, now and then one of them twice."""
    words = [made_up_word(passages, rng) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.7:
        words = [word.capitalize() for word in words]
    name = words[0]
    for word in words[1:]:
        name += rng.choice((" ", " ", " ", " ", "-", f" {rng.choice(BETWEEN)} ")) + word
    return f"{name} {words[-1]}" if rng.random() < 0.05 else name


def made_up_phrase(passages, rng):
    """Two pieces of text or made-up words, with a word between them that often ends a phrase, but not here."""
    parts = [made_up_word(passages, rng) if rng.random() < 0.3 else some_words(passages, rng, 3) for _ in range(2)]
    return f" {rng.choice(BETWEEN)} ".join(parts)


ENTITIES = {made_up_number: 2, made_up_address: 2, made_up_name: 3, made_up_phrase: 3}  # and their shares


def made_up_entity(passages, rng):
    """What no text holds, so that nothing but copying can repeat it."""
    (make,) = rng.choices(list(ENTITIES), list(ENTITIES.values()))
    return make(passages, rng)


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


def number_lesson(_, rng):
    """A few numbers in words and again in digits, as cheques have them: text hardly says which is which."""
    numbers = [rng.randrange(rng.choice((21, 101, 101, 10000))) for _ in range(rng.randint(1, 4))]
    form = rng.choice(("{} = {}", "{}: {}", "{} ({})"))
    if rng.random() < 0.5:
        return rng.choice((", ", "\n", "; ")).join(form.format(in_words(number), number) for number in numbers)
    words = ", ".join(rng.choice((in_words(number), str(number))) for number in numbers)
    return form.format(words, ", ".join(map(str, numbers)))


# Sums in words and in signs, as schoolbooks and keyboards have them: so little text hardly says that a product is a
# multiplication.
SUMS = (
    ("{a} + {b}", "{a}+{b}", "{a} plus {b}", "{a} and {b} together", "the sum of {a} and {b}", "add {a} and {b}",
     "{a} increased by {b}", "{a}, and {b} more"),
    ("{a} - {b}", "{a}-{b}", "{a} minus {b}", "{a} less {b}", "the difference of {a} and {b}", "subtract {b} from {a}",
     "{a} reduced by {b}", "take {b} from {a}", "take {b} away from {a}", "{b} less than {a}", "of {a}, {b} are gone"),
    ("{a} x {b}", "{a}x{b}", "{a} times {b}", "{a} multiplied by {b}", "the product of {a} and {b}",
     "multiply {a} by {b}", "multiply {a} and {b}", "{a} groups of {b}"),
    ("{a} : {b}", "{a}/{b}", "{a} divided by {b}", "{a} over {b}", "the quotient of {a} and {b}", "divide {a} by {b}",
     "divide {a} among {b}", "share {a} between {b}", "split {a} into {b} parts", "one of {b} equal parts of {a}"),
    ("{a} ^ {b}", "{a} to the power of {b}", "the power {b} of {a}", "raise {a} to the {b}"),
    ("{a} x 2", "twice {a}", "double {a}", "two times {a}"),
    ("{a} : 2", "half of {a}", "halve {a}", "one half of {a}"),
    ("{a}²", "{a} squared", "the square of {a}", "{a} by itself"),
    ("√{a}", "the square root of {a}", "the root of {a}"),
    ("{a}% of {b}", "{a} percent of {b}", "{a} per cent of {b}", "{a} hundredths of {b}"),
)  # fmt: skip
KEYBOARD = str.maketrans({"x": "*", ":": "/", "^": "**", "²": " ** 2"}), str.maketrans({"x": "*", ":": "/"})
SIGNS = (*KEYBOARD, *(str.maketrans("+-x:^", signs) for signs in ("+−×÷^", "+-x:^", "+–·/^")))  # each book has its own


OPERATORS = {"+": "plus", "-": "minus", "x": "times", ":": "divided by"}


def chain(rng):
    """Three or four numbers with signs between them, most often two of them in brackets: said, and written."""
    numbers = [str(rng.randrange(10 ** rng.randint(1, 4))) for _ in range(rng.randint(3, 4))]
    numbers = [f"{number}.{rng.randrange(100)}" if rng.random() < 0.1 else number for number in numbers]
    signs = rng.choices(list(OPERATORS), k=len(numbers) - 1)
    if rng.random() < 0.6:
        at = rng.randrange(len(signs))
        numbers[at], numbers[at + 1] = f"({numbers[at]}", f"{numbers[at + 1]})"
    between = [OPERATORS[sign] for sign in signs] if rng.random() < 0.4 else signs
    said, written = (
        numbers[0] + "".join(f" {sign} {number}" for sign, number in zip(row, numbers[1:], strict=True))
        for row in (between, signs)
    )
    return (said.replace(" ", "") if between is signs and rng.random() < 0.3 else said), written


def sum_lesson(passages, rng):
    """One to four sums, each said and written in signs, three in ten of them chains. Of the others, which are said in
    words, one number in five is in words too, and half of the sayings stand among the first and last words of
    passages, as sums do in speech.
    """
    form, signs, lines = rng.choice(FORMS), rng.choice(SIGNS), []
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.3:
            lines.append(form.format(*(said.translate(signs) for said in chain(rng))))
            continue
        formula, *sayings = rng.choice(SUMS[: rng.choice((4, len(SUMS)))])  # the first four more often
        numbers = {name: rng.randrange(10 ** rng.randint(1, 4)) for name in "ab"}
        spoken = {name: in_words(number) if rng.random() < 0.2 else number for name, number in numbers.items()}
        if rng.random() < 0.1:
            numbers["a"] = spoken["a"] = f"{numbers['a']}.{rng.randrange(100)}"
        said, written = rng.choice(sayings).format(**spoken), formula.format(**numbers)
        if formula in (SUMS[0][0], SUMS[1][0]) and rng.random() < 0.3:
            number, sign = rng.randrange(1, 100), rng.choice("x:")
            said, written = f"{said}, all of it {OPERATORS[sign]} {number}", f"({written}) {sign} {number}"
        if rng.random() < 0.5:
            before, after = (_said(passages, rng).split() for _ in range(2))
            said = " ".join([*before[: rng.randint(0, 3)], said, *after[len(after) - rng.randint(0, 3) :]])
        elif rng.random() < 0.5:
            said = said[0].upper() + said[1:]
        lines.append(form.format(said, written.translate(signs)))
    return "\n".join(lines)


def _answered(text, answers, rng):
    """A text, and under it each answer after the name by which it was asked for."""
    form, between = rng.choice(FORMS), rng.choice(("\n", "; "))
    return f"{text}\n" + between.join(form.format(*answer) for answer in answers)


def recall_lesson(passages, rng):
    """A passage, most of its asked-for spans replaced by made-up ones, and what followed one to three words.

    None where no cue is followed by a span.
    """
    passage = _passage(passages, rng)
    found = list(rng.choice(SPANS).finditer(passage))
    rng.shuffle(found)
    text, end, answers = "", 0, []
    for match in sorted(found[: rng.randint(1, 3)], key=lambda match: match.start()):
        if match.start() >= end:
            span = match[2] if rng.random() < 0.4 else made_up_entity(passages, rng)
            text += passage[end : match.start(2)] + span
            end = match.end(2)
            answers.append((match[1], span))
    if not answers:
        return None
    rng.shuffle(answers)
    return _answered((text + passage[end:]).rstrip(), answers, rng)


def blank_lesson(passages, rng):
    """A passage with blanks, the same without, and what fills them: where a span ends is where the rest goes on. Or
    what fills them first, and then the whole."""
    words, blank, at = _said(passages, rng).split(" "), rng.choice(("...", "___", "[]")), 0
    blanked, text, fillings = [], [], []
    while at < len(words):
        length = rng.randint(1, 6)
        if rng.random() < 0.15 and len(fillings) < 3:
            span = " ".join(words[at : at + length])
            kept = span.rstrip(".,!?;:")
            filling = kept if kept and rng.random() < 0.4 else made_up_entity(passages, rng)
            blanked.append(blank + span[len(kept) :])
            text.append(filling + span[len(kept) :])
            fillings.append(filling)
            at += length
        else:
            blanked.append(words[at])
            text.append(words[at])
            at += 1
    if not fillings:
        return None
    form = rng.choice(('"{}"', "{}", "{}"))
    parts = [" ".join(text), "; ".join(map(form.format, fillings))]
    return "\n".join((" ".join(blanked), *(parts if rng.random() < 0.5 else parts[::-1])))


FIELD_NAMES = "1234", "abcd", ("first", "second", "third", "fourth")


def fields_lesson(passages, rng):
    """Some fields in a row, as in tables and headings, and one or two of them again."""
    fields = [
        made_up_entity(passages, rng) if rng.random() < 0.6 else some_words(passages, rng, 6)
        for _ in range(rng.randint(2, 4))
    ]
    names = rng.choice(FIELD_NAMES)
    asked = rng.sample(range(len(fields)), rng.randint(1, 2))
    row = rng.choice((" - ", ": ", ", ", " | ", "; ", " / ", ". ", "? ")).join(fields) + rng.choice(("", "", ".", "?"))
    return _answered(row, [(names[i], fields[i]) for i in asked], rng)


KIND_NAMES = {
    made_up_number: ("number", "figure", "how much", "amount"),
    made_up_address: ("address", "e-mail", "mail", "reach"),
    made_up_name: ("name", "who", "where", "called"),
}


def kinds_lesson(passages, rng):
    """A passage into which things of different kinds were put, between any two words, and some of them by their kind:
    an address is one wherever it stands, and a name ends where words begin."""
    words = [word for word in _said(passages, rng).split(" ") if not re.search(r"[\d@]", word)][: rng.randint(3, 20)]
    entities = {make: make(passages, rng) for make in rng.sample(list(KIND_NAMES), rng.randint(1, len(KIND_NAMES)))}
    for entity in entities.values():
        words.insert(rng.randint(0, len(words)), entity)
    asked = rng.sample(list(entities.items()), rng.randint(1, len(entities)))
    return _answered(" ".join(words), [(rng.choice(KIND_NAMES[make]), entity) for make, entity in asked], rng)


LESSONS = {  # and their shares
    recall_lesson: 10, blank_lesson: 4, fields_lesson: 3, kinds_lesson: 5, number_lesson: 2, sum_lesson: 7,
}  # fmt: skip


def lesson_batch(passages, tokenizer, rows, window, rng):
    """Lessons of all kinds, one in four in lower case, each ended by the end-of-text token."""
    ids = []
    while len(ids) < rows * window:
        makers = rng.choices(list(LESSONS), list(LESSONS.values()), k=rows * window // 50)
        lessons = (make(passages, rng) for make in makers)
        lessons = [lesson.lower() if lesson and rng.random() < 0.25 else lesson for lesson in lessons]
        encoded = tokenizer.backend_tokenizer.encode_batch([lesson for lesson in lessons if lesson])
        ids += [token for lesson in encoded for token in (*lesson.ids, tokenizer.eos_token_id)]
    batch = torch.tensor(ids[: rows * window]).view(rows, window)
    return batch, torch.ones_like(batch, dtype=torch.bool)
