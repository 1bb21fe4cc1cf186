"""What a user sees: the Dagster UI in Debian's Chromium, on real runs of the sandbox; and the pictures of the docs."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from dagster_slurm.sandbox import Sandbox
from tests.support import graphql
from tests.support.environments import copied_environment
from tests.support.waiting import eventually

pytestmark = [pytest.mark.process, pytest.mark.cluster, pytest.mark.all_faults, pytest.mark.xdist_group("browser")]

PROJECT = Path(__file__).with_name("in_the_browser")
# `make screenshots` names the directory of the docs' pictures.
PICTURES = os.environ.get("SCREENSHOTS")
RUNS = "{ runsOrError { ... on Runs { results { runId status assetSelection { path } } } } }"
# Telemetry and the invitation to a newsletter would ask somebody else.
SETTINGS = "telemetry:\n  enabled: false\nnux:\n  enabled: false\n"
# A window in which a run is read without scrolling.
SIZE = {"width": 1280, "height": 900}
PATIENCE_MILLISECONDS = 90_000


class Ui:
    """A `dg dev` and a browser that looks at it."""

    def __init__(self, port: int, page: Any) -> None:
        self._port = port
        self.page = page

    def materialize(self, asset: str) -> str:
        """Click on *Materialize*, and go to the page of the run, whose id is returned."""
        self._open(f"assets/{asset}")
        self.page.get_by_role("button", name="Materialize").first.click()
        run = eventually(lambda: self._run_of(asset), f"a run of {asset}")
        self._open(f"runs/{run}")
        return run

    def shows(self, *texts: str | re.Pattern[str]) -> None:
        """Wait until the page shows each of the texts."""
        for text in texts:
            self.page.get_by_text(text).first.wait_for(timeout=PATIENCE_MILLISECONDS)

    def clicks(self, *texts: str) -> None:
        """Click on one after the other."""
        for text in texts:
            self.page.get_by_text(text, exact=True).first.click()

    def draws(self, name: str) -> None:
        """Wait until the page shows the picture of that name, which the browser could read."""
        picture = self.page.get_by_alt_text(name)
        picture.wait_for(timeout=PATIENCE_MILLISECONDS)
        assert eventually(lambda: picture.evaluate("image => image.naturalWidth"), f"the picture {name}") == 640

    def spans(self, name: re.Pattern[str]) -> None:
        """Wait until the time line of a run has a span of that name; what is too short for one is drawn as a dot."""
        spans = self.page.locator(".marker-whiskers")
        names: list[str] = []

        def is_drawn() -> bool:
            names[:] = spans.evaluate_all("spans => spans.map(span => span.dataset.tooltip)")
            return any(name.fullmatch(each) for each in names)

        eventually(is_drawn, lambda: f"a span {name.pattern} among {names}")

    def opens(self, path: str) -> None:
        """Go to another page."""
        self._open(path)

    def picture(self, name: str) -> None:
        """Take a picture, if somebody wants it."""
        if PICTURES:
            self.page.wait_for_timeout(1000)
            self.page.screenshot(path=str(Path(PICTURES, f"{name}.png")))

    def _open(self, path: str) -> None:
        self.page.goto(f"http://127.0.0.1:{self._port}/{path}")

    def _run_of(self, asset: str) -> str | None:
        runs = graphql.ask(self._port, RUNS)["runsOrError"]["results"]
        return next((run["runId"] for run in runs if run["assetSelection"] == [{"path": [asset]}]), None)


@pytest.fixture(scope="module")
def port(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """That of a `dg dev` that knows the project's assets."""
    directory = tmp_path_factory.mktemp("ui")
    (directory / "dagster.yaml").write_text(SETTINGS, encoding="utf-8")
    environment = copied_environment(sandbox, "tests", ["dagster-pipes"])
    variables = {**sandbox.env(), "CLUSTER_ENVIRONMENT": environment, "DAGSTER_HOME": str(directory)}
    command = f"exec {Path(sys.prefix, 'bin', 'dg')} dev -f weather.py"
    log = directory / "dev.log"
    with graphql.served(command, cwd=PROJECT, env={**os.environ, **variables}, log=log, assets=2) as port:
        yield port


@pytest.fixture
def ui(port: int) -> Iterator[Ui]:
    """The browser, with a profile of its own."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Debian's chromium is not installed")
    with sync_playwright() as playwright:
        # Chromium has no sandbox of its own for root.
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield Ui(port, browser.new_page(viewport=SIZE))
        finally:
            browser.close()


def occupy(sandbox: Sandbox, seconds: int) -> None:
    """Let what is submitted now wait for its nodes."""
    asked = ["sbatch", "--exclusive", "--nodes=3", "--time=1", "--output=/dev/null", f"--wrap=sleep {seconds}"]
    done = sandbox.run(asked)
    assert done.returncode == 0, done.stderr


def test_an_asset_that_runs_as_a_job(ui: Ui, sandbox: Sandbox) -> None:
    occupy(sandbox, seconds=8)
    run = ui.materialize("forecast")
    ui.shows(re.compile(r"Submitted Slurm job \d+"), re.compile(r"Slurm job \d+ runs on n\d"), "step 2 of 9: residual")
    ui.spans(re.compile(r"forecast:Slurm job \d+"))
    ui.shows("asked", "--cpus-per-task=2", "directory")
    ui.picture("run")
    ui.clicks("View stdout / stderr", "stdout")
    ui.shows("solving step 4 of 9", "Terminate")  # it runs
    ui.shows("solving step 9 of 9", "Success")
    ui.opens(f"runs/{run}")
    ui.shows("RUN_SUCCESS")
    ui.opens("assets/forecast")
    ui.shows("slurm_job_id", "COMPLETED", "residual", "slurm_usage_plot")
    ui.picture("asset")
    ui.clicks("[Show Markdown]")
    ui.draws("Use against what was asked")
    ui.picture("plot")


def test_an_asset_that_fails(ui: Ui) -> None:
    ui.materialize("prices")
    # The first line of what has failed, before any stack of frames.
    ui.shows("Failure", "RUN_FAILURE", re.compile(r"KeyError: 'price' \(exit code 1, Slurm job \d+ on n\d\)"))
    ui.picture("failure")
