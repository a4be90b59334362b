"""Files of JSON that appear whole or not at all, and the ones that stage 02 writes for the others."""

import hashlib
import json
from pathlib import Path

from playground.run import parallel
from playground.run.console import command
from playground.run.errors import UserError

NEW = ".new"  # ends the name of a file that is being written
MODEL_FILES = (".json", ".safetensors", ".txt", ".model", ".jinja")  # what a model's folder says by


def sha256(path):
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: check the name and the folder.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): mend it or make it again.") from None


def write_json(path, value):
    """Write a .json file, which appears whole or not at all."""
    _write(path, [json.dumps(value, indent=2, ensure_ascii=False)])


def write_jsonl(path, rows):
    """Write a .jsonl file, which appears whole or not at all."""
    _write(path, (json.dumps(row, ensure_ascii=False) for row in rows))


def _write(path, lines):
    if parallel.is_main():
        new = Path(path).with_name(Path(path).name + NEW)
        with new.open("w", encoding="utf-8", errors="backslashreplace") as file:  # half a character as JSON escapes it
            file.writelines(f"{line}\n" for line in lines)
        new.replace(path)


def later_files(output_dir, *names):
    """The files for the stages after SFT that stage 02 wrote, all or those named; [] where its source has none."""
    paths = (Path(output_dir) / "02_create_dataset" / name for name in names or ("feedback.jsonl", "rl.jsonl"))
    return [path for path in paths if path.exists()]


def read_requests(output_dir):
    """What stages 06 and 07 ask: the records of feedback.jsonl, then the {"id", "prompt", "outcome"} of rl.jsonl."""
    requests = [row for path in later_files(output_dir, "rl.jsonl") for row in read_records(path, ("id", "prompt"))]
    if not all(isinstance(row.get("outcome"), dict) for row in requests):
        raise UserError(f"{output_dir}: rl.jsonl has no outcomes: run `{command('02_create_dataset.py')}`.")
    labelled = [row for path in later_files(output_dir, "feedback.jsonl") for row in read_records(path)]
    return labelled + requests


def read_records(path, keys=("id", "prompt", "completion")):
    """The records of a .jsonl file that stage 02 wrote. Raises UserError: file:line, or how many lack."""
    path, records, again = Path(path), [], command("02_create_dataset.py")
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                record = json.loads(line.decode("utf-8"))
                if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in keys):
                    raise UserError(f"{path}:{number}: a record needs {', '.join(keys)}: run `{again}`.")
                records.append(record)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): run `{again}`.") from None
    except ValueError as error:
        raise UserError(f"{path}:{len(records) + 1}: not JSON ({error}): run `{again}`.") from None
    if not records:
        raise UserError(f"{path} is empty: run `{again}`.")
    metrics = path.with_name("metrics.json")
    written = read_json(metrics).get("n", {}).get(path.stem, 0) if metrics.exists() else 0
    if len(records) < written:
        raise UserError(f"{path} has {len(records)} of the {written} records that were written: run `{again}`.")
    return records


def read_jsonl(path):
    """The values in a .jsonl file, whose lines end at line feeds only: texts in it may hold other line separators."""
    with Path(path).open(encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def read_log(path):
    """The rows of a stage's log.jsonl; [] where there is none."""
    return read_jsonl(path) if Path(path).exists() else []
