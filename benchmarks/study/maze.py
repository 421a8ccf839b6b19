"""Mazes walked step by step, taught with wrong turns.

A prompt is `13>65#22 34 45=`: start, goal and walls, each a cell of two digits, row and column. The answer is a walk:
`r14d24…` names each move (up, down, left, right) and the cell that it leads to. It is right if each of its moves is
and the last one leads to the goal. Every second maze is open: a shortest walk never turns away from the goal. In the
other one a barrier stands in the way, and a walk that only approaches the goal is stuck in front of it.
"""

import random
import re
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple


SIZE = 7
BARRIER = 5  # cells
OPEN_WALLS = 6
MORE_WALLS = 2  # beside the barrier
DETOUR = 4  # moves that a barrier costs at least
SHORTEST = 4  # moves from start to goal at least
MAX_MOVES = 24
NOISE = 0.5  # share of the moves of an example that are drawn from all that are possible
SYMBOLS = "0123456>#= udlr"
MOVES = {"u": (-1, 0), "d": (1, 0), "l": (0, -1), "r": (0, 1)}
STEP = re.compile(r"([udlr])([0-6])([0-6])", re.ASCII)
KINDS = ("open", "barrier")

Cell = tuple[int, int]


class Maze(NamedTuple):
    """Where to go from, where to, and where not."""

    start: Cell
    goal: Cell
    walls: frozenset[Cell]

    @property
    def prompt(self) -> str:
        walls = " ".join(f"{row}{column}" for row, column in sorted(self.walls))
        return f"{self.start[0]}{self.start[1]}>{self.goal[0]}{self.goal[1]}#{walls}="


def neighbours(cell: Cell, walls: frozenset[Cell]) -> dict[str, Cell]:
    """Cells that one move leads to, by the move."""
    cells = {move: (cell[0] + row, cell[1] + column) for move, (row, column) in MOVES.items()}
    return {
        move: (row, column)
        for move, (row, column) in cells.items()
        if 0 <= row < SIZE and 0 <= column < SIZE and (row, column) not in walls
    }


def distances(maze: Maze) -> dict[Cell, int]:
    """Moves from each cell to the goal, of the cells from which it can be reached."""
    found, waiting = {maze.goal: 0}, deque([maze.goal])
    while waiting:
        cell = waiting.popleft()
        for following in neighbours(cell, maze.walls).values():
            if following not in found:
                found[following] = found[cell] + 1
                waiting.append(following)
    return found


def draw_maze(rng: random.Random, kind: str) -> Maze | None:
    """One try: `None` if the maze is not of its kind."""
    cells = [(row, column) for row in range(SIZE) for column in range(SIZE)]
    if kind == "open":
        start, goal, *walls = rng.sample(cells, 2 + OPEN_WALLS)
    else:
        line, first = rng.randrange(2, SIZE - 2), rng.randrange(SIZE - BARRIER + 1)
        middle = first + rng.randrange(1, BARRIER - 1)
        start, goal = (middle, line - rng.randint(1, 2)), (middle + rng.randint(-1, 1), line + rng.randint(1, 2))
        walls = [(first + place, line) for place in range(BARRIER)]
        walls += rng.sample([cell for cell in cells if cell not in (start, goal, *walls)], MORE_WALLS)
        if rng.random() < 0.5:
            start, goal = goal, start
        if rng.random() < 0.5:
            start, goal, walls = start[::-1], goal[::-1], [wall[::-1] for wall in walls]
    maze = Maze(start, goal, frozenset(walls))
    distance = distances(maze).get(start)
    if distance is None or not SHORTEST <= distance <= MAX_MOVES:
        return None
    detour = distance - abs(start[0] - goal[0]) - abs(start[1] - goal[1])
    return maze if (detour == 0 if kind == "open" else detour >= DETOUR) else None


def generate_mazes(seed: int) -> Iterator[Maze]:
    """Mazes without end, the two kinds in turn."""
    rng = random.Random(seed)
    while True:
        for kind in KINDS:
            maze = None
            while maze is None:
                maze = draw_maze(rng, kind)
            yield maze


def draw_walk(rng: random.Random, maze: Maze) -> str:
    """A walk to the goal in at most [`MAX_MOVES`]: each move a shortest one, or with [`NOISE`] any one."""
    left = distances(maze)
    while True:
        cell = maze.start
        moves: list[str] = []
        while cell != maze.goal and len(moves) < MAX_MOVES:
            possible = neighbours(cell, maze.walls)
            if rng.random() >= NOISE:
                possible = {move: to for move, to in possible.items() if left[to] < left[cell]}
            move = rng.choice(list(possible))
            cell = possible[move]
            moves.append(f"{move}{cell[0]}{cell[1]}")
        if cell == maze.goal:
            return "".join(moves)


def is_walk(text: str, maze: Maze) -> bool:
    """Whether a text is a walk from the start to the goal."""
    cell, place = maze.start, 0
    while place < len(text):
        found = STEP.match(text, place)
        if found is None or neighbours(cell, maze.walls).get(found[1]) != (int(found[2]), int(found[3])):
            return False
        cell, place = (int(found[2]), int(found[3])), found.end()
    return cell == maze.goal


def read_maze(prompt: str) -> Maze:
    start, goal, *walls = ((int(a), int(b)) for a, b in re.findall(r"(\d)(\d)", prompt))
    return Maze(start, goal, frozenset(walls))


def maze_reward(completions: list[str], maze: list[str], **kwargs) -> list[float]:
    """Reward function for [`~trl.GRPOTrainer`]: 1.0 for a walk from the start to the goal, else 0.0."""
    return [float(is_walk(text, read_maze(prompt))) for text, prompt in zip(completions, maze, strict=True)]
