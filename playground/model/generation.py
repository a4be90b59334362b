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
    model, tokenizer, prompts, settings, grammar=None, temperature=None, seed=None, progress=None, jump_ahead=True,
    drafts=None,
):  # fmt: skip
    """One Completion for each prompt (a record's `prompt`, or token ids), in their order.

    With `grammar`, a Grammar or a function that makes one of a prompt, only tokens that keep the text completable
    within `generate.max_new_tokens` are allowed, so each text is in the grammar's language; jump_ahead: what the
    grammar forces is not asked of the model. temperature and seed: the recipe's where None; temperature 0 is greedy.
    progress: a tqdm description; no bar where None. drafts: the Completions of the same greedy decoding without a
    grammar, or under one that allows more, of which is kept what this one allows. Several processes that work as one
    answer a share of the prompts each, and all get all completions.
    """
    import numpy as np
    from tqdm import tqdm

    section = settings["generate"]
    limit, batch_size = section["max_new_tokens"], section["batch_size"]
    temperature = section["temperature"] if temperature is None else temperature
    seed = settings["seed"] if seed is None else seed
    encoded = [prompting.encode_prompt(prompt, tokenizer) if isinstance(prompt, str) else prompt for prompt in prompts]
    encoded = fit(encoded, model, limit)
    mine = range(len(prompts))
    in_shares = not weights.is_sharded(model)  # else all processes have to take part in every step of the model
    if in_shares:
        mine = sorted(mine, key=lambda i: (len(encoded[i]), i))[parallel.rank() :: parallel.size()]
        seed = parallel.own_seed(seed)
    sampler = (temperature, np.random.default_rng(seed))

    def begin_text(i):
        matcher = grammar and (grammar(prompts[i]) if callable(grammar) else grammar).matcher()
        if matcher and (needed := matcher.min_tokens_to_complete) > limit:
            raise UserError(f"generate.max_new_tokens is {limit}: the shortest valid text needs {needed} tokens.")
        text = _Text(encoded[i], matcher, tokenizer, limit, jump_ahead)
        if drafts:
            text.follow(drafts[i].token_ids)
        return text

    def answer():
        """[(which prompt, its Completion)] of this process."""
        bar = tqdm(total=len(mine), desc=progress, disable=progress is None, leave=False)
        with bar, hardware.explain_oom("generate.batch_size", batch_size), decoding.explain_ambiguity():
            texts = {i: begin_text(i) for i in mine}
            still_open = [text for text in texts.values() if text.is_open]
            bar.update(len(texts) - len(still_open))
            # Texts of one length side by side need the least padding.
            still_open.sort(key=lambda text: len(text.unread))
            for begin in range(0, len(still_open), batch_size):
                batch = still_open[begin : begin + batch_size]
                _generate_batch(model, tokenizer, batch, sampler)
                bar.update(len(batch))
        return [(i, text.completion()) for i, text in texts.items()]

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


class _Text:
    """A text in the making. unread: the token ids that the model has not read yet, at first those of the prompt."""

    def __init__(self, prompt_ids, matcher, tokenizer, max_new_tokens, jump_ahead):
        self.matcher, self.tokenizer, self.max_new_tokens = matcher, tokenizer, max_new_tokens
        self.jumps = matcher is not None and jump_ahead
        self.generated, self.passes, self.unread = [], 0, list(prompt_ids)
        self._jump()

    @property
    def left(self):
        return self.max_new_tokens - len(self.generated)

    @property
    def has_ended(self):
        return self.generated[-1:] == [self.tokenizer.eos_token_id]

    @property
    def is_open(self):
        return self.left > 0 and not self.has_ended

    def take(self, token):
        """Go on by the token that the model has chosen, and by those that the grammar then forces."""
        self.passes += 1
        self.generated.append(token)
        self.unread.append(token)
        if self.matcher and not self.has_ended:
            self.matcher.accept(token)
            self._jump()

    def _jump(self):
        from playground.grammar.jump import jump

        if self.jumps:
            forced = jump(self.matcher, self.tokenizer, self.generated, self.left)
            self.generated += forced
            self.unread += forced

    def follow(self, draft):
        """Take the tokens of a draft up to the first that the grammar forbids.

        Where the likeliest token of all is allowed, it is also the likeliest of those allowed. So greedy decoding under
        a grammar writes what it writes without, until the grammar forbids a token, and the model need not be asked.
        """
        while self.is_open and len(self.generated) < len(draft) and self.generated == draft[: len(self.generated)]:
            token, forbidden = draft[len(self.generated)], self.matcher.forbidden(self.left)
            if token >= len(forbidden) or forbidden[token]:
                return
            self.take(token)

    def completion(self):
        text = self.tokenizer.decode(self.generated, skip_special_tokens=True)
        return Completion(text, self.generated, bool(self.matcher) or self.has_ended, self.passes)


def _generate_batch(model, tokenizer, texts, sampler):
    """Write the texts, which are all open, to their ends.

    A pass reads what each text has unread: at first its prompt, then one token, or several where the grammar has forced
    some. Texts with several wait while most have one, so that the batch is not padded for the sake of a few.
    """
    import torch

    from playground.model.cache import with_room

    # A prompt that is to be answered more than once is read once.
    different = list(dict.fromkeys(tuple(text.unread) for text in texts))
    copies = [different.index(tuple(text.unread)) for text in texts] if len(different) < len(texts) else []
    attention_mask = torch.zeros(len(different), 0, dtype=torch.long, device=model.device)
    cache = with_room(model.config)
    still_open = texts  # and `texts`, from here on, those that stand in the rows of the batch
    with torch.inference_mode():
        while still_open:
            short = sum(len(text.unread) == 1 for text in still_open)
            width = 1 if 2 * short > len(still_open) and not copies else max(len(text.unread) for text in still_open)
            read = [text.is_open and len(text.unread) <= width for text in texts]
            block = [text.unread if reads else [] for text, reads in zip(texts, read, strict=True)]
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
            for row, text in enumerate(texts):
                if text.matcher and read[row]:
                    _forbid(logits[row], text.matcher.forbidden(text.left))
            for text, reads, token in zip(texts, read, _choose(logits, *sampler), strict=True):
                if reads:
                    text.unread = []
                    text.take(token)
            still_open = [text for text in texts if text.is_open]
            if still_open and len(still_open) <= KEEP_FINISHED * len(texts):
                kept = torch.tensor([row for row, text in enumerate(texts) if text.is_open], device=model.device)
                cache.batch_select_indices(kept)
                attention_mask, texts = attention_mask[kept], still_open


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
