"""The probability that a model gives to each token of given answers, in batches that fit in memory."""

from playground.model import generation
from playground.run import hardware, parallel

MOST_AT_ONCE = 8, 4  # answers that training reads in one forward pass; the second for large vocabularies
LARGE = 2**15  # tokens in a vocabulary from which on logits are most of the memory of a training step


def collate(prompts, completions, pad_token_id, device):
    """Prompts, padded on the left, and completions, on the right: completions start in one column. All token ids.

    Returns input_ids and attention_mask (rows, a multiple of PADDED_TO), completion_ids and completion_mask (rows, T).
    """
    import torch

    width, length = max(map(len, prompts)), max(map(len, completions))
    width += -(width + length) % hardware.PADDED_TO
    rows = list(zip(prompts, completions, strict=True))
    ids = [[pad_token_id] * (width - len(p)) + p + c + [pad_token_id] * (length - len(c)) for p, c in rows]
    mask = [[0] * (width - len(p)) + [1] * len(p + c) + [0] * (length - len(c)) for p, c in rows]
    ids, mask = torch.tensor(ids, device=device), torch.tensor(mask, device=device)
    own = {"completion_ids": ids[:, width:], "completion_mask": mask[:, width:].float()}
    return {"input_ids": ids, "attention_mask": mask, **own}


def batches(answers, rows, model, tokenizer):
    """Yield (rows, batch) over some rows of answers, as many at a time as fit, of like length together.

    answers: {"prompts", "completions": lists of token ids}, and tensors (rows, T) under other names; a batch has what
    `collate` makes of the former and the latter cut to its own T. Several processes take a share of the rows each; one
    that has none reads a row that does not count, its mask being 0, so that all of them make the same steps.
    """
    ids = answers["prompts"], answers["completions"]
    tensors = {name: tensor for name, tensor in answers.items() if name not in ("prompts", "completions")}
    mine = sorted(parallel.share(rows), key=lambda row: sum(len(each[row]) for each in ids))
    at_once = MOST_AT_ONCE[len(tokenizer) > LARGE]
    for first in range(0, max(len(mine), 1), at_once):
        part = list(mine[first : first + at_once] or rows[:1])
        batch = collate(*([each[row] for row in part] for each in ids), tokenizer.pad_token_id, model.device)
        batch["completion_mask"] *= bool(mine)
        length = batch["completion_ids"].shape[1]
        yield part, batch | {name: tensor[part, :length] for name, tensor in tensors.items()}


def evaluate_tokens(model, batch):
    """(log-probabilities (rows, T), hidden states (rows, T, size)) of a `collate`d batch's completions.

    Both are the model's in the column before a token, which predicts it.
    """
    import torch

    length = batch["completion_ids"].shape[1]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    inputs |= generation.positions(model, batch["attention_mask"], batch["input_ids"].shape[1])
    with hardware.half_precision(model.device.type):
        outputs = model(**inputs, output_hidden_states=True, use_cache=False, logits_to_keep=length + 1)
    every = torch.log_softmax(outputs.logits[:, :-1].float(), dim=-1)  # (rows, T, vocabulary)
    log_probs = every.gather(2, batch["completion_ids"].unsqueeze(2)).squeeze(2)
    return log_probs, outputs.hidden_states[-1][:, -length - 1 : -1].float()


def masked_mean(tensor, mask, count=None):
    """The mean over the tokens where mask is 1; with a larger count of tokens, this part's share of their mean."""
    return (tensor * mask).sum() / (mask.sum() if count is None else count)


def whiten(tensor, mask):
    """The tensor shifted and scaled to mean 0 and variance 1 over the tokens where mask is 1."""
    tokens = tensor[mask == 1]
    return (tensor - tokens.mean()) / (tokens.var(correction=0) + 1e-8).sqrt()
