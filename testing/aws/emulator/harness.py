"""The test's own door, `/harness/…`: nothing here is counted, faulted or authorized. README.md lists it in a table."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs

from emulator import answers, faults, imds, state
from emulator.answers import Answer
from emulator.commands import Commands
from emulator.faults import Faults
from emulator.fleet import NoFleet
from emulator.instances import Instances
from emulator.journal import Journal
from emulator.machine import RUNNING, Machine


class Refused(ValueError):
    """Said to the author of a test, with a 400."""


class Harness:
    def __init__(
        self,
        journal: Journal,
        armed: Faults,
        instances: Instances,
        commands: Commands,
        fleet: NoFleet,
        enforce: Callable[[bool], None],
    ) -> None:
        self._journal, self._faults, self._instances, self._commands, self._fleet = (
            journal,
            armed,
            instances,
            commands,
            fleet,
        )
        self._enforce = enforce

    def answer(self, environ: dict[str, Any]) -> Answer:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix("/harness/").strip("/")
        query = {name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        try:
            document = json.loads(environ["emulator.body"] or b"{}")
            if not isinstance(document, dict):
                raise Refused("the body is a JSON object")
            return answers.plain_json(self._route(method, path.split("/"), query, document))
        except (Refused, faults.Refused, json.JSONDecodeError, TypeError) as error:
            return answers.plain_json({"error": str(error)}, 400)
        except LookupError as error:
            return answers.plain_json({"error": f"there is no {error.args[0]}"}, 404)

    def _route(self, method: str, path: list[str], query: dict[str, str], document: dict[str, Any]) -> Any:
        account = query.get("account")
        match method, *path:
            case "GET", "ready":
                return {"ready": True}
            case "POST", "fault":
                self._faults.add(faults.parse(document))
            case "GET", "faults":
                return self._faults.listed()
            case "DELETE", "faults":
                self._faults.clear()
            case "GET", "calls":
                return self._journal.counts(account)
            case "GET", "objects":
                return self._journal.objects(account)
            case "DELETE", "calls":
                self._journal.clear()
            case "GET", "log":
                return self._journal.log(account)
            case "POST", "enforce-iam":
                self._enforce(bool(document["on"]))
            case "GET", "state":
                return state.of(account or "123456789012")
            case "GET", "instances":
                return [self._shown(each) for each in self._instances.all() if account in (None, each.account)]
            case "GET", "instance", instance_id:
                machine = self._machine(instance_id)
                if machine.state == RUNNING:
                    imds.of(machine)  # so that a test learns where it is
                return self._shown(machine)
            case "POST", "instance", instance_id, action:
                return self._act(self._machine(instance_id), action, document)
            case _:
                raise LookupError(f"{method} /harness/{'/'.join(path)}")
        return {}

    def _machine(self, instance_id: str) -> Machine:
        machine = self._instances.find(instance_id)
        if machine is None:
            raise LookupError(f"instance {instance_id}")
        return machine

    def _act(self, machine: Machine, action: str, document: dict[str, Any]) -> Any:
        actions: dict[str, Callable[[Machine, dict[str, Any]], Any]] = {
            "die": self._die,
            "agent": self._agent,
            "spot-notice": self._spot_notice,
            "system": self._system,
        }
        if action not in actions:
            raise LookupError(f"action {action}")
        return actions[action](machine, document)

    def _die(self, machine: Machine, document: dict[str, Any]) -> Any:
        code = document.get("code", "Server.InternalError")
        message = document.get("message", "The instance failed.")
        self._instances.die(machine, code, message, bool(document.get("terminate", False)))
        return self._shown(machine)

    def _agent(self, machine: Machine, document: dict[str, Any]) -> Any:
        self._commands.break_agent(machine, broken=not document["up"])
        return {}

    def _spot_notice(self, machine: Machine, document: dict[str, Any]) -> Any:
        when = datetime.now(timezone.utc) + timedelta(seconds=float(document.get("seconds", 120)))
        machine.spot_notice = {"action": document.get("action", "stop"), "time": f"{when:%Y-%m-%dT%H:%M:%SZ}"}
        return machine.spot_notice

    def _system(self, machine: Machine, document: dict[str, Any]) -> Any:
        status, output = self._fleet.system(machine, document["name"], document["arguments"])
        return {"status": status, "output": output}

    def _shown(self, machine: Machine) -> dict[str, Any]:
        process = getattr(machine.body, "pid", None)
        return {
            "id": machine.id,
            "account": machine.account,
            "region": machine.region,
            "state": machine.state,
            "image": machine.instance.image_id,
            "zone": machine.instance.placement.zone,
            "tags": machine.tags,
            "agent_online": machine.agent_online,
            "pid": process if process is not None and machine.body.poll() is None else None,
            "imds": metadata.endpoint if (metadata := machine.metadata) is not None else None,
        }
