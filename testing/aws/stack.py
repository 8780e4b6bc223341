"""Makes a stack of CloudFormation: `stack.py http://127.0.0.1:PORT REGION NAME [PARAMETER=VALUE...] < TEMPLATE`. Fails with what went wrong, in
CloudFormation's words; a resource that the emulator does not know is an error."""

import sys

import boto3

CAPABILITIES = ["CAPABILITY_NAMED_IAM"]


def main() -> str | None:
    endpoint, region, name, *parameters = sys.argv[1:]
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    client = boto3.client("cloudformation", endpoint_url=endpoint, region_name=region, **keys)
    given = [{"ParameterKey": key, "ParameterValue": value} for key, _, value in (each.partition("=") for each in parameters)]
    client.create_stack(
        StackName=name, TemplateBody=sys.stdin.read(), Capabilities=CAPABILITIES, Parameters=given
    )
    [stack] = client.describe_stacks(StackName=name)["Stacks"]
    made = client.describe_stack_resources(StackName=name)["StackResources"]
    unknown = [each for each in made if "LogicalResourceId" not in each]
    if stack["StackStatus"] != "CREATE_COMPLETE" or unknown:
        return f"{stack['StackStatus']}: {stack.get('StackStatusReason')}; {len(unknown)} resources are not known"
    return None


if __name__ == "__main__":
    sys.exit(main())
