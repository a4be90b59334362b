"""Batched generation, free or under a grammar: the one loop that every stage uses."""

import inspect
import sys
from dataclasses import dataclass

from playground.model import decoding, loading, prompting, weights
from playground.run import hardware, parallel
from playground.run.errors import UserError

# Finished rows leave the batch when no more than this share of it is still open: leaving copies the cache.
KEEP_FINISHED = 0.75


@dataclass
class Completion:
    """What a model wrote after one prompt.

    text: without special tokens; token_ids: as generated, an end-of-sequence token included; ended: whether the text
    is whole (the model stopped, or a grammar closed it in time); forward_passes: how often the model was asked.
    """

    text: str
    token_ids: list[int]
    ended: bool
    forward_passes: int


def generate(
    model, tokenizer, prompts, settings, grammar=None, temperature=None, seed=None, progress=None, jump_ahead=True
):
    """One Completion for each prompt (a record's `prompt`, or token ids), in their order.

    With `grammar`, a Grammar or a function that makes one of a prompt, only tokens that keep the text completable
    within `generate.max_new_tokens` are allowed, so each text is in the grammar's language; jump_ahead: what the
    grammar forces is not asked of the model. temperature and seed: the recipe's where None; temperature 0 is greedy.
    progress: a tqdm description; no bar where None. Several processes that work as one answer a share of the prompts
    each, and all get all completions.
    """
    import numpy as np
    from tqdm import tqdm

    section = settings["generate"]
    limit, batch_size = section["max_new_tokens"], section["batch_size"]

    def begin_text(prompt):
        matcher = (grammar(prompt) if callable(grammar) else grammar).matcher()
        if (needed := matcher.min_tokens_to_complete) > limit:
            raise UserError(f"generate.max_new_tokens is {limit}: the shortest valid text needs {needed} tokens.")
        return matcher

    temperature = section["temperature"] if temperature is None else temperature
    seed = settings["seed"] if seed is None else seed
    encoded = [prompting.encode_prompt(prompt, tokenizer) if isinstance(prompt, str) else prompt for prompt in prompts]
    encoded = fit(encoded, model, limit)
    # Prompts of one length side by side need the least padding.
    order = sorted(range(len(prompts)), key=lambda i: (len(encoded[i]), i))
    in_shares = not weights.is_sharded(model)  # else all processes have to take part in every step of the model
    if in_shares:
        order, seed = order[parallel.rank() :: parallel.size()], parallel.own_seed(seed)
    sampler = (temperature, np.random.default_rng(seed))

    def answer():
        """[(which prompt, its Completion)] of this process."""
        answered = []
        bar = tqdm(total=len(order), desc=progress, disable=progress is None, leave=False)
        with bar, hardware.explain_oom("generate.batch_size", batch_size), decoding.explain_ambiguity():
            for begin in range(0, len(order), batch_size):
                rows = order[begin : begin + batch_size]
                matchers = [begin_text(prompts[i]) for i in rows] if grammar else None
                batch = [encoded[i] for i in rows]
                generated = _generate_batch(model, tokenizer, batch, limit, sampler, matchers, jump_ahead)
                for i, (ids, passes) in zip(rows, generated, strict=True):
                    text = tokenizer.decode(ids, skip_special_tokens=True)
                    answered.append((i, Completion(text, ids, bool(grammar) or _has_ended(ids, tokenizer), passes)))
                bar.update(len(rows))
        return answered

    if len(prompts) > 1:
        hardware.release_freed()  # of the training before
        model = weights.for_generation(model, settings)
    completions = dict(parallel.gather(answer) if in_shares else answer())
    if len(prompts) > 1:
        hardware.release_freed()
    return [completions[i] for i in range(len(prompts))]


def fit(encoded, model, max_new_tokens):
    """The prompts, those that leave no room to answer within the model's positions cut to their ends, and counted.

    encoded: lists of token ids. Raises UserError where the model has no room for any prompt.
    """
    positions = loading.longest(model)
    if not positions:
        return encoded
    room = positions - max_new_tokens
    if room < 1:
        raise UserError(f"generate.max_new_tokens is {max_new_tokens}: the model reads {positions} tokens in all.")
    cut = sum(len(ids) > room for ids in encoded)
    if cut:
        print(f"{cut} of {len(encoded)} prompts are longer than {room} tokens and cut to their ends.", file=sys.stderr)
    return [ids[-room:] for ids in encoded]


def leave_out_long(rows, tokenizer, model, settings):
    """The rows that leave room, of the model's positions, for their completion and for any answer; counts the others.

    Raises UserError where no row fits.
    """
    positions = loading.longest(model)
    if not positions:
        return rows

    def length(row):
        own = len(prompting.encode_completion(row["completion"], tokenizer)) if "completion" in row else 0
        return len(prompting.encode_prompt(row["prompt"], tokenizer)) + max(own, settings["generate"]["max_new_tokens"])

    kept = [row for row in rows if length(row) <= positions]
    if rows and not kept:
        raise UserError(f"no request fits the model's {positions} tokens: lower generate.max_new_tokens.")
    if len(kept) < len(rows):
        left_out = len(rows) - len(kept)
        print(f"{left_out} of {len(rows)} requests do not fit the model's {positions} tokens and are left out.")
    return kept


