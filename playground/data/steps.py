"""Records, and a record's prompt as a list of steps: what the user said, calls, and their results."""

import json

import tools as toolbox


def record_of(identity, prompt, call, source, meta):
    """A record in the one form that all files have; the call becomes canonical JSON."""
    return {"id": identity, "prompt": prompt, "completion": toolbox.to_json(call), "source": source, "meta": meta}


def read_prompt(prompt):
    """A record's prompt as [("user", text) or ("call", call) or ("call", call, result), ...].

    A prompt that is not made of such lines is one request.
    """
    first, *lines = prompt.split("\n")
    steps = [("user", first)]
    try:
        for line in lines:
            kind, _, rest = line.partition(": ")
            if kind == "User":
                steps.append(("user", rest))
            elif kind == "Call":
                steps.append(("call", toolbox.parse_call(rest)))
            elif kind == "Tools" and len(steps) == 1:
                continue  # which tools those are, a record's meta says
            elif kind == "Result" and steps[-1][0] == "call" and len(steps[-1]) == 2:
                steps[-1] = (*steps[-1], json.loads(rest))
            else:
                raise ValueError(kind)
    except (toolbox.ParseError, ValueError, RecursionError):
        return [("user", " ".join(prompt.split()))]
    return steps


def write_prompt(steps):
    """The prompt that `read_prompt` reads as these steps."""
    lines = []
    for kind, value, *result in steps:
        if kind == "user":
            text = " ".join(value.split())
            lines.append(f"User: {text}" if lines else text)
        else:
            lines.append(f"Call: {toolbox.to_json(value)}")
            lines += [f"Result: {toolbox.to_json(result[0])}"] if result else []
    return "\n".join(lines)
