"""The status file: whole lines are read, a cut one waits, a strange one is passed over."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.cluster.description import EndMark, Mark, NodeEnd, StartMark, parse_marks
from dagster_slurm.slurm.efficiency import Figures

SIZES = {"stdout": 10, "stderr": 20, "messages": 30}
START = StartMark("12", 0, 1700000000.25, "n1")
END = EndMark("12", 0, 7, 1700000001.5, SIZES)
NODES = (NodeEnd("n1", "stopped", 4096, 1.5, 0), NodeEnd("n2", "lost"))
TOLD = Figures(submitted_at=1.5, told="TERM", killed=2)
ALL = replace(END, nodes=NODES, figures=Figures(cpu_seconds=2.5, memory_bytes=7))
START_LINE = "start 12 0 1700000000.25 n1\n"
END_LINE = "end 12 0 7 1700000001.5 10 20 30\n"


@pytest.mark.parametrize(
    ("text", "marks", "rest"),
    [
        ("", (), ""),
        ("\n\n", (), ""),
        (START_LINE, (START,), ""),
        (END_LINE, (END,), ""),
        (START_LINE + END_LINE, (START, END), ""),
        (START_LINE + END_LINE[:-1], (START,), END_LINE[:-1]),
        ("end 12 0 7 1700000001.5 10 20 3", (), "end 12 0 7 1700000001.5 10 20 3"),
        ("start 12 0 1.5 n1 n[1-3]\n", (StartMark("12", 0, 1.5, "n1", "n[1-3]"),), ""),
        ("start 12 0 1.5 n1 n1 more words of a newer release\n", (StartMark("12", 0, 1.5, "n1", "n1"),), ""),
        ("end 12 1 0 2 1 2 3 more words\n", (EndMark("12", 1, 0, 2.0, dict(zip(SIZES, (1, 2, 3), strict=True))),), ""),
        (END_LINE[:-1] + " submitted=1.5 told=TERM killed=2\n", (replace(END, figures=TOLD),), ""),
        (END_LINE[:-1] + " n1:stopped:4096:1500000:0 n2:lost:-:-:- cpu=2500000 memory=7\n", (ALL,), ""),
        (END_LINE[:-1] + " killed=x cpu=-1 started= cpus=2(y) newer=5 nodes=1=2 memory= =\n", (END,), ""),
        (END_LINE[:-1] + " n1:stopped:4096:1500000:0 n2:lost:-:-:- n3:new:9:x:1\n", (replace(END, nodes=NODES),), ""),
        ("heartbeat 12 0 5\n" + START_LINE, (START,), ""),
        ("start 12\n", (), ""),
        ("start 12 x 1.5 n1\n", (), ""),
        ("end 12 0 7 1.5 10 20\n", (), ""),
        ("end 12 0 7 1.5 10 20 x\n", (), ""),
        ("end 12 0  1.5 10 20 30\n", (), ""),
        ("END 12 0 7 1.5 10 20 30\n", (), ""),
    ],
)
def test_table(text: str, marks: tuple[Mark, ...], rest: str) -> None:
    assert parse_marks(text) == (marks, rest)


@pytest.mark.parametrize(
    ("cpus", "count"), [("8", 8), ("72(x2),36", 180), ("1,2(x3),1", 8), ("", None), ("4(x", None), ("4,", None)]
)
def test_the_cpus_of_all_nodes(cpus: str, count: int | None) -> None:
    (mark,), _ = parse_marks(f"{END_LINE[:-1]} cpus={cpus}\n")
    assert isinstance(mark, EndMark)
    assert mark.figures.cpus == count


GOOD = replace(END, exit_code=0, figures=Figures(nodes=1, killed=0))
STOPPED, LOST = NodeEnd("n1", "stopped"), NodeEnd("n2", "lost")


@pytest.mark.parametrize(
    ("mark", "is_proof"),
    [
        (GOOD, True),
        (replace(GOOD, nodes=(STOPPED,)), True),
        (replace(GOOD, nodes=(STOPPED, STOPPED), figures=Figures(nodes=2, killed=0)), True),
        (replace(GOOD, nodes=(STOPPED, LOST), figures=Figures(nodes=2, killed=0)), False),
        (replace(GOOD, figures=Figures(nodes=2, killed=0)), False),
        (replace(GOOD, figures=Figures(killed=0)), False),
        (replace(GOOD, figures=Figures(nodes=1, killed=1)), False),
        (replace(GOOD, figures=Figures(nodes=1)), False),
        (replace(GOOD, figures=Figures(nodes=1, killed=0, told="TERM")), False),
        (replace(GOOD, exit_code=1), False),
        (replace(GOOD, restart=1), False),
        # Of an older release.
        (replace(GOOD, figures=Figures()), False),
    ],
)
def test_which_line_is_a_proof(mark: EndMark, is_proof: bool) -> None:
    assert mark.is_proof is is_proof


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (NodeEnd("n1", "stopped", 1, 1.0, 0), ""),
        (NodeEnd("n1", "lost"), "node n1 was lost"),
        (NodeEnd("n1", "died"), "node n1 ended its part before the payload did"),
        (NodeEnd("n1", "stopped", killed=1), "node n1 had 1 process killed for want of memory"),
        (
            NodeEnd("n1", "died", killed=2),
            "node n1 ended its part before the payload did and had 2 processes killed for want of memory",
        ),
    ],
)
def test_the_trouble_of_a_node(node: NodeEnd, said: str) -> None:
    assert node.trouble == said


@given(st.lists(st.sampled_from([START_LINE, END_LINE, "note 1\n", "\n"]), max_size=6), st.data())
def test_a_text_cut_anywhere_gives_the_same_marks(lines: list[str], data: st.DataObject) -> None:
    text = "".join(lines)
    whole, _ = parse_marks(text)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    seen: list[Mark] = []
    rest = ""
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        marks, rest = parse_marks(rest + text[start:end])
        seen += marks
    assert (tuple(seen), rest) == (whole, "")


words = st.sampled_from(["start", "end", "12", "0", "-1", "x", "", "nan", "1e999", "٣", "9" * 5000, "n1", " "])


@given(st.text() | st.lists(words).map(" ".join).map("{}\n".format))
def test_no_text_raises(text: str) -> None:
    marks, rest = parse_marks(text)
    assert "\n" not in rest
    assert len(marks) <= text.count("\n")
