"""Readouts of a sweep as jobs of a cluster. Oracle: what the cluster says it has taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.evaluate.cluster import submit_and_print
from experiments.launch.submissions import all_evaluation_submissions
from experiments.run.cluster import Profile
from tests.support.full_cluster import NAME
from tests.support.stand_in_runs import cell, prepared


def test_what_a_full_site_takes_is_recorded_and_the_rest_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five runs in two jobs, of which the site takes the first: runs 0, 2 and 4."""
    paths = [prepared(tmp_path, cell(seed=seed)).path for seed in range(5)]
    submit_and_print(tmp_path, "stand_in", paths, ["retrieval"], Profile("mine", cluster=NAME), 2)
    said = " ".join(capsys.readouterr().out.split())
    assert "submitted 3 runs to mine as job 1" in said
    assert (
        "2 more do not fit into the site's limit of jobs; the same command submits them when others have ended" in said
    )
    (sent,) = all_evaluation_submissions(tmp_path)
    assert sent["jobs"] == {path.name: "1" for path in paths[::2]}
