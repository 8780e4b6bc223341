"""The half of the emulator that stands on EC2: instances, what they are, and the commands that run on them."""

from emulator import documents, ec2, images, imds, ssm
from emulator.commands import Commands
from emulator.containers import ContainerFleet
from emulator.faults import Faults
from emulator.fleet import NoFleet
from emulator.front import Front
from emulator.harness import Harness
from emulator.instances import Instances
from emulator.journal import Journal
from emulator.options import Options
from emulator.processes import ProcessFleet
from emulator.timers import Timers

FLEETS = {"none": NoFleet, "process": ProcessFleet, "container": ContainerFleet}


class World:
    def __init__(self, options: Options, address: str, front: Front, faults: Faults, journal: Journal) -> None:
        timers = Timers()
        self._fleet = FLEETS[options.fleet](options, address)
        instances = Instances(options, timers, self._fleet)
        commands = Commands(options, timers, instances, self._fleet)
        self._fleet.on_poweroff, self._fleet.on_reboot = instances.shut_itself_down, instances.restart_itself
        instances.on_gone.append(imds.close)
        faults.wants_place = ec2.wants_place
        images.install(timers, options.image_pending)
        ec2.install(instances, options.describe_lag)
        documents.install()
        ssm.install(commands, instances, options.invocation_lag)

        def enforce(on: bool) -> None:
            front.enforced = commands.enforced = on

        self.harness = Harness(journal, faults, instances, commands, self._fleet, enforce)

    def close(self) -> None:
        self._fleet.close()
