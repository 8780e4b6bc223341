//! The template of `eirs setup --print cloudformation`: `cfn-lint` finds no errors, and a stack of
//! it is an installation in which setup only creates images and machines.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use eirs_platform::testing::{emulator::REGION, not_run, python};
use serde_json::json;

use crate::{
    cloud::{Cloud, parse, said},
    installation::changes,
    serving::controller,
};
use eirs_harness::{Site, image};

const STACK: &str = "recognition";

/// The actions that only the stack may perform.
const MAKING: [&str; 14] = [
    "CreateBucket",
    "PutBucketPolicy",
    "PutPublicAccessBlock",
    "PutBucketLifecycleConfiguration",
    "CreateRole",
    "PutRolePolicy",
    "CreateInstanceProfile",
    "AddRoleToInstanceProfile",
    "SetQueueAttributes",
    "CreateDocument",
    "CreateSecurityGroup",
    "AuthorizeSecurityGroupIngress",
    "DeleteRole",
    "DeleteBucket",
];

fn template(cloud: &Cloud) -> String {
    let output = cloud.eirs(&["setup", "--print", "cloudformation"]);
    assert!(output.status.success(), "{}", said(&output));
    String::from_utf8(output.stdout).expect("text")
}

/// Creates the stack with CloudFormation's API.
fn make_stack(cloud: &Cloud, template: &str) {
    make_stack_with(cloud, template, STACK, &[]);
}

fn make_stack_with(cloud: &Cloud, template: &str, name: &str, parameters: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testing/aws/stack.py");
    let mut command = Command::new(python().expect("the emulator has it"));
    command.arg(script).args([&cloud.emulator.url(), REGION, name]).args(parameters);
    let mut run = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    run.stdin.take().expect("a pipe").write_all(template.as_bytes()).expect("the template");
    let output = run.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", said(&output));
}

fn linter() -> Option<PathBuf> {
    let found = python().map(|python| python.with_file_name("cfn-lint")).filter(|lint| lint.exists());
    if found.is_none() {
        not_run("there is no cfn-lint", "make test");
    }
    found
}

/// Together, these have every optional part.
#[test]
fn cfn_lint_finds_no_errors_in_any_template() {
    let Some(lint) = linter() else { return };
    let key = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab";
    let full = Site::new()
        .set("EIRS_SETUP__UPLOADS_FROM", "[\"203.0.113.0/24\", \"2001:db8::/32\"]")
        .set("EIRS_SETUP__SSH_FROM", "[\"203.0.113.7/32\"]")
        .set("EIRS_SETUP__SUBNETS", "[\"subnet-0123456789abcdef0\"]")
        .set("EIRS_SETUP__KMS_KEY", key)
        .set("EIRS_SETUP__PERMISSIONS_BOUNDARY", "arn:aws:iam::123456789012:policy/eirs-boundary")
        .set("EIRS_SETUP__EXPIRE_RESULTS_DAYS", "0")
        .set("EIRS_WEB__WEBHOOK__URL", "https://example.com/hook")
        .set("EIRS_WEB__WEBHOOK__KEY", "key");
    let policies = full.folder.path().join("policies");
    fs::create_dir_all(&policies).expect("a folder");
    let launching = crate::cloud::POLICY.to_owned() + "[launch]\nmost = 3\nstart_delay = \"2s\"\n";
    fs::write(policies.join("default.toml"), launching).expect("a policy");
    let full = full.set("EIRS_CONTROLLER__POLICIES", "policies");
    for site in [Site::new(), full] {
        // No credentials are needed.
        for what in ["cloudformation", "alarm"] {
            let printed = site.command("eirs").args(["setup", "--print", what]).output();
            let printed = printed.expect("eirs runs");
            assert!(printed.status.success(), "{}", said(&printed));
            let file = site.folder.path().join("template.json");
            fs::write(&file, printed.stdout).expect("the template");
            let output = Command::new(&lint).arg("--").arg(&file).output().expect("cfn-lint runs");
            assert!(output.status.success() && said(&output).trim().is_empty(), "{}", said(&output));
        }
    }
}

#[test]
fn a_stack_of_the_alarms_watches_the_web_host_and_notifies_the_topic() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    let printed = cloud.eirs(&["setup", "--print", "alarm"]);
    let template = String::from_utf8(printed.stdout).expect("text");
    let recover = format!("arn:aws:automate:{REGION}:ec2:recover");
    make_stack_with(&cloud, &template, "silent", &["WebHost=i-1"]);
    let alarms = cloud.state()["alarms"].clone();
    assert_eq!(alarms["eirs-web-gone"]["tells"], json!([]));
    assert_eq!(alarms["eirs-web-recover"]["tells"], json!([recover]));
    let topic = format!("arn:aws:sns:{REGION}:123456789012:pager");
    make_stack_with(&cloud, &template, "loud", &["WebHost=i-2", &format!("Topic={topic}")]);
    let alarms = cloud.state()["alarms"].clone();
    let gone = &alarms["eirs-web-gone"];
    assert_eq!((&gone["metric"], &gone["of"]), (&"StatusCheckFailed".into(), &json!(["i-2"])));
    assert_eq!((&gone["without_data"], &gone["tells"]), (&"breaching".into(), &json!([topic])));
    let moved = &alarms["eirs-web-recover"];
    assert_eq!((&moved["metric"], &moved["of"]), (&"StatusCheckFailed_System".into(), &json!(["i-2"])));
    assert_eq!((&moved["without_data"], &moved["tells"]), (&json!(null), &json!([recover, topic])));
}

