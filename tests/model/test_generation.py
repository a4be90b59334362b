"""The generation loop: the same text alone and in a batch, and valid text from any model under a grammar."""

import numpy as np
import pytest
import torch

import tools as toolbox
from playground import grammar
from playground.model import decoding, generation, loading, prompting, weights
from playground.run import hardware, recipe
from playground.run.errors import UserError
from tests.conftest import save_random_model

PROMPTS = ["Hello there", "What's the weather in São Paulo tomorrow, and should I take an umbrella with me?", "17 * 23"]
TOOLS = toolbox.load_tools()


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def random_model(request, tmp_path_factory, tokenizer):
    sizes = {
        "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 256},
        "llama": {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2},
    }
    folder = tmp_path_factory.mktemp(request.param)
    return loading.load_model(
        save_random_model(folder, tokenizer, request.param, **sizes[request.param]), recipe.load()
    )


def settings(**changes):
    return recipe.load(None, [(f"generate.{key}", value) for key, value in changes.items()])


def test_a_batch_gives_what_each_request_gives_alone(random_model, tokenizer):
    twice = [PROMPTS[1], *PROMPTS]  # read once, answered twice
    together = generation.generate(random_model, tokenizer, twice, settings(max_new_tokens=12, batch_size=4))
    alone = [generation.generate(random_model, tokenizer, [prompt], settings(max_new_tokens=12))[0] for prompt in twice]
    assert together == alone


def test_a_large_model_answers_from_a_copy_in_bfloat16_where_that_is_faster(random_model, tokenizer, monkeypatch):
    monkeypatch.setattr(hardware, "has_bf16", lambda: True)
    assert weights.for_generation(random_model, settings()) is random_model  # it is small
    monkeypatch.setattr(weights, "LARGE", 1)
    assert weights.for_generation(random_model, recipe.load(None, [("model.dtype", "float32")])) is random_model
    copied = weights.for_generation(random_model, settings())
    assert {weight.dtype for weight in copied.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in random_model.parameters()} == {torch.float32}
    for ours, theirs in zip(random_model.parameters(), copied.parameters(), strict=True):
        assert torch.equal(ours.bfloat16(), theirs)
    assert [buffer.dtype for buffer in copied.buffers()] == [buffer.dtype for buffer in random_model.buffers()]
    answers = [generation.generate(model, tokenizer, PROMPTS, settings()) for model in (random_model, copied)]
    assert answers[0] == answers[1]


def test_greedy_generation_is_what_transformers_generates(random_model, tokenizer):
    ids = prompting.encode_prompt(PROMPTS[1], tokenizer)
    expected = random_model.generate(
        torch.tensor([ids]), max_new_tokens=150, do_sample=False, pad_token_id=tokenizer.pad_token_id
    )[0, len(ids) :]
    ours = generation.generate(random_model, tokenizer, [PROMPTS[1]], settings(max_new_tokens=150))[0]
    assert ours.token_ids == expected.tolist()


def test_samples_are_as_frequent_as_the_model_says_and_what_is_forbidden_never_is_one():
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.25, 0.25, 0.0])
    logits = 2 * probabilities.log().expand(10_000, 6)  # halved by the temperature
    drawn = torch.tensor(generation._choose(logits, 2.0, np.random.default_rng(0))).bincount(minlength=6) / 10_000
    assert drawn[probabilities == 0].tolist() == [0, 0, 0]
    assert torch.allclose(drawn, probabilities, atol=0.02)


@pytest.mark.parametrize("spare", [0, 3, 30])
def test_random_weights_at_high_temperature_make_valid_calls_under_the_grammar(random_model, tokenizer, spare):
    compiled = grammar.compile_schema(toolbox.call_schema(TOOLS), tokenizer, leading_space=True)
    budget = compiled.matcher().min_tokens_to_complete + spare
    completions = generation.generate(
        random_model, tokenizer, PROMPTS * 4, settings(max_new_tokens=budget), grammar=compiled, temperature=2.0
    )
    for completion in completions:
        assert toolbox.validate_call(toolbox.parse_call(completion.text), TOOLS) == []
        assert len(completion.token_ids) <= budget
        assert completion.ended  # also where the limit has left no room for the end token


def test_sampling_is_repeated_by_its_seed(random_model, tokenizer):
    def sample(seed):
        return generation.generate(
            random_model, tokenizer, PROMPTS, settings(max_new_tokens=8), temperature=1.0, seed=seed
        )

    assert sample(1) == sample(1) != sample(2)


