# The commands of this repository. `make demo` and `make test` need nothing but Debian 12 with Python 3 and make.
.POSIX:
.SUFFIXES:

bin = .venv/bin
# Each of these processes has a cluster of its own. Most tests wait for Slurm: two cores have time for more than two.
workers = 5
# Where `make faults` has more to do than `make test`.
with_long = tests/faults tests/hetjobs tests/partitions tests/executor tests/environments tests/launchers $(in_contract) \
	$(in_assets) $(in_runs) tests/cluster/test_openssh.py tests/cluster/test_sandbox.py tests/cluster/test_logins.py \
	tests/unit/pipes/test_dagster_storage.py $(in_docs)
in_contract = tests/contract/test_work_killed.py tests/contract/test_work_followed.py tests/contract/test_work_ends.py \
	tests/contract/test_work_in_sessions.py tests/contract/test_sessions_broken.py tests/contract/test_ways.py \
	tests/contract/test_uploads.py
in_assets = tests/assets/test_retries.py tests/assets/test_ends.py tests/assets/test_use_over_time.py \
	tests/assets/test_without_control_groups.py tests/assets/test_on_slurm.py tests/assets/test_both_modes.py
in_runs = tests/runs/test_former_relay.py tests/runs/test_reconcile.py tests/runs/test_two_locations.py tests/runs/test_with_a_daemon.py
in_docs = tests/docs/test_getting_started.py tests/docs/test_in_the_browser.py tests/docs/test_blocks.py tests/docs/test_new_project.py \
	tests/docs/test_demo.py
# The Debian whose Slurm `make slurm-versions` runs: trixie, testing or bullseye.
SUITE = trixie
# These wait for nothing.
quick_workers = 2

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.* ## /    make \1\t/p' Makefile

demo: $(bin)/.installed cluster ## Run the example here and on a real Slurm cluster on this machine.
	@$(bin)/python scripts/demo.py

test: side-by-side ## Run every check and every test, those on the real cluster included.
	@$(bin)/python scripts/cluster_packages.py --trials
	@$(bin)/python -m pytest -n $(workers)

durations: side-by-side ## Run every test, write where the time goes to tests/durations.tsv, and fail if it is too long.
	@$(bin)/python scripts/cluster_packages.py --trials
	@rm -rf .durations && mkdir .durations
	@DURATIONS=$$PWD/.durations $(bin)/python -m pytest -n $(workers)
	@$(bin)/python -m tests.support.durations .durations tests/durations.tsv

faults: static ## Run the whole fault suite, which takes about an hour, and write docs/reliability.md from its figures.
	@$(bin)/python scripts/cluster_packages.py --trials --browser
	@rm -rf .faults && mkdir .faults
	@FAULTS=all FAULTS_FIGURES=$$PWD/.faults $(bin)/python -m pytest -n 2 $(with_long)

screenshots: $(bin)/.installed cluster ## Look at runs on the sandbox in a browser, and write the pictures of the documentation.
	@$(bin)/python scripts/cluster_packages.py --browser
	@mkdir -p docs/pictures
	@FAULTS=all SCREENSHOTS=$$PWD/docs/pictures $(bin)/python -m pytest tests/docs/test_in_the_browser.py

check: static ## Run the fast part: format, lint, types, shell, and the tests that start no such thing as Dagster or Slurm.
	@$(bin)/python -m pytest -m 'not cluster and not process' -n $(quick_workers)

docs: $(bin)/.installed ## Build the documentation site into build/site; a link or an anchor that leads nowhere fails it.
	@$(bin)/python scripts/build_docs.py

slurm-versions: $(bin)/.installed ## Run a choice of the suite with another Debian's Slurm: SUITE=trixie (24.11), testing (26.05), bullseye (20.11).
	@$(bin)/python scripts/slurm_versions.py $(SUITE)

bench: $(bin)/.installed cluster ## Measure on the sandbox, beside other tools from PyPI, and write docs/benchmarks.md.
	@$(bin)/python benchmarks/run.py

clean: ## Remove the virtual environment, caches and what the demo left here; the sandbox cluster stays.
	@rm -rf .venv .demo .durations .faults .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	@find src tests examples scripts benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Each keeps one core busy.
side-by-side: $(bin)/.installed
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target static docs collected

# What pytest makes of each module of the tests is kept beside it: made once, and not by every process, 10 s of CPU each.
collected: $(bin)/.installed
	@said=$$(PYTHONDONTWRITEBYTECODE= $(bin)/python -m pytest --collect-only --quiet --quiet 2>&1) || \
		{ printf '%s\n' "$$said" | tail -n 50; exit 1; }

static: $(bin)/.installed
	@$(bin)/ruff format --check .
	@$(bin)/ruff check .
	@sh scripts/check-types.sh
	@sh scripts/check-shell.sh

# Done again when the dependencies change.
$(bin)/.installed: pyproject.toml examples/lookouts/requirements.txt
	@sh scripts/set-up.sh

# The Debian packages of the sandbox cluster; nothing is done where they are there or cannot be.
cluster: $(bin)/.installed
	@$(bin)/python scripts/cluster_packages.py

.PHONY: help demo test side-by-side collected durations faults screenshots check docs slurm-versions bench clean static cluster
