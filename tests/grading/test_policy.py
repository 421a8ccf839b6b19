"""What users differ on, and the sentences for what they cannot set."""

import pytest

from opefo_trl.grading.policy import Policy


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"tolerance": 1.0}, "`tolerance` is 1.0, but must be at least 0 and below 1, such as 0.01."),
        ({"tolerance": -0.1}, "`tolerance` is -0.1, but must be"),
        ({"units": "maybe"}, "`units` is 'maybe': set it to 'optional' or 'required'."),
        ({"several_golds": "one"}, "`several_golds` is 'one': set it to 'all' or 'any'."),
    ],
)
def test_settings_that_do_not_exist(setting, sentence):
    with pytest.raises(ValueError, match=sentence):
        Policy(**setting)
