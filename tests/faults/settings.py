"""Forty wrong settings, and what is to be read of each. One place, for tests and documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Wrong:
    """One wrong setting. In texts, `{work}` is a directory with files, `{port}` one that nobody listens on.

    Args:
        text: What is wrong.
        first: What the first line matches, from its beginning.
        hint: What the second line matches.
        payload: What is run.
        call: Arguments of `compute.run`.
        compute: Fields of `ComputeResource`.
        slurm: Fields of `SlurmResource`.
        ssh: Fields of `SSHConnectionResource`.
        queue: Fields of `SlurmQueueConfig`.
        metadata: The asset's.
        logins: How often a login is tried.
        is_retried: Whether a RetryPolicy tries it again.
        waits_for: What is waited for, where that takes long.
        is_quick: Whether it is one of the ten of `make test`.
    """

    text: str
    first: str
    hint: str
    payload: str = "{work}/work.sh"
    call: Mapping[str, Any] = field(default_factory=dict)
    compute: Mapping[str, Any] = field(default_factory=dict)
    slurm: Mapping[str, Any] = field(default_factory=dict)
    ssh: Mapping[str, Any] = field(default_factory=dict)
    queue: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    logins: int = 0
    is_retried: bool = False
    waits_for: str = ""
    is_quick: bool = False


def option(name: str, value: Any) -> dict[str, Any]:
    """A call with one option of sbatch."""
    return {"extra_slurm_opts": {name: value}}


SETTINGS: Mapping[str, Wrong] = {
    "option": Wrong(
        "a typo in an option of sbatch",
        "sbatch has no option 'partitoin'$",
        "Nearest known: partition",
        call=option("partitoin", "debug"),
        is_quick=True,
    ),
    "argument": Wrong(
        "a typo in an argument of `compute.run`",
        r"ComputeResource\.run\(\) has no argument 'extra_envs'$",
        "Did you mean 'extra_env'",
        call={"extra_envs": {}},
        is_quick=True,
    ),
    "memory": Wrong(
        "an amount of memory that cannot be read",
        "'mem' is not a valid amount of memory: '4 gigs'$",
        "Allowed: ",
        queue={"mem": "4 gigs"},
        is_quick=True,
    ),
    "time": Wrong(
        "a walltime that cannot be read",
        "'time_limit' is not a valid time limit: 'an hour'$",
        "Allowed: ",
        queue={"time_limit": "an hour"},
    ),
    "number": Wrong(
        "a number of nodes that is none",
        "'nodes' cannot be 'two'$",
        "Allowed: a whole number",
        call=option("nodes", "two"),
    ),
    "two-memories": Wrong(
        "memory of a node and of a CPU",
        "'mem' and 'mem_per_cpu' exclude each other$",
        "Give one of them",
        call={"extra_slurm_opts": {"mem": "1G", "mem_per_cpu": "1G"}},
    ),
    "managed": Wrong(
        "an option that dagster-slurm sets itself",
        "option 'output' cannot be set$",
        "dagster-slurm follows the job's own files",
        call=option("output", "log.txt"),
    ),
    "mapping": Wrong(
        "metadata `slurm` that is no mapping",
        "The asset metadata 'slurm' is 'gpu'$",
        "It has to be a mapping",
        metadata={"slurm": "gpu"},
    ),
    "costly": Wrong(
        "more node-hours than are allowed",
        r"The job asks for 48 node-hours \(2 nodes\), and max_node_hours is 10$",
        "Lower `num_nodes` or `time_limit`",
        compute={"max_node_hours": 10},
        queue={"num_nodes": 2, "time_limit": "1-00"},
    ),
    "no-payload": Wrong(
        "a payload that is not there",
        "The payload /.*/absent.py is not a file of this machine$",
        "Paths are relative to",
        payload="{work}/absent.py",
        is_quick=True,
    ),
    "no-program": Wrong(
        "a payload that cannot be run",
        "The payload /.*/plain.txt cannot be run$",
        "A payload is a `.py` or `.sh` file",
        payload="{work}/plain.txt",
    ),
    "windows": Wrong(
        "a script with the line ends of Windows",
        "The payload /.*/windows.sh has lines that end as on Windows",
        "`sed -i",
        payload="{work}/windows.sh",
    ),
    "no-main": Wrong(
        "a directory without `__main__.py`",
        "The payload /.*/empty is a directory without `__main__.py`$",
        "Python runs the `__main__.py`",
        payload="{work}/empty",
    ),
    "no-extra-file": Wrong(
        "one of `extra_files` that is not there",
        "The extra file /.*/absent.csv is not a file of this machine$",
        "Paths are relative to",
        call={"extra_files": ["{work}/absent.csv"]},
    ),
    "variable": Wrong(
        "a name that no variable can have",
        "'1A' is not the name of an environment variable$",
        "Letters, digits and `_`",
        call={"extra_env": {"1A": "x"}},
    ),
    "no-json": Wrong(
        "a value of `extras` that cannot be sent",
        "The value of 'odd' in extras cannot be sent: ",
        "Values have to be JSON's",
        call={"extras": {"odd": {1, 2}}},
    ),
    "two-environments": Wrong(
        "two environments at once",
        "Both a pre-deployed environment and another one are named$",
        "Name one of them",
        metadata={"slurm_pre_deployed_env_path": "/envs/a", "slurm_environment": "uv"},
    ),
    "no-key": Wrong(
        "a key file that is not there",
        "There is no key file .*/absent on this machine",
        r"Correct key_path \(KEY_PATH\)",
        ssh={"key_path": "{work}/absent"},
        is_quick=True,
    ),
    "open-key": Wrong(
        "a key file that others may read",
        "The login was refused: .*Permission denied",
        "ssh has not used the key: Permissions 0644 for .* are too open",
        ssh={"key_path": "{work}/open_key"},
        logins=1,
    ),
    "other-key": Wrong(
        "a key that the account does not have",
        "The login was refused: .*Permission denied",
        "Check the user name and the key or password",
        ssh={"key_path": "{work}/other_key"},
        logins=1,
        is_quick=True,
    ),
    "password": Wrong(
        "a wrong password",
        "The login was refused: .*Permission denied|The password was refused",
        "Check the user name and the key or password|Correct the password",
        ssh={"key_path": None, "password": "not this one"},
        logins=1,
    ),
    "user": Wrong(
        "a user whom the login node does not know",
        "The login was refused: .*Permission denied",
        "Check the user name",
        ssh={"user": "nobody-of-that-name"},
        logins=1,
    ),
    "host": Wrong(
        "a host that nobody knows",
        "The host is not known: .*no-such-host.invalid",
        "Check the host's name, or the network",
        ssh={"host": "no-such-host.invalid"},
    ),
    "port": Wrong(
        "a port that refuses connections",
        "The connection failed: .*Connection refused",
        "Check host, port and network. `dagster-slurm doctor` checks the way",
        ssh={"port": "{port}"},
        is_retried=True,
        waits_for="a login node that is being restarted",
    ),
    "unknown-host-key": Wrong(
        "a host key that is not on record",
        "The host key is not known",
        "Log in once with `ssh` to record it",
        ssh={"known_hosts_file": "{work}/no_hosts"},
        is_quick=True,
    ),
    "other-host-key": Wrong(
        "a host key that is not the one on record",
        "The host key is not the one on record",
        "Ask the site",
        ssh={"known_hosts_file": "{work}/other_hosts"},
    ),
    "ssh-option": Wrong(
        "an option that ssh does not know",
        "OpenSSH's configuration is not usable: .*Bad configuration option",
        "Correct extra_opts",
        ssh={"extra_opts": ["-o", "NoSuchOption=1"]},
    ),
    "shell": Wrong(
        "a login that ends before it takes a command",
        "The login's shell ends with status 1 before it takes a command: not today",
        "Log in by hand",
        ssh={"post_login_command": "echo not today && exit 1; {{cmd}}"},
        logins=1,
    ),
    "partition": Wrong(
        "a partition that there is not",
        r"sbatch: .*[Ii]nvalid partition.* \(partition 'gpus'\)",
        "Known to this user on the cluster: ",
        queue={"partition": "gpus"},
        logins=1,
        is_quick=True,
    ),
    "account": Wrong(
        "an account that the user does not have",
        r"sbatch: .*[Ii]nvalid account.* \(account 'nobody'\)",
        "Known to this user on the cluster: ",
        queue={"account": "nobody"},
        logins=1,
    ),
    "qos": Wrong(
        "a QOS that the user does not have",
        r"sbatch: .*[Ii]nvalid qos.* \(qos 'express'\)",
        "Known to this user on the cluster: ",
        queue={"qos": "express"},
        logins=1,
    ),
    "much-memory": Wrong(
        "more memory than a node has",
        # Which of the two, depends on whether all nodes are up.
        "sbatch: .*(?:[Mm]emory|node configuration)",
        "Lower mem or mem_per_cpu|No node, or not enough of them, is configured so",
        queue={"mem": "900T"},
        logins=1,
    ),
    "gpu": Wrong(
        "GPUs where there are none",
        "sbatch: .*generic resource",
        "`sinfo -o '%P %G'` names",
        queue={"gpus_per_node": 1},
        logins=1,
    ),
    "constraint": Wrong(
        "a feature that no node has",
        "sbatch: .*[Ii]nvalid feature",
        "`sinfo -o '%P %f'` names",
        call=option("constraint", "warp"),
        logins=1,
    ),
    "no-environment": Wrong(
        "an environment that is not there",
        "The environment /.*/envs/analysis does not exist",
        "An environment is a directory with",
        compute={"pre_deployed_env_path": "envs/analysis"},
        logins=1,
        is_quick=True,
    ),
    "there-variable": Wrong(
        "a path with a variable that the login does not set",
        r"remote_base is '\$SCRATCH_OF_OURS/runs', and the login has no variable SCRATCH_OF_OURS",
        "Write the directory itself",
        slurm={"remote_base": "$SCRATCH_OF_OURS/runs"},
        logins=1,
        is_quick=True,
    ),
    "unwritable": Wrong(
        "a `remote_base` that cannot be written",
        "Cannot write /usr/runs/.*: Permission denied",
        "Choose a `remote_base` that this user may write to",
        slurm={"remote_base": "/usr"},
        logins=1,
        is_retried=True,
    ),
    "modules": Wrong(
        "set-up commands that fail on the login node",
        "The set-up of the environment failed on the login node: .*load_nothing",
        "Try them by hand on the login node",
        metadata={"slurm_environment": "modules"},
        logins=1,
        is_retried=True,
    ),
    "module": Wrong(
        "a module that the environment does not have",
        r"ModuleNotFoundError: No module named 'sklearn' \(exit code 1, Slurm job \d+ on n\d\)",
        "It ran in the cluster's own python3, which does not have it: ",
        payload="{work}/imports.py",
        logins=1,
        is_retried=True,
    ),
    "forgotten": Wrong(
        "a module beside the payload that is not among `extra_files`",
        r"ModuleNotFoundError: No module named 'prices' \(exit code 1, Slurm job \d+ on n\d\)",
        "prices.py lies beside the payload on this machine, and is not sent: name it in `extra_files`",
        payload="{work}/imports_prices.py",
        logins=1,
        is_retried=True,
    ),
}
