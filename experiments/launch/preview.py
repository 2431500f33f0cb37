"""`--dry-run` with a profile: what a launch on a cluster would send and cost. Writes nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import indent

from experiments.launch.cluster import idle_gpus, node_local, submission_of
from experiments.launch.estimate import Past, advise, bytes_in_words, costs, disk_free, disk_need, known
from experiments.launch.grid import paragraph
from experiments.launch.launch_plan import LaunchPlan
from experiments.launch.pack import elements
from experiments.launch.snapshot import Snapshot
from experiments.launch.submissions import difference, names, submissions
from experiments.plan.sweep import Cell
from experiments.run.cluster import Profile, cluster_named
from experiments.run.machine import visible_gpus


class Preview:
    """Raises Refused if the cluster would not take the jobs."""

    def __init__(self, launch_plan: LaunchPlan, profile: Profile) -> None:
        self.launch_plan, self.profile, self.root = launch_plan, profile, launch_plan.root
        self.script, self.when = None, None
        if launch_plan.to_run:
            title, at_once = launch_plan.planned.label, launch_plan.options.max_parallel
            submission = submission_of(self.root, title, profile, at_once, Snapshot.of_this_code())
            cluster = cluster_named(profile.cluster)
            self.script = cluster.script(submission, elements(profile, len(launch_plan.to_run)))
            self.when = cluster.start_estimate(profile, self.script)

    def text(self) -> str:
        if self.script is None:
            return "\n".join(["nothing to submit", *self._difference()])
        cells, pasts = self.launch_plan.to_run, list(known(self.root))
        options = " ".join(f"--{name}={value}" for name, value in self.profile.options().items())
        return "\n".join(
            [
                f"{len(cells)} to submit with {options}",
                f"the first of them: {self.when}",
                *cost_lines(pasts, cells, self.profile),
                *packing_lines(pasts, cells, self.profile),
                *disk_lines(pasts, cells, self.root),
                *self._difference(),
                *idle_gpus(cells, self.profile),
                *node_local(self.root),
                "",
                "sbatch would get:",
                indent(self.script.strip(), "    "),
            ]
        )

    def _difference(self) -> list[str]:
        sent = submissions(self.root, self.launch_plan.planned.label)
        return (
            difference(names(self.launch_plan.planned.cells()), sent[-1])
            if sent
            else ["no submission of this sweep yet"]
        )


def cost_lines(pasts: Sequence[Past], cells: Sequence[Cell], profile: Profile) -> list[str]:
    """Device-hours on each kind of hardware."""
    found = costs(pasts, cells, gpus=gpus(profile), gpu_kind=profile.gpu_kind, pack=profile.pack)
    name = "GPU-hours" if gpus(profile) else "core-hours"
    if not found:
        text = f"{name} unknown: no finished run of this kind on such hardware in this store; --calibrate times 20 steps there"
        return paragraph(text)
    lines = []
    for cost in found:
        rest = f"; unknown for {cost.unknown} of another kind" if cost.unknown else ""
        hours = f"about {cost.hours * weight(profile):.2g} {name} on {cost.hardware}"
        lines += paragraph(f"{hours} (by {cost.source}){rest}")
    return lines


def packing_lines(pasts: Sequence[Past], cells: Sequence[Cell], profile: Profile) -> list[str]:
    """Advice about --pack, if each run has a GPU of its own."""
    advice = advise(pasts, cells, profile.gpu_kind) if gpus(profile) == 1 and profile.pack == 1 else None
    return paragraph(str(advice)) if advice else []


def gpus(profile: Profile) -> int:
    """GPUs of one run, on all its nodes."""
    return profile.gpus_per_node * profile.nodes


def weight(profile: Profile) -> float:
    """GPUs per run, or cores per run without GPUs; packed runs share them."""
    return (gpus(profile) or profile.cpus * profile.tasks * profile.nodes) / profile.pack


def disk_lines(pasts: Sequence[Past], cells: Sequence[Cell], root: Path) -> list[str]:
    need, free = disk_need(pasts, cells), disk_free(root)
    if need is None:
        return [f"disk: need unknown, no finished run of each kind yet; {bytes_in_words(free)} free"]
    text = f"disk: about {bytes_in_words(need)}, {bytes_in_words(free)} free"
    return [text] if need < free else paragraph(f"warning: {text}; not all runs will fit")


def check_hours(launch_plan: LaunchPlan, profile: Profile | None, most: float, *, yes: bool) -> None:
    """Ask for confirmation if the launch may cost more than `most` GPU-hours. On this machine a run takes one GPU.

    Raises ValueError if it is not confirmed.
    """
    here = Profile("local", gpus=1 if visible_gpus() else None)
    wanted = profile or here
    if not launch_plan.to_run or not gpus(wanted) or yes:
        return
    found = costs(
        list(known(launch_plan.root)), launch_plan.to_run, gpus=gpus(wanted), gpu_kind=wanted.gpu_kind, pack=wanted.pack
    )
    whole = [cost.hours * weight(wanted) for cost in found if not cost.unknown]
    if whole and max(whole) <= most:  # on the slowest known hardware
        return
    what = f"may be {max(whole):.2g}" if whole else "are unknown"
    if not sys.stdin.isatty():
        raise ValueError(f"--max-gpu-hours {most:g}: the GPU-hours {what}; add --yes if they are meant")
    answer = input(f"The GPU-hours {what}; --max-gpu-hours is {most:g}. Go on? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise ValueError(f"--max-gpu-hours {most:g}: not confirmed, nothing was started")