#[test]
fn in_an_installation_of_a_stack_setup_only_creates_images_and_machines() {
    let uploads = ("EIRS_SETUP__UPLOADS_FROM", "[\"203.0.113.0/24\"]");
    let Some(cloud) = Cloud::of(Site::new().set(uploads.0, uploads.1), &[]) else { return };
    make_stack(&cloud, &template(&cloud));
    let made = cloud.state();
    let left = changes(&cloud);
    let machines = ["the key pair", "the image of the workers", "the pool default"];
    assert_eq!(left.len(), machines.len(), "{left:?}");
    assert!(left.iter().zip(machines).all(|(left, part)| left.starts_with(part)), "{left:?}");

    // The operator of setup has the stack's own policy.
    let policy = "arn:aws:iam::123456789012:policy/eirs-eu-central-1-operator";
    let operator = cloud.make_user_of("operator", policy);
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": true}"#);
    let as_operator = |arguments: &[&str]| {
        let mut command = cloud.site.command("eirs");
        command.env("AWS_ACCESS_KEY_ID", &operator.0).env("AWS_SECRET_ACCESS_KEY", &operator.1);
        command.args(arguments).output().expect("eirs runs")
    };
    let set_up = as_operator(&["setup", "--web-host", "none", "--yes"]);
    assert!(set_up.status.success(), "{}", said(&set_up));
    assert!(
        said(&set_up).contains(&format!("everything of the stack {STACK} is there")),
        "{}",
        said(&set_up)
    );
    for operation in MAKING {
        assert_eq!(cloud.emulator.calls(operation), 0, "{operation}");
    }
    let check = as_operator(&["check"]);
    assert!(check.status.success() && said(&check).ends_with("All is well.\n"), "{}", said(&check));

    // If the settings differ, the stack must be updated.
    let mut other = cloud.site.command("eirs");
    other.args(["setup", "--web-host", "none", "--yes"]).env(uploads.0, "[\"198.51.100.0/24\"]");
    let refused = other.output().expect("eirs runs");
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    assert!(
        said(&refused).contains(&format!("update the stack {STACK}")) && said(&refused).contains("eirs-web"),
        "{}",
        said(&refused)
    );

    // `eirs check` reports that, too, and does not recommend setup.
    let mut other = cloud.site.command("eirs");
    other.arg("check").env(uploads.0, "[\"198.51.100.0/24\"]");
    let drifted = said(&other.output().expect("eirs runs"));
    let drifted = drifted.split_whitespace().collect::<Vec<_>>().join(" ");
    let advice = format!("for the team of the stack {STACK}: update the stack {STACK}");
    assert!(drifted.contains(&format!("(of the stack {STACK})")) && drifted.contains(&advice), "{drifted}");
    assert!(!drifted.contains("writes it again"), "{drifted}");

    // The installation serves.
    let (web, mut running) = (cloud.site.web(), controller(&cloud));
    assert_eq!(web.upload("", "dog.jpg", &image(1)).json()["label"], "noop");
    cloud.until_all_are_parked();
    running.signal(rustix::process::Signal::TERM);
    assert!(running.exit().success());
    drop(web);

    let cleaned = as_operator(&["cleanup", "--mode", "delete", "--yes"]);
    assert!(cleaned.status.success(), "{}", said(&cleaned));
    assert!(said(&cleaned).contains(&format!("delete-stack --stack-name {STACK}")), "{}", said(&cleaned));
    let again = as_operator(&["cleanup", "--mode", "delete", "--yes"]);
    assert!(said(&again).contains("delete-stack"), "{}", said(&again));
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": false}"#);
    cloud.remove_user_of("operator", policy);
    // Deleting a stack is up to CloudFormation; moto cannot delete one with a network.
    assert_eq!(cloud.state(), made, "what the stack made is as it was");
}

#[test]
fn a_template_fits_into_one_call() {
    let Some(cloud) = Cloud::new(&[]) else { return };
    let text = template(&cloud);
    assert!(parse(&text)["Resources"].is_object());
    // The limit for a template in a call (CloudFormation's user guide, "CloudFormation quotas").
    assert!(text.len() < 51_200, "{} bytes", text.len());
}
