"""Room, quotas and modes, as tables."""

from __future__ import annotations

import pytest

from dagster_slurm.doctor.storage import judge_space, judge_writing, parse_quotas, parse_room


class TestStorage:
    @pytest.mark.parametrize(
        ("blocks", "inodes", "expected"),
        [
            (
                "/dev/vda ext4 264212084 28067004 78323908 27% /home",
                "/dev/vda 16777216 100 16777116 1% /home",
                ("ext4", "/home", 264212084 * 1024, 78323908 * 1024, 16777216, 16777116),
            ),
            (
                "nas:/export/a b nfs4 1000 0 1000 0% /mnt/with space",
                "nas:/export/a b 0 0 0 - /mnt/with space",
                ("nfs4", "/mnt/with space", 1024000, 1024000, None, None),
            ),
            # A file system overdrawn by root.
            ("/dev/sda1 ext4 1000 1010 -10 101% /", "", ("ext4", "/", 1024000, 0, None, None)),
        ],
    )
    def test_df(self, blocks: str, inodes: str, expected: tuple[object, ...]) -> None:
        room = parse_room(blocks, inodes)
        assert room is not None
        assert tuple(vars(room).values()) == expected

    def test_what_is_no_line_of_df(self) -> None:
        assert parse_room("Filesystem Type 1024-blocks Used Available Capacity Mounted on", "") is None
        assert judge_space("/base", {}).status == "warning"

    @pytest.mark.parametrize(
        ("free_kib", "free_inodes", "quota", "status", "said"),
        [
            (2 << 20, 500, [], "ok", "2 GiB of 4 GiB free"),
            ((1 << 20) - 1, 500, [], "warning", "Only 1024 MiB are left for /base"),
            (1023, 500, [], "wrong", "No space is left for /base"),
            (0, 0, [], "wrong", "No space is left for /base"),
            (2 << 20, 9, [], "warning", "Only 9 files can be made"),
            (2 << 20, 10, [], "ok", "10 files"),
            (2 << 20, 500, ["/home 50 100 200 7 0 0"], "ok", "50 of 200 KiB on /home"),
            (2 << 20, 500, ["/home 150* 100 200 6days 7 0 0"], "warning", "grace period runs: 150 of 200 KiB"),
            (2 << 20, 500, ["/home 200* 100 200 none 7 0 0"], "wrong", "The quota is used up: 200 of 200 KiB"),
            (2 << 20, 500, ["/home 2 100 200 10 10 10"], "wrong", "10 of 10 files on /home"),
        ],
    )
    def test_room(self, free_kib: int, free_inodes: int, quota: list[str], status: str, said: str) -> None:
        facts = {
            "blocks": [f"/dev/sda nfs4 {4 << 20} 1 {free_kib} 1% /base"],
            "inodes": [f"/dev/sda 1000 1 {free_inodes} 1% /base"],
            "quota": quota,
        }
        finding = judge_space("/base", facts)
        assert finding.status == status
        assert said in f"{finding.found} {finding.problem}"

    def test_tables_of_quotas(self) -> None:
        # The examples of quota(1) and of Lustre's manual; neither program is on the sandbox.
        table = [
            "Disk quotas for user me (uid 1000):",
            "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace",
            "/dev/sda1     105*     100     200   6days      12       0       0",
            "nas.example.org:/a/very/long/name",
            "                 5       0       0              7     500    1000",
        ]
        found = {(quota.file_system, quota.what): (quota.used, quota.soft, quota.hard) for quota in parse_quotas(table)}
        assert found == {
            ("/dev/sda1", "KiB"): (105, 100, 200),
            ("nas.example.org:/a/very/long/name", "files"): (7, 500, 1000),
        }

    @pytest.mark.parametrize(
        ("mode", "file", "base", "status"),
        [
            ("700", "600", "755 me", "ok"),
            ("700", "600", "1777 root", "ok"),
            ("700", "600", "777 me", "warning"),
            # Who may write there can put another `runs` in the place of ours.
            ("700", "600", "2775 project", "warning"),
            ("777", "777", "777 me", "warning"),
            ("700", "644", "755 me", "warning"),
        ],
    )
    def test_modes(self, mode: str, file: str, base: str, status: str) -> None:
        assert judge_writing("/base", {"mode": [mode], "file": [file], "base": [base]}).status == status
