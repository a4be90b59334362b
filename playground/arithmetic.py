"""Arithmetic that a model, or whoever writes its prompt, may ask for.

So: no eval. Python's parser reads the text, only the kinds of node below are worked out, and every size is bounded
before the work.
"""

import ast
import math
import operator
import warnings

MAX_EXPRESSION = 200  # characters, which bounds the nesting too
MAX_EXPONENT = 64
MAX_MAGNITUDE = 1e15  # beyond it, floats are no longer exact to the unit
MAX_DIGITS = 15  # Python rounds 5 to -1000000000 digits by working out 10 ** 1000000000
BINARY = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
UNARY = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class Refused(Exception):
    """The expression has no value here; the message says why."""


def evaluate(expression):
    """The value of an expression, an integer where it is whole, else rounded to 6 decimals. Raises Refused."""
    if len(expression) > MAX_EXPRESSION:
        raise Refused(f"the expression is over {MAX_EXPRESSION} characters")
    try:
        with warnings.catch_warnings(action="ignore"):  # the parser has opinions on style, such as "1if"
            value = _value(ast.parse(expression.strip(), mode="eval").body)
    except ZeroDivisionError:
        raise Refused("division by zero") from None
    except OverflowError:
        raise Refused("the number grows too large") from None
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise Refused(f"{expression!r} is not arithmetic that this calculator knows") from None
    return int(value) if value == int(value) else round(value, 6) or value


def _value(node):
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in UNARY:
            return UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in BINARY:
            left, right = _value(left), _value(right)
            if isinstance(op, ast.Pow) and abs(right) > MAX_EXPONENT:
                raise Refused(f"the exponent is over {MAX_EXPONENT}")
            return _bounded(BINARY[type(op)](left, right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in FUNCTIONS:
            return _bounded(FUNCTIONS[name](*map(_value, args)))
    raise ValueError


def _bounded(value):
    if isinstance(value, complex):
        raise Refused("the root of a negative number")
    if not abs(value) <= MAX_MAGNITUDE:
        raise Refused("the number grows too large")
    return value


def _round(value, digits=None):
    if digits is not None and abs(digits) > MAX_DIGITS:
        raise Refused(f"round takes at most {MAX_DIGITS} digits")
    return round(value, digits)


FUNCTIONS = {"abs": abs, "round": _round, "sqrt": math.sqrt, "min": min, "max": max}
