"""The grammar in Hugging Face's `model.generate(...)`."""

from collections import OrderedDict

from transformers import LogitsProcessor

MAX_PREFIXES = 10_000


class GrammarLogitsProcessor(LogitsProcessor):
    """For `generate(..., logits_processor=[GrammarLogitsProcessor(grammar, prompt_length, max_new_tokens)])`.

    Greedy, sampling or beam search: where a row stands is looked up by what it has generated, so rows may change
    places, as beams do. prompt_length: columns of the (left-padded) prompts. Raises BudgetTooSmall at the first step.
    """

    def __init__(self, grammar, prompt_length, max_new_tokens):
        self.grammar, self.prompt_length, self.max_new_tokens = grammar, prompt_length, max_new_tokens
        self._matchers = OrderedDict()

    def __call__(self, input_ids, scores):
        """The scores (rows, vocabulary), minus infinity where a token may not come."""
        eos_token_id = self.grammar.vocabulary.eos_token_id
        scores = scores.clone()
        for row, ids in enumerate(input_ids[:, self.prompt_length :].tolist()):
            if eos_token_id in ids:  # done: what follows is padding
                scores[row] = float("-inf")
                scores[row, eos_token_id] = 0
                continue
            forbidden = self._matcher(tuple(ids)).forbidden(self.max_new_tokens - len(ids)).to(scores.device)
            scores[row, : len(forbidden)].masked_fill_(forbidden, float("-inf"))
            scores[row, len(forbidden) :] = float("-inf")  # some models pad their vocabulary
        return scores

    def _matcher(self, ids):
        matcher = self._matchers.pop(ids, None)
        if matcher is None:
            matcher, known = self.grammar.matcher(), len(ids) - 1
            if known > 0 and ids[:known] in self._matchers:
                matcher.state = self._matchers[ids[:known]].state
            else:
                known = 0
            for token_id in ids[known:]:
                matcher.accept(token_id)
        self._matchers[ids] = matcher
        if len(self._matchers) > MAX_PREFIXES:
            self._matchers.popitem(last=False)
        return matcher
