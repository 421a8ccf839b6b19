import re

import pytest

from benchmarks.reliability.mistakes import MISTAKES, Mistake, run


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_answered(mistake: Mistake, tmp_path):
    said, _, code = run(mistake, tmp_path)
    assert re.search(mistake.says, said)
    assert code == mistake.code
