"""How a job stands, by its witnesses: one table for following, retries, `jobs`, `clean` and the doctor. Pure.

There are three witnesses. The *end line* is the batch script's own, and missing where it was killed; *squeue* forgets a
job soon after its end; *sacct* learns of it late, or is not kept. None of them is enough alone: `Witnesses` is what all
have said until now, and `decide` goes down `TABLE` until a row's facts all hold: its action is what to do next.
*Unknown* is not *failed*, and *unreachable* is not *unknown*: no answer never ends anything, and each wait for a
witness has a patience of its own (`Patience`), after which the others decide. A number is not an identity: what Slurm
says under a job's number is a witness only if it is about that job (`RunDirectory.is_of`). To add a rule is to add a
row, and its case in tests/unit/cluster/test_judge.py, which fails for a row that no case reaches; the diagram of
docs/ends.md is drawn from the table.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from enum import Enum

from dagster_slurm.cluster.description import EndMark, OverMark, StartMark, end_mark_of
from dagster_slurm.cluster.records import AttemptRecord
from dagster_slurm.slurm.output import AccountingRecord, QueueEntry
from dagster_slurm.slurm.states import JobState


class Silence(Enum):
    """Why a witness names no state."""

    NOT_KNOWN = "not asked yet, or no answer"
    GONE = "a good answer, without this job"
    NOT_OURS = "an answer about a job of that number, which may be another's"
    NONE_KEPT = "no accounting is kept"
    REFUSED = "accounting is refused for good: every question was, for a while"


class Action(Enum):
    """What to do next about a job."""

    WAIT = "look again"
    ASK_QUEUE = "ask squeue soon"
    ASK_ACCOUNTING = "ask sacct soon"
    FINISH = "the end is known"
    GIVE_UP = "the end cannot be known"


@dataclass(frozen=True)
class Patience:
    """How long, in seconds, to wait for witnesses once a job is over.

    Args:
        accounting_seconds: For sacct to know the end, when another witness tells it already.
        logs_seconds: For the last bytes of the logs to be seen (NFS).
        unknown_seconds: For any witness at all to tell how a job ended that has left the queue.
        silent_seconds: For an end line to be seen (NFS keeps for a minute that a file is not there: acdirmax, nfs(5)):
            the batch script writes one unless it is killed.
        prompt_seconds: For sacct to know a good end, before squeue is asked about it.
    """

    accounting_seconds: float = 20.0
    logs_seconds: float = 10.0
    unknown_seconds: float = 3600.0
    silent_seconds: float = 120.0
    prompt_seconds: float = 3.0


@dataclass(frozen=True)
class Witnesses:
    """What is known of one job.

    Args:
        end_mark: The end line of its newest incarnation.
        queue: squeue's word.
        accounting: sacct's word.
        logs_complete: Whether everything was read that the end line counts.
        over_seconds: How long it has been known to be over; 0 while it is not.
        ending_seconds: How long its end line has been known.
        starts: How often its newest incarnation has begun.
        needs_accounting: Whether something is wanted that only sacct tells.
    """

    end_mark: EndMark | None = None
    queue: JobState | Silence = Silence.NOT_KNOWN
    accounting: JobState | Silence = Silence.NOT_KNOWN
    logs_complete: bool = True
    over_seconds: float = 0.0
    ending_seconds: float = 0.0
    starts: int = 1
    needs_accounting: bool = False

    @property
    def is_live(self) -> bool:
        """Whether squeue says that it goes on."""
        return isinstance(self.queue, JobState) and not self.queue.is_terminal

    @property
    def is_over(self) -> bool:
        """Whether a witness says that it runs no more: it ended, or it left the queue."""
        return self.queue is Silence.GONE or self.ended_state is not None

    @property
    def ended_state(self) -> JobState | None:
        """The state it ended in, as sacct or squeue has it."""
        for word in (self.accounting, self.queue):
            if isinstance(word, JobState) and word.is_terminal:
                return word
        return None

    @property
    def has_node_trouble(self) -> bool:
        """Whether Slurm says that it has lost a node, or that there was not enough memory on one."""
        return self.ended_state in (JobState.NODE_FAIL, JobState.OUT_OF_MEMORY)

    @property
    def has_good_end(self) -> bool:
        """Whether its own end line says that its payload succeeded."""
        return self.end_mark is not None and self.end_mark.exit_code == 0

    @property
    def has_proof(self) -> bool:
        """Whether its own end line leaves nothing to ask."""
        # Of an incarnation that began twice the other may run: slurmctld starts a job again without a restart count
        # when it is killed within three seconds of its start (22.05, 24.11).
        return self.end_mark is not None and self.end_mark.is_proof and self.starts < 2


class Fact(Enum):
    """What can be the case with a job, in words; {} is a patience."""

    OVER = "squeue has it no more, or Slurm has an end of it"
    ENDED = "squeue or sacct has an end of it"
    ACCOUNTED = "sacct has an end of it"
    COMPLETED = "Slurm says COMPLETED"
    FAILED = "Slurm says FAILED"
    NODE_TROUBLE = "Slurm says NODE_FAIL or OUT_OF_MEMORY"
    GOES_ON = "sacct says that it goes on"
    NOBODY_ACCOUNTS = "no accounting is kept, or it is refused for good"
    STRANGER = "squeue has another's job of its number"
    LINE = "it has an end line"
    GOOD_LINE = "its end line has exit code 0"
    PROOF = "its end line shows a good end, and that there is nothing else to know"
    READ = "all that its end line counts was read"
    BEHIND = "less was read than its end line counts, which was seen less than {logs_seconds} s ago"
    ENDED_BADLY = "Slurm has another end of it than COMPLETED"
    WANTED = "only sacct knows what is asked for, and may tell it, for {accounting_seconds} s"
    NODES = "its launcher has looked at the end of every node or rank"
    PROMPT = "it began once, and sacct may know its end, for {prompt_seconds} s"
    LINE_STOOD = "its end line was seen {accounting_seconds} s ago"
    LINE_STOOD_LONG = "its end line was seen {unknown_seconds} s ago"
    UNREAD = "less was read than the end line counts, for {logs_seconds} s"
    AWAITED = "accounting is kept and not refused for good, for {accounting_seconds} s"
    SILENT = "it is over for {silent_seconds} s"
    SILENT_LONG = "it is over for {unknown_seconds} s"


class End(Enum):
    """In which state a job has ended."""

    NONE = ""
    OF_SLURM = "as Slurm says"
    OF_LINE = "by its exit code"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        name: What is the case.
        when: What has to be the case.
        unless: What must not be.
        action: What follows, where no row before it holds.
        end: The state that it ended in, where the action is `FINISH`.
        notice: What a person wants to know of it, once; empty for nothing.
    """

    name: str
    action: Action
    when: Set[Fact] = frozenset()
    unless: Set[Fact] = frozenset()
    end: End = End.NONE
    notice: str = ""


