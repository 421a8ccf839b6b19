"""The paper is cited alike in the README, in CITATION.cff and on model cards."""

from pathlib import Path

import yaml

from opefo_trl import OPEFOTrainer, __version__
from opefo_trl.citation import PAPER


ROOT = Path(__file__).parents[1]


def test_readme_has_the_model_cards_bibtex():
    assert OPEFOTrainer._paper is PAPER
    assert f"```bibtex\n{PAPER['citation']}\n```" in (ROOT / "README.md").read_text()


def test_citation_file_agrees():
    file = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    paper = file["preferred-citation"]
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert f"{{{' and '.join(names)}}}" in PAPER["citation"]
    assert paper["title"] == PAPER["title"] and f"{paper['start']}--{paper['end']}" in PAPER["citation"]
    assert {"type": "other", "value": f"arXiv:{PAPER['id']}"} in paper["identifiers"]
    assert file["version"] == __version__
