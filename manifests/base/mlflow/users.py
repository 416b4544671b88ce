"""Make the account with which the steps log in to MLflow, or set its password; run in the cluster by users.yaml."""

import os
import sys

from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client


def main() -> int:
    """The account STEPS_USERNAME with STEPS_PASSWORD; exit code 1 when the server does not do it."""
    client = get_app_client("basic-auth", tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    name, password = os.environ["STEPS_USERNAME"], os.environ["STEPS_PASSWORD"]
    try:
        try:
            client.create_user(name, password)
            print(f"made user {name}")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            client.update_user_password(name, password)
            print(f"user {name} has the password of the Secret")
    except MlflowException as error:
        print(f"MLflow at {os.environ['MLFLOW_TRACKING_URI']} did not make user {name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
