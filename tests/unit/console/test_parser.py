"""Command lines: values that begin with a dash, and one-line errors."""

import pytest

from sdst.console.parser import Parser, at_least
from sdst.errors import UserError


def make_parser() -> Parser:
    parser = Parser(prog="sdst x")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--vid")
    parser.add_argument("--qid", action="append")
    parser.add_argument("--number", type=at_least(-9))
    parser.add_argument("--table", action="store_true")
    return parser


@pytest.mark.parametrize(
    "vid", ["-FW109cbv0g_60.0_210.0", "-h3ysXyuVlQ", "-1", "--aBc_0.0_150.0", "-", "-table", "a-b"]
)
def test_an_id_may_begin_with_a_dash(vid: str) -> None:
    parser = make_parser()
    for arguments in (["--vid", vid], [f"--vid={vid}"]):
        assert parser.parse_args([*arguments, "--table"]).vid == vid
    parsed = parser.parse_args(["f", "--qid", vid, "--qid", "b", "--number", "-3"])
    assert (parsed.qid, parsed.number, parsed.files) == ([vid, "b"], -3, ["f"])


@pytest.mark.parametrize(
    "arguments", [["--vid"], ["--vid", "--table"], ["--vid", "--tab"], ["--vid", "--qid", "a"]]
)
def test_an_option_without_its_value_is_refused(arguments: list[str]) -> None:
    with pytest.raises(UserError, match="sdst x: argument --vid: expected one argument"):
        make_parser().parse_args(arguments)


def test_sub_commands_take_such_ids_too() -> None:
    parser = Parser(prog="sdst x")
    parser.add_subparsers().add_parser("tool").add_argument("--vid")
    assert parser.parse_args(["tool", "--vid", "-FW109cbv0g"]).vid == "-FW109cbv0g"