@dataclass(frozen=True)
class Verdict:
    """The next action.

    Args:
        action: What to do.
        state: At the end, the state it ended in.
        row: The row of the table that decided.
    """

    action: Action
    state: JobState | None
    row: Row


TABLE: tuple[Row, ...] = (
    Row("no witness of an end", Action.WAIT, unless={Fact.OVER, Fact.LINE}),
    Row("a good end line, with lines to be read", Action.WAIT, {Fact.PROOF, Fact.BEHIND}, {Fact.ENDED_BADLY}),
    Row(
        "a good end line that leaves nothing to ask",
        Action.FINISH,
        {Fact.PROOF, Fact.READ},
        {Fact.ENDED_BADLY, Fact.WANTED},
        End.OF_LINE,
    ),
    Row("a good end line, not accounted yet", Action.ASK_ACCOUNTING, {Fact.GOOD_LINE, Fact.PROMPT}, {Fact.OVER}),
    Row(
        "a good end line, and Slurm names another's job",
        Action.FINISH,
        {Fact.STRANGER, Fact.GOOD_LINE, Fact.LINE_STOOD},
        {Fact.OVER},
        End.OF_LINE,
    ),
    Row(
        "an end line, and Slurm names another's job for long",
        Action.GIVE_UP,
        {Fact.STRANGER, Fact.LINE_STOOD_LONG},
        {Fact.OVER},
    ),
    # A requeue writes one, too.
    Row("an end line, still in the queue", Action.ASK_QUEUE, unless={Fact.OVER}),
    Row("over, with lines to be read", Action.WAIT, {Fact.UNREAD}),
    Row(
        "COMPLETED, and its end line has another exit code",
        Action.FINISH,
        {Fact.COMPLETED, Fact.LINE},
        {Fact.GOOD_LINE},
        End.FAILED,
    ),
    # An administrator who clears a runaway job makes it COMPLETED 0:0 (sacctmgr(1), show runawayjobs).
    Row(
        "COMPLETED, and no end line is seen",
        Action.WAIT,
        {Fact.COMPLETED},
        {Fact.LINE, Fact.SILENT},
        notice="Slurm says COMPLETED, and the end line of its batch script is not seen yet",
    ),
    # Of its exit code sacct would know.
    Row(
        "FAILED, and neither an end line nor sacct tells more",
        Action.WAIT,
        {Fact.FAILED, Fact.NOBODY_ACCOUNTS},
        {Fact.LINE, Fact.SILENT},
    ),
    Row("over, not accounted yet", Action.ASK_ACCOUNTING, {Fact.AWAITED}, {Fact.ACCOUNTED}),
    # Ray and Spark repeat the work of a node; ranks have all ended with 0, or the exit code is another.
    Row(
        "trouble of a node that the payload has outlived",
        Action.FINISH,
        {Fact.NODE_TROUBLE, Fact.GOOD_LINE, Fact.NODES},
        end=End.OF_LINE,
    ),
    Row("accounted", Action.FINISH, {Fact.ACCOUNTED}, end=End.OF_SLURM),
    Row("ended, by squeue", Action.FINISH, {Fact.ENDED}, end=End.OF_SLURM),
    Row("gone, with an end line", Action.FINISH, {Fact.LINE}, end=End.OF_LINE),
    Row(
        "gone without a word, and nobody keeps or tells more",
        Action.FINISH,
        {Fact.NOBODY_ACCOUNTS, Fact.SILENT},
        end=End.FAILED,
    ),
    Row(
        "gone, and sacct says that it goes on",
        Action.ASK_ACCOUNTING,
        {Fact.GOES_ON},
        {Fact.SILENT_LONG},
        notice="The controller knows it no more, and Slurm's accounting has no end of it: it may be a runaway job "
        "(`sacctmgr show runawayjobs`, for administrators)",
    ),
    Row("gone without a word", Action.ASK_ACCOUNTING, unless={Fact.SILENT_LONG}),
    Row("gone without a word for long", Action.GIVE_UP),
)
"""The first row that holds decides."""


