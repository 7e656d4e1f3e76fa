"""Lines of a file in TOML, held against files whose lines are known because they were put together line by line."""

import tomllib

import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.recipes.places import Place, line_numbers

nasty = st.text("\"'\\#[]{}=,\n a", max_size=9)
names = st.text("\"'#[].= a", min_size=1, max_size=3)
values = st.recursive(st.one_of(nasty, st.booleans()), lambda inner: st.lists(inner, max_size=3), max_leaves=6)
statements = st.dictionaries(names, values, max_size=4)


@settings(max_examples=200, deadline=None)
@given(tables=st.lists(statements, min_size=1, max_size=4), one=names, multiline=st.booleans())
def test_every_key_of_any_file_has_the_line_on_which_it_was_written(tables, one, multiline):
    text, expected = "", {}
    for number, table in enumerate(tables):
        header = tomli_w.dumps({one: {str(number): {}}}).strip()
        text += f"# it's [\n {header} # \"\n"
        expected.setdefault((one,), text.count("\n"))
        expected[one, str(number)] = text.count("\n")
        for key, value in table.items():
            expected[one, str(number), key] = text.count("\n") + 1
            text += tomli_w.dumps({key: value}, multiline_strings=multiline)
    assert tomllib.loads(text) == {one: {str(number): table for number, table in enumerate(tables)}}
    found = line_numbers(text)
    assert {keys: line for keys, line in found.items() if keys in expected} == expected


def test_tables_of_a_list_are_counted_and_tables_within_belong_to_the_last():
    text = "[[a]]\n[[a]]\nb = 1\n[a.c]\nd = 1\n[[a.e]]\n[[a.e]]\nf = 1\n[[a]]\nb = 2\n[g]\na = [{ b = 1 }]"
    assert line_numbers(text) == {
        ("a",): 1, ("a", 0): 1, ("a", 1): 2, ("a", 1, "b"): 3, ("a", 1, "c"): 4, ("a", 1, "c", "d"): 5,
        ("a", 1, "e"): 6, ("a", 1, "e", 0): 6, ("a", 1, "e", 1): 7, ("a", 1, "e", 1, "f"): 8, ("a", 2): 9,
        ("a", 2, "b"): 10, ("g",): 11, ("g", "a"): 12, ("g", "a", 0): 12, ("g", "a", 0, "b"): 12}


def test_a_string_ends_with_the_last_of_its_quotes():
    text = 'a = """\n[b]\nc = 1""""\nd = \'\'\'\n"\'\'\'\'\ne = """""\n"""""\nf = [ # ]\n"#", \'\', """\\""""]\ng = 1'
    assert line_numbers(text) == {("a",): 1, ("d",): 4, ("e",): 6, ("f",): 8, ("f", 0): 8, ("f", 1): 8, ("f", 2): 8,
                                  ("g",): 10}


def test_a_table_has_the_line_of_its_own_header_and_without_one_of_the_first_within():
    assert line_numbers("[a.b]\n[a]\n[c.d]")["a",] == 2
    assert line_numbers("[a.b]\n[c.d]")["c",] == 2


def test_a_key_that_is_not_there_stands_where_its_table_stands():
    file = Place("r.toml", "[a]\nb = 1\n[c]\n", ("a.d=1", "e.f=1"))
    assert [str(place) for place in (file, file.of("a").at("x"), file.of("c").at("x"), file.of("x"), file.of("e"))] == [
        "r.toml", "r.toml, line 1, [a], --set a.d=1", "r.toml, line 3, [c]", "r.toml, [x]", "r.toml, [e], --set e.f=1"]
