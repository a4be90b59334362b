"""How long the sequence will take on this machine: a training step and some answers are timed, and counted.

python -m playground expected embedded
"""

import statistics
import time

from playground.model import generation, loading
from playground.run import hardware, recipe
from playground.run.files import read_jsonl

# Of a whole `make run`: training, in steps as they are timed here, and generation, in answers to the requests. Fitted
# to runs on two cores of an AMD EPYC with bf16, SmolLM2's stage 06 reckoned as if it had run alone, less what stages
# 03, 07 and 08 have stopped doing since.
WORK = {"embedded": (2450, 1400), "smollm2": (970, 1200)}
ROWS, WIDTH, TOKENS = 8, 80, 16  # of the step that is timed; of each answer
ASKED = 6  # times that each request is asked


def timed(work):
    """The median of the seconds that work() takes, repeated for half a second after a first time that warms up."""
    work()
    seconds = []
    while sum(seconds) < 0.5:
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def step_and_answers(name):
    """Seconds that a model takes for a training step but for its optimizer, and to answer some requests."""
    import torch

    settings = recipe.load(None, [("model.name", name), ("generate.max_new_tokens", TOKENS)])
    tokenizer, model = loading.load(loading.find_base(name)["path"], settings)
    ids = torch.randint(len(tokenizer), (ROWS, WIDTH))
    prompts = ASKED * [row["request"] for row in read_jsonl(recipe.CONFIGS / "requests.jsonl")]

    def step():
        with hardware.half_precision("cpu"):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()

    return timed(step), timed(lambda: generation.generate(model, tokenizer, prompts, settings, temperature=0.0))


def sentence(name):
    """How long `make run` will take with that model, for a person."""
    import torch

    took, machine = "nobody has measured how long it takes", ""
    if torch.cuda.is_available():
        machine = torch.cuda.get_device_name()
    else:
        machine = f"{torch.get_num_threads()} threads, {'bf16' if hardware.has_bf16() else 'no bf16'}"
        if name in WORK:
            seconds = sum(count * each for count, each in zip(WORK[name], step_and_answers(name), strict=True))
            took = f"about {seconds / 60:.0f} minutes"
    return f"The sequence with {name}: {took} on this machine ({machine}), after installation."
