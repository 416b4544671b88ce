"""Outputs of steps on this machine, each in a folder named after what decides it.

The name holds a hash of the step's code, of its settings, and of the content of its
inputs. So a run can be stopped anywhere and goes on with the same command, runs share what they have in common, and a
changed docstring, comment or report makes nothing anew.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calrec import artifacts
from calrec.config.overrides import to_dict
from calrec.launch import steps
from calrec.launch.steps import STEPS
from calrec.system import code_version
from calrec.system.printing import safe


@dataclasses.dataclass(frozen=True)
class Folders:
    """Below `root`; with `fresh` every step runs, also where its folder is there."""

    root: Path
    fresh: bool = False

    def get_or_make(
        self,
        name: str,
        inputs: Mapping[str, Any],
        sections: Mapping[str, Any],
        *,
        key: Sequence[Any] = (),
        **values: Any,
    ) -> Path:
        """The folder of a step; the step runs when it is not there, see :func:`calrec.launch.steps.run`.

        Args:
            name: of STEPS.
            inputs: parameter → folder, list of folders, mapping of files, or None.
            sections: of the configuration, by name; those that the step takes count.
            key: what else decides, such as the version of a source.
            values: plain values of the step; `domain`, the category, counts.
        """
        step = STEPS[name]
        module = "calrec.finetune.step" if name in steps.STAGES else step.function.partition(":")[0]
        chosen = {section: to_dict(sections[section]) for section in step.sections}
        decides = [code_version.of_module(module), chosen, values.get("domain", ""), list(key), _content(inputs)]
        out = self.root / f"{name.replace('_', '-')}-{artifacts.short_hash(decides)}"
        second = tuple(out.with_name(f"{out.name}.{more}") for more in step.out[1:])
        label = f"{name} {values['domain']}" if values.get("domain") else name
        if not self.fresh and all(map(_whole, (out, *second))):
            print(f"{safe(label)}: unchanged, taken from an earlier run", flush=True)
            return out
        steps.run(name, (out, *second) if second else out, inputs, sections, **values)
        return out


def _whole(folder: Path) -> bool:
    try:
        artifacts.read_manifest(folder)
    except (FileNotFoundError, ValueError):  # not there, or of a version before: made anew
        return False
    return True


def _content(given: Any) -> Any:
    """The content of inputs, in the place of their paths."""
    if isinstance(given, Mapping):
        return {name: _content(one) for name, one in given.items()}
    if isinstance(given, list | tuple):
        return [_content(one) for one in given]
    if not isinstance(given, Path):
        return given
    return artifacts.read_manifest(given).digest if given.is_dir() else artifacts.file_hash(given)
