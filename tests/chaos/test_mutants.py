"""Each mutant of the core is caught by the checks that pass the worker as it is, in the same scenario."""

import ast
from pathlib import Path

import pytest

from tests.chaos.audit import Findings
from tests.chaos.mutants import MUTANTS, Edit, Mutant
from tests.chaos.scenarios import SCENARIOS, Stage, play
from tests.integration.deployment import ROOT

pytestmark = [pytest.mark.broker, pytest.mark.chaos]


@pytest.mark.parametrize("edit", [edit for mutant in MUTANTS.values() for edit in mutant.edits], ids=str)
def test_an_edit_fits_the_source(edit: Edit) -> None:
    ast.parse(edit.apply((ROOT / edit.module.replace(".", "/")).with_suffix(".py").read_text()))


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=name) for name, mutant in MUTANTS.items()])
def test_a_mutant_is_caught(kafka: str, tmp_path: Path, mutant: Mutant) -> None:
    found = play(mutant.scenario, Stage(kafka, tmp_path, mutant.name))
    assert getattr(found, mutant.found) != [], f"{mutant.shows}, and found was {found}"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_worker_as_it_is_comes_through(kafka: str, tmp_path: Path, scenario: str) -> None:
    assert play(scenario, Stage(kafka, tmp_path)) == Findings()
