"""The grammar in Hugging Face's `model.generate(...)`."""

from transformers import LogitsProcessor

MAX_PREFIXES = 10_000


class GrammarLogitsProcessor(LogitsProcessor):
    """For `generate(..., logits_processor=[GrammarLogitsProcessor(grammar, prompt_length, max_new_tokens)])`.

    Greedy, sampling or beam search: where a row stands is looked up by what it has generated, so rows may change
    places, as beams do. grammar: one for all prompts, or a list with one for each, such as `grammar.grounded(request)`;
    a prompt's rows (beams, samples) stand side by side. prompt_length: columns of the (left-padded) prompts. Raises
    BudgetTooSmall at the first step.
    """

    def __init__(self, grammar, prompt_length, max_new_tokens):
        self.grammars = grammar if isinstance(grammar, list) else [grammar]
        self.prompt_length, self.max_new_tokens = prompt_length, max_new_tokens
        self._states = {}  # by prompt and what has been generated

    def __call__(self, input_ids, scores):
        """The scores (rows, vocabulary), minus infinity where a token may not come."""
        eos_token_id = self.grammars[0].vocabulary.eos_token_id
        scores = scores.clone()
        for row, ids in enumerate(input_ids[:, self.prompt_length :].tolist()):
            if eos_token_id in ids:  # done: what follows is padding
                scores[row] = float("-inf")
                scores[row, eos_token_id] = 0
                continue
            prompt = row * len(self.grammars) // len(scores)
            forbidden = self._matcher(prompt, tuple(ids)).forbidden(self.max_new_tokens - len(ids)).to(scores.device)
            scores[row, : len(forbidden)].masked_fill_(forbidden, float("-inf"))
            scores[row, len(forbidden) :] = float("-inf")  # some models pad their vocabulary
        return scores

    def _matcher(self, prompt, ids):
        matcher, unread = self.grammars[prompt].matcher(), ids
        if ids and (prompt, ids[:-1]) in self._states:
            matcher.state, unread = self._states[prompt, ids[:-1]], ids[-1:]
        for token_id in unread:
            matcher.accept(token_id)
        self._states[prompt, ids] = matcher.state
        if len(self._states) > MAX_PREFIXES:
            del self._states[next(iter(self._states))]
        return matcher
