//! Options that are off by default: logs that outlive their machines.

use std::{fs, io::Read, os::unix::fs::PermissionsExt, path::Path, process::Command};

use flate2::read::GzDecoder;
use serde_json::Value;

use crate::cloud::{Cloud, OUTPUT, parse, said};
use eirs_harness::Site;

/// A journal of two entries, which are omitted after its cursor.
const JOURNAL: &str = r#"#!/bin/sh
for argument in "$@"; do
    case $argument in --cursor-file=*) cursor=${argument#*=} ;; esac
done
[ ! -f "$cursor" ] || exit 0
echo '{"MESSAGE":"one"}'
echo '{"MESSAGE":"two"}'
echo read >"$cursor"
"#;

/// Returns the objects of a bucket with this prefix, by key.
fn objects(cloud: &Cloud, bucket: &str, prefix: &str) -> Vec<(String, Vec<u8>)> {
    cloud.with_sdk_as(None, async |config| {
        let s3 = aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build();
        let s3 = aws_sdk_s3::Client::from_conf(s3);
        let listed = s3.list_objects_v2().bucket(bucket).prefix(prefix).send().await.expect("a listing");
        let mut found = Vec::new();
        for object in listed.contents() {
            let key = object.key().expect("a key").to_owned();
            let got = s3.get_object().bucket(bucket).key(&key).send().await.expect("an object");
            found.push((key, got.body.collect().await.expect("its bytes").to_vec()));
        }
        found
    })
}

#[test]
fn a_machine_copies_new_log_entries_with_its_own_permissions() {
    let Some(cloud) = Cloud::of(Site::new().set("EIRS_SETUP__SHIP_LOGS", "true"), &[]) else { return };
    cloud.set_up();
    assert!(cloud.expect(&["check"]).ends_with("All is well.\n"), "the roles are as they should be");
    // The archive from which the workers' image was made.
    let archives = objects(&cloud, crate::cloud::INPUT, "setup/");
    let archive = archives.iter().find(|(key, _)| key.ends_with(".tar.gz")).expect("the archive");
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    tar::Archive::new(GzDecoder::new(archive.1.as_slice())).unpack(&root).expect("an archive");
    for unit in ["eirs-logs.service", "eirs-logs.timer", "eirs-logs-last.service"] {
        assert!(root.join("usr/lib/systemd/system").join(unit).exists(), "{unit}");
    }
    let settings = fs::read_to_string(root.join("etc/eirs/logs.env")).expect("the settings");
    let settings = settings.lines().filter_map(|line| line.split_once('='));

    let machine = cloud.in_state("stopped").remove(0);
    cloud.start_instance(&machine);
    let shown = eirs_harness::eventually("it runs", || {
        let shown = parse(&cloud.emulator.harness("GET", &format!("instance/{machine}"), ""));
        shown["imds"].is_string().then_some(shown)
    });
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).expect("a folder");
    fs::write(bin.join("journalctl"), JOURNAL).expect("a program");
    fs::set_permissions(bin.join("journalctl"), fs::Permissions::from_mode(0o755)).expect("a program");
    let copy = |state: &Path| {
        let mut command = Command::new("sh");
        command.arg(root.join("usr/lib/eirs/logs")).envs(settings.clone());
        command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", shown["imds"].as_str().expect("its metadata"));
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        let output = command.env("STATE_DIRECTORY", state).env("PATH", path).output().expect("it runs");
        assert!(output.status.success(), "{}", said(&output));
    };
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": true}"#);
    copy(folder.path());
    copy(folder.path());
    cloud.emulator.harness("POST", "enforce-iam", r#"{"on": false}"#);
    let [(key, logs)] = objects(&cloud, OUTPUT, "logs/").try_into().expect("one file of logs");
    assert!(key.starts_with(&format!("logs/{machine}/")) && key.ends_with(".json.gz"), "{key}");
    let mut text = String::new();
    GzDecoder::new(logs.as_slice()).read_to_string(&mut text).expect("text");
    let messages: Vec<Value> = text.lines().map(|line| parse(line)["MESSAGE"].clone()).collect();
    assert_eq!(messages, ["one", "two"]);
}
