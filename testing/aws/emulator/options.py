"""The command line, as one value that is handed to everything that needs to know it."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Options:
    """What each of these does is told once, in `parse`, whose words are also the `--help`."""

    address_file: Path | None = None
    port: int = 0
    plain: bool = False
    keep_running: bool = False
    verbose: bool = False
    seed: int = 0

    pending: float = 0.3
    stopping: float = 0.3
    image_pending: float = 0.3
    describe_lag: float = 0.0

    ssm_delay: float = 0.1
    invocation_lag: float = 0.2
    delivery_timeout: float | None = None

    fast_recreate: bool = False

    fleet: str = "none"
    instance_command: str | None = None
    web_command: str | None = None
    bin: list[Path] = field(default_factory=list)
    kill_after: float = 10.0
    log_dir: Path | None = None
    machine: Path | None = None


def parse(arguments: list[str] | None = None) -> Options:
    defaults = Options()
    parser = argparse.ArgumentParser(
        prog="emulator",
        description="moto's AWS server on 127.0.0.1, and what moto leaves out. Ends with its standard input.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )

    process = parser.add_argument_group("the process")
    process.add_argument("--address-file", type=_path, metavar="FILE", help="write 127.0.0.1:PORT there once it serves")
    process.add_argument("--port", type=int, default=0, help="a fixed port; 0 takes a free one")
    process.add_argument("--plain", action="store_true", help="unmodified moto, and none of what follows")
    process.add_argument("--keep-running", action="store_true", help="do not end with standard input")
    process.add_argument("--verbose", action="store_true", help="a line on stderr for every call")
    process.add_argument("--seed", type=int, default=defaults.seed, help="of the faults that have a probability")

    ec2 = parser.add_argument_group("EC2 (seconds)")
    ec2.add_argument("--pending", type=float, default=defaults.pending, help="from pending to running")
    ec2.add_argument(
        "--stopping", type=float, default=defaults.stopping, help="least time in stopping or shutting-down"
    )
    ec2.add_argument("--image-pending", type=float, default=defaults.image_pending, help="until an image is available")
    ec2.add_argument(
        "--describe-lag",
        type=float,
        default=defaults.describe_lag,
        help="DescribeInstances shows states as they were so long ago",
    )

    ssm = parser.add_argument_group("SSM (seconds)")
    ssm.add_argument(
        "--ssm-delay", type=float, default=defaults.ssm_delay, help="from running to the agent's registration"
    )
    ssm.add_argument(
        "--invocation-lag",
        type=float,
        default=defaults.invocation_lag,
        help="until a sent command's invocations can be seen",
    )
    ssm.add_argument(
        "--delivery-timeout",
        type=float,
        help="how long a command waits for its instance, instead of its TimeoutSeconds, of which 30 is the least",
    )

    sqs = parser.add_argument_group("SQS")
    sqs.add_argument(
        "--fast-recreate", action="store_true", help="a deleted queue's name is free at once, not after 60 s"
    )

    fleet = parser.add_argument_group("what an instance is")
    fleet.add_argument("--fleet", choices=["none", "process", "container"], default=defaults.fleet)
    fleet.add_argument("--instance-command", metavar="CMD", help="what an instance tagged eirs:handed-over=yes (or trial) runs")
    fleet.add_argument("--web-command", metavar="CMD", help="what a process runs when it is told to start eirs.target")
    fleet.add_argument(
        "--bin", type=_path, action="append", default=[], metavar="DIR", help="a folder for an instance's PATH"
    )
    fleet.add_argument("--kill-after", type=float, default=defaults.kill_after, help="seconds from SIGTERM to SIGKILL")
    fleet.add_argument("--log-dir", type=_path, metavar="DIR", help="each instance's output goes to DIR/ID.log")
    fleet.add_argument(
        "--machine", type=_path, metavar="SCRIPT", help="what boots a container: SCRIPT up|exec|poweroff|down NAME"
    )

    options = Options(**vars(parser.parse_args(arguments)))
    if options.fleet == "container" and options.machine is None:
        parser.error("--fleet container needs --machine SCRIPT")
    return options


def _path(text: str) -> Path:
    """Absolute, because an instance works in a folder of its own."""
    return Path(text).absolute()
