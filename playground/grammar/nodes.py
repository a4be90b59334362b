"""What a grammar is made of: nodes that read bytes, and nodes that say which nodes come next.

A schema compiles to a graph of nodes (schema.py), which frames.py follows. Every node knows the length of the shortest
text that it can stand for, and which way that text goes.
"""

import functools

from playground.grammar.names import fits, names_but

INFINITE = float("inf")


class Node:
    """size: bytes of the shortest text that the node can stand for; `measure` finds it."""

    size = INFINITE
    parts = ()  # the nodes that its size depends on

    def measured(self):
        """The size, from the sizes of `parts`."""
        return self.size

    @functools.cached_property
    def best(self):
        """The shortest of `ways()`."""
        return min(self.ways(), key=lambda way: sum(node.size for node in way))

    def with_parts(self, parts):
        """The same node of other parts."""
        return type(self)(parts)


# ---- nodes that read bytes


class Reader(Node):
    """step(byte): the node that goes on after it, None where it may not come. ends(): the nodes to be read next if
    this one may stop here, else None. bytes_after(): what may come. shortest: the bytes of a shortest way to stop,
    `then` what is read after that.
    """

    then = ()


class Text(Reader):
    """Reads given bytes."""

    def __init__(self, data):
        self.data = self.shortest = data
        self.size = len(data)

    @functools.cached_property
    def _rest(self):
        return Text(self.data[1:])

    def step(self, byte):
        return self._rest if byte == self.data[0] else None

    def ends(self):
        return None if self.data else ()

    def bytes_after(self):
        return self.data[:1]


class Scan(Reader):
    """Reads what a Dfa accepts. low, high: how many more whole characters; low is 0 but for any_string()."""

    def __init__(self, dfa, state=0, low=0, high=None, family=None):
        self.dfa, self.state, self.low, self.high = dfa, state, low, high
        self.family = {} if family is None else family  # all that one Scan can become
        self.family[state, low, high] = self
        partial = low > 0 and not dfa.whole[state]
        too_long = not dfa.is_empty and high is not None and dfa.characters[state] > high
        self.size = INFINITE if dfa.is_empty or too_long else dfa.distance[state] + low - partial

    def step(self, byte):
        after = self.dfa.next(self.state).get(byte)
        return None if after is None else self.advance(after, int(self.dfa.whole[after]))

    def advance(self, state, characters):
        """The node in another state of the Dfa, so many characters later; None if they are too many."""
        high = None if self.high is None else self.high - characters
        if high is not None and self.dfa.characters[state] > high:
            return None
        key = state, max(0, self.low - characters), high
        return self.family.get(key) or Scan(self.dfa, *key, self.family)

    def ends(self):
        return () if self.low == 0 and self.dfa.accepting[self.state] else None

    def bytes_after(self):
        return () if self.high == 0 and self.dfa.whole[self.state] else self.dfa.next(self.state)

    @property
    def shortest(self):
        tail = self.dfa.shortest(self.state)
        return tail + b"a" * (self.size - len(tail))


class Key(Reader):
    """Reads the rest of a property's name and its quotation mark, and remembers it for `Others`.

    name: the bytes so far; None where only what is missing is asked, which does not depend on the name.
    """

    def __init__(self, others, name, state):
        self.others, self.name, self.state = others, name, state
        self.dfa, self.then = others.dfa, others.after(None)
        self.size = self.dfa.distance[state] + sum(node.size for node in self.then)

    def step(self, byte):
        after = self.dfa.next(self.state).get(byte)
        return None if after is None else self.others.key(self.name + bytes([byte]), after)

    def advance(self, state, characters):
        return self.others.key(None, state)

    def ends(self):
        return self.others.after(self.name) if self.dfa.accepting[self.state] else None

    def bytes_after(self):
        return self.dfa.next(self.state)

    @property
    def shortest(self):
        return self.dfa.shortest(self.state)


# ---- nodes that say what comes next: `ways()` lists the sequences of nodes that they can be


