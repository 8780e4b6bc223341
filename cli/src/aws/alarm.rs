//! Optional alarms about the web host, as a separate CloudFormation template: the controller's
//! alerts end with the host, and a host is created after the stack of an installation. With metrics
//! of EC2 itself, CloudWatch notifies an SNS topic if the host is gone, and makes EC2 move it to
//! other hardware if the hardware failed.

use eirs_platform::settings::Settings;
use serde_json::{Value, json};

/// The parameters of the template.
const WEB_HOST: &str = "WebHost";
const TOPIC: &str = "Topic";
const HAS_TOPIC: &str = "HasTopic";

/// The period in seconds: EC2 reports the status of instances every minute.
const PERIOD: u32 = 60;
/// Number of consecutive bad minutes. A start, or a late measurement, takes less.
const GONE_MINUTES: u32 = 5;
const RECOVERED_MINUTES: u32 = 2;

/// Returns the template. It names no account, region or machine.
pub(crate) fn template(settings: &Settings) -> Value {
    let prefix = &settings.aws.prefix;
    let topic = json!({ "Ref": TOPIC });
    let notified = json!({ "Fn::If": [HAS_TOPIC, [topic], { "Ref": "AWS::NoValue" }] });
    // A stopped or terminated host has no measurements.
    let mut gone = alarm(&format!("{prefix}-web-gone"), "The web host does not run", "StatusCheckFailed");
    gone["EvaluationPeriods"] = GONE_MINUTES.into();
    gone["TreatMissingData"] = "breaching".into();
    gone["AlarmActions"] = notified.clone();
    gone["OKActions"] = notified;
    let recover = json!({ "Fn::Sub": "arn:${AWS::Partition}:automate:${AWS::Region}:ec2:recover" });
    let why = "The hardware of the web host failed; EC2 moves it";
    let mut moved = alarm(&format!("{prefix}-web-recover"), why, "StatusCheckFailed_System");
    moved["EvaluationPeriods"] = RECOVERED_MINUTES.into();
    moved["AlarmActions"] = json!({ "Fn::If": [HAS_TOPIC, [recover, topic], [recover]] });
    json!({
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": format!("EIRS, the installation {prefix}: alarms about its web host"),
        "Parameters": {
            WEB_HOST: { "Type": "AWS::EC2::Instance::Id", "Description": "The instance of the web host" },
            TOPIC: { "Type": "String", "Default": "", "Description": "The ARN of the SNS topic to tell, or \
                nothing" },
        },
        "Conditions": { HAS_TOPIC: { "Fn::Not": [{ "Fn::Equals": [topic, ""] }] } },
        "Resources": {
            "Gone": { "Type": "AWS::CloudWatch::Alarm", "Properties": gone },
            "Recover": { "Type": "AWS::CloudWatch::Alarm", "Properties": moved },
        },
    })
}

/// Creates an alarm for a status check of the web host (EC2 user guide, "Status checks for your
/// instances" and "Create an alarm based on Amazon EC2 status check metrics", read on 2026-11-30).
fn alarm(name: &str, why: &str, metric: &str) -> Value {
    json!({
        "AlarmName": name,
        "AlarmDescription": why,
        "Namespace": "AWS/EC2",
        "MetricName": metric,
        "Dimensions": [{ "Name": "InstanceId", "Value": { "Ref": WEB_HOST } }],
        "Statistic": "Maximum",
        "Period": PERIOD,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
    })
}