def _generate_batch(model, tokenizer, prompts, max_new_tokens, sampler, matchers, jump_ahead):
    """[(generated token ids, forward passes)], one for each list of prompt ids.

    A pass reads what each row has not read yet: at first its prompt, then one token, or several where the grammar has
    forced some. Rows with several wait while most have one, so that the batch is not padded for the sake of a few.
    """
    import torch

    from playground.grammar.jump import jump
    from playground.model.cache import with_room

    generated, passes = [[] for _ in prompts], [0] * len(prompts)

    def left(row):
        return max_new_tokens - len(generated[row])

    def add(row, new):
        """Take new tokens, and those that the grammar then forces; returns them all: the row has to read them."""
        generated[row] += new
        forced = []
        if matchers and jump_ahead and not _has_ended(generated[row], tokenizer):
            forced = jump(matchers[row], tokenizer, generated[row], left(row))
            generated[row] += forced
        return new + forced

    def is_open(row):
        return left(row) and not _has_ended(generated[row], tokenizer)

    rows = list(range(len(prompts)))  # rows[i]: which prompt stands in row i of the batch
    unread = [ids + add(row, []) for row, ids in enumerate(prompts)]
    # A prompt that is to be answered more than once is read once.
    different = list(dict.fromkeys(map(tuple, unread)))
    copies = [different.index(tuple(ids)) for ids in unread] if len(different) < len(rows) else []
    attention_mask = torch.zeros(len(different), 0, dtype=torch.long, device=model.device)
    cache = with_room(model.config)
    rows_open = [row for row in rows if is_open(row)]
    with torch.inference_mode():
        while rows_open:
            short = sum(len(unread[row]) == 1 for row in rows_open)
            width = 1 if 2 * short > len(rows_open) and not copies else max(len(unread[row]) for row in rows)
            block = [unread[row] if len(unread[row]) <= width and is_open(row) else [] for row in rows]
            read = [bool(ids) for ids in block]
            block = list(map(list, different)) if copies else block
            input_ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(ids)) + ids for ids in block])
            new_mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in block])
            attention_mask = torch.cat([attention_mask, new_mask.to(model.device)], dim=1)
            outputs = model(
                input_ids=input_ids.to(model.device),
                attention_mask=attention_mask,
                past_key_values=cache,
                use_cache=True,
                **positions(model, attention_mask, width),
                logits_to_keep=1,
            )
            logits = outputs.logits[:, -1].float()  # (rows, vocabulary)
            if copies:
                cache.batch_select_indices(torch.tensor(copies, device=model.device))
                logits, attention_mask, copies = logits[copies], attention_mask[copies], []
            for i, row in enumerate(rows):
                if matchers and read[i]:
                    _forbid(logits[i], matchers[row].forbidden(left(row)))
            for row, r, token in zip(rows, read, _choose(logits, *sampler), strict=True):
                if r:
                    passes[row] += 1
                    if matchers and token != tokenizer.eos_token_id:
                        matchers[row].accept(token)
                    unread[row] = add(row, [token])
            rows_open = [row for row in rows if is_open(row)]
            if rows_open and len(rows_open) <= KEEP_FINISHED * len(rows):
                kept = torch.tensor([i for i, row in enumerate(rows) if is_open(row)], device=model.device)
                cache.batch_select_indices(kept)
                attention_mask, rows = attention_mask[kept], rows_open
    return list(zip(generated, passes, strict=True))


def _has_ended(token_ids, tokenizer):
    return bool(token_ids) and token_ids[-1] == tokenizer.eos_token_id


def _forbid(logits, forbidden):
    """Set the logits (vocabulary) of what is forbidden, a mask of its beginning, to minus infinity, in place."""
    logits[: len(forbidden)].masked_fill_(forbidden.to(logits.device), float("-inf"))
    logits[len(forbidden) :] = float("-inf")  # some models pad their vocabulary


def _choose(logits, temperature, generator):
    """The next token of each row, as a list; generator: numpy's."""
    import numpy as np
    import torch

    if temperature == 0:
        return logits.argmax(dim=-1).tolist()
    # Where a random number falls among the summed probabilities: torch.multinomial draws one for each token. Summed by
    # the CPU, because not every GPU has float64, and in float32 a sum of many small ones is too rough.
    summed = torch.softmax(logits / temperature, dim=-1).cpu().numpy().cumsum(axis=1, dtype=np.float64)
    draws = generator.random((len(summed), 1)) * summed[:, -1:]
    below = np.nextafter(summed[:, -1:], 0)  # or a token of probability 0 might be next
    return (summed <= np.minimum(draws, below)).sum(axis=1).tolist()


def positions(model, attention_mask, length):
    """{"position_ids": ...} of the last `length` columns, padding not counted; {} for models without them."""
    bare = getattr(model, "module", model)  # what DDP has wrapped
    bare = bare.get_base_model() if hasattr(bare, "get_base_model") else bare
    if "position_ids" not in inspect.signature(bare.forward).parameters:
        return {}
    return {"position_ids": (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -length:]}
