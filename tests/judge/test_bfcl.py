"""The leaderboard's AST check, on its own rows: right answers pass, and each kind of wrong one is named."""

import json

import pytest

from playground.judge import bfcl
from playground.run.errors import UserError
from tests.conftest import SHARED

FOLDER = SHARED / "bfcl"


@pytest.fixture(scope="module")
def rows():
    if not FOLDER.exists():
        pytest.skip("needs ../shared/bfcl")
    return bfcl.load(FOLDER)


def row_of(rows, category, name):
    return next(row for row in rows[category] if row["id"] == name)


def concrete(value):
    """A value that an answer accepts: the first of each list of choices."""
    if isinstance(value, dict):
        return {key: concrete(choices[0]) for key, choices in value.items() if choices[0] != ""}
    return [concrete(item) for item in value] if isinstance(value, list) else value


def right_calls(row):
    """Calls with the first accepted value of each argument, without those that may be left out."""
    required = {function["name"]: function["parameters"]["required"] for function in row["functions"]}
    return [
        (
            name,
            {key: concrete(values[0]) for key, values in accepted.items() if "" not in values or key in required[name]},
        )
        for answer in row["answers"]
        for name, accepted in answer.items()
    ]


def test_every_rows_own_answer_is_right(rows):
    assert {category: len(found) for category, found in rows.items()} == {
        "simple": 60,
        "multiple": 30,
        "parallel": 30,
        "irrelevance": 40,
    }
    for category, found in rows.items():
        for row in found:
            assert bfcl.check(row, category, right_calls(row)) is None, row


def test_optional_arguments_may_be_given_and_alternative_answers_are_accepted(rows):
    row = row_of(rows, "simple", "simple_python_0")
    name, arguments = right_calls(row)[0]
    assert "unit" not in arguments
    assert bfcl.check(row, "simple", [(name, arguments | {"unit": "Units"})]) is None
    assert bfcl.check(row, "simple", [(name, arguments | {"unit": "cm"})]) == "value_error:string"


def test_parallel_calls_may_come_in_any_order_but_each_only_once(rows):
    for row in rows["parallel"]:
        calls = right_calls(row)
        assert bfcl.check(row, "parallel", calls[::-1]) is None
        assert bfcl.check(row, "parallel", calls[:-1]) == "wrong_count"
    row = row_of(rows, "parallel", "parallel_0")
    assert bfcl.check(row, "parallel", [right_calls(row)[0]] * 2) == "cannot_find_match"


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda name, args: (name + "s", args), "wrong_func_name"),
        (lambda name, args: (name, {"base": 10}), "missing_required"),
        (lambda name, args: (name, args | {"colour": "red"}), "unexpected_param"),
        (lambda name, args: (name, args | {"base": "10"}), "type_error:simple"),
        (lambda name, args: (name, args | {"base": 10.0}), "type_error:simple"),
        (lambda name, args: (name, args | {"base": True}), "type_error:simple"),
        (lambda name, args: (name, args | {"base": 11}), "value_error:others"),
    ],
)
def test_each_wrong_call_is_named(rows, change, wrong):
    row = row_of(rows, "simple", "simple_python_0")
    assert bfcl.check(row, "simple", [change(*right_calls(row)[0])]) == wrong


def one(schema, accepted, value):
    """What the check says of one argument `x` of this schema."""
    row = {
        "functions": [{"name": "f", "parameters": {"type": "dict", "properties": {"x": schema}, "required": []}}],
        "answers": [{"f": {"x": accepted}}],
    }
    return bfcl.check(row, "simple", [("f", {} if value is None else {"x": value})])


FLOATS = {"type": "array", "items": {"type": "float"}}
DICT = {"type": "dict"}
DICTS = {"type": "array", "items": {"type": "dict"}}


