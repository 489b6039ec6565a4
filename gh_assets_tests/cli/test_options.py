"""Options of commands are made from pydantic models."""

from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel, Field, FilePath

from gh_assets.cli.options import options_of


class Options(BaseModel):
    shape: Literal["round", "square"] | None = Field(default=None, description="Shape.")
    n: int = Field(default=3, ge=1, le=9, description="Number.")
    share: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, description="Share.")] = 0.5
    keep_all: bool = Field(default=False, description="Keep all.")
    name: tuple[Annotated[str, Field(max_length=5)], ...] = Field(default=(), title="NAME", description="Name.")
    file: FilePath | None = Field(default=None, description="File.")
    hidden: int = 7


def invoke(*arguments: str) -> tuple[int, str, Options | None]:
    received: list[Options] = []

    @click.command()
    @options_of(Options, without=["hidden"])
    @click.option("--other", default="x")
    def command(options: Options, other: str) -> None:
        assert other == "x"
        received.append(options)

    result = CliRunner().invoke(command, arguments)
    return result.exit_code, result.output, received[0] if received else None


def test_defaults_are_those_of_the_model() -> None:
    assert invoke() == (0, "", Options())


def test_values_are_parsed_by_the_type_of_the_field(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    arguments = ["--shape", "round", "-n", "9", "--share", "0.25", "--keep-all", "--name", "a", "--name", "b", "--file"]
    expected: dict[str, Any] = {"shape": "round", "n": 9, "share": 0.25, "keep_all": True, "name": ("a", "b")}
    assert invoke(*arguments, str(file)) == (0, "", Options(**expected, file=file))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "flat"], "--shape"),
        (["-n", "10"], "1<=x<=9"),
        (["--share", "2"], "0<=x<=1"),
        (["--share", "nan"], "--share"),  # the range of click accepts it
        (["--name", "longer"], "Invalid value for --name: String should have at most 5 characters"),
        (["--file", "missing"], "'missing' does not exist"),
        (["--hidden", "1"], "No such option"),
    ],
)
def test_a_value_out_of_bounds_is_wrong_usage(arguments: list[str], message: str) -> None:
    code, output, options = invoke(*arguments)
    assert (code, options) == (2, None)
    assert message in output


def test_help_shows_descriptions_bounds_defaults_and_placeholders() -> None:
    _, output, _ = invoke("--help")
    for line in ("--shape [round|square]", "-n INTEGER RANGE", "[default: 3; 1<=x<=9]", "--name NAME", "Keep all."):
        assert line in output
