"""Several processes that work as one, each on a device of its own, started by `accelerate launch`.

    accelerate launch --config_file configs/accelerate/two_cpus.yaml 03_finetune.py

Every process runs the whole script, on its share of the records; then what they have made is put together again, so
that all of them know the same. Only the main process prints and writes. In a single process, the usual case, every
function hands back what it was given, and nothing here imports torch.
"""

import atexit
import os
import random
import sys

from playground.run.errors import UserError


def size():
    """How many processes there are."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def rank():
    """The number of this one, from 0."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def is_main():
    return rank() == 0


def shares_weights():
    """Whether each process is to hold a part of the model's weights only (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def join(settings):
    """Meet the other processes. Everything below needs it, where there are any."""
    if size() > 1:
        from accelerate import PartialState

        from playground.run import hardware

        PartialState(cpu=hardware.device(settings["model"]["device"]) == "cpu")


def have_met():
    """Whether there are several processes, and all of them have joined."""
    torch = sys.modules.get("torch")
    return size() > 1 and bool(torch) and torch.distributed.is_initialized()


def leave(status):
    """Part from the other processes, and end this one of several with the exit status.

    Where Python ended it, gloo's threads, which PyTorch's caches may keep running, could abort it: they free tensors,
    and Python lets no thread but the main one do so by then (pytorch/pytorch#179291).
    """
    if have_met():
        if not status:  # after an error the others may never come to it
            sys.modules["torch"].distributed.destroy_process_group()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait():
    """Until all processes are here."""
    if size() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def from_main(make):
    """make()'s value in the main process, sent to all."""
    if size() == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([make() if is_main() else None])[0]


def share(items):
    """This process's part of a list that all have; the parts follow each other and differ in length by at most 1."""
    return items[len(items) * rank() // size() : len(items) * (rank() + 1) // size()]


def even(items):
    """The items but for the last few, which not all processes would have one of."""
    return items[: len(items) - len(items) % size()]


def each(count, key):
    """A process's part of recipe key `key`, a count. Raises UserError where the processes cannot have equal parts."""
    if count % size():
        raise UserError(f"{key} is {count}, and there are {size()} processes: set it to a multiple of that.")
    return count // size()


def gather(make):
    """The lists that make() returns in the processes, one after the other; a UserError in one is raised in all."""
    if size() == 1:
        return make()
    from accelerate.utils import gather_object

    made, error = [], None
    try:
        made = make()
    except UserError as raised:
        error = raised
    parts = gather_object([(made, error)])
    for _, error in parts:
        if error:
            raise error
    return [item for made, _ in parts for item in made]


def total(tensor):
    """The sum of the processes' tensors."""
    if size() == 1:
        return tensor
    from accelerate.utils import reduce

    return reduce(tensor, "sum")


def total_of(values):
    """{name: the sum of the processes' numbers}."""
    parts = gather(lambda: [values])
    return values if size() == 1 else {name: sum(part[name] for part in parts) for name in values}


def total_gradients(parameters):
    """Replace each parameter's gradient by the sum of the processes' gradients, in one exchange."""
    if size() > 1:
        from torch.nn.utils import parameters_to_vector, vector_to_parameters

        gradients = [parameter.grad for parameter in parameters]
        vector_to_parameters(total(parameters_to_vector(gradients)), gradients)


def own_seed(seed):
    """A seed for this process: with the same one, several would draw the same samples for different requests."""
    return seed if is_main() else random.Random(f"{seed} {rank()}").getrandbits(32)


class WholeBatches:
    """For a Hugging Face Trainer: every process reads every batch whole, and its collator takes a share of each.

    So batches are those of a single process. By itself, accelerate deals out batches in turn, and fills the last ones
    up with records that have been seen already.
    """

    def get_train_dataloader(self):
        loader = super().get_train_dataloader()
        if size() > 1:
            loader.batch_sampler.num_processes, loader.batch_sampler.process_index = 1, 0
            loader.batch_sampler.even_batches = False
        return loader
