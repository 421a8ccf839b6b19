"""Inspections written by hand, for the tests of the page."""

from opefo_trl.inspection.measuring import Completion, Inspection, Token


HOSTILE = "<script>document.title = 'taken'</script>"


def make_inspection(other=False):
    """Two completions: the first holds markup, the second a line end and an untrained token."""

    def token(text, probability, entropy, change, is_trained=True):
        values = (probability / 2, entropy / 2) if other else (None, None)
        return Token(text, probability, entropy, change, is_trained, *values)

    first = Completion(1.0, 0.5, [token(HOSTILE, 0.5, 1.0, 0.04), token(" b&b", 0.9, 0.2, -0.01)])
    second = Completion(None, -0.5, [token("\n", 0.1, 2.0, -0.02), token("<eos>", 1.0, 0.0, 0.0, is_trained=False)])
    return Inspection([("Say </div> & <b>more</b>", [first, second])], 0.04, 0.03, -0.1, 0.8, 0.7)
