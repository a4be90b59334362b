"""How a text is read by a grammar, and how much of it is missing.

A *frame* is a node to be read and, below it, the frame that goes on afterwards, like the call stack of a
recursive-descent parser. Where the grammar leaves a choice there are several frames at once, all in step. A frame's
shortest way to the end is the sum of its nodes', down the stack.
"""

import heapq
import itertools
import weakref

from playground.grammar.nodes import INFINITE, Choice, Reader

MAX_FRAMES = 5_000  # at once


class TooManyWays(ValueError):
    """A text can be read in more ways at once than MAX_FRAMES."""


class Frame:
    """A node to be read, then the frame below. missing: bytes of the shortest way to the end of the text."""

    __slots__ = ("__weakref__", "below", "missing", "node")

    def __init__(self, node, below):
        self.node, self.below = node, below
        self.missing = node.size + below.missing if node else 0


class Frames:
    """Makes frames, each only once, so that equal frames are the same object."""

    def __init__(self):
        self.end, self._made = Frame(None, None), weakref.WeakValueDictionary()

    def push(self, nodes, below):
        for node in reversed(nodes):
            found = self._made.get((node, below))
            if found is None:
                self._made[node, below] = found = Frame(node, below)
            below = found
        return below

    def ready(self, frames):
        """The frames about to read a byte (or at the end) that these can turn into without reading."""
        seen, found, stack = set(), set(), list(frames)
        while stack:
            frame = stack.pop()
            if frame in seen or frame.missing == INFINITE:
                continue
            seen.add(frame)
            if len(seen) > MAX_FRAMES:
                raise TooManyWays(f"the text so far can be read in more than {MAX_FRAMES} ways at once")
            if frame is self.end:
                found.add(frame)
            elif isinstance(frame.node, Reader):
                then = frame.node.ends()
                if then is not None:
                    stack.append(self.push(then, frame.below))
                if frame.node.bytes_after():
                    found.add(frame)
            else:
                stack.extend(self.push(way, frame.below) for way in frame.node.ways())
        return frozenset(found)

    def step(self, frames, byte):
        """The ready frames after one byte; none where it may not come."""
        nodes = ((frame.node and frame.node.step(byte), frame.below) for frame in frames)
        return self.ready([self.push((node,), below) for node, below in nodes if node])


def shortest_text(frame):
    """The bytes of a shortest way to the end, such that each frame on that way has the rest of it."""
    text, stack = [], []
    while frame.node:
        stack.append(frame.node)
        while stack:
            node = stack.pop()
            if isinstance(node, Reader):
                text.append(node.shortest)
                stack.extend(reversed(node.then))
            else:
                stack.extend(reversed(node.best))
        frame = frame.below
    return b"".join(text)


def users_of(root, new=None):
    """{node: the nodes that it is a part of}, of all nodes under `root`; if `new`, only of those and their parts."""
    users, stack = {root: []}, [root]
    while stack:
        node = stack.pop()
        for part in node.parts if new is None or node in new else ():
            if part not in users:
                users[part] = []
                stack.append(part)
            users[part].append(node)
    return users


def measure(root, new=None):
    """Set `size` of all nodes under `root`: the cheapest ways first, as in Dijkstra's algorithm (Knuth 1977).

    A schema that contains itself has a size too, if some way through it ends; INFINITE if none does. new: the nodes
    that have none yet, where not all are.
    """
    users = users_of(root, new)
    unknown = {node for node in users if node.parts and (new is None or node in new)}
    for node in unknown:
        node.size = INFINITE
    # A choice waits for its cheapest part; every other node has the one size that it first gets.
    tie = itertools.count()
    first = [node for node in users if not (node in unknown and isinstance(node, Choice))]
    heap = [(size, next(tie), node) for node in first if (size := node.measured()) < INFINITE]
    reached = {node for _, _, node in heap}
    heapq.heapify(heap)
    while heap:
        size, _, node = heapq.heappop(heap)
        node.size = size
        for user in users[node]:
            if user not in reached and user.measured() < INFINITE:
                reached.add(user)
                heapq.heappush(heap, (user.measured(), next(tie), user))
