"""One kind of question to the cluster, asked once for all processes that share the answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Generic, TypeVar

from dagster_slurm.errors import SlurmError
from dagster_slurm.job import turns
from dagster_slurm.job.shared_answers import Answer, AnswerBoard, Turn

_T = TypeVar("_T")
_R = TypeVar("_R")
# A full or vanished directory may be usable again.
_UNUSABLE_SECONDS = 60.0
_log = logging.getLogger(__name__)


class Question(Generic[_T]):
    """Asks about jobs, at most about once a second, and lets others know; used by one thread.

    Args:
        ask: Asks the cluster about these jobs; None where it keeps no such thing.
        board: Where answers are shared; None for this process alone.
        clock: Seconds of the board's clock.
        rules: How often may be asked, by this process where it cannot share.
    """

    def __init__(
        self,
        ask: Callable[[list[str]], Mapping[str, _T] | None],
        board: AnswerBoard[_T] | None = None,
        *,
        clock: Callable[[], float],
        rules: turns.Rules | None = None,
    ) -> None:
        self._cluster = ask
        self._board = board
        self._rules = rules or turns.Rules()
        self._own_account = turns.Account.opened("", clock(), self._rules)
        self._unusable_until = float("-inf")
        self._has_said = False
        self.now = clock

    def want(self, ids: Collection[str]) -> None:
        """Let whoever asks next ask about these as well."""
        self._at_the_board(lambda board: board.want(ids), None)

    def leave(self) -> None:
        """Want nothing more."""
        with suppress(OSError):
            if self._board is not None:
                self._board.leave()

    def age(self) -> float:
        """Seconds since somebody asked; infinite if nobody did."""
        return self._board.age() if self._board else float("inf")

    def news(self) -> Answer[_T] | None:
        """What another process was answered since the last call."""
        return self._at_the_board(lambda board: board.news(), None)

    def ask(self, ids: Collection[str]) -> Answer[_T] | None:
        """Ask, unless somebody does already or too much was asked; then None, and it is worth to come back soon.

        Raises:
            SlurmError: Slurm's answer is not usable.
            TransportError: There is none.
        """
        turn = self._at_the_board(lambda board: board.begin(), Turn.STUCK)
        if turn is Turn.NEWS:
            return self.news()
        if turn is Turn.MINE:
            try:
                nobody: list[str] = []
                others = self._at_the_board(lambda board: board.wanted_by_others(ids), nobody)
                return self._ask([*ids, *others])
            finally:
                self._at_the_board(lambda board: board.end(), None)
        return self._ask(list(ids)) if turn is Turn.STUCK and self._may_ask() else None

    def _may_ask(self) -> bool:
        account = turns.begun(self._own_account, "", now=self.now(), rules=self._rules)
        self._own_account = account or self._own_account
        return account is not None

    def _ask(self, ids: list[str]) -> Answer[_T]:
        asked_at = self.now()
        try:
            answer = Answer(asked_at, frozenset(ids), self._cluster(ids))
        except SlurmError as error:
            if error.transient:
                self._publish(Answer(asked_at, frozenset(ids), None, error.message))
            raise
        self._publish(answer)
        return answer

    def _publish(self, answer: Answer[_T]) -> None:
        self._at_the_board(lambda board: board.publish(answer), None)

    def _at_the_board(self, do: Callable[[AnswerBoard[_T]], _R], otherwise: _R) -> _R:
        if self._board is None or self.now() < self._unusable_until:
            return otherwise
        try:
            return do(self._board)
        except OSError as error:
            self._unusable_until = self.now() + _UNUSABLE_SECONDS
            # Nobody is to wait for this process, and it begins anew if the directory comes back.
            self.leave()
            if not self._has_said:
                self._has_said = True
                _log.debug("Answers of Slurm are not shared with other processes: %s", error)
            return otherwise