def judge(seen: Witnesses, patience: Patience) -> Verdict:
    """The next action for a job.

    squeue is the witness of pending and running, sacct of the end. A good end line that shows that nothing was wrong is
    believed at once; any other is a hint, believed alone only when the job has left the queue and sacct stays silent.
    There is no success without an end line.
    """
    facts = facts_of(seen, patience)
    row = next(row for row in TABLE if row.when <= facts and row.unless.isdisjoint(facts))
    by_line = JobState.COMPLETED if seen.has_good_end else JobState.FAILED
    states = {End.OF_SLURM: seen.ended_state, End.OF_LINE: by_line, End.FAILED: JobState.FAILED}
    return Verdict(row.action, states.get(row.end), row)


def at_a_look(
    attempt: AttemptRecord,
    job_id: str,
    generation: int | None,
    entry: QueueEntry | None,
    record: AccountingRecord | None,
    *,
    without_entry: Silence = Silence.GONE,
    without_record: Silence = Silence.NOT_KNOWN,
    over_seconds: float = 0.0,
) -> Witnesses:
    """What is known of a job after one look.

    Args:
        attempt: Where it lies.
        job_id: Its id.
        generation: Which try to submit brought it.
        entry: What squeue has under its number or name.
        record: What sacct has under its number.
        without_entry: Why squeue has none.
        without_record: Why sacct has none.
        over_seconds: How long it is over, if it is.
    """
    marks = [mark for mark in attempt.marks if mark.job_id == job_id]
    handle = replace(attempt.handle(job_id), generation=generation or 0)
    started_at = next((mark.at_epoch_seconds for mark in reversed(marks) if isinstance(mark, StartMark)), None)

    def word(said: QueueEntry | AccountingRecord) -> JobState | Silence:
        return said.state if handle.is_of(said, started_at=started_at) else Silence.NOT_OURS

    queue, end_mark = word(entry) if entry else without_entry, end_mark_of(marks)
    if any(isinstance(mark, OverMark) for mark in marks):
        # What squeue has is the allocation, which goes on.
        queue = Silence.GONE
    if isinstance(queue, JobState) and not queue.is_terminal:
        # Whatever else is known: of one that was requeued sacct may know the end of the run before.
        return Witnesses(end_mark, queue)
    return Witnesses(end_mark, queue, word(record) if record else without_record, over_seconds=over_seconds)


