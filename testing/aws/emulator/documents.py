"""SSM documents: what a command will run, from a document and its parameters."""

import json
import re
from dataclasses import dataclass
from typing import Any

from moto.ssm.exceptions import SSMException
from moto.ssm.models import SimpleSystemManagerBackend

RUN_SHELL_SCRIPT = {
    "schemaVersion": "2.2",
    "parameters": {
        "commands": {"type": "StringList"},
        "workingDirectory": {"type": "String", "default": ""},
        "executionTimeout": {
            "type": "String",
            "default": "3600",
            "allowedPattern": "([1-9][0-9]{0,4})|(1[0-6][0-9]{4})|(17[0-1][0-9]{3})|(172[0-7][0-9]{2})|(172800)",
        },
    },
    "mainSteps": [
        {
            "action": "aws:runShellScript",
            "name": "runShellScript",
            "inputs": {
                "runCommand": "{{ commands }}",
                "workingDirectory": "{{ workingDirectory }}",
                "timeoutSeconds": "{{ executionTimeout }}",
            },
        }
    ],
}
PLACE = re.compile(r"\{\{\s*([\w.:-]+)\s*\}\}")


def install() -> None:
    """A document is a command's unless it says otherwise; moto refuses one that does not say."""
    create_document = SimpleSystemManagerBackend.create_document

    def create(self: SimpleSystemManagerBackend, document_type: str | None, **rest: Any) -> Any:
        return create_document(self, document_type=document_type or "Command", **rest)

    SimpleSystemManagerBackend.create_document = create


@dataclass(frozen=True)
class Step:
    name: str
    script: str
    seconds: float


def steps(backend: SimpleSystemManagerBackend, name: str, version: str | None, given: dict[str, Any]) -> list[Step]:
    content = _content(backend, name, version)
    values = _values(content.get("parameters") or {}, given)
    return [_step(each, values) for each in content.get("mainSteps") or [] if each["action"] == "aws:runShellScript"]


def _content(backend: SimpleSystemManagerBackend, name: str, version: str | None) -> dict[str, Any]:
    if name == "AWS-RunShellScript":
        return RUN_SHELL_SCRIPT
    documents = backend._documents.get(name.rpartition("/")[2] if name.startswith("arn:") else name)
    if documents is None:
        raise SSMException("InvalidDocument", f"Document with name {name} does not exist.")
    document = documents.find(None if version in (None, "$DEFAULT") else version)
    if document.document_type != "Command":
        raise SSMException("InvalidDocument", f"Document {name} is not a command document.")
    return document.content_json


def _values(declared: dict[str, Any], given: dict[str, Any]) -> dict[str, list[str]]:
    """Every parameter as a list of texts, as SendCommand carries them."""
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise SSMException("InvalidParameters", f"Parameters {unknown} are not defined in the document.")
    values: dict[str, list[str]] = {}
    for name, declaration in declared.items():
        value = given.get(name, declaration.get("default"))
        if value is None:
            raise SSMException("InvalidParameters", f"Parameter {name} must be provided.")
        texts = [
            each if isinstance(each, str) else json.dumps(each)
            for each in (value if isinstance(value, list) else [value])
        ]
        if declaration["type"] == "String" and len(texts) != 1:
            raise SSMException("InvalidParameters", f"Parameter {name} must be a single string.")
        for text in texts if name in given else []:
            _check(name, declaration, text)
        values[name] = texts
    return values


def _check(name: str, declaration: dict[str, Any], text: str) -> None:
    pattern = declaration.get("allowedPattern")
    if pattern and not re.fullmatch(pattern, text):
        raise SSMException(
            "InvalidParameters", f"Parameter value for {name} does not match the allowed pattern {pattern}."
        )
    allowed = declaration.get("allowedValues")
    if allowed and text not in allowed:
        raise SSMException("InvalidParameters", f"Parameter value for {name} is not one of {allowed}.")
    if len(text) > int(declaration.get("maxChars", len(text))) or len(text) < int(declaration.get("minChars", 0)):
        raise SSMException("InvalidParameters", f"Parameter value for {name} has a length that is not allowed.")


def _step(step: dict[str, Any], values: dict[str, list[str]]) -> Step:
    inputs = step["inputs"]
    written = inputs["runCommand"]
    lines = [line for each in (written if isinstance(written, list) else [written]) for line in _lines(each, values)]
    folder = _text(str(inputs.get("workingDirectory", "")), values)
    if folder:
        lines.insert(0, f"cd '{folder}' || exit 1")
    return Step(step["name"], "\n".join(lines), float(_text(str(inputs.get("timeoutSeconds", 3600)), values)))


def _lines(line: str, values: dict[str, list[str]]) -> list[str]:
    """A line that is nothing but a list's place becomes the list's lines."""
    alone = PLACE.fullmatch(line.strip())
    if alone and alone[1] in values:
        return values[alone[1]]
    return [_text(line, values)]


def _text(text: str, values: dict[str, list[str]]) -> str:
    # Plain text for text, without any quoting, as SSM does it: that is why a document needs an allowedPattern.
    return PLACE.sub(lambda place: " ".join(values[place[1]]) if place[1] in values else place[0], text)
