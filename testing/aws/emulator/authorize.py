"""The refusal of a call whose principal lacks a permission that it needs."""

from typing import Any

from emulator import answers, needs, policy
from emulator.answers import Answer
from emulator.call import Call
from emulator.needs import Need
from emulator.policy import Decision
from emulator.principals import Principal


def refuse(call: Call, principal: Principal) -> Answer | None:
    """None if the call may go on."""
    if principal.problem is not None:
        return _bad_credentials(call, principal.problem)
    if principal.administrator or (call.service, call.operation) == ("sts", "GetCallerIdentity"):
        return None
    for need in needs.of(call):
        try:
            context = context_of(call, principal) | need.context
            decision = policy.decide(principal.policies, need.action, need.resource, context)
            if decision is Decision.ALLOWED and principal.boundary is not None:
                decision = policy.decide([principal.boundary], need.action, need.resource, context)
        except policy.Unsupported as error:
            return answers.refusal(call, 500, "EmulatorCannotDecide", str(error))
        if decision is not Decision.ALLOWED:
            return _denied(call, principal, need, decision)
    return None


def may_list(call: Call, principal: Principal) -> bool:
    """S3 tells only those that an object is missing who may list the bucket."""
    if principal.administrator:
        return True
    context = context_of(call, principal)
    return (
        policy.decide(principal.policies, "s3:ListBucket", f"arn:aws:s3:::{call.bucket}", context) is Decision.ALLOWED
    )


def context_of(call: Call, principal: Principal) -> dict[str, Any]:
    known = {
        "aws:PrincipalArn": principal.arn,
        "aws:PrincipalAccount": principal.account,
        "aws:RequestedRegion": call.region,
        "aws:SecureTransport": "true",  # as a policy will meet it in production
        "aws:SourceIp": "127.0.0.1",
    }
    if principal.instance:
        known |= {"ec2:SourceInstanceARN": principal.instance, "aws:ARN": principal.instance}
    return known


def _denied(call: Call, principal: Principal, need: Need, decision: Decision) -> Answer:
    because = (
        "with an explicit deny" if decision is Decision.DENIED else "because no identity-based policy allows the action"
    )
    text = f"User: {principal.arn} is not authorized to perform: {need.action} on resource: {need.resource} {because}"
    if call.service == "ec2":
        return answers.refusal(
            call, 403, "UnauthorizedOperation", f"You are not authorized to perform this operation. {text}"
        )
    if call.service == "ssm":
        return answers.refusal(call, 400, "AccessDeniedException", text)
    return answers.refusal(call, 403, "AccessDenied", text)


def _bad_credentials(call: Call, problem: str) -> Answer:
    if problem == "expired":
        code = {"ssm": "ExpiredTokenException", "ec2": "RequestExpired"}.get(call.service, "ExpiredToken")
        return answers.refusal(
            call,
            400 if call.service in ("ssm", "s3") else 403,
            code,
            "The security token included in the request is expired",
        )
    if call.service == "ec2":
        return answers.refusal(call, 401, "AuthFailure", "AWS was not able to validate the provided access credentials")
    if call.service == "s3":
        code = "InvalidToken" if problem == "token" else "InvalidAccessKeyId"
        return answers.refusal(call, 403, code, "The AWS Access Key Id you provided does not exist in our records.")
    code = "UnrecognizedClientException" if call.service == "ssm" else "InvalidClientTokenId"
    return answers.refusal(
        call, 400 if call.service == "ssm" else 403, code, "The security token included in the request is invalid."
    )