def facts_of(seen: Witnesses, patience: Patience) -> frozenset[Fact]:
    """What is the case."""
    ended, has_line = seen.ended_state, seen.end_mark is not None
    says_nothing = seen.accounting in (Silence.NONE_KEPT, Silence.REFUSED)
    # As for a proof.
    began_once = seen.end_mark is not None and seen.end_mark.restart == 0 and seen.starts < 2
    cases = (
        (Fact.OVER, seen.is_over),
        (Fact.ENDED, ended is not None),
        (Fact.ACCOUNTED, isinstance(seen.accounting, JobState) and seen.accounting.is_terminal),
        (Fact.COMPLETED, ended is JobState.COMPLETED),
        (Fact.FAILED, ended is JobState.FAILED),
        (Fact.NODE_TROUBLE, seen.has_node_trouble),
        (Fact.GOES_ON, isinstance(seen.accounting, JobState) and not seen.accounting.is_terminal),
        (Fact.NOBODY_ACCOUNTS, says_nothing),
        (Fact.STRANGER, seen.queue is Silence.NOT_OURS),
        (Fact.LINE, has_line),
        (Fact.GOOD_LINE, seen.has_good_end),
        (Fact.PROOF, seen.has_proof),
        (Fact.READ, seen.logs_complete),
        (Fact.BEHIND, not seen.logs_complete and seen.ending_seconds < patience.logs_seconds),
        (Fact.ENDED_BADLY, ended is not None and ended is not JobState.COMPLETED),
        (Fact.WANTED, seen.needs_accounting and not says_nothing and seen.ending_seconds < patience.accounting_seconds),
        (Fact.NODES, seen.end_mark is not None and bool(seen.end_mark.nodes)),
        (Fact.PROMPT, began_once and not says_nothing and seen.ending_seconds < patience.prompt_seconds),
        (Fact.LINE_STOOD, has_line and seen.ending_seconds >= patience.accounting_seconds),
        (Fact.LINE_STOOD_LONG, has_line and seen.ending_seconds >= patience.unknown_seconds),
        (Fact.UNREAD, not seen.logs_complete and seen.over_seconds < patience.logs_seconds),
        (Fact.AWAITED, not says_nothing and seen.over_seconds < patience.accounting_seconds),
        (Fact.SILENT, seen.over_seconds >= patience.silent_seconds),
        (Fact.SILENT_LONG, seen.over_seconds >= patience.unknown_seconds),
    )
    return frozenset(fact for fact, holds in cases if holds)
