"""What commands of the cluster share: how they look, what is submitted, where the server is and who asks."""

import argparse
import os
import sys
from typing import Any

from calrec.config import naming
from pipelines.kubeflow.auth import METHODS, Auth, guess_method
from pipelines.kubeflow.connection import Settings


def command(commands: Any, name: str, text: str, epilog: str = "") -> argparse.ArgumentParser:
    """A command whose help ends with examples."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    return parser


def add_image(group: Any) -> None:
    """Give a command the options of what it compiles, beside the configuration."""
    group.add_argument("--image", default="", help="image of every step, best by digest; default: calrec:VERSION")
    group.add_argument(
        "--cache-claim", default="", metavar="PVC", help="volume claim where steps keep what outlives a run"
    )


def add_run(group: Any) -> None:
    """Give a command the options of the runs that it starts, beside the configuration."""
    add_image(group)
    group.add_argument("--experiment", default="calrec", help="where runs are listed; made if missing")
    group.add_argument("--service-account", default="", metavar="SA", help="Kubernetes account of the steps' pods")


def warn_of_tag(image: str, consequence: str) -> None:
    """Say what may come of an image that is not named by its digest."""
    if "@sha256:" not in image:
        named = image or "the default image calrec:VERSION"
        print(f"calrec: {named} is not named by a digest: {consequence}", file=sys.stderr)


def add(parser: argparse.ArgumentParser) -> None:
    """Give a command the options of the connection."""
    group = parser.add_argument_group("connection", "secrets come from files or the environment, never from an option")
    group.add_argument(
        "--host", default="", metavar="URL",
        help="API of Kubeflow Pipelines (default: KFP_HOST; else the service of this cluster, or kubeconfig's proxy)",
    )  # fmt: skip
    group.add_argument(
        "--namespace", default="", help="namespace of your profile, where there are many (default: KFP_NAMESPACE)"
    )
    group.add_argument(
        "--auth", choices=METHODS,
        help="token: --token-file or KFP_TOKEN; service-account: the token projected into this pod; iap: Google's "
        "proxy; cookie: KFP_COOKIE (default: the first of token, iap, cookie, service-account that is set, else none)",
    )  # fmt: skip
    group.add_argument("--token-file", default="", metavar="FILE", help="bearer token; read again when it has expired")
    group.add_argument(
        "--iap-client-id", default="", metavar="ID",
        help="client of the proxy (default: KFP_IAP_CLIENT_ID); for a user's login also set KFP_IAP_OTHER_CLIENT_ID "
        "and KFP_IAP_OTHER_CLIENT_SECRET",
    )  # fmt: skip
    group.add_argument("--ca", default="", metavar="FILE", help="authority that signed the server's certificate")
    group.add_argument(
        "--public-url", default="", metavar="URL",
        help="address of the UI for links, if it is not the host (default: KFP_UI)",
    )  # fmt: skip


def settings(options: argparse.Namespace) -> Settings:
    """The connection that the options and the environment describe.

    Raises:
        ValueError: an option that cannot be, with what to do.
    """
    if account := getattr(options, "service_account", ""):
        naming.subdomain("--service-account", account)
    iap = options.iap_client_id or os.environ.get("KFP_IAP_CLIENT_ID", "")
    auth = Auth(options.auth or guess_method(options.token_file, iap), options.token_file, iap)
    return Settings(
        host=options.host or os.environ.get("KFP_HOST", ""),
        namespace=options.namespace or os.environ.get("KFP_NAMESPACE", ""),
        auth=auth,
        ca=options.ca,
        ui=options.public_url or os.environ.get("KFP_UI", ""),
    )
