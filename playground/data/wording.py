"""A phrasing filled with entities, in one of the many ways in which people would write it."""

import re

from playground.data.entities import read_data

LOWER, LOWER_CASUAL = 0.2, 0.7  # the rates of the paraphrase rules
CONTRACT, TYPO, NO_FINAL_STOP = 0.4, 0.08, 0.35
OPENER, REQUESTER, CLOSER = 0.2, 0.45, 0.22
WORDED_NUMBER = 0.18  # of the calculator's requests that may have number words

UNDRESSED = {"greeting", "thanks", "goodbye"}  # families that take no opener and no closer,
CHAT = {"about", "opinion"}  # no opener but a greeting and no closer,
NO_REQUESTER = {"polite", "context", "object_first"}  # no "could you please"
WORDED = {"plus", "minus", "times", "divide"}  # families of the calculator in which numbers may be words


def request(phrasing, entities, rng):
    """`(request, args, entities)`, with every argument but an expression and a message verbatim in the request."""
    lower = rng.random() < (LOWER_CASUAL if phrasing.family == "casual" else LOWER)
    values, used = {}, []
    if phrasing.expression:
        slots = dict.fromkeys(re.findall(r"\{(\w)\}", phrasing.expression))
        worded = phrasing.family in WORDED and rng.random() < WORDED_NUMBER
        values, digits, operands = entities.numbers(slots, worded)
        used.append(operands)
    pieces, literals = [], []
    for part in phrasing.contracted if rng.random() < CONTRACT else phrasing.parts:
        if isinstance(part, list):
            literals.append(len(pieces))
            pieces.append(part[0] if len(part) == 1 else rng.choice(part))
            continue
        slot, kind = part
        if slot not in values or not phrasing.expression:
            value = entities.draw(kind)
            values[slot] = value.lower() if lower else value
            if kind not in entities.shared:
                used.append(value)
        pieces.append(values[slot])
    if literals and phrasing.family != "casual" and rng.random() < TYPO:
        at = rng.choice(literals)
        pieces[at] = typo(pieces[at], rng)
    text = dress("".join(pieces), phrasing.family, phrasing.end, 0 in literals, rng).strip()
    if phrasing.expression:
        values = {"expression": phrasing.expression.format(**digits)}
    elif phrasing.tool == "respond":
        values = {"message": read_data("phrasings.json")["replies"][phrasing.family]}
    return text.lower() if lower else text, values, used


def typo(text, rng):
    words = text.split(" ")
    long = [index for index, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not long:
        return text
    word, at = words[index := rng.choice(long)], rng.randrange(1, len(words[index]) - 1)
    slips = (word[:at] + word[at + 1] + word[at] + word[at + 2 :], word[:at] + word[at + 1 :], word[:at] + word[at:])
    words[index] = rng.choice(slips)
    return " ".join(words)


def dress(body, family, end, starts_literal, rng):
    """Openers before, closers after: parted from the body, so that it is plain where an argument ends.

    An opener and "could you please" never come together: all that requests share across splits has to stay short.
    """
    data = read_data("phrasings.json")
    request = family not in (UNDRESSED | CHAT)
    imperative = request and end == "." and family not in NO_REQUESTER
    closer = rng.random() if request else 1
    if closer < CLOSER / 3:
        body = f"{body}, {rng.choice(data['please'] + data['urgency'] if imperative else data['please'])}"
    opener = family not in UNDRESSED and rng.random() < OPENER
    if imperative and not opener and closer >= CLOSER / 3 and rng.random() < REQUESTER:
        requester = rng.choice(data["requesters"])
        body, starts_literal = f"{requester} {_lower_first(body) if starts_literal else body}", True
        end = "?" if requester.startswith(("Could", "Can", "Would", "Will")) else "."
    if opener:
        opener = rng.choice(data["openers" if request and family != "context" else "greetings"])
        body = f"{opener} {_lower_first(body) if starts_literal and opener[-1] in ',:' else body}"
    if CLOSER / 3 <= closer < CLOSER:
        thanks = rng.choice(data["closers"])
        return f"{body}{end} {thanks}" if end else f"{body}, {_lower_first(thanks)}"
    return body if rng.random() < NO_FINAL_STOP else body + end


def _lower_first(text):
    return text if re.match(r"I\b", text) else text[:1].lower() + text[1:]