@pytest.mark.parametrize(
    ("schema", "accepted", "value", "wrong"),
    [
        ({"type": "string"}, ["April 1, 2024"], "april 1 2024", None),
        ({"type": "string"}, ["it's"], 'IT"S', None),
        ({"type": "string"}, ["New York"], "New York City", "value_error:string"),
        ({"type": "float"}, [5.0], 5, None),  # an integer will do for a float, as in Python
        ({"type": "integer"}, [5], 5.0, "type_error:simple"),
        ({"type": "integer"}, ["n"], "n", None),  # the name of a variable
        ({"type": "integer"}, ["n"], "m", "value_error:others"),
        ({"type": "boolean"}, [True], 1, "type_error:simple"),
        ({"type": "string"}, ["x"], None, "missing_optional"),
        ({"type": "string"}, ["x", ""], None, None),
        (FLOATS, [[1.5, 2.0]], [1.5, 2.0], None),
        (FLOATS, [[1.5, 2.0]], [2.0, 1.5], "value_error:list/tuple"),
        (FLOATS, [[1.5, 2.0]], [1.5, "2"], "type_error:nested"),
        ({"type": "tuple", "items": {"type": "string"}}, [["A b"]], ["a-B"], None),
        (DICT, [{"a": ["X", "Y"], "b": [1, ""]}], {"a": "y"}, None),
        (DICT, [{"a": ["X"]}], {"a": "z"}, "value_error:dict_value"),
        (DICT, [{"a": ["X"]}], {"a": "x", "c": 1}, "value_error:dict_key"),
        (DICT, [{"a": ["X"], "b": [1]}], {"a": "x"}, "value_error:dict_key"),
        (DICTS, [[{"a": [1]}, {"a": [2]}]], [{"a": 1}, {"a": 2}], None),
        (DICTS, [[{"a": [1]}, {"a": [2]}]], [{"a": 1}], "value_error:list_dict_count"),
    ],
)
def test_types_and_values_are_compared_as_the_leaderboard_does(schema, accepted, value, wrong):
    assert one(schema, accepted, value) == wrong


def test_where_no_function_fits_only_a_call_is_wrong(rows):
    row = rows["irrelevance"][0]
    name = row["functions"][0]["name"]
    assert bfcl.check(row, "irrelevance", [(name, {})]) == "irrelevance_error:decoder_success"
    assert bfcl.check(row, "irrelevance", []) is None
    assert bfcl.check(row, "irrelevance", None) is None
    assert bfcl.check(rows["simple"][0], "simple", None) == "ast_decoder:decoder_failed"


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (' {"tool": "f", "args": {"x": 1}}', [("f", {"x": 1})]),
        ('[{"tool": "f", "args": {}}, {"tool": "g", "args": {}}]', [("f", {}), ("g", {})]),
        ('{"tool": "respond", "args": {"message": "No."}}', []),
        ("I cannot do that.", None),
        ('{"name": "f"}', None),
    ],
)
def test_calls_are_read_from_what_the_model_wrote(text, calls):
    assert bfcl.read_calls(text) == calls


def test_the_prompt_names_every_tool_and_ends_with_the_request(rows):
    row = row_of(rows, "multiple", "multiple_0")
    prompt = bfcl.prompt_of(row, "multiple")
    assert all(function["name"] in prompt for function in row["functions"])
    assert prompt.endswith(row["request"])


def test_of_the_whole_leaderboards_folder_only_the_known_categories_are_read(tmp_path):
    names = ["v4_simple_python", "v4_simple_java", "v4_live_simple", "v3_multiple", "v4_multiple", "v4_live_multiple",
             "v4_parallel_multiple", "v10_irrelevance", "v4_irrelevance", "v4_live_irrelevance"]  # fmt: skip
    (tmp_path / "possible_answer").mkdir()
    for name in names:
        row = {"id": name, "question": [[{"role": "user", "content": "Hi"}]], "function": [], "ground_truth": []}
        for folder in (tmp_path, tmp_path / "possible_answer"):
            (folder / f"BFCL_{name}.json").write_text(json.dumps(row))
    assert {category: row["id"] for category, (row,) in bfcl.load(tmp_path).items()} == {
        "simple": "v4_simple_python",
        "multiple": "v4_multiple",
        "irrelevance": "v10_irrelevance",
    }


def test_files_that_are_missing_or_broken_are_named(tmp_path):
    with pytest.raises(UserError, match="holds no BFCL"):
        bfcl.load(tmp_path)
    (tmp_path / "BFCL_v4_simple_python.json").write_text('{"id": "x"}\n')
    with pytest.raises(UserError, match="possible_answer"):
        bfcl.load(tmp_path)
    (tmp_path / "BFCL_v4_irrelevance.json").write_text('{"id": "x", "question": []}\n')
    (tmp_path / "BFCL_v4_simple_python.json").unlink()
    with pytest.raises(UserError, match="not the leaderboard's form"):
        bfcl.load(tmp_path)
