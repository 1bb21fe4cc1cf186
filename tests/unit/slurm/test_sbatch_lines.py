"""`#SBATCH` lines as sbatch reads them: the tables hold what `sbatch -vv` of 22.05.8 said of each script."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagster_slurm.errors import InvalidRequestError, UnknownOptionError
from dagster_slurm.slurm.options import MANAGED_OPTIONS, SBATCH_OPTIONS
from dagster_slurm.slurm.request import directive, merge
from dagster_slurm.slurm.sbatch_lines import SHORT_OPTIONS, read_sbatch_lines, script_options

HEAD = "#!/bin/bash\n"


def found(text: str) -> list[tuple[str, str | bool]]:
    return [(each.name, each.value) for each in script_options(text)]


WORDS = [
    ('#SBATCH --job-name="a b" -N 2', [("job-name", "a b"), ("nodes", "2")]),
    ("#SBATCH -t 5 # comment", [("time", "5")]),
    ("##SBATCH --mem=5\n #SBATCH --qos=x\n# SBATCH --qos=x\n#sbatch --qos=x", []),
    ("#SBATCH--account=acc", [("account", "acc")]),
    ("#SBATCH --time\n#SBATCH 7", [("time", "7")]),
    ("#SBATCH -c \\\n#SBATCH 4", [("cpus-per-task", "4")]),
    ("\n   # foo\n#SBATCH\t--mem=3G\ntrue\n#SBATCH -p later", [("mem", "3G")]),
    ('#SBATCH --comment="a # b" -p x#y --qos=z', [("comment", "a # b"), ("partition", "x")]),
    ('#SBATCH --comment="" -p x ""  -q y', [("comment", ""), ("partition", "x")]),
    ("#SBATCH --comment=a\\\"b'c \"d'", [("comment", 'a"bc "d')]),
    ("#SBATCH --part=gpu --partiti gpu2", [("partition", "gpu"), ("partition", "gpu2")]),
    ("#SBATCH --tasks-per-node=3 --tasks=4", [("ntasks-per-node", "3"), ("ntasks-per-node", "4")]),
    ("#SBATCH -HsN2 -koff -kp", [("hold", True), ("oversubscribe", True), ("nodes", "2")]),
    ("#SBATCH -N1-2 -n=3", [("nodes", "1-2"), ("ntasks", "=3")]),
    ("#SBATCH --exclusive --nice --nice=5 --no-kill=off", [("exclusive", True), ("nice", True), ("nice", "5")]),
    ("#SBATCH --qos=a -N 1\r", [("qos", "a"), ("nodes", "1")]),
    ('"""\n#SBATCH -N 4\n"""', []),
    ("\v\f #x\nä\n#SBATCH -N 4", []),
    ("", []),
]


@pytest.mark.parametrize(("lines", "options"), WORDS)
def test_what_sbatch_finds(lines: str, options: list[tuple[str, str | bool]]) -> None:
    assert [each for each in found(f"{HEAD}{lines}") if each[0] != "no-kill"] == options


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("#SBATCHx", "line 2: 'x' is no option of sbatch"),
        ("#SBATCH --exclusive user", "line 2: 'user' is no option"),
        ("#SBATCH --foo=3", "line 2: sbatch has no option --foo"),
        ("#SBATCH -I", "line 2: sbatch has no option -I"),
        ("#SBATCH --cpus_per_task=3", "line 2: sbatch has no option --cpus_per_task"),
        ("#SBATCH --cpus=3", "line 2: --cpus is not clear"),
        ("#SBATCH --contiguous=3", "line 2: --contiguous takes no value"),
        ("#SBATCH --mem", "line 2: --mem has no value"),
        ("\n#SBATCH -c", "line 3: -c has no value"),
        ('#SBATCH -p "a b"c -q x"y', "line 2: a quote is not closed"),
        ("#SBATCH -N 2 -", "line 2: '-' is no option"),
        ("#SBATCH -N 1 :  -N 2", "line 2: a heterogeneous job cannot be had"),
        ("#SBATCH hetjob", "line 2: a heterogeneous job cannot be had"),
    ],
)
def test_what_sbatch_refuses(line: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"^train.sh, {message}"):
        read_sbatch_lines(f"{HEAD}{line}\n", "train.sh")


@pytest.mark.parametrize(
    ("lines", "layer"),
    [
        ("-N 2 --nodes=3-3", {"nodes": "3"}),
        ("--mem=4G --mem-per-cpu=1G", {"mem-per-cpu": "1G"}),
        ("--mem-per-cpu=1G --mem=4G", {"mem": "4G"}),
        ("--signal=B:USR1@60", {"signal-before-timeout": "B:USR1@60"}),
        ("--no-requeue --gres=gpu:2 --hold", {"no-requeue": True, "gres": "gpu:2", "hold": True}),
        ('--comment="" -t 1-0', {"comment": None, "time": "1-0"}),
    ],
)
def test_the_layer(lines: str, layer: Mapping[str, object]) -> None:
    assert dict(read_sbatch_lines(f"{HEAD}#SBATCH {lines}\n", "a.sh").options) == layer


