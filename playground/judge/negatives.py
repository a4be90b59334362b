"""Hard negatives: mistakes made by hand for a model that makes too few of its own."""

import json

import tools as toolbox
from playground.judge import scoring


def hard_negatives(records, rng):
    """Yield (record, completion): a right call but for one argument, which is that of another call to the same tool.

    At most one for each record, in random order; none for a record whose arguments all others share.
    """
    for record in rng.sample(records, len(records)):
        call = json.loads(record["completion"])
        for other in rng.sample(records, len(records)):
            donor = json.loads(other["completion"])
            if donor["tool"] != call["tool"]:
                continue
            names = [name for name, value in call["args"].items()
                     if name in donor["args"] and not scoring.same(donor["args"][name], value)]  # fmt: skip
            if names:
                name = rng.choice(names)
                swapped = {**call["args"], name: donor["args"][name]}
                yield record, toolbox.to_json({**call, "args": swapped})
                break
