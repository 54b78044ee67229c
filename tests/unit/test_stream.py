"""What is written to Netdata, read back word by word as its own parser reads it."""

import random
from dataclasses import replace

import pytest

from supervisor.aggregator.stream import (
    ChartLine,
    DimensionLine,
    Frame,
    clean_id,
    clean_names,
    collection,
    definition,
    skeleton,
    withdrawal,
)

CHART = ChartLine(
    "apps",
    "file_open",
    "Number of open files",
    "calls/s",
    "file_access",
    "apps.file_open",
    "stacked",
    20061,
    5,
    "filedescriptor",
    (DimensionLine("web", "", "incremental"), DimensionLine("a b", "other name", "absolute")),
)
BLANKS, QUOTES, BACKSLASH = b" \t\r\n=", b"'\"", ord("\\")
# What can end a word or a line, what is not text, and what takes several bytes.
PIECES = [
    *"\n\r\t\0\x01\x1b\x7f\"'\\= ;#:.,/!*%",
    *"aZ0_-é漢😀\u200b\u2028\u2029\x85\xa0\u202e\ufeff\u0301\udc80\udcff\ufffd",
    "BEGIN",
    "\nSET x = 1",
    "\nEND",
    "' '",
]


def hostile_texts(count: int, longest: int = 20, seed: int = 20061) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(PIECES, k=chance.randrange(longest))) for _ in range(count)]


def split_words(line: bytes) -> list[str]:
    """As Netdata's quoted_strings_splitter: blanks and "=" separate, a quote runs to the same quote, and a
    backslash protects the next byte and stays."""
    words: list[str] = []
    at = 0
    while at < len(line):
        if line[at] in BLANKS:
            at += 1
            continue
        ends = BLANKS
        if line[at] in QUOTES:
            ends = line[at : at + 1]
            at += 1
        start = at
        while at < len(line) and line[at] not in ends:
            at += 2 if line[at] == BACKSLASH else 1
        words.append(line[start:at].decode())
        at += 1
    return words


def lines_of(text: bytes) -> list[bytes]:
    """The lines, each checked for what no line may hold."""
    assert text.endswith(b"\n")
    lines = text[:-1].split(b"\n")
    for line in lines:
        assert not any(byte < 0x20 or byte == 0x7F for byte in line), line
        assert len(line) < 1024, line
    return lines


def test_a_chart_is_defined_with_its_words_in_netdatas_order() -> None:
    lines = [split_words(line) for line in lines_of(definition(CHART))]
    assert lines == [
        [
            "CHART",
            "apps.file_open",
            "",
            "Number of open files",
            "calls/s",
            "file_access",
            "apps.file_open",
            "stacked",
            "20061",
            "5",
            "",
            "ebpf.plugin",
            "filedescriptor",
        ],
        ["DIMENSION", "web", "", "incremental", "1", "1"],
        ["DIMENSION", "a b", "other name", "absolute", "1", "1"],
    ]


def test_a_collection_is_begin_sets_and_end() -> None:
    text = collection(skeleton([CHART]), [0, 17])
    assert [split_words(line) for line in lines_of(text)] == [
        ["BEGIN", "apps.file_open"],
        ["SET", "web", "0"],
        ["SET", "a b", "17"],
        ["END"],
    ]


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (0, 0),
        ((1 << 63) - 1, (1 << 63) - 1),
        (1 << 63, 0),
        ((1 << 63) + 5, 5),
        ((1 << 64) - 1, (1 << 63) - 1),
        (3 << 64 | 7, 7),
    ],
)
def test_values_are_cut_to_what_the_agent_reads(value: int, sent: int) -> None:
    text = collection(skeleton([CHART]), [value, 1])
    assert split_words(lines_of(text)[1]) == ["SET", "web", str(sent)]


