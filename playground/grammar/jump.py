"""Jump-ahead: where the grammar leaves one continuation, its tokens need no forward pass each."""

# A text that holds a special token's name is only text.
PLAIN = {"add_special_tokens": False, "split_special_tokens": True}


def jump(matcher, tokenizer, ids, tokens_left):
    """Move a matcher over the tokens that it forces, and return them; [] where there are none.

    ids: all that has been generated. The tokens are those that the tokenizer makes of the whole text, so that the
    model stays on the paths that it was trained on; hence the last ones are left to the model where the text after
    them could change them (`: "` and `(` may be one token). Where the model itself has spelled the text so far in
    another way, the forced text is tokenized alone. There is no jump where it would use tokens that the rest needs.
    """
    state, vocabulary = matcher.state, matcher.grammar.vocabulary
    if state.only_end and tokens_left:
        return [vocabulary.eos_token_id]
    forced = matcher.forced()
    if not forced or not tokens_left:
        return []
    written = b"".join(vocabulary.token_bytes[token_id] for token_id in ids)
    try:
        before = written.decode()
    except UnicodeDecodeError:  # in the middle of a character
        return []
    whole = tokenizer(before + forced, **PLAIN)["input_ids"]
    if whole[: len(ids)] != ids:
        ids, before = [], ""
        whole = tokenizer(forced, **PLAIN)["input_ids"]
    if b"".join(vocabulary.token_bytes[token_id] or b"" for token_id in whole) != (before + forced).encode():
        return []  # a tokenizer that begins every text with a space
    if state.stable is None:
        state.stable = _stable_bytes(state, tokenizer, before + forced) - len(before.encode())
    run, length = [], 0
    for token_id in whole[len(ids) :]:
        length += len(vocabulary.token_bytes[token_id])
        if length > state.stable:
            break
        run.append(token_id)
    for token_id in run:
        matcher.accept(token_id)
    if matcher.min_tokens_to_complete > tokens_left - len(run):
        matcher.state = state
        return []
    if matcher.state.only_end and len(run) < tokens_left:
        run.append(vocabulary.eos_token_id)
    return run


def _stable_bytes(state, tokenizer, text):
    """How many bytes of `text` stand in tokens that no next character can change."""
    _, following = state.ahead
    if not following:  # the text is complete
        return len(text.encode())
    probes = [text + chr(byte) for byte in following if byte < 0x80]
    probes += [text + "é"] if any(byte >= 0x80 for byte in following) else []
    encoded = [tokenizer(probe, **PLAIN)["input_ids"] for probe in probes]
    common = 0
    while all(len(ids) > common and ids[common] == encoded[0][common] for ids in encoded):
        common += 1
    token_bytes = state.grammar.vocabulary.token_bytes
    return min(len(text.encode()), sum(len(token_bytes[token_id] or b"") for token_id in encoded[0][:common]))
