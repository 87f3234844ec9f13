"""``python -m benchmarks``: measure, and write ``docs/performance.md``; ``--quick``: two minutes, printed only."""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import sys
from pathlib import Path

import uvloop

from middleware.dictionaries import train_dictionary

from .brokers import broker_drivers
from .compression import DICTIONARY_BYTES, events
from .drivers import Driver, all_drivers
from .drivers.tidegate import Tidegate
from .install import cache_folder, install
from .machine import describe
from .processes import Cores
from .reporting import write_report
from .results import Results
from .suite import Suite
from .workloads import WORKLOADS, Workload, quick

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Tidegate beside other servers.")
    parser.add_argument("--quick", action="store_true", help="about two minutes; prints, writes nothing")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="WORKLOAD",
        help=f"anew, keeping the rest of the last run; of {', '.join(one.name for one in WORKLOADS)}",
    )
    parser.add_argument("--peers", nargs="+", metavar="SERVER", help="measure these servers only")
    parser.add_argument("--seconds", type=float, help="length of a turn")
    parser.add_argument("--rounds", type=int, help="turns of each server")
    parser.add_argument("--output", type=Path, help="where the results go (default: benchmarks/results/latest.json)")
    parser.add_argument("--report", type=Path, metavar="RESULTS", help="measure nothing; write the report of a saved run")
    return parser.parse_args()


def chosen(options: argparse.Namespace) -> list[Workload]:
    from dataclasses import replace

    workloads = quick() if options.quick else WORKLOADS
    changes = {name: value for name in ("seconds", "rounds") if (value := getattr(options, name)) is not None}
    return [replace(workload, **changes) for workload in workloads if not options.only or asked_for(workload, options.only)]


def asked_for(workload: Workload, names: list[str]) -> bool:
    """By its name, or by what its name begins with: ``brokers`` is all that is about brokers."""
    return any(workload.name == name or workload.name.startswith(f"{name}-") for name in names)


def drivers_of(workloads: list[Workload], cache: Path) -> list[Driver]:
    """Those that the workloads are about."""
    kinds = {workload.kind == "brokers" for workload in workloads}
    return (all_drivers(cache) if False in kinds else []) + (broker_drivers(cache) if True in kinds else [])


def available(drivers: list[Driver], wanted: list[str] | None, failed: dict[str, str]) -> tuple[list[Driver], dict[str, str]]:
    """The drivers that can be measured, and why the others cannot."""
    absent = {}
    for driver in drivers:
        if reason := driver.absent():
            why = failed.get(driver.name, "")
            absent[driver.name] = f"{reason}: {why}" if why else reason
        elif wanted and driver.name not in wanted:
            absent[driver.name] = "not asked for"
    return [driver for driver in drivers if driver.name not in absent], absent


def train(cache: Path) -> Path:
    """The dictionary for compressed fan-out, trained on other events than are sent."""
    path = cache / "events.zdict"
    cache.mkdir(parents=True, exist_ok=True)
    path.write_bytes(train_dictionary(events(5000, seed=1), DICTIONARY_BYTES).data)
    return path


async def run(suite: Suite, workloads: list[Workload], drivers: list[Driver]) -> None:
    for workload in workloads:
        await suite.run(workload, drivers)


def main() -> int:
    options = arguments()
    if options.report:
        write_report(Results.load(options.report), ROOT)
        return 0
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    cache, cores = cache_folder(), Cores.choose()
    failed = install(cache, quick=options.quick)
    workloads = chosen(options)
    drivers, absent = available(drivers_of(workloads, cache), options.peers, failed)
    for driver in drivers:
        if isinstance(driver, Tidegate):
            driver.dictionary = train(cache)
    machine = describe(cores)
    results = Results(machine, {driver.name: driver.version() for driver in drivers}, absent)
    results.began = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
    machine["load"] = f"{os.getloadavg()[0]:.1f} before the run"
    cores.pin_client()
    suite = Suite(results, cores, cache, say, with_profiles=not options.quick)
    uvloop.run(run(suite, workloads, drivers))
    for name, reason in absent.items():
        say(f"absent: {name}: {reason}")
    if not options.quick:
        output = options.output or RESULTS / "latest.json"
        if options.only and output.exists():
            results = Results.load(output).updated(results)
        results.save(output)
        if options.output is None:
            write_report(results, ROOT)
    return 0


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
