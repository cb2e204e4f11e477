"""Bulk recovery over a real store: what is applied, when it ends, what standbys do, what is refused. No broker."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from prometheus_client import CollectorRegistry

from tests.unit.stream.test_table import table  # noqa: F401 - a fixture
from worker.errors import Fatal, Invalid
from worker.fold import Unread
from worker.ops.metrics import Metrics
from worker.stream import folder
from worker.stream.recovery import CatchUp, Position
from worker.stream.table import Store, Table

OWN = TP("log", 0)
OTHER = TP("log", 1)


@dataclass(frozen=True)
class Rec:
    offset: int
    key: bytes
    value: bytes | None


class FaustRecovery:
    """The part of Faust's service that is read and told."""

    def __init__(self) -> None:
        self.active_tps = {OWN}
        self.standby_tps = {OTHER}
        self.active_offsets = Counter({OWN: -1})
        self.standby_offsets = Counter({OTHER: -1})
        self.active_highwaters = Counter({OWN: 9})
        self.standby_highwaters = Counter({OTHER: 9})
        self.in_recovery = True
        self.ended = False
        self.signal_recovery_end = SimpleNamespace(set=self.end, clear=lambda: None)

    def need_recovery(self) -> bool:
        return any(end > self.active_offsets[tp] for tp, end in self.active_highwaters.items())

    def _set_recovery_ended(self) -> None:
        self.in_recovery = False

    def end(self) -> None:
        self.ended = True


@dataclass
class Scene:
    store: Store
    recovery: FaustRecovery = field(default_factory=FaustRecovery)
    positions: dict[TP, Position] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    taken_back: dict[int, int] = field(default_factory=dict)
    progressed: int = 0

    def catch_up(self) -> CatchUp:
        app: Any = SimpleNamespace(
            recovery=self.recovery,
            table=SimpleNamespace(store=self.store),
            partitions=SimpleNamespace(taken_back=self.taken_back),
            metrics=Metrics(CollectorRegistry()),
            recovery_progressed=self.progress,
        )
        made = CatchUp(app, position=self.positions.get, fatal=self.refused.append)
        made.reset()
        return made

    def progress(self) -> None:
        self.progressed += 1

    def held(self, partition: int, key: bytes) -> bytes | None:
        return self.store.read(partition)(key)

    def complete(self, partition: int) -> int:
        return int(self.store._db_for_partition(partition).get(folder.COMPLETE))


@pytest.fixture
def scene(table: Table) -> Scene:  # noqa: F811 - the fixture
    return Scene(table.store)


def test_records_are_applied_once_and_tombstones_delete(scene: Scene) -> None:
    catch_up = scene.catch_up()
    catch_up.resume([OWN])
    catch_up.apply(OWN, [Rec(0, b"ann", b"1"), Rec(1, b"bob", b"1")])
    catch_up.apply(OWN, [Rec(0, b"ann", b"old"), Rec(1, b"bob", b"old"), Rec(3, b"bob", None)])
    assert (scene.held(0, b"ann"), scene.held(0, b"bob")) == (b"1", None)
    assert scene.store.persisted_offset(OWN) == scene.recovery.active_offsets[OWN] == 3


def test_what_cannot_be_read_back_is_refused_and_not_left_out(scene: Scene) -> None:
    catch_up = scene.catch_up()
    catch_up.resume([OWN])
    unread = Unread(1, 5, 99, Invalid("too_large", "the record's batch is too large"))
    with pytest.raises(Fatal, match=r"offset 1 of .* in partition 0 cannot be read back: the record's batch"):
        catch_up.apply(OWN, [Rec(0, b"ann", b"1"), unread, Rec(2, b"bob", b"1")])
    assert scene.store.persisted_offset(OWN) is None


def test_what_is_fetched_before_recovery_seeks_is_dropped(scene: Scene) -> None:
    catch_up = scene.catch_up()
    catch_up.apply(OWN, [Rec(0, b"ann", b"1")])
    catch_up.resume([OWN])
    catch_up.reset()
    catch_up.apply(OWN, [Rec(0, b"ann", b"1")])
    assert scene.held(0, b"ann") is None


def test_markers_at_the_end_are_never_delivered_but_the_position_is_behind_them(scene: Scene) -> None:
    catch_up = scene.catch_up()
    catch_up.resume([OWN])
    catch_up.apply(OWN, [Rec(7, b"ann", b"1")])
    scene.positions[OWN] = Position(9, 10)
    catch_up.end_by_position()
    assert scene.recovery.in_recovery
    scene.positions[OWN] = Position(10, 10)
    catch_up.end_by_position()
    assert scene.recovery.ended
    assert not scene.recovery.in_recovery


def test_the_end_is_signalled_until_it_is_heard(scene: Scene) -> None:
    """Faust's own loop clears the signal every 5 s, heard or not."""
    catch_up = scene.catch_up()
    catch_up.resume([OWN])
    catch_up.apply(OWN, [Rec(9, b"ann", b"1")])
    catch_up.end_by_position()
    scene.recovery.ended = False
    catch_up.end_by_position()
    assert scene.recovery.ended
    catch_up.recovered()
    scene.recovery.ended = False
    catch_up.end_by_position()
    assert not scene.recovery.ended


def test_a_standby_follows_and_vouches_for_itself_only_at_the_end(scene: Scene) -> None:
    catch_up = scene.catch_up()
    scene.store.complete(1, 5)
    catch_up.resume([OTHER])
    catch_up.apply(OTHER, [Rec(0, b"ann", b"1")])
    scene.positions[OTHER] = Position(1, 4)
    catch_up.end_by_position()
    assert scene.complete(1) == 5
    catch_up.apply(OTHER, [Rec(2, b"ann", b"2")])
    scene.positions[OTHER] = Position(4, 4)
    catch_up.end_by_position()
    assert scene.complete(1) > 5
    assert scene.held(1, b"ann") == b"2"
    assert scene.progressed == 0, "a standby that goes quiet is no recovery that hangs"
    assert scene.recovery.in_recovery, "nor does it end that of the owned partitions"


@pytest.mark.parametrize("tp", [OWN, OTHER], ids=["owner", "standby"])
def test_state_ahead_of_its_changelog_is_refused(scene: Scene, tp: TP, tmp_path: Path) -> None:
    scene.recovery.active_offsets[OWN] = scene.recovery.standby_offsets[OTHER] = 10
    scene.catch_up().resume([tp])
    (sentence,) = scene.refused
    assert str(tmp_path) in sentence
    assert "holds changelog offset 10, but log ends at 9" in sentence


def test_state_ahead_is_refused_where_nothing_is_left_to_read(scene: Scene) -> None:
    scene.recovery.active_offsets[OWN] = 10
    scene.catch_up().recovered()
    assert len(scene.refused) == 1


@pytest.mark.parametrize(("held", "ahead"), [(6, False), (7, True), (8, True)])
def test_state_of_a_commit_that_was_taken_back_is_condemned(scene: Scene, held: int, ahead: bool) -> None:
    scene.recovery.active_offsets[OWN] = held
    scene.taken_back[OWN.partition] = 7
    assert scene.held(OWN.partition, b"any") is None  # the folder is there
    catch_up = scene.catch_up()
    catch_up.resume([OWN])
    catch_up.recovered()
    assert len(scene.refused) == ahead
    assert (scene.store.partition_path(OWN.partition) / folder.DAMAGED).exists() is ahead
