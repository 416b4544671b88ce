import pytest

from calrec.config import checks
from calrec.system.printing import markdown, redact, safe


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://me:secret@host/x?sig=a,b&e=1#sha256=ff", "https://…@host/x?sig=…&e=…#sha256=ff"),
        ("https://token@host/x", "https://…@host/x"),
        ("https://host/x?secret", "https://host/x?…"),
        ("postgresql+psycopg2://me:se/cr@et@host:5432/db?a=b", "postgresql+psycopg2://…@host:5432/db?a=…"),
        ("https://a/x?k=secret,https://me:secret@b/y?t=secret", "https://a/x?k=…,https://…@b/y?t=…"),
        ("cannot reach 'http://me:secret@host/': refused", "cannot reach 'http://…@host/': refused"),
        # No secrets: a port, an @ in a name, wildcards, files.
        ("https://host:80/a@b", "https://host:80/a@b"),
        ("gs://bucket/day-?.csv", "gs://bucket/day-?.csv"),
        ("sqlite:////home/me@x/db", "sqlite:////home/me@x/db"),
        ("/data/a?b=c", "/data/a?b=c"),
    ],
)
def test_secrets_of_addresses_are_not_shown(text, said):
    assert redact(text) == said


def test_what_is_printed_moves_no_cursor_and_keeps_letters():
    assert safe("a\x1b[31m\r\nb\x9b\u202e\udce9\u2028") == "a\\x1b[31m\\r\\nb\\x9b\\u202e\\udce9\\u2028"
    assert safe("Käse می\u200cخواهم 👩\u200d👩 \u3000") == "Käse می\u200cخواهم 👩\u200d👩 \u3000"


def test_markdown_is_read_as_it_stands():
    assert markdown("<img src=x>\n| [a](b) `c` *d*") == "&lt;img src=x&gt; \\| \\[a\\](b) \\`c\\` \\*d\\*"


@pytest.mark.parametrize("name", ["men's", "Bücher & more", "сад", "a.b", "_all", "می\u200cخواهم", "x" * 100])
def test_names_of_people_are_names(name):
    assert checks.name("category", name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../x",
        "a/b",
        "a\\b",
        ".hidden",
        "-x",
        " a",
        "a ",
        "a\nb",
        "a\x1b",
        "a:b",
        "a,b",
        "a=b",
        "x" * 101,
        "あ" * 70,
        "\u202eb",
    ],
)
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(ValueError, match="cannot be a name"):
        checks.name("category", name)
