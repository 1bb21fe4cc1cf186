"""The clocks, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.doctor.login import judge_clock, skew_seconds


class TestClock:
    @pytest.mark.parametrize(
        ("before", "there", "after", "skew"),
        [
            (100.0, 100.05, 100.1, 0.0),
            (100.0, 100.0, 100.0, 0.0),
            (100.0, 220.0, 101.0, 119.0),
            (100.0, 40.0, 101.0, -60.0),
            # A slow link is no skew: the clock was read somewhere in between.
            (100.0, 109.0, 110.0, 0.0),
        ],
    )
    def test_the_skew_is_what_the_round_trip_does_not_explain(
        self, before: float, there: float, after: float, skew: float
    ) -> None:
        assert skew_seconds(before, there, after) == skew

    @pytest.mark.parametrize(
        ("there", "status", "said"),
        [
            (104.9, "ok", "agree within 4.900 s"),
            (95.1, "ok", "agree within 4.900 s"),
            (105.0, "warning", "5 s behind the login node's"),
            (95.0, "warning", "5 s ahead of the login node's"),
            (159.9, "warning", "60 s behind"),
            (160.0, "wrong", "60 s behind"),
            (3700.0, "wrong", "3,600 s behind"),
            (40.0, "wrong", "60 s ahead of"),
        ],
    )
    def test_where_it_is_noticed_and_where_it_is_wrong(self, there: float, status: str, said: str) -> None:
        finding = judge_clock(100.0, there, 100.0)
        assert finding.status == status
        assert said in f"{finding.found}{finding.problem}"

    @given(st.floats(0, 1e9), st.floats(0, 100), st.floats(-1e6, 1e6))
    def test_the_sign_is_that_of_the_clock_there(self, before: float, rtt: float, off: float) -> None:
        skew = skew_seconds(before, before + rtt / 2 + off, before + rtt)
        assert skew == 0 or (skew > 0) == (off > 0)
        assert abs(skew) <= abs(off) + 1e-3
