"""What every rule of a whole run takes, before a change and after it: `python -m benchmarks.run --before COMMIT`.

Both commits run their own config, one after the other, each in a fresh folder with this environment; what is not committed
is not measured. Job times are those that jobs leave under results/benchmarks. Writes RUN.md and run.json; a run takes a
quarter of an hour or more.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import about, write
from sae_atlas.plan.costs import read_costs
from sae_atlas.plan.machine import available_cores

ROOT = Path(__file__).parent.parent
NAMES = ("before", "after")
WIDE = {"COLUMNS": "120"}  # of the plan's table, which leaves columns out where there is no room


def run(commit: str, folder: Path, config: str, cores: int) -> dict:
    """A run of `config` at a commit in `folder`: seconds of the clock and of the processors, page faults, rules."""
    _git("worktree", "add", "--detach", folder, commit)
    try:
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-m", "snakemake", "--configfile", config, "--cores", str(cores)]
        own_code = os.environ | {
            "PYTHONPATH": str(folder)
        }  # jobs, too, import the commit's library and not the installed one
        if subprocess.run(command, cwd=folder, env=own_code).returncode:
            raise SystemExit(f"the run at {commit} failed; nothing is written")
        elapsed, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        plan = [sys.executable, "-m", "sae_atlas", "plan", config, "--cores", str(cores)]
        planned = subprocess.run(plan, cwd=folder, env=own_code | WIDE, capture_output=True, encoding="utf-8")
        return {
            "commit": _git("rev-parse", "--short", "HEAD", cwd=folder),
            "elapsed": elapsed,
            "user": after.ru_utime - before.ru_utime,
            "system": after.ru_stime - before.ru_stime,
            "page_faults": after.ru_minflt - before.ru_minflt,
            "rules": of_rules(folder / "results" / "benchmarks"),
            "plan": planned.stdout,
        }
    finally:
        _git("worktree", "remove", "--force", folder)


def of_rules(folder: Path) -> dict[str, dict]:
    """Jobs and seconds of every rule that has left benchmark files."""
    files: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("*.tsv")):
        rule, *job = file.relative_to(folder).with_suffix("").parts
        files.setdefault(rule, []).append("/".join(job))
    costs = read_costs(folder, files)
    return {cost.rule: {"jobs": cost.measured, "wall": cost.wall, "cpu": cost.cpu} for cost in costs}


def markdown(found: dict) -> str:
    runs = [found[name] for name in NAMES]
    lines = [
        "# A run, by rule",
        "",
        f"`make bench-run BEFORE={runs[0]['commit']}` runs {found['config']} of that commit and of {runs[1]['commit']}, once",
        f"each, one after the other, in fresh folders, on {found['cores']} cores. Seconds of all jobs of a rule together.",
        "",
        f"{found['machine']}, {found['date']}.",
        "",
        "| rule | jobs before | jobs after | seconds before | seconds after |",
        "|---|---|---|---|---|",
    ]
    names = {*runs[0]["rules"], *runs[1]["rules"]}
    rules = {name: [each["rules"].get(name, {"jobs": 0, "wall": 0.0}) for each in runs] for name in names}
    for name, (before, after) in sorted(rules.items(), key=lambda rule: -rule[1][0]["wall"]):
        jobs, seconds = (f"{before[key]:,.0f} | {after[key]:,.0f}" for key in ("jobs", "wall"))
        lines.append(f"| {name} | {jobs} | {seconds} |")
    for title, key, unit in (
        ("the whole run, by the clock", "elapsed", 1),
        ("processors, user", "user", 1),
        ("processors, system", "system", 1),
        ("page faults, millions", "page_faults", 1e6),
    ):
        before, after = (each[key] / unit for each in runs)
        lines.append(f"| **{title}** | | | {before:,.0f} | {after:,.0f} |")
    lines += ["", f"`make plan` at {runs[1]['commit']}, after its run:", "", "```", runs[1]["plan"].strip(), "```"]
    return "\n".join(lines) + "\n"


def _git(*arguments: str | Path, cwd: Path = ROOT) -> str:
    done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise SystemExit(done.stderr.strip())
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", required=True, metavar="COMMIT")
    parser.add_argument("--after", default="HEAD", metavar="COMMIT", help="default HEAD")
    parser.add_argument("--config", default="config/config.yaml", help="of each commit; default config/config.yaml")
    parser.add_argument("--cores", type=int, default=available_cores())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="default: benchmarks/")
    chosen = parser.parse_args()
    found = about(1, chosen.cores) | {"unit": "seconds, of all jobs of a rule together"}
    found |= {"cores": chosen.cores, "config": chosen.config}
    with tempfile.TemporaryDirectory() as temporary:
        for name in NAMES:
            found[name] = run(getattr(chosen, name), Path(temporary, name), chosen.config, chosen.cores)
    write(chosen.out, "run", found, markdown(found))


if __name__ == "__main__":
    main()
