from cleareyed.tasks.names import counted


def test_a_count_agrees_with_its_noun() -> None:
    assert [counted(n, "time") for n in (0, 1, 2)] == ["0 times", "1 time", "2 times"]
    assert [counted(n, "entry without", "entries without") for n in (1, 3)] == ["1 entry without", "3 entries without"]
