"""Are the artifacts what their stages wrote, and would the stages find today what they found then?

    python -m playground.artifacts verify outputs

One line for each artifact: fine, or what is wrong with it. *Altered* is one with a file that is missing or no longer
what the stage wrote (its sha256 is in the manifest). *Stale* is one whose recipe, input or base model has changed
since, or which was made from an altered or stale one. Exit status 0 where all are fine, 1 otherwise, 2 where there is
nothing to verify. `make` runs again what is not fine here, and what follows from it.

The recipe is made again as it was then, from the defaults, the file and the flags that the stage was given, so a
changed default counts and a flag does not. Paths are those that the stages were given: run it where they were run.
What it does not see is the code: scripts, playground/ and the data in it. That is for `make`, by time of change.
"""

import argparse
import sys
from pathlib import Path

from playground import recipe
from playground.artifacts import UserError, read_json, sha256


def verify(output_dir):
    """{stage: [what is wrong, in words]} of the artifacts in a folder, in their order; nothing is wrong with []."""
    output_dir, found = Path(output_dir), {}
    for path in sorted(output_dir.glob("*/manifest.json")):
        if not path.parent.suffix:  # neither .partial nor .old
            found[path.parent.name] = _wrong(path.parent, output_dir, found)
    if not found:
        raise UserError(f"{output_dir} holds no artifacts: give the folder that the stages have written to.")
    return found


def _wrong(folder, output_dir, earlier):
    try:
        manifest = read_json(folder / "manifest.json")
        written_to = Path(manifest["recipe"]["output_dir"])
        wrong = [
            f"altered: {name} is {state}"
            for name, digest in manifest["outputs"].items()
            if (state := _state(folder / name, digest))
        ]
        wrong += [f"stale: {change}" for change in _recipe_changes(manifest)]
        for name, digest in manifest["inputs"].items():
            path, stage = Path(name), None
            if path.is_relative_to(written_to):  # the folder may have been moved since
                path = output_dir / path.relative_to(written_to)
                stage = path.relative_to(output_dir).parts[0]
            if stage and stage > folder.name:
                continue  # the teacher of stage 02, which is meant to be trained further on what it has written
            if state := _state(path, digest):
                wrong.append(f"stale: {path} is {state}")
            elif earlier.get(stage):
                wrong.append(f"stale: {stage} is not fine")
    except UserError as error:
        return [f"altered: {error}"]
    except (LookupError, TypeError, AttributeError):
        return ["altered: its manifest is of another form"]
    return list(dict.fromkeys(wrong))


def _state(path, digest):
    if not path.is_file():
        return "missing"
    return None if sha256(path) == digest else "changed"


def _recipe_changes(manifest):
    if manifest["origin"] is None:
        return []
    try:
        today = recipe.load(**manifest["origin"])
    except UserError as error:
        return [f"its recipe cannot be made any more: {error}"]
    then, now = _flat(manifest["recipe"]), _flat(today)
    return [
        f"recipe key {key} was {then.get(key, 'unknown')!r} and is now {now.get(key, 'unknown')!r}"
        for key in then | now
        if then.get(key) != now.get(key)
    ]


def _flat(settings, path=""):
    flat = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return flat


def main():
    parser = argparse.ArgumentParser(
        prog="python -m playground.artifacts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["verify"])
    parser.add_argument("output_dir", nargs="?", default="outputs", help="where the artifacts are (outputs)")
    found = verify(parser.parse_args().output_dir)
    for stage, wrong in found.items():
        print(f"{stage}: {'; '.join(wrong) or 'fine'}")
    sys.exit(1 if any(found.values()) else 0)
