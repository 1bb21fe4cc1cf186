"""The `#SBATCH` lines of a batch script, read as sbatch reads them. Pure.

Sources: sbatch(1), and what `sbatch -vv` of 22.05 printed for each script in tests/unit/slurm/test_sbatch_lines.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from dagster_slurm.errors import InvalidRequestError, UnknownOptionError
from dagster_slurm.slurm.options import MANAGED_OPTIONS, SBATCH_OPTIONS
from dagster_slurm.slurm.request import merge

MAGIC = "#SBATCH"

# Quotes group, also within a word; a backslash takes the next character as it is, but for a blank outside of quotes.
_PIECE = re.compile(r""""((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)'|\\(\S)?|([^\s"'\\#]+)""", re.ASCII)
_ESCAPED = re.compile(r"\\(.)")
_BLANKS = " \t\n\v\f\r"

_SHORT = """
    A account a array B extra-node-info b begin C constraint c cpus-per-task D chdir d dependency
    e error F nodefile G gpus H hold h help i input J job-name k no-kill L licenses M clusters
    m distribution N nodes n ntasks O overcommit o output p partition Q quiet q qos S core-spec
    s oversubscribe t time u usage V version v verbose W wait w nodelist x exclude
"""


def _short_options() -> Mapping[str, str]:
    words = _SHORT.split()
    return MappingProxyType(dict(zip(words[::2], words[1::2], strict=True)))


SHORT_OPTIONS = _short_options()
"""The long options of the short ones."""

_OTHER_NAMES = {"tasks-per-node": "ntasks-per-node"}
_LONG = {name: name for name in SBATCH_OPTIONS} | _OTHER_NAMES

_NOT_APPLIED = frozenset(
    {
        *("error", "get-user-env", "ignore-pbs", "job-name", "open-mode", "output"),
        *("parsable", "quiet", "requeue", "verbose", "wait"),
    }
)
# What dagster-slurm passes on is chosen elsewhere; what names variables is refused, since the payload would lack them.
_EXPORTS_NOTHING = frozenset({"ALL", "NIL", "NONE"})

_INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "array": "one call is one job: use compute.run_partitions, which runs the script once for each partition",
        "chdir": "the payload starts in its run directory: have the script `cd` there, or name its files in "
        "`extra_files` or `inputs`",
        "dependency": 'assets wait for each other by `deps`: use these, or extra_slurm_opts={"dependency": ...} for a '
        "job that is no asset",
        "hetjob": "one script is one component: use compute.run_hetjob, with a payload and options for each",
        "signal": "use signal_before_timeout, which the batch script forwards to the payload",
    }
)
_HETJOB = frozenset({"hetjob", "packjob", ":"})
_ONE_OF: tuple[set[str], ...] = ({"mem", "mem-per-cpu", "mem-per-gpu"}, {"requeue", "no-requeue"})


@dataclass(frozen=True)
class ScriptOption:
    """An option that a script gives.

    Attributes:
        name: As sbatch spells it, long.
        value: Its value; True without one.
        line: The number of the line that it begins in.
    """

    name: str
    value: str | bool
    line: int

    def __str__(self) -> str:
        return f"--{self.name}" if self.value is True else f"--{self.name}={self.value}"


@dataclass(frozen=True)
class SbatchLines:
    """What is made of the `#SBATCH` lines of a script.

    Attributes:
        options: A layer for `merge`.
        not_applied: What is not applied, since dagster-slurm sets it itself, as options with their values.
    """

    options: Mapping[str, object]
    not_applied: tuple[str, ...]

    def note(self, script: str) -> str:
        """One line about what is not applied; empty if there is nothing.

        Args:
            script: Whose lines they are.
        """
        if not self.not_applied:
            return ""
        return (
            f"Not applied of the {MAGIC} lines of {script}, since dagster-slurm sets it: {' '.join(self.not_applied)}"
        )


def read_sbatch_lines(text: str, script: str) -> SbatchLines:
    """What a script asks for in its `#SBATCH` lines.

    Args:
        text: The script.
        script: Its name, for errors.

    Raises:
        InvalidRequestError: sbatch would not take a line, or it asks for what a payload cannot have; the error names
            the line, and what to use.
    """
    options: dict[str, object] = {}
    not_applied: dict[str, str] = {}
    try:
        for each in script_options(text):
            if _is_ours(each):
                not_applied[each.name] = str(each)
                continue
            alternatives = next((names for names in _ONE_OF if each.name in names), set())
            options = {name: value for name, value in options.items() if name not in alternatives}
            options |= _setting(each)
    except InvalidRequestError as error:
        raise type(error)(f"{script}, {error.message}", hint=error.hint) from None
    return SbatchLines(MappingProxyType(options), tuple(not_applied.values()))


def _is_ours(option: ScriptOption) -> bool:
    return option.name in _NOT_APPLIED or (option.name == "export" and option.value in _EXPORTS_NOTHING)


