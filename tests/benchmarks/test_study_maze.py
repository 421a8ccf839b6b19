"""The mazes of the study: solvable, of their kind, and graded by what a walk does."""

import random
from itertools import islice

import pytest

from benchmarks.study.maze import (
    DETOUR,
    KINDS,
    MAX_MOVES,
    SHORTEST,
    SIZE,
    SYMBOLS,
    Maze,
    distances,
    draw_walk,
    generate_mazes,
    is_walk,
    maze_reward,
    read_maze,
)


MAZE = Maze((0, 0), (0, 2), frozenset({(0, 1)}))


def test_distances_by_hand():
    assert distances(MAZE)[0, 0] == 4 and distances(MAZE)[0, 2] == 0 and (0, 1) not in distances(MAZE)
    assert len(distances(MAZE)) == SIZE * SIZE - 1


@pytest.mark.parametrize(
    ("walk", "is_right"),
    [
        ("d10r11r12u02", True),
        ("d10u00d10r11r12u02", True),  # there and back
        ("r01r02", False),  # through a wall
        ("u00", False),  # out of the maze
        ("d10r11r12", False),  # not at the goal
        ("d10r12u02", False),  # a cell that the move does not lead to
        ("d10r11r12u02 ", False),
        ("d10r11r12u02d12", False),  # past the goal
        ("", False),
    ],
)
def test_walks_by_hand(walk, is_right):
    assert is_walk(walk, MAZE) == is_right
    assert maze_reward([walk], [MAZE.prompt]) == [float(is_right)]


def test_a_prompt_is_read_back():
    assert MAZE.prompt == "00>02#01=" and read_maze(MAZE.prompt) == MAZE


def test_mazes_are_of_their_kinds_in_turn_and_seeded():
    mazes = list(islice(generate_mazes(0), 60))
    assert mazes == list(islice(generate_mazes(0), 60)) != list(islice(generate_mazes(1), 60))
    for maze, kind in zip(mazes, KINDS * 30, strict=True):
        distance = distances(maze)[maze.start]
        detour = distance - abs(maze.start[0] - maze.goal[0]) - abs(maze.start[1] - maze.goal[1])
        assert SHORTEST <= distance <= MAX_MOVES
        assert detour == 0 if kind == "open" else detour >= DETOUR


def test_examples_are_right_walks_of_known_symbols_with_wrong_turns():
    rng = random.Random(0)
    mazes = list(islice(generate_mazes(0), 100))
    walks = [draw_walk(rng, maze) for maze in mazes]
    assert sum(maze_reward(walks, [maze.prompt for maze in mazes])) == len(mazes)
    assert max(map(len, walks)) <= 3 * MAX_MOVES
    assert set("".join(walks) + "".join(maze.prompt for maze in mazes)) <= set(SYMBOLS)
    longer = [len(walk) // 3 > distances(maze)[maze.start] for walk, maze in zip(walks, mazes, strict=True)]
    assert sum(longer) > 50
