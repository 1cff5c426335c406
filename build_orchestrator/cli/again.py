"""``build publish``: what was collected, published once more."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from build_orchestrator.cli.cloud import take_old_name
from build_orchestrator.cli.project import project_of, run_folder
from build_orchestrator.cli.streams import say
from build_orchestrator.errors import UsageError


@click.command()
@click.argument("run", default="")
@click.option(
    "--s3-endpoint", metavar="URL", help="Another S3 than AWS's own  [env: AWS_ENDPOINT_URL_S3]"
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON")
@click.pass_context
def publish(ctx: click.Context, run: str, s3_endpoint: str | None, as_json: bool) -> int:
    """Publish again what a run has collected: after a destination was out of reach.

    RUN is the beginning of a run's id; without it the newest run is meant. What is there already
    with the same bytes stays as it is.

    \b
    Examples:
      build publish
      build publish 20261121T014500Z-3f9c
    """
    from build_orchestrator import report
    from build_orchestrator.deadline import Cancel, Deadline
    from build_orchestrator.events import nobody
    from build_orchestrator.plan import decode
    from build_orchestrator.publish import publish as publish_artifacts

    take_old_name(lambda text: say(text, err=True))
    folder = run_folder(ctx, run)
    try:
        done = report.decode((folder / "report.json").read_bytes())
        builds = {build.name: build for build in decode((folder / "plan.json").read_bytes()).builds}
    except FileNotFoundError as error:
        raise UsageError(f"run {folder.name} has no {Path(error.filename).name}") from error
    results = []
    for result in done.results:
        if not result.artifacts:
            continue
        build = builds[result.target]
        if not build.recipe.destinations:
            raise UsageError(
                f"run {folder.name} was told to publish nothing",
                resolution=f"Its artifacts are in {folder / result.target}; `build up "
                f"{result.target} --publish-to URL` publishes.",
            )
        published = publish_artifacts(
            result.artifacts,
            build,
            project=project_of(ctx),
            s3_endpoint=s3_endpoint,
            deadline=Deadline("publish", build.target.deadlines.publish_s),
            cancel=Cancel(),
            observer=nobody,
        )
        results.append(dataclasses.replace(result, published=published))
        for row in () if as_json else published:
            reason = f" ({row.reason})" if row.reason else ""
            say(f"{row.state:<9} {row.url}{reason}")
    if as_json:
        rows = [dataclasses.asdict(row) for result in results for row in result.published]
        say(json.dumps(rows, indent=2))
    if not results:
        raise UsageError(f"run {folder.name} has collected nothing")
    return report.exit_code(results)
