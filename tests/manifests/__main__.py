"""`python -m tests.manifests`: render every overlay, hold every object against its schema, and check the rest."""

import itertools
import sys

from tests.manifests.network import network_faults
from tests.manifests.pipeline import pipeline_faults
from tests.manifests.policy import policy_faults
from tests.manifests.references import reference_faults
from tests.manifests.rendering import OVERLAYS, Object, render, with_components
from tests.manifests.schemas import VERSIONS, schema_faults


def check(objects: list[Object]) -> tuple[int, list[str]]:
    """How many objects are as their schema says, and all that is wrong."""
    passed, faults = schema_faults(objects)
    if passed != len(objects) and not faults:
        faults = [f"{len(objects)} objects, but {passed} are as their schema says"]
    for find in (policy_faults, reference_faults, network_faults, pipeline_faults):
        faults += find(objects)
    return passed, faults


def main() -> int:
    """The exit code: 0 well, 1 with faults."""
    wrong = 0
    for overlay, (words, edit) in itertools.product(OVERLAYS, (("", None), (", all components", with_components))):
        objects = render(overlay, edit)
        passed, faults = check(objects)
        wrong += len(faults)
        print(
            f"{overlay}{words}: {len(objects)} objects, {passed} valid for Kubernetes {' and '.join(VERSIONS)}, "
            f"{len(faults)} faults"
        )
        for fault in faults:
            print(f"  {fault}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
