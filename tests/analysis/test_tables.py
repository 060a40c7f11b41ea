"""Tables as Markdown and LaTeX."""

from analysis.tables import Table


def test_names_in_tables_stay_names():
    table = Table(title="<b>", headings=["a"], cells=[["x|y_z <i> $&"]], note="a*b [c](d)")
    assert "<b>" not in table.markdown() and "&lt;b&gt;" in table.markdown()
    assert "x\\|y\\_z &lt;i&gt; $&amp;" in table.markdown() and "a\\*b \\[c\\](d)" in table.markdown()
    assert "x|y\\_z" in table.latex() and "\\$\\&" in table.latex() and "a*b [c](d)" in table.latex()