@pytest.mark.parametrize("jump_ahead", [True, False])
def test_a_grammar_gives_each_request_what_it_gives_alone(random_model, tokenizer, jump_ahead):
    compiled = grammar.compile_schema(toolbox.call_schema(TOOLS), tokenizer, leading_space=True)
    options = {"grammar": compiled, "jump_ahead": jump_ahead}
    together = generation.generate(random_model, tokenizer, PROMPTS, settings(max_new_tokens=40), **options)
    for prompt, completion in zip(PROMPTS, together, strict=True):
        alone = generation.generate(random_model, tokenizer, [prompt], settings(max_new_tokens=40), **options)[0]
        assert (alone.text, alone.forward_passes) == (completion.text, completion.forward_passes)


def test_jumping_ahead_takes_fewer_passes_and_writes_the_tokenizers_own_tokens(random_model, tokenizer):
    compiled = grammar.compile_schema(toolbox.call_schema(TOOLS), tokenizer, leading_space=True)
    with_jump, without = (
        generation.generate(random_model, tokenizer, PROMPTS, settings(), grammar=compiled, jump_ahead=jump_ahead)
        for jump_ahead in (True, False)
    )
    assert sum(c.forward_passes for c in with_jump) < sum(c.forward_passes for c in without)
    opening = tokenizer(' {"tool": "', add_special_tokens=False)["input_ids"]
    assert all(completion.token_ids[: len(opening) - 1] == opening[:-1] for completion in with_jump)


def test_a_draft_saves_work_and_changes_nothing(random_model, tokenizer, monkeypatch):
    schema = {"anyOf": [{"type": "integer"}, {"enum": ["one", "two"]}, {"type": "array", "items": {"type": "string"}}]}
    loose, strict = (
        grammar.compile_schema(schema | more, tokenizer, leading_space=True) for more in ({}, {"maxItems": 1})
    )
    asked = [[i, i + 1, i + 2] for i in range(300, 340)]
    options = {"settings": settings(max_new_tokens=12)}
    drafts = generation.generate(random_model, tokenizer, asked, grammar=loose, **options)
    drafts[0] = generation.Completion("", [tokenizer.eos_token_id], True, 1)  # the grammar has something against it
    without = generation.generate(random_model, tokenizer, asked, grammar=strict, **options)
    read = []
    hook = random_model.register_forward_pre_hook(
        lambda *call: read.append(call[-1]["input_ids"].shape[0]), with_kwargs=True
    )
    drafted = generation.generate(random_model, tokenizer, asked, grammar=strict, drafts=drafts, **options)
    hook.remove()
    assert drafted == without
    kept = sum(draft.token_ids == done.token_ids for draft, done in zip(drafts, without, strict=True))
    assert 0 < kept < len(asked) and read[0] == len(asked) - kept


def test_what_the_grammar_leaves_no_choice_in_takes_no_pass_at_all(random_model, tokenizer):
    compiled = grammar.compile_schema({"const": {"city": "São Paulo"}}, tokenizer)
    completion = generation.generate(random_model, tokenizer, ["Where?"], settings(), grammar=compiled)[0]
    assert (completion.text, completion.ended, completion.forward_passes) == ('{"city": "São Paulo"}', True, 0)


@pytest.mark.parametrize("how", [{"do_sample": False}, {"do_sample": True, "temperature": 2.0}, {"num_beams": 3}])
def test_transformers_generate_is_valid_under_the_logits_processor(random_model, tokenizer, how):
    from playground.grammar.processor import GrammarLogitsProcessor

    compiled = grammar.compile_schema(toolbox.call_schema(TOOLS), tokenizer)
    budget = compiled.matcher().min_tokens_to_complete + 6
    tokenizer.padding_side = "left"
    batch = tokenizer(PROMPTS, return_tensors="pt", padding=True)
    torch.manual_seed(0)
    width = batch["input_ids"].shape[1]
    processor = GrammarLogitsProcessor(compiled, width, budget)
    generated = random_model.generate(
        **batch, **how, max_new_tokens=budget, logits_processor=[processor], pad_token_id=tokenizer.pad_token_id
    )
    for text in tokenizer.batch_decode(generated[:, width:], skip_special_tokens=True):
        assert toolbox.validate_call(toolbox.parse_call(text), TOOLS) == []
    processor = GrammarLogitsProcessor([compiled.grounded(prompt) for prompt in PROMPTS], width, budget)
    generated = random_model.generate(
        **batch, **how, max_new_tokens=budget, logits_processor=[processor], pad_token_id=tokenizer.pad_token_id
    )
    texts = tokenizer.batch_decode(generated[:, width:], skip_special_tokens=True)
    assert all(copies(toolbox.parse_call(text), prompt) for text, prompt in zip(texts, PROMPTS, strict=True))