def _setting(option: ScriptOption) -> dict[str, object]:
    """The option as one of a layer, checked by itself, so that an error can name the line."""
    name, value = option.name, option.value
    if name == "signal":
        name = "signal-before-timeout"
    elif name in _INSTEAD or name in MANAGED_OPTIONS:
        hint = _INSTEAD.get(name) or MANAGED_OPTIONS[name]
        raise InvalidRequestError(f"line {option.line}: {option} cannot be had", hint=f"{_sentence(hint)}.")
    if name == "nodes" and isinstance(value, str) and len(set(value.split("-"))) == 1:
        # "2-2" is two, for people who mean no fewer and no more.
        value = value.partition("-")[0]
    # To sbatch, what is blank is not given.
    setting: dict[str, object] = {name: None if isinstance(value, str) and not value.strip() else value}
    try:
        merge(setting)
    except InvalidRequestError as error:
        raise type(error)(f"line {option.line}: {error.message}", hint=error.hint) from None
    return setting


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def script_options(text: str) -> Iterator[ScriptOption]:
    """The options in the order in which sbatch applies them; the last of a name holds.

    Raises:
        InvalidRequestError: sbatch would not take a line.
    """
    words = _words(text)
    for word, line in words:
        if word.startswith("--") and word != "--":
            yield _long(word, line, words)
        elif word.startswith("-") and word not in {"-", "--"}:
            yield from _short(word, line, words)
        elif word in _HETJOB:
            raise InvalidRequestError(
                f"line {line}: a heterogeneous job cannot be had", hint=f"{_sentence(_INSTEAD['hetjob'])}."
            )
        else:
            raise InvalidRequestError(
                f"line {line}: {word!r} is no option of sbatch",
                hint="A value stands behind its option, with `=` or a blank; `##SBATCH` makes the line a comment.",
            )


def _words(text: str) -> Iterator[tuple[str, int]]:
    """The words of all lines; the value of an option may be the first word of the next line."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith(MAGIC):
            for word in _words_of(line[len(MAGIC) :], number):
                yield word, number
        elif line.strip(_BLANKS) and not line.lstrip(_BLANKS).startswith("#"):
            return


def _words_of(line: str, number: int) -> Iterator[str]:
    position = 0
    while True:
        position = len(line) - len(line[position:].lstrip(_BLANKS))
        word = ""
        while piece := _PIECE.match(line, position):
            position = piece.end()
            word += _ESCAPED.sub(r"\1", piece[1] or piece[2] or "") + (piece[3] or "") + (piece[4] or "")
        if line[position : position + 1] in {'"', "'"}:
            raise InvalidRequestError(f"line {number}: a quote is not closed")
        if not word:
            # A comment, the end, or an empty word, which is an end to sbatch.
            return
        yield word


def _long(word: str, line: int, words: Iterator[tuple[str, int]]) -> ScriptOption:
    written, has_value, value = word[2:].partition("=")
    name = _full_name(written, line)
    if has_value:
        if SBATCH_OPTIONS[name].takes == "nothing":
            raise InvalidRequestError(f"line {line}: --{written} takes no value, and is given {value!r}")
        return ScriptOption(name, value, line)
    if SBATCH_OPTIONS[name].takes == "value":
        return ScriptOption(name, _next(f"--{written}", line, words), line)
    return ScriptOption(name, True, line)


def _full_name(written: str, line: int) -> str:
    """The name that is written, or the only one that begins with it."""
    names: Sequence[str] = [written] if written in _LONG else [name for name in _LONG if name.startswith(written)]
    if len(names) == 1:
        return _LONG[names[0]]
    if not names:
        raise UnknownOptionError(f"line {line}: sbatch has no option --{written}")
    raise UnknownOptionError(f"line {line}: --{written} is not clear", hint=f"It may be --{', --'.join(names)}.")


def _short(word: str, line: int, words: Iterator[tuple[str, int]]) -> Iterator[ScriptOption]:
    """One or more short options in a word; the rest of it is the value of the first that takes one."""
    for position, letter in enumerate(word[1:], start=1):
        if letter not in SHORT_OPTIONS:
            raise UnknownOptionError(f"line {line}: sbatch has no option -{letter}")
        name, rest = SHORT_OPTIONS[letter], word[position + 1 :]
        takes = SBATCH_OPTIONS[name].takes
        if takes == "value":
            yield ScriptOption(name, rest or _next(f"-{letter}", line, words), line)
            return
        if takes == "optional" and rest:
            yield ScriptOption(name, rest, line)
            return
        yield ScriptOption(name, True, line)


def _next(option: str, line: int, words: Iterator[tuple[str, int]]) -> str:
    value, _ = next(words, (None, line))
    if value is None:
        raise InvalidRequestError(f"line {line}: {option} has no value")
    return value
