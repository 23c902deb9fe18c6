"""The table of a chart's values, made of the comments in values.yaml."""

from __future__ import annotations

from tools.chart_values import table, undocumented, values

SOURCE = """\
# About the file; belongs to no value.

# Name of it.
name: ""
group:
  # How many,
  # at most.
  count: 2
  image: {repository: none}
# All of it.
resources:
  requests: {cpu: 1}
"""


def test_each_commented_key_is_a_value() -> None:
    """A value is a key with a comment; several lines make one text, and groups give their name to the path."""
    found = [(each.path, each.default, each.text) for each in values(SOURCE)]
    assert found == [
        ("name", "", "Name of it."),
        ("group.count", 2, "How many, at most."),
        ("resources", {"requests": {"cpu": 1}}, "All of it."),
    ]


def test_what_bears_no_comment_is_named() -> None:
    """A value that the table would leave out is found."""
    assert undocumented(SOURCE) == ["group.image.repository"]


def test_the_table_has_a_row_for_each_value() -> None:
    """Path, default as JSON, and text; a bar in the text does not end the cell."""
    assert table("# One | two.\nkey: [a]\n").splitlines() == [
        "| value | default | what it does |",
        "|---|---|---|",
        '| `key` | `["a"]` | One \\| two. |',
    ]
