"""A sandbox does not take the port of another whose daemon is away: who logs in there would meet another host's key."""

from pathlib import Path

from dagster_slurm_sandbox.config import SandboxPaths
from dagster_slurm_sandbox.startup import free_ports, reserved_ports


def test_the_ports_of_other_sandboxes_are_left_to_them(tmp_path: Path) -> None:
    own, other, broken = (SandboxPaths(tmp_path / name) for name in ("own", "other", "broken"))
    elsewhere = reserved_ports(SandboxPaths(tmp_path / "nowhere" / "none"))
    first, second, node, third = free_ports(4, but=elsewhere)
    for paths, text in (
        (own, f'{{"ssh_port": {third}}}'),
        (other, f'{{"ssh_port": {first}, "strict_ssh_port": {second}}}'),
        (broken, "half of a st"),
    ):
        paths.state_dir.mkdir()
        paths.state_file.write_text(text)
    (broken.ssh / f"login-{node}").mkdir(parents=True)
    assert reserved_ports(own) - elsewhere == {first, second, node}
    assert free_ports(1, but=reserved_ports(own)) == [third]