def test_what_is_ours_is_named_with_its_value() -> None:
    ours = "-o x.log -e y.log -J mine --open-mode=truncate --requeue --export=NONE"
    lines = read_sbatch_lines(f"{HEAD}#SBATCH {ours} -N 2 -o z.log\n", "a.sh")
    assert dict(lines.options) == {"nodes": "2"}
    assert lines.note("a.sh") == (
        "Not applied of the #SBATCH lines of a.sh, since dagster-slurm sets it: --output=z.log --error=y.log "
        "--job-name=mine --open-mode=truncate --requeue --export=NONE"
    )
    assert read_sbatch_lines(f"{HEAD}#SBATCH -N 2\n", "a.sh").note("a.sh") == ""


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ("-a 1-5", "run_partitions"),
        ("-D /x", "extra_files"),
        ("--dependency=afterok:3", "deps"),
        ("--export=ALL,N=5", "extra_env"),
        ("-M other", "SlurmResource"),
        ("--wrap=x", "payload_path"),
        ("--test-only", "submits"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_to_use(option: str, instead: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"a.sh, line 2: .* cannot be had") as refused:
        read_sbatch_lines(f"{HEAD}#SBATCH {option}\n", "a.sh")
    assert instead in str(refused.value.hint)


@pytest.mark.parametrize(
    ("option", "message"),
    [("-N 2-4", "line 2: 'nodes' cannot be '2-4'"), ("-t soon", "line 2: 'time' is"), ("--mem=x", "line 2: 'mem' is")],
)
def test_a_value_that_cannot_be_read_is_named_with_its_line(option: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"a.sh, {message}"):
        read_sbatch_lines(f"{HEAD}#SBATCH {option}\n", "a.sh")


def test_the_short_options_are_those_of_sbatch() -> None:
    assert set(SHORT_OPTIONS.values()) <= set(SBATCH_OPTIONS)
    assert len(set(SHORT_OPTIONS.values())) == len(SHORT_OPTIONS) == 35


def test_each_option_is_applied_named_or_refused() -> None:
    for name, option in SBATCH_OPTIONS.items():
        text = f"{HEAD}#SBATCH --{name}{'' if option.takes == 'nothing' else '=1'}\n"
        try:
            lines = read_sbatch_lines(text, "a.sh")
        except InvalidRequestError:
            assert name in {*MANAGED_OPTIONS, "dependency"}
            continue
        assert len(lines.options) + len(lines.not_applied) == 1, name


TEXT = st.text(alphabet=st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"]), min_size=1)
SHELLISH = st.text(alphabet="ab \t\"'\\#;$()`%&|<>*=:-é漢", min_size=1)


@given(TEXT | SHELLISH)
def test_what_is_written_for_sbatch_is_read_back(value: str) -> None:
    (option,) = script_options(f"{HEAD}{directive('comment', value)}\ntrue\n")
    assert (option.name, option.value, str(option)) == ("comment", value, f"--comment={value}")


@given(st.text(alphabet="#SBATCH -=\"'\\\nNtmem 2:G,", max_size=80))
def test_any_script_is_read_or_refused(text: str) -> None:
    try:
        options = list(script_options(f"#SBATCH {text}"))
    except InvalidRequestError:
        return
    assert all(each.name in SBATCH_OPTIONS for each in options)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "partition": st.sampled_from(["gpu", "compute,gpu"]),
            "nodes": st.integers(1, 9),
            "mem": st.sampled_from(["4096M", "0"]),
            "time": st.sampled_from(["1-00:00:00", "00:30:00", "UNLIMITED"]),
            "exclusive": st.sampled_from([True, "user"]),
            "gres": st.sampled_from(["gpu:a100:2"]),
            "signal_before_timeout": st.just(60),
        },
    )
)
def test_a_request_survives_its_script(asked: dict[str, object]) -> None:
    request = merge(asked)
    lines = "\n".join(directive(name, value) for name, value in request.sbatch_options().items())
    assert merge(read_sbatch_lines(f"{HEAD}{lines}\n", "a.sh").options) == request


def test_an_unknown_option_keeps_its_type() -> None:
    with pytest.raises(UnknownOptionError):
        read_sbatch_lines(f"{HEAD}#SBATCH --gpu-power=9000\n", "a.sh")
