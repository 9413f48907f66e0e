"""What both command lines share: errors as one message and exit code, options, JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from imgprep.errors import (
    EXIT_FAILED,
    ImgprepError,
    MemoryLimitError,
    UsageError,
    is_out_of_memory,
)
from imgprep.streams import Streams
from imgprep.wording import plain

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")


class StrictCommand(click.Command):
    """Rejects arguments and options that are empty: ``"$UNSET"`` would mean the current folder."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and reject empty values."""
        words = list(args)
        rest = super().parse_args(ctx, args)
        given, _, _ = self.make_parser(ctx).parse_args(words)  # before any conversion
        for param in self.get_params(ctx):
            value = given.get(param.name or "")
            if value == "" or (isinstance(value, (list, tuple)) and "" in value):
                raise click.BadParameter("it is empty; is a variable not set?", ctx, param)
        return rest


class ErrorGroup(click.Group):
    """Prints our errors as one message on stderr, and exits with their code."""

    command_class = StrictCommand

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turn errors into messages and exit codes."""
        try:
            _check_current_folder()
            return super().invoke(ctx)
        except ImgprepError as exc:
            click.echo(plain(f"{ctx.info_name}: {exc}"), err=True)
            ctx.exit(exc.exit_code)
        except (MemoryError, OSError, RuntimeError) as exc:
            if not is_out_of_memory(exc):
                raise
            error = MemoryLimitError.at(_command(ctx), _options(self, ctx))
            click.echo(f"{ctx.info_name}: {error}", err=True)
            ctx.exit(EXIT_FAILED)
        except KeyboardInterrupt:
            click.echo(f"{ctx.info_name}: interrupted", err=True)
            ctx.exit(EXIT_FAILED)


def _command(ctx: click.Context) -> str:
    return ctx.invoked_subcommand or "this command"


def _options(group: click.Group, ctx: click.Context) -> set[str]:
    command = group.get_command(ctx, ctx.invoked_subcommand or "")
    return {option for each in command.params for option in each.opts} if command else set()


def _check_current_folder() -> None:
    try:
        os.getcwd()  # noqa: PTH109
    except FileNotFoundError as exc:
        raise UsageError("the current folder was deleted: change to another folder") from exc


def options(*decorators: Callable[..., Any]) -> Callable[..., Any]:
    """Several options as one decorator, in the order of their help."""

    def apply(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def print_json(value: object) -> None:
    """Print a value as JSON on stdout."""
    click.echo(json.dumps(value, indent=2, default=str))


@contextmanager
def summary() -> Iterator[None]:
    """Print a summary on stdout within the block: see ``imgprep.streams``."""
    context = click.get_current_context()
    streams = context.find_object(Streams)
    assert streams is not None, "commands are started by run"
    with streams.summary(str(context.find_root().info_name)):
        yield


def run(cli: click.Command, name: str) -> None:
    """Run a command line as the program ``name``, and end the process."""
    streams = Streams()
    try:
        cli(prog_name=name, obj=streams)
    except OSError as exc:
        why = streams.stdout_failure()
        if why is not None:
            text = f"cannot write to stdout: {why}"
        elif isinstance(exc.filename, (str, bytes)):
            text = f"{os.fsdecode(exc.filename)}: {exc.strerror}"
        else:
            raise
        click.echo(plain(f"{name}: {text}"), err=True)
        sys.exit(EXIT_FAILED)