class Sequence(Node):
    def __init__(self, parts):
        self.parts = tuple(parts)

    def measured(self):
        return sum(part.size for part in self.parts)

    def ways(self):
        return (self.parts,)


class Rule(Sequence):
    """A name for a node that is not yet made, so that a schema can contain itself."""

    def __init__(self):
        super().__init__(())

    def define(self, node):
        self.parts = (node,)


class Copied(Sequence):
    """A value that is copied from a request: `plain` while there is none, then what find(request) makes (spans.py)."""

    def __init__(self, plain, find):
        super().__init__((plain,))
        self.find = find


class Choice(Node):
    def __init__(self, parts):
        self.parts = tuple(dict.fromkeys(parts))

    def measured(self):
        return min((part.size for part in self.parts), default=INFINITE)

    def ways(self):
        return [(part,) for part in self.parts if part.size < INFINITE]


NEVER = Choice(())


class Repeat(Node):
    """`item` from low to high times (None: any number)."""

    def __init__(self, item, low, high, family=None):
        self.item, self.low, self.high, self.parts = item, low, high, (item,)
        self.family = {} if family is None else family
        self.family[low, high] = self
        self.size = self.measured()

    def with_parts(self, parts):
        return Repeat(*parts, self.low, self.high)

    def measured(self):
        return self.low * self.item.size if self.low else 0

    def ways(self):
        if self.low == 0:
            yield ()
        if self.high != 0 and self.item.size < INFINITE:
            key = max(0, self.low - 1), None if self.high is None else self.high - 1
            yield self.item, self.family.get(key) or Repeat(self.item, *key, self.family)


class Distinct(Node):
    """From low to high of the given texts, none twice, each after a separator."""

    def __init__(self, texts, low, high, family=None):
        self.texts, self.low, self.high = texts, low, high
        self.family = {} if family is None else family
        self.family[texts, low, high] = self
        lengths = sorted(len(text) for text in texts)
        self.size = sum(lengths[:low]) + 2 * low if low <= min(len(texts), high) else INFINITE

    def _with(self, text):
        key = self.texts - {text}, max(0, self.low - 1), self.high - 1
        return Text(b", " + text), self.family.get(key) or Distinct(*key, self.family)

    def ways(self):
        if self.low == 0:
            yield ()
        if self.high > 0 and self.low <= len(self.texts):
            yield from (self._with(text) for text in sorted(self.texts))

    @functools.cached_property
    def best(self):  # without making all the others
        return self._with(min(self.texts, key=lambda text: (len(text), text))) if self.low else ()


class Others(Node):
    """Properties that a schema does not name: those that `names` (a Dfa) accepts, each once, but for `taken`.

    written: a comma comes first. low (0 or 1) to high (None: any number) of them.
    """

    def __init__(self, value, names, taken, written, low, high):
        self.value, self.names, self.taken, self.written = value, names, taken, written
        self.dfa = names_but(taken, names) if high != 0 else None
        self.low, self.high = low, high if self.dfa and not self.dfa.is_empty else 0
        self.parts, self.opening = (value,), Text(b', "' if written else b'"')
        self.key, self.after = functools.cache(functools.partial(Key, self)), functools.cache(self._after)
        self.size = self.measured()

    def with_parts(self, parts):
        return Others(*parts, self.names, self.taken, self.written, self.low, self.high)

    def measured(self):
        if not self.low:
            return 0
        if self.high == 0:
            return INFINITE
        return (2 if self.written else 0) + 1 + self.dfa.distance[0] + 2 + self.value.size

    def ways(self):
        if self.low == 0:
            yield ()
        if self.high != 0 and self.value.size < INFINITE:
            yield self.opening, self.key(b"", 0)

    def _after(self, name):
        """The nodes after a property's name."""
        taken = self.taken if name is None else self.taken | {name}
        high = None if self.high is None else self.high - 1
        if not fits(taken, self.names):  # an object of names that fill kilobytes gets no more
            taken, high = self.taken, 0
        return Text(b": "), self.value, Others(self.value, self.names, taken, True, 0, high)
