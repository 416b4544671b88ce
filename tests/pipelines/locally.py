"""A whole pipeline on KFP's local runner, in a process of its own: python -m tests.pipelines.locally NAME ROOT JSON.

JSON has sources, targets, settings and only_new. With "toys" every step writes its outputs, and its name to the file
"ran" under ROOT, and does nothing else.
"""

import ast
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

ANSWERS = {"watch": 'return "train", "state", sources, {}', "find_champions": "return sources, {}"}


def toy(program: str, ran: Path) -> str:
    """The program of a step with the body of its function changed: outputs are written, nothing is computed."""
    tree = ast.parse(program)
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    outputs = [one.arg for one in function.args.args if "Output" in ast.unparse(one.annotation)]
    body = [f"open({name}.path, 'w').write('toy')" for name in outputs]
    body.append(f"open({str(ran)!r}, 'a').write('{function.name} ')")
    function.body = ast.parse("\n".join([*body, ANSWERS.get(function.name, "pass")])).body
    return ast.unparse(tree)


def for_this_machine(pipeline: Any) -> Any:
    """Without retries, for what fails here fails again; steps by the names that a cluster shows."""
    from google.protobuf import json_format

    from pipelines.compiling import name_steps

    spec = pipeline.pipeline_spec
    document = json_format.MessageToDict(spec)
    name_steps([document])
    spec.Clear()
    json_format.ParseDict(document, spec)
    for component in (spec.root, *spec.components.values()):
        for task in component.dag.tasks.values():
            task.ClearField("retry_policy")
    return pipeline


def main(name: str, root: str, given: dict[str, Any]) -> None:
    from kfp import local

    from calrec.config import Source, runs
    from calrec.config.overrides import merge, override
    from pipelines.compiling import arguments, pipeline

    warnings.simplefilter("ignore")
    sources = [Source(domain, uri) for domain, uri in given["sources"].items()]
    config = merge(runs.tiny(), {"sources": [vars(one) for one in sources], "targets": list(given["targets"])})
    config = override(config, given.get("settings", []))
    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root)
    it = for_this_machine(pipeline(name))
    if given.get("toys"):
        for executor in it.pipeline_spec.deployment_spec["executors"].values():
            command = list(executor["container"]["command"])
            executor["container"]["command"] = [*command[:-1], toy(command[-1], Path(root) / "ran")]
    started = time.perf_counter()
    it(**arguments(name, config, **({"only_new": True} if given.get("only_new") else {})))
    print(f"the pipeline took {time.perf_counter() - started:.3f} s")


if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
