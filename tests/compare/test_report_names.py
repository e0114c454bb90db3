"""Names from the data and from the user are text in a report, and the study can be run again."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import equipoise
from equipoise.compare.report import write_report
from equipoise.compare.verdict import judge
from support.made_result import DEFAULT, SMALL, called, make, renamed
from support.report_pages import Page

pytestmark = pytest.mark.slow  # whole comparisons

NASTY = '<script>alert("x")</script> & $a_b$'


@pytest.fixture(scope="module")
def result():
    """Four candidates, one for each call."""
    calls = [("undecided", "undecided"), ("better", "undecided"), ("equal", "equal"), ("worse", "worse")]
    return called(make(DEFAULT[:4], **SMALL), calls)


@pytest.fixture(scope="module")
def page(result, written):
    return written(result)


@pytest.fixture(scope="module")
def nasty(written):
    names = tuple(f"{NASTY} {k}" for k in range(5))
    return written(make(DEFAULT[:1], names=names, name="fruit & <b>nuts</b>.csv", **SMALL))


def test_names_from_the_data_are_text(nasty):
    assert NASTY not in nasty
    assert "<b>nuts</b>" not in nasty
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; &amp; $a_b$ 3" in nasty
    assert "fruit &amp; &lt;b&gt;nuts&lt;/b&gt;.csv" in nasty
    assert NASTY in Page(nasty).text


def test_the_page_tells_who_has_written_it(page):
    assert f'<meta name="generator" content="equipoise {equipoise.__version__}">' in page[:1000]


@pytest.mark.slow
def test_the_study_of_the_folder_can_be_run_again(result, tmp_path):
    def text(out):
        planned = replace(result, plan=replace(result.plan, out=out))
        write_report(planned, judge(planned), tmp_path / "report.html")
        return Page((tmp_path / "report.html").read_text()).text

    assert "equipoise compare 'my folder/study.toml'" in text(Path("my folder"))
    assert "study.toml" not in text(None)


def test_the_name_of_a_candidate_is_text(result, written):
    page = written(renamed(result, NASTY + " \x1b[31mred\x1b[0m \x00 \u202e \ud800 [red] `tick`"))
    assert NASTY not in page
    assert NASTY + r" \x1b[31mred\x1b[0m \x00 \u202e \ud800 [red] `tick`" in Page(page).text
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", page)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["is", "cross entropy", "accuracy", "95 %"])
def test_a_name_that_is_a_word_of_the_sentences_is_no_code_in_them(result, written, name):
    page = written(renamed(result, name))
    assert f'<code class="name">{name}</code>' in page
    sentences = re.findall(r"<(?:h1|p)\b.*?</(?:h1|p)>", page, re.DOTALL)
    assert "<code>GeneralizedCrossEntropy(<wbr>q=0.7)</code>" in sentences[0]
    assert f"<code>{name}</code>" not in "".join(each for each in sentences if "Test rows of" not in each)


def test_a_full_stop_in_a_name_does_not_end_the_headline(result, written):
    best = result.outcomes[2]
    named = replace(best, candidate=replace(best.candidate, name="Mine, v1. Second"))
    page = written(replace(result, outcomes=(*result.outcomes[:2], named, *result.outcomes[3:])))
    [headline] = re.findall("<h1>(.*?)</h1>", page)
    assert headline.startswith("Use Mine, v1. Second: against plain cross entropy")
    assert headline.endswith("together.")


def network(features, classes):
    raise AssertionError("the report never calls the model")


@pytest.mark.slow
def test_a_model_of_ones_own_is_named_and_has_no_width(written):
    text = Page(written(make(DEFAULT[:1], model=network, **SMALL))).text
    assert "Trainingnetwork; at most 5 epochs" in text
    assert "hidden layer" not in text
    assert "1CrossEntropy()0.020.0001 \u2013" in text
