"""Which code trained what a report is of."""

from records import commit, row

from analysis.origins import code_note
from analysis.report import read_report, write_report

NOW = {"commit": "a" * 40, "dirty": False}


def by(commit_, dirty=False):
    return {"labels": {"git": {"commit": commit_ * 40, "dirty": dirty}}}


def test_other_code_is_counted_and_named():
    records = [by("a"), by("a", dirty=True), *[by("b")] * 3, by("c"), by("d"), {"labels": {}}, {"labels": {"git": 7}}]
    said = code_note(records, NOW)
    assert said.startswith(f"6 of 9 records are by other code than this ({'a' * 12}): {'b' * 12} (3), ")
    assert f"{'a' * 12} with changes (1)" in said and said.endswith(" and 1 more")


def test_of_the_same_code_or_of_none_that_is_known_nothing_is_said():
    assert code_note([by("a"), {"labels": {"git": {}}}], NOW) == ""
    assert code_note([by("b")], {}) == ""


def test_the_report_says_it_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr("analysis.report.answer.code_now", lambda: NOW)
    commit(tmp_path, [row()], labels=by("b")["labels"])
    told = f"1 of 1 records are by other code than this ({'a' * 12}): {'b' * 12} (1)"
    assert write_report([tmp_path], tmp_path / "out").code_note == told
    assert told in (tmp_path / "out" / "report.html").read_text()
    monkeypatch.setattr("analysis.report.answer.code_now", lambda: {"commit": "b" * 40, "dirty": False})
    assert read_report([tmp_path]).code_note == ""
