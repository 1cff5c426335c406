"""``build up``: the main job."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from build_orchestrator.cli.cloud import check_budget, take_old_name
from build_orchestrator.cli.project import (
    DURATION,
    RUNS,
    check_images,
    plan_of,
    plan_options,
    provider_maker,
)
from build_orchestrator.cli.streams import say
from build_orchestrator.errors import HostNotReady, UsageError

if TYPE_CHECKING:
    from build_orchestrator.deadline import Cancel
    from build_orchestrator.events import Observer
    from build_orchestrator.model import Plan, Report, Result
    from build_orchestrator.pipeline.run import Settings, StartFrom
    from build_orchestrator.pipeline.schedule import Story
    from build_orchestrator.sinks import Tail

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@plan_options
@click.option(
    "--keep",
    type=click.Choice(["never", "on-failure", "always"]),
    default="never",
    show_default=True,
    help="When to keep a machine alive after its build",
)
@click.option(
    "--keep-for",
    type=DURATION,
    default="4h",
    show_default=True,
    metavar="TIME",
    help="How long a kept machine lives",
)
@click.option("--force", is_flag=True, help="Build also what is up to date")
@click.option("--fail-fast/--keep-going", default=False, help="Stop all others when one fails")
@click.option("--cold", is_flag=True, help="Boot from power-on, without a saved first start")
@click.option("--bake", is_flag=True, help="Bake the images first that are missing or stale")
@click.option("--no-bake", is_flag=True, help="Start from the base image, baked or not")
@click.option("--require-baked", is_flag=True, help="Exit 3 where no baked image is fresh")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop")
@click.option(
    "--s3-endpoint", metavar="URL", help="Another S3 than AWS's own  [env: AWS_ENDPOINT_URL_S3]"
)
@click.option("--events", metavar="FILE|-", help="Write every event as a line of JSON")
@click.option(
    "--junit",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a JUnit report here, too",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON at the end")
@click.option("-v", "--verbose", count=True, help="Say more")
@click.option("-q", "--quiet", count=True, help="Say only how stages and builds ended")
@click.pass_context
def up(ctx: click.Context, /, selectors: tuple[str, ...], **options: Any) -> int:
    """Build targets, each in a machine that did not exist before and will not exist after.

    SELECTOR is a target, or a glob over targets; without a provider at its end it means the
    default provider only.

    \b
    Examples:
      build up debian_bookworm_qemu
      build up 'debian_*_qemu' -j2 --publish-to s3://releases/agents
      VERSION=7.1.0 PRERELEASE=m1 build up 'debian_*'
      build up debian_trixie --keep on-failure     then: build ssh debian_trixie_qemu
      build up debian_bookworm --bake

    \b
    Exit codes: 0 built and published; 1 a build failed; 2 usage or configuration;
    3 the environment failed, try again; 4 this host is not ready; 5 a machine may still be alive.
    """
    from build_orchestrator import doctor
    from build_orchestrator.model import Keep
    from build_orchestrator.pipeline.run import Settings
    from build_orchestrator.pipeline.schedule import BUILDING
    from build_orchestrator.publish import check

    take_old_name(lambda text: say(text, err=True))
    start_from = _start_from(options)
    plan = plan_of(ctx, selectors, options)
    # One address that is not Amazon's serves all of AWS, unless S3 has its own.
    options["s3_endpoint"] = options["s3_endpoint"] or options["aws_endpoint"]
    check_images(plan)
    secrets = secrets_of(plan)
    check_files(plan, options)
    if options["dry_run"]:
        from build_orchestrator.cli.look import show_plan

        show_plan(plan)
        return 0
    check_budget(plan)
    doctor.require(plan, baking=options["bake"])
    destinations = {place: None for build in plan.builds for place in build.recipe.destinations}
    check(tuple(destinations), project=Path(plan.project), s3_endpoint=options["s3_endpoint"])
    settings = Settings(
        keep=Keep(options["keep"]),
        keep_for_s=options["keep_for"],
        cold=options["cold"],
        force=options["force"],
        fail_fast=options["fail_fast"],
        start_from=start_from,
        s3_endpoint=options["s3_endpoint"],
    )
    return Invocation(plan, secrets, settings, BUILDING, options).go()


def _start_from(options: dict[str, Any]) -> StartFrom:
    """Which image builds start from.

    Raises:
        UsageError: the options contradict each other.
    """
    from build_orchestrator.pipeline.run import StartFrom

    meanings = {
        "bake": StartFrom.BAKED_NOW,
        "no_bake": StartFrom.BASE,
        "require_baked": StartFrom.BAKED_ONLY,
    }
    given = [name for name in meanings if options[name]]
    if len(given) > 1:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"{names} contradict each other; give one of them")
    return meanings[given[0]] if given else StartFrom.BAKED


def check_files(plan: Plan, options: dict[str, Any]) -> None:
    """Raise UsageError where --junit or --events cannot be written."""
    if options["as_json"] and options["events"] == "-":
        raise UsageError("--json and --events - both want standard output; give --events a file")
    runs = Path(plan.project) / RUNS
    _check_writable("--junit", options["junit"], runs)
    if options["events"] not in {None, "-"}:
        _check_writable("--events", Path(options["events"]), runs)


def _check_writable(option: str, path: Path | None, runs: Path) -> None:
    """Raise UsageError where the file cannot be written; the runs' own folder we make ourselves."""
    if path is None or (path.parent.resolve() == runs.resolve() and not runs.exists()):
        return
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise UsageError(f"{option} {path}: it is a folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"{option} {path}: this user may not write it")


def secrets_of(plan: Plan) -> dict[str, str]:
    """Every secret of the plan, by name.

    Raises:
        HostNotReady: one is missing.
        UsageError: one is too short to be masked, or cannot be given to a script on Windows.
    """
    from build_orchestrator.masking import Masker
    from build_orchestrator.provision import host_trust, read_secrets, windows_script

    secrets: dict[str, str] = {}
    for build in plan.builds:
        if build.recipe.pass_host_trust:
            secrets.update(host_trust(os.environ)[1])
        secrets.update(read_secrets(build.recipe, os.environ))
        if build.target.distro.windows:
            windows_script(build, secrets)
    Masker(secrets.values())
    return secrets


class Invocation:
    """One run, from its folder to its report."""

    def __init__(
        self,
        plan: Plan,
        secrets: dict[str, str],
        settings: Settings,
        story: Story,
        options: dict[str, Any],
    ) -> None:
        """``options``: events, junit, json, verbose and quiet, as the command line has them."""
        self._plan = plan
        self._secrets = secrets
        self._settings = settings
        self._story = story
        self._options = options
        self._folder = Path(plan.project) / RUNS / plan.run_id

    def go(self) -> int:
        from build_orchestrator import events
        from build_orchestrator.deadline import Cancel
        from build_orchestrator.sinks import Tail

        try:
            self._folder.mkdir(parents=True)
        except OSError as error:
            raise HostNotReady(
                f"{self._folder}: this run's folder cannot be made",
                details=str(error),
                resolution=f"See that {RUNS} is a folder that you may write, on a disk with room.",
            ) from error
        cancel, tail = Cancel(), Tail()
        started, started_at = time.monotonic(), time.gmtime()
        with _signals_set(cancel), self._observed(tail) as observer:
            observer(
                events.RunStarted(
                    run_id=self._plan.run_id,
                    folder=str(self._folder),
                    targets=tuple(build.name for build in self._plan.builds),
                )
            )
            self._sweep(observer)
            results, bugs = self._run(observer, cancel)
            report = self._report(
                results,
                seconds=time.monotonic() - started,
                started_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", started_at),
                signum=cancel.signum,
                bugs=bugs,
            )
            self._write(report, tail)
            observer(events.RunEnded(exit_code=report.exit_code, seconds=report.seconds))
        self._close(report, tail)
        return report.exit_code

    def _run(
        self, observer: Observer, cancel: Cancel
    ) -> tuple[tuple[Result, ...], list[BaseException]]:
        from build_orchestrator import events
        from build_orchestrator.history import collected
        from build_orchestrator.journal import Journal
        from build_orchestrator.masking import Masker
        from build_orchestrator.pipeline.run import Run
        from build_orchestrator.pipeline.schedule import run_plan

        journal = Journal(self._plan.run_uuid, self._folder)
        try:
            run = Run(
                plan=self._plan,
                folder=self._folder,
                journal=journal,
                observer=observer,
                cancel=cancel,
                settings=self._settings,
                provider=provider_maker(lambda text: observer(events.Note(text=text))),
                secrets=self._secrets,
                collected=lambda key: collected(self._folder.parent, key),
                masker=Masker(self._secrets.values()),
            )
            return run_plan(run, self._story), run.bugs
        finally:
            journal.close()

    def _sweep(self, observer: Observer) -> None:
        """What a killed run left on this host goes before anything new comes."""
        from build_orchestrator import events
        from build_orchestrator.machine import LOCAL
        from build_orchestrator.machine.contract import silent
        from build_orchestrator.model import through_vagrant
        from build_orchestrator.sweep import sweep

        maker = provider_maker(silent)
        used = {build.target.provider for build in self._plan.builds}
        # Tools of others take their time; what of theirs our journals know is swept all the same.
        names = [name for name in LOCAL if name in used or not through_vagrant(name)]
        for swept in sweep(maker, names, project=Path(self._plan.project)):
            if swept.state != "spared":
                text = f"{swept.name} was left behind ({swept.reason}): {swept.state}"
                observer(events.Warned(text=text))

    @contextlib.contextmanager
    def _observed(self, tail: Tail) -> Iterator[Observer]:
        from build_orchestrator.cli.live import live_observer
        from build_orchestrator.events import Observers
        from build_orchestrator.sinks import EventLog, TargetLogs

        def warn(text: str) -> None:
            say(text, err=True)

        verbosity = self._options["verbose"] - self._options["quiet"]
        with contextlib.ExitStack() as stack:
            logs = TargetLogs(self._folder, warn=warn)
            log = EventLog(self._folder / "events.jsonl", warn=warn)
            stack.callback(logs.close)
            stack.callback(log.close)
            listeners: list[Observer] = [tail, logs, log]
            if place := self._options["events"]:
                stream = sys.stdout.buffer if place == "-" else Path(place)
                extra = EventLog(stream, warn=warn)
                stack.callback(extra.close)
                listeners.append(extra)
            listeners.append(stack.enter_context(live_observer(sys.stderr, verbosity=verbosity)))
            yield Observers(listeners)

    def _report(
        self,
        results: tuple[Result, ...],
        *,
        seconds: float,
        started_at: str,
        signum: int,
        bugs: list[BaseException],
    ) -> Report:
        from build_orchestrator.model import Report
        from build_orchestrator.report import exit_code

        return Report(
            run_id=self._plan.run_id,
            run_uuid=self._plan.run_uuid,
            started_at=started_at,
            seconds=seconds,
            exit_code=exit_code(results, signum=signum, bug=bool(bugs)),
            results=results,
        )

    def _write(self, report: Report, tail: Tail) -> None:
        """Write the report; what cannot be written is told, and does not hide how the run ended."""
        from build_orchestrator.cache import write_whole
        from build_orchestrator.report import encode, html, junit

        tails = {result.target: tail.lines(result.target) for result in report.results}
        xml = junit(report, tails=tails)
        files = {
            self._folder / "report.json": encode(report),
            self._folder / "junit.xml": xml,
            self._folder / "report.html": html(report, tails=tails),
        }
        if self._options["junit"]:
            files[self._options["junit"]] = xml
        for path, text in files.items():
            try:
                if path.parent == self._folder:
                    write_whole(path, text)
                else:
                    path.write_text(text)  # What the user named may be a pipe or a link.
            except OSError as error:
                say(f"{path} could not be written: {error.strerror}", err=True)

    def _close(self, report: Report, tail: Tail) -> None:
        """The closing table goes to standard output, unless the events or the report do."""
        from build_orchestrator.report import encode, summary

        to_stderr = self._options["events"] == "-" or self._options["as_json"]
        stream = sys.stderr if to_stderr else sys.stdout
        text = summary(
            report,
            columns=shutil.get_terminal_size((120, 24)).columns,
            colour=stream.isatty() and not os.environ.get("NO_COLOR"),
            tails={result.target: tail.lines(result.target) for result in report.results},
        )
        say(text, err=to_stderr)
        if self._options["as_json"]:
            say(encode(report))


@contextlib.contextmanager
def _signals_set(cancel: Cancel) -> Iterator[None]:
    """During the block, signals ask the run to stop instead of killing it.

    Who ignores SIGHUP, as nohup does, wants the run to outlive the terminal.
    """
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()
    previous = {
        number: signal.signal(number, lambda signum, _: cancel.set(signum))
        for number in SIGNALS
        if number not in ignored
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
