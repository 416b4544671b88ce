"""Two runs of one target that finish at the same moment: real processes, a real server, and one of them is it."""

import multiprocessing
import os
from typing import Any

import pytest

from calrec.tracking import promotion, registry
from tests.tracking.registry.world import Versions

WON, LOST = "is the champion, in the place of version", "became the champion at the same moment"


def finish(me: int, tries: int, uri: str, versions: Versions, barrier: Any, said: Any) -> None:
    """A run after the other; each of them claims the place when the other one does."""
    os.environ |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "registry", "CALREC_TRACKING": "required"}
    crown = promotion._promote

    def together(*given: Any) -> tuple[bool, str]:
        barrier.wait(120)
        return crown(*given)

    promotion._promote = together
    for at in range(tries):
        rival = registry.champion(versions.target).uri
        barrier.wait(120)
        words = versions.settle(10 + 2 * at + me, rival=rival, state=f"{at} of {me}")
        barrier.wait(120)
        said.put((at, words, registry.champion(versions.target).number))


@pytest.mark.long
@pytest.mark.parametrize("tries", [2, 20])
def test_one_becomes_the_champion_and_the_other_says_that_it_did_not(
    versions: Versions, target: str, server: str, tries: int
):
    versions.settle()
    for k in range(10, 10 + 2 * tries):
        versions.folder(k)
    spawn = multiprocessing.get_context("spawn")
    barrier, said = spawn.Barrier(2), spawn.Queue()
    runs = [spawn.Process(target=finish, args=(me, tries, server, versions, barrier, said)) for me in (0, 1)]
    for run in runs:
        run.start()
    found = [said.get(timeout=300) for _ in range(2 * tries)]
    for run in runs:
        run.join(60)
    there = {one.number: one for one in registry.versions(target, 50)}
    for at in range(tries):
        words = sorted((words for each, words, _ in found if each == at), key=lambda words: WON not in words)
        first, second = 2 * at + 2, 2 * at + 3
        assert {number for each, _, number in found if each == at} == {first}  # both see the same one
        assert words[0].startswith(f"calrec-{target} version {first} {WON}")
        assert words[1] == f"calrec-{target} version {second} stays the challenger: version {first} {LOST}"
        assert registry.STATE in there[first].tags  # the next run is held against this one
        assert registry.STATE not in there[second].tags
    assert not any(registry.CLAIM in one.tags for one in there.values())
