"""The task `search`: its texts against an independent reader, and what its reward refuses."""

from itertools import islice

import pytest

from benchmarks.study.search import generate_problems, last_value, search_reward


def test_the_solutions_of_problems_solve_them_after_wrong_turns():
    problems = list(islice(generate_problems(0), 300))
    for problem in problems:
        *wrong, right = problem.solution.split("!")
        # eval knows nothing of steps: each one must be true, and the last number is the attempt's
        ends = []
        for attempt in [*wrong, right]:
            steps = [step.split(">") for step in attempt.split(",")]
            assert all(eval(equation.replace("=", "==")) for equation, _ in steps)
            ends.append(int(steps[-1][1]))
        assert ends[-1] == problem.target
        assert problem.target not in ends[:-1]
    assert {problem.solution.count("!") for problem in problems} == {0, 1, 2}
    rows = ([p.solution for p in problems], [p.numbers for p in problems], [p.target for p in problems])
    assert search_reward(*rows) == [1.0] * 300


RIGHT = "7*3=21>4 7 21,7-4=3>3 21,21+3=24>24"


@pytest.mark.parametrize(
    "text, reward",
    [
        (RIGHT, 1.0),
        ("7+3=10>4 7 10,4+7=11>10 11,10+11=21>21!" + RIGHT, 1.0),
        ("nonsense!" + RIGHT, 1.0),  # only the last attempt counts
        (RIGHT + "!", 0.0),
        (RIGHT + ",", 0.0),
        (RIGHT.replace("21+3=24>24", "21+3=25>25"), 0.0),  # ends elsewhere
        (RIGHT.replace("7*3=21>4 7 21", "7*3=22>4 7 22").replace("21+3=24", "22+3=24"), 0.0),  # wrong product
        (RIGHT.replace("7-4=3", "8-4=3"), 0.0),  # a number that is not there
        (RIGHT.replace(">3 21", ">3 20"), 0.0),  # a wrong rest
        ("7*3=21>4 7 21,7-4=3>3 21", 0.0),  # numbers left over
        ("3+21=24>24", 0.0),
        ("", 0.0),
        ("24", 0.0),
    ],
)
def test_reward(text, reward):
    assert search_reward([text], [[3, 4, 7, 7]], [24]) == [reward]


def test_a_number_is_used_once():
    assert last_value("3+3=6>4 6", [3, 4]) is None
    assert last_value("3+4=7>7", [3, 4]) == 7
