"""Six verbs, nothing else: check, run, show, export, cost, serve.

Exit codes: 0 done, 1 a trial failed, 2 wrong use, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130

_FILE = click.Path(path_type=Path)


class _Verbs(click.Group):
    """Verbs in the order of their use; every error is one sentence."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        out = sys.stdout
        if isinstance(out, TextIOWrapper) and out.errors == "strict":
            # A terminal of few letters gets "?" for others, instead of nothing at all.
            out.reconfigure(errors="replace")
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        return _explained(lambda: super(_Verbs, self).invoke(ctx))


def _explained(action: Callable[[], Any]) -> Any:
    """Runs `action`; an error ends the program with one sentence and code 2."""
    from plinio_sweep.settings import redacted

    try:
        return action()
    except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
        raise  # click has an answer to each; a pipe breaks when `head` has seen enough
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except OSError as error:
        text = (
            f"Files must be open to this program, but {error.filename or 'one of them'} says "
            f"{error.strerror or error}; check its path, its rights and the space on its disk."
        )
    except (ValueError, TypeError, ArithmeticError) as error:
        text = " ".join(str(error).split())
    except Exception as error:
        text = (
            f"This should not happen, please report it: {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        )
    click.echo(f"plinio-sweep: {redacted(text)}", err=True)
    raise SystemExit(WRONG_USE) from None


def _setting(name: str, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """An option that stands for the setting `name` while the command runs.

    It becomes the variable of that setting: workers inherit it, and no process list shows it.
    """

    def given(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            from plinio_sweep.settings import variable

            ctx.with_resource(_environment(variable(name), value))
            ctx.meta.setdefault("plinio_sweep.given", {})[name] = value

    metavar = "URL" if name in ("storage", "artifacts") else None
    return click.option(f"--{name}", callback=given, expose_value=False, help=text, metavar=metavar)


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _places(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for where the results of a study are."""
    files = _setting("artifacts", "For what is trained: a folder, or s3://… and its like.")
    return _database(files(command))


def _database(command: Callable[..., Any]) -> Callable[..., Any]:
    return _setting("storage", "The study's database: sqlite:///… or postgresql+psycopg://…")(
        command
    )


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="plinio-sweep")
def main() -> None:
    """Pareto fronts of tiny networks: accuracy against bytes, MACs, cycles, energy."""


@main.command()
@click.argument("study", type=_FILE)
def check(study: Path) -> None:
    """Traces the net of STUDY; prints its channel groups and what the seed costs."""
    from plinio_sweep.commands.check import check_study

    check_study(study)


@main.command()
@click.argument("study", type=_FILE)
@click.option("--trials", type=click.IntRange(min=1), help="How many in all; the study says.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Of each worker; cores / workers.")
@_setting("device", 'Of the workers in turn: "cpu", "cuda:0,cuda:1".')
@click.option(
    "--engine",
    type=click.Choice(["local", "slurm", "ray"]),
    default="local",
    show_default=True,
    help="Who starts the workers.",
)
@_setting("retries", "How often a trial is tried again whose worker died; 2.")
@_places
@click.option("--accept-drift", is_flag=True, help="Go on although the study file changed.")
@click.pass_context
def run(ctx: click.Context, /, study: Path, **options: Any) -> None:
    """Starts or continues STUDY until it has its trials; prints the front."""
    from plinio_sweep.commands.run import Order, run_study

    given = ctx.meta.get("plinio_sweep.given", {})
    raise SystemExit(run_study(study, Order(**options, given=given)))


@main.command()
@click.argument("study", type=_FILE)
@click.option("--limit", "limits", multiple=True, help="Only what keeps it: size_bytes=24kB.")
@click.option("--at-least", multiple=True, help="Only what reaches it: accuracy=0.85.")
@click.option("--knee", is_flag=True, help="Only the point beyond which a bit more costs most.")
@click.option("--diverse", type=click.IntRange(min=1), help="Only so many, far from each other.")
@click.option("--json", "as_json", is_flag=True, help="For machines; the form is stable.")
@click.option("--plot", type=_FILE, help="Also write the front as .png, .svg or .html.")
@click.option("--report", type=_FILE, help="Also write the whole study as one page, .html.")
@click.option("--model", "models", multiple=True, help="A cost model to score the trials by.")
@click.option("--bits", help="Of weights and activations of float layers, as 8,8; for --model.")
@click.option("--confirm", type=int, help="Train each point again, from so many other seeds.")
@click.option("--baseline", "baselines", multiple=True, help="Of --confirm: this one, too: w4a8.")
@click.option("--margin", type=float, help="Of --confirm: loss that is no loss.  [default: 0.01]")
@click.option("--test", is_flag=True, help="Measure the points on test data, each once for ever.")
@click.option("--workers", type=click.IntRange(min=1), help="Of --confirm and --test.")
@click.option("--prune-cache", is_flag=True, help="Instead: what no study here needs; a dry run.")
@click.option("--yes", is_flag=True, help="Of --prune-cache: remove it.")
@_places
def show(study: Path, prune_cache: bool, yes: bool, **options: Any) -> None:
    """Prints the front of STUDY as a table; with --model, its front under other costs."""
    if prune_cache or yes:
        return _prune(study, yes, alone=not any(options.values()) and prune_cache)
    from plinio_sweep.commands.show import Wish, show_study

    show_study(study, Wish(**options))


def _prune(study: Path, yes: bool, *, alone: bool) -> None:
    from plinio_sweep.commands.prune import prune_cache

    if not alone:
        raise ValueError(
            "`--prune-cache` must stand alone or with `--yes`, and `--yes` with it, but got other "
            "options; leave them out."
        )
    prune_cache(study, remove=yes)


@main.command()
@click.argument("study", type=_FILE)
@click.argument("trial", type=int)
@click.argument("directory", type=_FILE, required=False)
@click.option(
    "--format",
    "form",
    type=click.Choice(["torch", "onnx", "c", "all"]),
    default="all",
    help="Beside the weights; by default all that the net and this machine allow.",
)
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@click.option("--register", "name", help="Also put it into MLflow's registry under this name.")
@click.option("--alias", help="Of --register, for the new version.  [default: champion]")
@_places
def export(study: Path, trial: int, **options: Any) -> None:
    """Writes the net of TRIAL of STUDY to DIRECTORY: weights, integers, ONNX, C, report."""
    from plinio_sweep.commands.export import Wish, export_trial

    export_trial(study, trial, Wish(**options))


@main.command()
@click.argument("net")
@click.option("--model", "models", multiple=True, help="A cost model; plain counts by default.")
@click.option("--bits", help="Of weights and activations of float layers, as 8,8.")
@click.option("--trial", type=int, help="Of a study: the net of this trial, not the seed net.")
@click.option("--input-shape", help="Without the batch, as 3,32,32; several with ';'.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@_places
def cost(net: str, **options: Any) -> None:
    """Counts NET layer by layer: a study file, file.py:name or module:name."""
    from plinio_sweep.commands.cost import print_costs

    print_costs(net, **options)


@main.command()
@click.argument("study", type=_FILE)
@click.option("--host", default="127.0.0.1", show_default=True, help="Others need a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option(
    "--token",
    envvar="PLINIO_SWEEP_TOKEN",
    help="That each request must bring, and must be there for other hosts; better by the variable "
    "PLINIO_SWEEP_TOKEN, which is in no process list.",
)
@click.option("--mlflow", is_flag=True, help="Also MLflow's page, on this machine only.")
@click.option(
    "--mlflow-port", type=click.IntRange(0, 65535), default=0, help="Of --mlflow; a free one."
)
@_database
def serve(study: Path, **options: Any) -> None:
    """Opens the dashboard of STUDY on this machine."""
    from plinio_sweep.commands.serve import Address, serve_study

    serve_study(study, Address(**options))


if __name__ == "__main__":
    sys.exit(main())
