"""A run of the suite's work in a process of its own.

usage: python -m tests.contract.process [from_failure|all_steps RUN_ID]
"""

import os
import sys

import dagster as dg

from tests.contract import project


def main(how: str = "", run_id: str = "") -> int:
    """Run the work in the variable, or execute a run of it again; 0 if that succeeds."""
    work = project.Work.from_json(os.environ[project.VARIABLE])
    with dg.DagsterInstance.get() as instance:
        again = dg.ReexecutionOptions(run_id) if run_id else None
        if how == "from_failure":
            again = dg.ReexecutionOptions.from_failure(run_id, instance)
        done = dg.execute_job(
            dg.reconstructable(project.job),
            instance=instance,
            reexecution_options=again,
            raise_on_error=False,
            tags=work.tags(),
        )
        return 0 if done.success else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
