"""Batched generation, free or under a grammar: the one loop that every stage uses."""

import inspect
import sys
from dataclasses import dataclass

import tools as toolbox

# Finished rows leave the batch when no more than this share of it is still open: leaving copies the cache.
KEEP_FINISHED = 0.75


@dataclass
class Completion:
    """What a model wrote after one prompt.

    text: without special tokens; token_ids: as generated, the end-of-sequence token included if there is
    one; ended: whether the model stopped by itself rather than at the limit; forward_passes: how often the
    model was asked for this row.
    """

    text: str
    token_ids: list[int]
    ended: bool
    forward_passes: int


def generate(model, tokenizer, prompts, recipe, grammar=None, temperature=None, seed=None, progress=None):
    """One Completion for each prompt (a record's `prompt`), in their order.

    With `grammar`, only tokens that keep the text completable within `generate.max_new_tokens` are allowed,
    so each text is in the grammar's language. temperature and seed: the recipe's where None; temperature 0
    is greedy. progress: a tqdm description; no bar where None.
    """
    import torch
    from tqdm import tqdm

    settings = recipe["generate"]
    temperature = settings["temperature"] if temperature is None else temperature
    generator = torch.Generator(model.device).manual_seed(recipe["seed"] if seed is None else seed)
    encoded = _fit([toolbox.encode_prompt(prompt, tokenizer) for prompt in prompts], model, settings["max_new_tokens"])
    # Prompts of one length side by side need the least padding.
    order = sorted(range(len(prompts)), key=lambda i: (len(encoded[i]), i))
    completions = [None] * len(prompts)
    with tqdm(total=len(prompts), desc=progress, disable=progress is None, leave=False) as bar:
        for begin in range(0, len(order), settings["batch_size"]):
            rows = order[begin : begin + settings["batch_size"]]
            matchers = [grammar.matcher() for _ in rows] if grammar else None
            batch = [encoded[i] for i in rows]
            limit = settings["max_new_tokens"]
            generated = _generate_batch(model, tokenizer, batch, limit, temperature, generator, matchers)
            for i, ids in zip(rows, generated, strict=True):
                text = tokenizer.decode(ids, skip_special_tokens=True)
                completions[i] = Completion(text, ids, _has_ended(ids, tokenizer), len(ids))
            bar.update(len(rows))
    return completions


def _fit(encoded, model, max_new_tokens):
    """The prompts, those that leave no room to answer within the model's positions cut to their ends, and counted."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not positions:
        return encoded
    room = positions - max_new_tokens
    cut = sum(len(ids) > room for ids in encoded)
    if cut:
        print(f"{cut} of {len(encoded)} prompts are longer than {room} tokens and cut to their ends.", file=sys.stderr)
    return [ids[-room:] for ids in encoded]


def _generate_batch(model, tokenizer, prompts, max_new_tokens, temperature, generator, matchers):
    """Lists of generated token ids, one for each list of prompt ids."""
    import torch

    width = max(map(len, prompts))
    input_ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(ids)) + ids for ids in prompts])
    attention_mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    input_ids, attention_mask = input_ids.to(model.device), attention_mask.to(model.device)
    generated = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # rows[i]: which prompt stands in row i of the batch
    cache = None
    with torch.inference_mode():
        for tokens_left in range(max_new_tokens, 0, -1):
            outputs = model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                past_key_values=cache,
                use_cache=True,
                **positions(model, attention_mask, input_ids.shape[1]),
                logits_to_keep=1,
            )
            cache, logits = outputs.past_key_values, outputs.logits[:, -1].float()  # (rows, vocabulary)
            finished = [_has_ended(generated[row], tokenizer) for row in rows]
            if matchers:
                _mask(
                    logits,
                    [None if done else matchers[row] for row, done in zip(rows, finished, strict=True)],
                    tokens_left,
                )
            tokens = _choose(logits, temperature, generator)
            for row, done, token in zip(rows, finished, tokens.tolist(), strict=True):
                if not done:
                    generated[row].append(token)
                    if matchers and token != tokenizer.eos_token_id:
                        matchers[row].accept(token)
            open_rows = [i for i, row in enumerate(rows) if not _has_ended(generated[row], tokenizer)]
            if not open_rows:
                break
            input_ids = tokens[:, None]
            attention_mask = torch.cat([attention_mask, torch.ones_like(input_ids)], dim=1)
            if len(open_rows) <= KEEP_FINISHED * len(rows):
                kept = torch.tensor(open_rows, device=model.device)
                cache.batch_select_indices(kept)
                input_ids, attention_mask = input_ids[kept], attention_mask[kept]
                rows = [rows[i] for i in open_rows]
    return generated


def _has_ended(token_ids, tokenizer):
    return bool(token_ids) and token_ids[-1] == tokenizer.eos_token_id


def _mask(logits, matchers, tokens_left):
    """Set the logits of tokens that a row's grammar forbids to minus infinity, in place; None masks nothing."""
    for row, matcher in enumerate(matchers):
        if matcher:
            allowed = matcher.mask(tokens_left).to(logits.device)
            logits[row, : len(allowed)].masked_fill_(~allowed, float("-inf"))
            logits[row, len(allowed) :] = float("-inf")  # some models pad their vocabulary


def _choose(logits, temperature, generator):
    import torch

    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def positions(model, attention_mask, length):
    """{"position_ids": ...} of the last `length` columns, padding not counted; {} for models without them."""
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    if "position_ids" not in inspect.signature(bare.forward).parameters:
        return {}
    return {"position_ids": (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, -length:]}
