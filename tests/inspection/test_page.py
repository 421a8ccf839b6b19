"""The page: self-contained, and no text of a model becomes markup."""

import re
from html.parser import HTMLParser

from pages import HOSTILE, make_inspection

from opefo_trl.inspection.page import levels_of, render_page


class Reader(HTMLParser):
    """Counts tags, and keeps the texts of tokens with their attributes."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.tokens, self.inside = {}, [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        attributes = dict(attrs)
        self.inside = attributes.get("class", "").split()[:1] == ["t"]
        if self.inside:
            self.tokens.append(["", attributes])

    def handle_data(self, data):
        if self.inside:
            self.tokens[-1][0] += data

    def handle_endtag(self, tag):
        self.inside = False


def test_texts_stay_texts():
    page = render_page(make_inspection(), "<b>model</b>")
    reader = Reader(page)
    assert reader.tags["script"] == 1, "the page's own"
    assert [text for text, _ in reader.tokens] == [HOSTILE, " b&b", "⏎\n", "<eos>"]
    assert "Say &lt;/div&gt; &amp; &lt;b&gt;more&lt;/b&gt;" in page and "&lt;b&gt;model&lt;/b&gt;" in page


def test_nothing_comes_from_outside():
    page = render_page(make_inspection(other=True), "model", "base")
    assert not re.search(r"https?://|\bsrc=|<link|@import|url\(", page)
    assert "default-src 'none'" in page


def test_numbers():
    page = render_page(make_inspection(), "model")
    assert ">0.040000<" in page and ">0.030000<" in page
    assert ">-0.1429<" in page and ">-0.1000<" in page, "the λ that balances, and that of the settings"
    assert "(1 + λ) P = 0.036000" in page and "(1 − λ) N = 0.033000" in page
    assert "reward 1," in page and "reward none," in page and "A = +0.500" in page
    tokens = Reader(page).tokens
    assert tokens[0][1]["data-values"] == "1.0 0.5 0.04" and tokens[0][1]["data-change"] == "10"
    assert tokens[2][1]["data-change"] == "-7" and tokens[2][1]["data-entropy"] == "10"
    assert [attributes["class"] for _, attributes in tokens] == ["t", "t", "t", "t untrained"]


def test_largest_changes_are_listed_with_what_stands_before():
    page = render_page(make_inspection(), "model")
    raising, lowering = page.split("<h2>")[1:3]
    assert raising.count("<tr>") == 1 and "+4.00e-02" in raising
    assert lowering.index("-2.00e-02") < lowering.index("-1.00e-02") and "&lt;/script&gt;</span>" in lowering


def test_a_second_model_has_views_of_its_own():
    page = render_page(make_inspection(other=True), "model", "base")
    assert 'value="other_entropy"' in page and "probability, base" in page
    assert Reader(page).tokens[2][1]["data-values"] == "2.0 0.1 -0.02 1.0 0.05"
    assert Reader(page).tokens[2][1]["data-other-entropy"] == "5"
    assert "other_entropy" not in render_page(make_inspection(), "model").split("<script>")[0]


def test_shades_of_a_batch_without_flow():
    token = make_inspection().groups[0][1][1].tokens[1]
    assert levels_of(token, {"entropy": 0.0, "surprise": 1.0, "change": 0.0}) == {
        "entropy": 0,
        "surprise": 0,
        "change": 0,
    }