def test_no_text_can_break_out_of_its_word() -> None:
    for text in hostile_texts(3000):
        name = clean_names([text])[0]
        dimensions = (DimensionLine(name, name, "absolute"),)
        chart = replace(CHART, family=text, title=text, units=text, dimensions=dimensions)
        head, dimension = (split_words(line) for line in lines_of(definition(chart)))
        assert [head[0], len(head), len(dimension)] == ["CHART", 13, 6]
        begin, given, end = (split_words(line) for line in lines_of(collection(skeleton([chart]), [3])))
        assert (begin, end) == (["BEGIN", "apps.file_open"], ["END"])
        assert given == ["SET", dimension[1], "3"]


def test_a_clean_id_is_a_part_of_type_id_whatever_it_was() -> None:
    for text in hostile_texts(3000, longest=300):
        identity = clean_id(text)
        assert identity.isascii()
        assert identity.replace("_", "").replace("-", "").isalnum() or set(identity) <= set("_-")
        assert 1 <= len(identity) <= 120


@pytest.mark.parametrize(
    ("text", "identity"), [("vda", "vda"), ("cciss!c0d0", "cciss_c0d0"), ("a.b c", "a_b_c")]
)
def test_a_clean_id_keeps_what_it_can(text: str, identity: str) -> None:
    assert clean_id(text) == identity


def sent_ids(names: list[str]) -> list[str]:
    """The ids that an agent knows a chart's dimensions by."""
    dimensions = tuple(DimensionLine(name, "", "absolute") for name in names)
    text = collection(skeleton([replace(CHART, dimensions=dimensions)]), [0] * len(names))
    return [split_words(line)[1] for line in lines_of(text)[1:-1]]


def test_clean_names_are_all_different_on_the_wire() -> None:
    for seed in range(30):
        names = clean_names(hostile_texts(100, longest=6, seed=seed))
        ids = sent_ids(names)
        assert ids == names
        assert len(set(ids)) == 100


@pytest.mark.parametrize("text", ["x" * 300, "é" * 150, "two words " * 30, "漢 " * 90])
def test_long_names_that_begin_alike_stay_different_on_the_wire(text: str) -> None:
    ids = sent_ids(clean_names([text, text + "1", text + "2"]))
    assert len(set(ids)) == 3


def test_a_name_that_looks_like_anothers_number_is_not_taken_for_it() -> None:
    assert len(set(clean_names(["a", "a_2", "a", "a", "a_2"]))) == 5


def test_names_without_any_harm_stay_as_they_are() -> None:
    assert clean_names(["web server", "café", "other", "a.b/c"]) == ["web server", "café", "other", "a.b/c"]


def test_a_frame_keeps_the_order() -> None:
    frame = Frame()
    frame.define(CHART)
    frame.set(skeleton([CHART]), [1, 2])
    frame.set(skeleton([]), [])
    assert [block.split()[0] for block in frame.blocks] == [b"CHART", b"BEGIN"]


def test_many_charts_are_one_piece_of_text() -> None:
    other = replace(CHART, id="file_closed")
    words = [split_words(line) for line in lines_of(collection(skeleton([CHART, other]), [1, 2, 3, 4]))]
    assert [word[0] for word in words] == ["BEGIN", "SET", "SET", "END"] * 2
    assert [word[2] for word in words if word[0] == "SET"] == ["1", "2", "3", "4"]
    assert [word[1] for word in words if word[0] == "BEGIN"] == ["apps.file_open", "apps.file_closed"]


def test_a_label_follows_the_dimensions_and_what_has_gone_is_obsolete() -> None:
    gone = DimensionLine("db", "", "incremental")
    lines = [
        split_words(line) for line in lines_of(definition(replace(CHART, label=("app_group", "web")), [gone]))
    ]
    assert lines[-3:] == [
        ["DIMENSION", "db", "", "incremental", "1", "1", "obsolete"],
        ["CLABEL", "app_group", "web", "1"],
        ["CLABEL_COMMIT"],
    ]
    assert split_words(lines_of(withdrawal(CHART))[0])[10] == "obsolete"
