"""A cluster with Kubeflow Trainer as the step sees it: TrainJobs, their pods and what these write, by real HTTP.

The contract is read from what is installed: paths, verbs and query parameters from the kubernetes client, TrainJobs
from Trainer's own models, pods from the client's. What does not fit is refused, and what the Role does not allow.
"""

from tests.launch.trainer_api.contract import ROLE, TRAINJOBS, Fault
from tests.launch.trainer_api.pods import Pod
from tests.launch.trainer_api.server import Api, connected, write_kubeconfig

__all__ = ["ROLE", "TRAINJOBS", "Api", "Fault", "Pod", "connected", "write_kubeconfig"]
