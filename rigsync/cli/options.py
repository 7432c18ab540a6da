"""Options and types that several commands have."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import click


class _Number(click.FloatRange):
    """A number in a range. Click's own type lets nan through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number in the range {self._describe_range()}.", param, ctx)
        return number


@contextlib.contextmanager
def usage_errors(what: str = "") -> Iterator[None]:
    """Tell of what is wrong with an argument as of wrong usage."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise click.UsageError(f"{what}{error}") from None


SECONDS = _Number(min=0, min_open=True)
SECONDS_OR_NONE = _Number(min=0)
SHARE = _Number(min=0, max=1)


def _add_verbosity(ctx: click.Context, _: click.Parameter, count: int) -> None:
    ctx.obj = (ctx.obj or 0) + count


verbose_option = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    callback=_add_verbosity,
    help="Tell on stderr what happens; give it twice for every detail.",
)
"""It may be given before and after the name of the command. The context's `obj` is the sum."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")

rigs_option = click.option(
    "--rigs",
    "rigs_file",
    metavar="FILE",
    type=click.Path(),  # so that a shell completes it; the text of its errors is that of `find_rigs_file`
    help="The file of rigs. Else the one that RIGSYNC_RIGS names, ./rigs.yaml, or rigsync/rigs.yaml in your "
    "configuration folder.",
)