def copies(call, request):
    """Whether a valid call has what is to be copied from its request."""
    return toolbox.validate_call(call, TOOLS) == [] and all(
        "x-from" not in TOOLS[call["tool"]]["parameters"]["properties"][name] or value in request
        for name, value in call["args"].items()
    )


def test_grounded_calls_copy_each_from_its_own_request_and_without_an_address_no_mail_is_sent(random_model, tokenizer):
    grammars = decoding.grammars_of_calls(TOOLS, tokenizer, "grounded")
    prompts = ["Email mum about the trip", "Email jo@fjord.no about the trip", "東京 weather?"] * 8
    answers = generation.generate(
        random_model, tokenizer, prompts, settings(max_new_tokens=60), grammar=grammars, temperature=3.0, seed=0
    )
    calls = [toolbox.parse_call(answer.text) for answer in answers]
    assert all(copies(call, prompt) for call, prompt in zip(calls, prompts, strict=True))
    assert "send_email" not in {call["tool"] for call in calls[::3]}
    for prompt, there in zip(prompts[:3], (False, True, False), strict=True):
        matcher = grammars(prompt).matcher()
        for token in tokenizer(' {"tool": "s').input_ids:
            matcher.accept(token)
        assert (matcher.forced() == 'earch_web", "args": {"query": "') != there


def test_where_a_prompt_lists_tools_only_those_and_respond_can_be_called(tokenizer):
    listed = {name: TOOLS[name] for name in ("get_weather", "calculator")}
    prompt = toolbox.with_results("Weather in Oslo? Tools: send_email(to)", [], listed)
    assert decoding.listed(prompt, TOOLS) == ("get_weather", "calculator", "respond")
    assert decoding.listed("Weather?", TOOLS) == tuple(TOOLS)
    matcher = decoding.grammars_of_calls(TOOLS, tokenizer, "constrained")(prompt).matcher()
    for token in tokenizer(' {"tool": "').input_ids:
        matcher.accept(token)
    following = {tokenizer.decode([token])[0] for token in matcher.mask(60).nonzero().flatten().tolist()}
    assert following == {"g", "c", "r"}


def test_what_tools_have_returned_is_no_part_of_the_request():
    prompt = toolbox.with_results("Search it", [({"tool": "search_web", "args": {"query": "it"}}, {"first": "a@b.c"})])
    assert toolbox.said_by_user(prompt) == "Search it"
    assert toolbox.said_by_user("Hi\nCall: x\nResult: y\nUser: and Oslo?") == "Hi\nand Oslo?"


@pytest.fixture(scope="module")
def short_model(tmp_path_factory, tokenizer):
    """A model that reads 64 tokens in all."""
    folder = tmp_path_factory.mktemp("short")
    save_random_model(folder, tokenizer, "gpt2", n_layer=1, n_embd=16, n_head=2, n_positions=64)
    return loading.load_model(folder, recipe.load())


def test_prompts_that_leave_no_room_for_an_answer_are_cut_and_counted(short_model, tokenizer, capsys):
    long = "one two three " * 40
    [whole, _] = generation.generate(short_model, tokenizer, ["Hello there", long], settings(max_new_tokens=40))
    assert capsys.readouterr().err == "1 of 2 prompts are longer than 24 tokens and cut to their ends.\n"
    assert len(whole.token_ids) <= 40
    with pytest.raises(UserError, match=r"generate\.max_new_tokens is 64: the model reads 64 tokens in all"):
        generation.generate(short_model, tokenizer, ["Hello there"], settings(max_new_tokens=64))


def test_rows_that_do_not_fit_the_model_are_left_out_of_training_and_counted(short_model, tokenizer, capsys):
    rows = [
        {"prompt": "Hello", "completion": "x"},
        {"prompt": "Hello", "completion": "x " * 60},
        {"prompt": "Hello"},
        {"prompt": "one two three " * 40},
    ]
    kept = generation.leave_out_long(rows, tokenizer, short_model, settings(max_new_tokens=40))
    assert kept == [rows[0], rows[2]]
    assert capsys.readouterr().out == "2 of 4 requests do not fit the model's 64 tokens and are left out.\n"
    assert generation.leave_out_long([], tokenizer, short_model, settings(max_new_tokens=40)) == []
    with pytest.raises(UserError, match="no request fits the model's 64 tokens"):
        generation.leave_out_long(rows, tokenizer, short_model, settings(max_new_tokens=64))
