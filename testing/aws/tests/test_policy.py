import json
import unittest
from typing import Any

from emulator.policy import Decision, Unsupported, decide, trusts

QUEUE = "arn:aws:sqs:us-east-1:123456789012:eirs-requests-shapes"


def check(
    *statements: dict[str, Any], action: str = "sqs:SendMessage", resource: str = QUEUE, **context: Any
) -> Decision:
    document = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    return decide([document], action, resource, {name.replace("__", ":"): value for name, value in context.items()})


def allow(**more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "sqs:*", "Resource": "*"} | more


class Policy(unittest.TestCase):
    def test_what_nobody_allows_is_not_allowed_and_a_deny_wins(self) -> None:
        self.assertEqual(check(), Decision.NOT_ALLOWED)
        self.assertEqual(check(allow()), Decision.ALLOWED)
        self.assertEqual(check(allow(), allow(Effect="Deny", Action=["sqs:sendmessage"])), Decision.DENIED)
        self.assertEqual(check(allow(), allow(Effect="Deny", Resource="arn:aws:sqs:*:*:other")), Decision.ALLOWED)

    def test_actions_ignore_case_and_resources_do_not(self) -> None:
        self.assertEqual(check(allow(Action="SQS:Send*")), Decision.ALLOWED)
        self.assertEqual(check(allow(Action="sqs:SendMessag")), Decision.NOT_ALLOWED)
        self.assertEqual(check(allow(Resource=QUEUE.replace("eirs", "EIRS"))), Decision.NOT_ALLOWED)
        self.assertEqual(check(allow(Resource="arn:aws:sqs:us-east-?:123456789012:eirs-requests-*")), Decision.ALLOWED)
        self.assertEqual(
            check({"Effect": "Allow", "NotAction": "sqs:Delete*", "NotResource": "arn:aws:s3:::*"}), Decision.ALLOWED
        )

    def test_conditions_hold_all_together_and_any_value_will_do(self) -> None:
        both = {
            "StringEquals": {"aws:ResourceTag/eirs:installation": ["eirs", "test"]},
            "Bool": {"aws:SecureTransport": "true"},
        }
        secure = {"aws__SecureTransport": "true"}
        tagged = {"aws:ResourceTag/eirs:installation": "test"}
        self.assertEqual(check(allow(Condition=both), **secure, **tagged), Decision.ALLOWED)
        self.assertEqual(check(allow(Condition=both), **secure), Decision.NOT_ALLOWED)
        self.assertEqual(
            check(allow(Condition=both), **secure, **{"aws:ResourceTag/eirs:installation": "other"}),
            Decision.NOT_ALLOWED,
        )
        self.assertEqual(
            check(allow(Condition=both), **secure, **{"aws:resourcetag/eirs:installation": "eirs"}), Decision.ALLOWED
        )

    def test_a_key_that_is_missing(self) -> None:
        for operator, expected in {
            "StringEquals": False,
            "StringNotEquals": True,
            "StringEqualsIfExists": True,
            "StringLike": False,
        }.items():
            with self.subTest(operator):
                self.assertEqual(
                    check(allow(Condition={operator: {"aws:RequestTag/x": "y"}})) is Decision.ALLOWED, expected
                )
        self.assertEqual(check(allow(Condition={"Null": {"aws:RequestTag/x": "true"}})), Decision.ALLOWED)

    def test_values_of_many(self) -> None:
        every = allow(Condition={"ForAllValues:StringLike": {"aws:TagKeys": "eirs:*"}})
        some = allow(Condition={"ForAnyValue:StringLike": {"aws:TagKeys": "eirs:*"}})
        for keys, of_every, of_some in (
            (["eirs:a"], True, True),
            (["eirs:a", "b"], False, True),
            (["b"], False, False),
        ):
            with self.subTest(keys):
                self.assertEqual(check(every, aws__TagKeys=keys) is Decision.ALLOWED, of_every)
                self.assertEqual(check(some, aws__TagKeys=keys) is Decision.ALLOWED, of_some)

    def test_variables_stand_for_what_is_known(self) -> None:
        own = allow(Resource="*", Condition={"StringEquals": {"aws:ARN": "${ec2:SourceInstanceARN}"}})
        self.assertEqual(check(own, aws__ARN="arn:i", ec2__SourceInstanceARN="arn:i"), Decision.ALLOWED)
        self.assertEqual(check(own, aws__ARN="arn:i", ec2__SourceInstanceARN="arn:other"), Decision.NOT_ALLOWED)
        self.assertEqual(check(own, aws__ARN="arn:i"), Decision.NOT_ALLOWED)

    def test_what_is_not_understood_is_said(self) -> None:
        with self.assertRaises(Unsupported):
            check(
                allow(Condition={"DateGreaterThan": {"aws:CurrentTime": "2026-01-01T00:00:00Z"}}), aws__CurrentTime="x"
            )

    def test_a_trust_policy_names_services(self) -> None:
        document = {
            "Statement": [
                {"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"Service": ["ec2.amazonaws.com"]}}
            ]
        }
        self.assertTrue(trusts(json.dumps(document), "ec2.amazonaws.com"))
        self.assertFalse(trusts(json.dumps(document), "lambda.amazonaws.com"))


if __name__ == "__main__":
    unittest.main()
