"""The SSM calls of Run Command, on top of `commands`. Documents and parameters stay moto's."""

from collections.abc import Callable
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ssm.exceptions import SSMException, ValidationException
from moto.ssm.responses import SimpleSystemManagerResponse as Response

from emulator import documents, invocations
from emulator.commands import Commands
from emulator.instances import Instances
from emulator.invocations import Command, Invocation
from emulator.machine import Machine

MAX_INSTANCES = 50
LEAST_TIMEOUT, MOST_TIMEOUT = 30, 2_592_000


def install(commands: Commands, instances: Instances, invocation_lag: float) -> None:
    def send_command(self: Response) -> ActionResult:
        timeout = self._get_int_param("TimeoutSeconds", 3600)
        if not LEAST_TIMEOUT <= timeout <= MOST_TIMEOUT:
            bound = f"greater than or equal to {LEAST_TIMEOUT} and less than or equal to {MOST_TIMEOUT}"
            raise _invalid("timeoutSeconds", timeout, f"Member must have value {bound}")
        ids = self._get_param("InstanceIds") or []
        if len(ids) > MAX_INSTANCES:
            raise _invalid(
                "instanceIds", f"[{', '.join(ids)}]", f"Member must have length less than or equal to {MAX_INSTANCES}"
            )
        name, parameters = self._get_param("DocumentName"), self._get_param("Parameters") or {}
        steps = documents.steps(self.ssm_backend, name, self._get_param("DocumentVersion"), parameters)
        targets = self._get_param("Targets") or []
        machines = _machines(self, ids) if ids else _targeted(self, targets)
        command = Command(
            account=self.current_account,
            region=self.region,
            document=name,
            steps=steps,
            parameters=parameters,
            comment=self._get_param("Comment", ""),
            timeout=timeout,
            targets=targets,
            invocations={machine.id: Invocation(machine) for machine in machines},
        )
        answer = invocations.summary(command)
        commands.send(command)
        return ActionResult({"Command": answer})

    def _machines(response: Response, ids: list[str]) -> list[Machine]:
        account, region = response.current_account, response.region
        refused = [each for each in ids if not commands.accepts(instances.find(each), account, region)]
        if refused:
            raise SSMException(
                "InvalidInstanceId", f"Instances [[{', '.join(refused)}]] not in a valid state for account {account}"
            )
        return [instances.find(each) for each in dict.fromkeys(ids)]

    def _targeted(response: Response, targets: list[dict[str, Any]]) -> list[Machine]:
        """By tag: whatever has it and listens, and nothing is an answer as well."""
        if not targets:
            raise ValidationException("Both instanceIds and targets are empty.")
        fits = [
            machine
            for machine in instances.all()
            if commands.accepts(machine, response.current_account, response.region)
        ]
        for target in targets:
            key, values = target["Key"], target["Values"]
            if key == "InstanceIds":
                fits = [machine for machine in fits if machine.id in values]
            elif key.startswith("tag:"):
                fits = [machine for machine in fits if machine.tags.get(key.removeprefix("tag:")) in values]
            else:
                raise SSMException("InvalidTarget", f"The target {key} is not supported by the emulator.")
        return fits

    def visible(response: Response) -> Command | None:
        command = commands.find(response.current_account, response.region, response._get_param("CommandId"))
        return command if command.seen >= invocation_lag else None

    def get_command_invocation(self: Response) -> ActionResult:
        command = visible(self)
        invocation = command.invocations.get(self._get_param("InstanceId")) if command else None
        if invocation is None:
            raise SSMException(
                "InvocationDoesNotExist",
                "An error occurred (InvocationDoesNotExist) when calling the GetCommandInvocation operation: ",
            )
        plugin = self._get_param("PluginName")
        if plugin and plugin not in [step.name for step in command.steps]:
            raise SSMException("InvalidPluginName", "The plugin name isn't valid.")
        return ActionResult(invocations.in_full(command, invocation))

    def list_command_invocations(self: Response) -> ActionResult:
        if self._get_param("CommandId"):
            command = visible(self)
            chosen = [command] if command else []
        else:
            chosen = [each for each in commands.all(self.current_account, self.region) if each.seen >= invocation_lag]
        wanted, details = self._get_param("InstanceId"), bool(self._get_param("Details"))
        return _page(
            self,
            "CommandInvocations",
            [
                invocations.in_list(command, invocation, details)
                for command in chosen
                for invocation in command.invocations.values()
                if wanted in (None, invocation.machine.id)
            ],
        )

    def list_commands(self: Response) -> ActionResult:
        if self._get_param("CommandId"):
            chosen = [commands.find(self.current_account, self.region, self._get_param("CommandId"))]
        else:
            chosen = commands.all(self.current_account, self.region)
        wanted = self._get_param("InstanceId")
        return _page(
            self,
            "Commands",
            [invocations.summary(each) for each in chosen if wanted is None or wanted in each.invocations],
        )

    def cancel_command(self: Response) -> ActionResult:
        command = commands.find(self.current_account, self.region, self._get_param("CommandId"))
        commands.cancel(command, self._get_param("InstanceIds") or [])
        return EmptyResult()

    def describe_instance_information(self: Response) -> ActionResult:
        filters = [(each["Key"], each["Values"]) for each in self._get_param("Filters") or []]
        filters += [(each["key"], each["valueSet"]) for each in self._get_param("InstanceInformationFilterList") or []]
        nodes = [
            _information(machine)
            for machine in commands.known_nodes(self.current_account, self.region)
            if all(_passes(machine, key, values) for key, values in filters)
        ]
        return _page(self, "InstanceInformationList", nodes)

    for call in (
        send_command,
        get_command_invocation,
        list_command_invocations,
        list_commands,
        cancel_command,
        describe_instance_information,
    ):
        setattr(Response, call.__name__, call)


def _information(machine: Machine) -> dict[str, Any]:
    return {
        "InstanceId": machine.id,
        "PingStatus": "Online" if machine.agent_online else "ConnectionLost",
        "LastPingDateTime": invocations.now(),
        "AgentVersion": "3.3.1611.0",
        "IsLatestVersion": True,
        "PlatformType": "Linux",
        "PlatformName": "Ubuntu",
        "PlatformVersion": "24.04",
        "ResourceType": "EC2Instance",
        "IPAddress": machine.instance.private_ip_address,
        "ComputerName": machine.instance.private_dns_name,
    }


def _passes(machine: Machine, key: str, values: list[str]) -> bool:
    if key.startswith("tag:"):
        return machine.tags.get(key.removeprefix("tag:")) in values
    fields: dict[str, Callable[[], str]] = {
        "InstanceIds": lambda: machine.id,
        "PingStatus": lambda: "Online" if machine.agent_online else "ConnectionLost",
        "PlatformTypes": lambda: "Linux",
        "ResourceType": lambda: "EC2Instance",
    }
    if key not in fields:
        raise SSMException(
            "InvalidInstanceInformationFilterValue", f"The filter {key} is not supported by the emulator."
        )
    return fields[key]() in values


def _page(response: Response, name: str, items: list[dict[str, Any]]) -> ActionResult:
    start, size = int(response._get_param("NextToken") or 0), response._get_int_param("MaxResults", 50)
    answer: dict[str, Any] = {name: items[start : start + size]}
    if start + size < len(items):
        answer["NextToken"] = str(start + size)
    return ActionResult(answer)


def _invalid(member: str, value: object, constraint: str) -> ValidationException:
    return ValidationException(
        f"1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: {constraint}"
    )
