"""How long the sequence will take on this machine: a training step's worth of work is timed, and counted.

python -m playground expected embedded
"""

import time

# Of `make run`: training steps' worth of work, and forward passes' worth of a batch. Fitted to a whole run with bf16,
# 15 minutes, and to what its stages take without it by the ratios of bench/processors.py, 22.
WORK = {"embedded": (2100, 138_000)}
WIDTH, INNER, LAYERS, TOKENS, ROWS = 256, 704, 8, 1200, 64  # of the embedded model, and its batches


def timed(work, count):
    """Seconds that work() takes, the median of some after a first one."""
    work()
    seconds = []
    for _ in range(count):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return sorted(seconds)[count // 2]


def step_and_pass():
    """Seconds of a training step with its optimizer, and of a forward pass for one token of each row of a batch."""
    import torch

    from playground.model.muon import orthogonalized
    from playground.run import hardware

    torch.manual_seed(0)
    layers = torch.nn.ModuleList(
        torch.nn.Sequential(
            *(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)),
            torch.nn.Linear(WIDTH, 2 * INNER, bias=False),
            torch.nn.GLU(),
            torch.nn.Linear(INNER, WIDTH, bias=False),
        )
        for _ in range(LAYERS)
    )
    batch, rows = torch.randn(TOKENS, WIDTH), torch.randn(ROWS, WIDTH)
    squares, oblongs = torch.randn(4 * LAYERS, WIDTH, WIDTH), torch.randn(3 * LAYERS, INNER, WIDTH)

    def step():
        # Each on the same input: through all in turn, numbers would become so small that processors slow down.
        with hardware.half_precision("cpu"):
            loss = sum(layer(batch).float().square().mean() for layer in layers)
        loss.backward()
        for matrices in (squares, oblongs):
            orthogonalized(matrices, hardware.fast_dtype())

    def forward():
        with torch.inference_mode():
            for layer in layers:
                layer(rows)

    return timed(step, 3), timed(forward, 9)


def minutes(model):
    """(minutes that `make run` will take, or None where nobody has measured; what they depend on, in words)."""
    import torch

    from playground.run import hardware

    if torch.cuda.is_available():
        return None, torch.cuda.get_device_name()
    machine = f"{torch.get_num_threads()} threads, {'bf16' if hardware.has_bf16() else 'no bf16'}"
    if model not in WORK:
        return None, machine
    seconds = sum(count * each for count, each in zip(WORK[model], step_and_pass(), strict=True))
    return seconds / 60, machine


def sentence(model):
    """How long `make run` will take with that model, for a person."""
    found, machine = minutes(model)
    took = f"about {found:.0f} minutes" if found else "nobody has measured how long it takes"
    return f"The sequence with {model}: {took} on this machine ({machine}), after installation."
