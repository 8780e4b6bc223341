//! An emulated account, an installation in it, and the programs of a web host.

use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use aws_config::SdkConfig;
use aws_sdk_ec2::{
    config::{Credentials, SharedCredentialsProvider},
    types::{Filter, InstanceType},
};
use eirs_platform::testing::{
    emulator::{Emulator, REGION},
    not_run,
};
use serde_json::{Value, json};

use eirs_harness::{Site, eventually};

/// The buckets that setup creates.
pub const INPUT: &str = "eirs-123456789012-eu-central-1-input";
pub const OUTPUT: &str = "eirs-123456789012-eu-central-1-output";

/// Zero to three instances, which stop after a second without jobs.
pub const POLICY: &str = "
[pool]
max = 3
start_delay = \"2s\"
[[rule]]
kind = \"backlog\"
per_instance = 5
[instance]
billing_minimum = \"0s\"
[scale_in]
idle = \"1s\"
window = \"1s\"
drain_deadline = \"20s\"
";

/// An account, which is deleted when this is dropped.
pub struct Cloud {
    pub emulator: Emulator,
    pub site: Site,
}

impl Cloud {
    /// An account with the classifier `noop`, whose instances start in half a second; `None`
    /// without an emulator.
    pub fn new(options: &[&str]) -> Option<Self> {
        Self::of(Site::new(), options)
    }

    /// The same with this site's model and settings.
    pub fn of(site: Site, options: &[&str]) -> Option<Self> {
        let folder = site.folder.path().to_owned();
        // Without a systemd there is no other user.
        let site = site.set("EIRS_SETUP__ISOLATE_SCRIPTS", "false");
        let shown = |path: &Path| path.display().to_string();
        let (programs, logs) = (shown(&programs()), shown(&folder.join("instances")));
        let worker = format!("eirs-worker --config {}", shown(&folder.join("worker.toml")));
        // The root folder of a web host, for tests that launch one.
        let web = "EIRS_LOCAL__STATE=$DESTDIR/state; export EIRS_LOCAL__STATE; \
            eirs-controller --config $DESTDIR/etc/eirs/eirs.toml --policies $DESTDIR/etc/eirs/policies & \
            exec eirs-web --config $DESTDIR/etc/eirs/eirs.toml";
        let own = [
            ["--fleet", "process"],
            ["--bin", &programs],
            ["--log-dir", &logs],
            ["--instance-command", &worker],
            ["--web-command", web],
        ];
        Self::with(site, &[own.as_flattened(), options].concat())
    }

    /// An account whose instances are machines with their own systemd, baked by setup; `None` if
    /// none can be booted.
    pub fn of_machines(site: Site) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testing/booted-systemd");
        let check = Command::new(&script).arg("check").output().expect("the script runs");
        let lacks = said(&check);
        if !lacks.trim().is_empty() {
            not_run(lacks.trim(), "sudo make test");
            return None;
        }
        let (script, logs) =
            (script.display().to_string(), site.folder.path().join("instances").display().to_string());
        // A machine boots in a second, and its drain may take a while.
        let own = ["--fleet", "container", "--machine", &script, "--log-dir", &logs, "--kill-after", "90"];
        Self::with(site, &own)
    }

    fn with(site: Site, options: &[&str]) -> Option<Self> {
        let emulator = Emulator::start(options)?;
        let site = site
            .set("AWS_ACCESS_KEY_ID", "test")
            .set("AWS_SECRET_ACCESS_KEY", "test")
            .set("AWS_CONFIG_FILE", "/dev/null")
            .set("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .set("EIRS_BACKEND", "aws")
            .set("EIRS_AWS__REGION", REGION)
            .set("EIRS_AWS__ENDPOINT", &emulator.url())
            .set("EIRS_AWS__INPUT_BUCKET", INPUT)
            .set("EIRS_AWS__OUTPUT_BUCKET", OUTPUT)
            .set("EIRS_CONTROLLER__TICK", "500ms")
            .set("EIRS_CONTROLLER__POLICIES", "policies");
        let cloud = Self { emulator, site };
        cloud.policy(POLICY);
        cloud.write_worker_settings();
        Some(cloud)
    }

    pub fn folder(&self) -> PathBuf {
        self.site.folder.path().to_owned()
    }

    /// Writes the policy of the only pool.
    pub fn policy(&self, text: &str) {
        fs::create_dir_all(self.folder().join("policies")).expect("a folder");
        fs::write(self.folder().join("policies/default.toml"), text).expect("a policy");
    }

    /// Writes the settings that an instance would find in its image: those of this site.
    fn write_worker_settings(&self) {
        let mut text = String::new();
        // The last value of a variable counts.
        let all: BTreeMap<_, _> = self.site.settings().filter(|(key, _)| key.starts_with("EIRS_")).collect();
        for (key, value) in all {
            let key = key.trim_start_matches("EIRS_").replace("__", ".").to_lowercase();
            let is_list = value.starts_with('[');
            let number = value.parse::<f64>().is_ok();
            let value = if is_list || number { value.to_owned() } else { format!("{value:?}") };
            text += &format!("{key} = {value}\n");
        }
        fs::write(self.folder().join("worker.toml"), text).expect("settings");
    }

    /// Runs `eirs` to its end.
    pub fn eirs(&self, arguments: &[&str]) -> Output {
        self.site.command("eirs").args(arguments).output().expect("eirs runs")
    }

    /// Runs `eirs`, which must succeed; returns its output.
    pub fn expect(&self, arguments: &[&str]) -> String {
        let output = self.eirs(arguments);
        let said = said(&output);
        assert!(output.status.success(), "eirs {}: {said}", arguments.join(" "));
        said
    }

    /// Creates the installation without a web host, which the tests start here.
    pub fn set_up(&self) -> String {
        self.expect(&["setup", "--web-host", "none", "--yes"])
    }

    /// Returns everything that exists in the account.
    pub fn state(&self) -> Value {
        parse(&self.emulator.harness("GET", "state", ""))
    }

    /// Returns the existing instances.
    pub fn instances(&self) -> Vec<Value> {
        let all = parse(&self.emulator.harness("GET", "instances", ""));
        all.as_array()
            .cloned()
            .unwrap_or_default()
            .into_iter()
            .filter(|instance| instance["state"] != "terminated")
            .collect()
    }

    /// Returns the ids of the instances in this state.
    pub fn in_state(&self, state: &str) -> Vec<String> {
        let instances = self.instances().into_iter().filter(|instance| instance["state"] == state);
        instances.filter_map(|instance| instance["id"].as_str().map(str::to_owned)).collect()
    }

    /// Waits until every worker is parked.
    pub fn until_all_are_parked(&self) {
        let is_at_work =
            |instance: &Value| instance["tags"]["eirs:role"] == "worker" && instance["state"] != "stopped";
        eventually("every worker is parked", || (!self.instances().iter().any(is_at_work)).then_some(()));
    }

    /// Returns the log of the worker on an instance.
    pub fn instance_log(&self, id: &str) -> String {
        fs::read_to_string(self.folder().join(format!("instances/{id}.log"))).unwrap_or_default()
    }

    pub fn fault(&self, fault: Value) {
        self.emulator.fault(&fault);
    }

    pub fn no_more_faults(&self) {
        self.emulator.harness("DELETE", "faults", "");
    }

    /// Removes an instance at once, like a hardware failure or a spot interruption.
    pub fn kill_instance(&self, id: &str) {
        let code = json!({ "code": "Server.SpotInstanceShutdown" });
        self.emulator.harness("POST", &format!("instance/{id}/die"), &code.to_string());
    }

    /// Returns the number of objects in a bucket.
    pub fn stored(&self, bucket: &str) -> u64 {
        self.state()["buckets"][bucket]["objects"].as_u64().unwrap_or(0)
    }
}

/// After a failed test, prints the logs of the instances.
impl Drop for Cloud {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for instance in self.instances() {
            let id = instance["id"].as_str().unwrap_or_default();
            let (state, tags) = (&instance["state"], &instance["tags"]);
            eprintln!("--- {id} {state} {tags}\n{}", self.instance_log(id));
            for entry in Machine(id.to_owned()).journal("eirs-*") {
                eprintln!("{} {}", entry["__REALTIME_TIMESTAMP"], entry["MESSAGE"]);
            }
        }
    }
}

/// A machine of the fleet, by its instance.
#[derive(Debug, Clone)]
pub struct Machine(pub String);

impl Machine {
    fn script(&self, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testing/booted-systemd");
        let mut command = Command::new(script);
        command.args([arguments[0], &self.0]).args(&arguments[1..]);
        command.output().expect("the script runs")
    }

    /// Runs a shell command inside, which must succeed; returns its output.
    pub fn run(&self, line: &str) -> String {
        let output = self.script(&["exec", "sh", "-c", line]);
        assert!(output.status.success(), "{line}: {}", said(&output));
        said(&output)
    }

    /// Returns the entries of its journal, even if the machine is off.
    pub fn journal(&self, unit: &str) -> Vec<Value> {
        let root = said(&self.script(&["root"]));
        let folder = format!("{}/var/log/journal", root.trim());
        let output =
            Command::new("journalctl").args(["-D", &folder, "-u", unit, "-o", "json", "--no-pager"]).output();
        let text = String::from_utf8_lossy(&output.expect("journalctl runs").stdout).into_owned();
        text.lines().map(parse).collect()
    }
}

/// Changes of an account that only tests make, with the SDK.
impl Cloud {
    fn with_sdk<T>(&self, what: impl AsyncFnOnce(SdkConfig) -> T) -> T {
        self.with_sdk_as(None, what)
    }

    /// Runs with this access key and its secret, or else as administrator.
    pub fn with_sdk_as<T>(
        &self,
        user: Option<&(String, String)>,
        what: impl AsyncFnOnce(SdkConfig) -> T,
    ) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let config = self.emulator.config().await;
            let Some((key, secret)) = user else { return what(config).await };
            let own = Credentials::new(key, secret, None, None, "test");
            let own = SharedCredentialsProvider::new(own);
            what(config.into_builder().credentials_provider(own).build()).await
        })
    }

    /// Creates resources of every kind that do not belong to the installation.
    pub fn make_strangers(&self) {
        self.with_sdk(async |config| {
            let sqs = aws_sdk_sqs::Client::new(&config);
            // The name of another installation starts with the same prefix.
            for name in ["eirs-test-requests-default", "orders"] {
                sqs.create_queue().queue_name(name).send().await.expect("a queue");
            }
            let s3 = aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build();
            let place = aws_sdk_s3::types::CreateBucketConfiguration::builder()
                .location_constraint(REGION.into())
                .build();
            let s3 = aws_sdk_s3::Client::from_conf(s3);
            s3.create_bucket()
                .bucket("somebody-elses")
                .create_bucket_configuration(place)
                .send()
                .await
                .expect("a bucket");
            let ec2 = aws_sdk_ec2::Client::new(&config);
            ec2.create_key_pair().key_name("mine").send().await.expect("a key pair");
            let processor = Filter::builder().name("architecture").values("x86_64").build();
            let images =
                ec2.describe_images().owners("amazon").filters(processor).send().await.expect("images");
            let image =
                images.images().first().and_then(|image| image.image_id()).expect("an image").to_owned();
            let launch = ec2.run_instances().image_id(image).instance_type(InstanceType::T3Micro);
            launch.min_count(1).max_count(1).send().await.expect("an instance");
        });
    }

    /// Returns the objects with this key prefix, ordered by key.
    pub fn objects(&self, bucket: &str, begin: &str) -> Vec<Vec<u8>> {
        self.with_sdk(async |config| {
            let s3 = aws_sdk_s3::config::Builder::from(&config).force_path_style(true).build();
            let s3 = aws_sdk_s3::Client::from_conf(s3);
            let listed = s3.list_objects_v2().bucket(bucket).prefix(begin).send().await.expect("a list");
            let mut objects = Vec::new();
            for key in listed.contents().iter().filter_map(|object| object.key()) {
                let got = s3.get_object().bucket(bucket).key(key).send().await.expect("the object");
                objects.push(got.body.collect().await.expect("its bytes").to_vec());
            }
            objects
        })
    }

    pub fn delete_queue(&self, name: &str) {
        self.with_sdk(async |config| {
            let sqs = aws_sdk_sqs::Client::new(&config);
            let url = sqs.get_queue_url().queue_name(name).send().await.expect("the queue").queue_url;
            sqs.delete_queue().queue_url(url.expect("its address")).send().await.expect("it goes");
        });
    }

    pub fn tag_instance(&self, id: &str, key: &str, value: &str) {
        let tag = aws_sdk_ec2::types::Tag::builder().key(key).value(value).build();
        self.with_sdk(async |config| {
            aws_sdk_ec2::Client::new(&config)
                .create_tags()
                .resources(id)
                .tags(tag)
                .send()
                .await
                .expect("a tag");
        });
    }

    pub fn start_instance(&self, id: &str) {
        self.with_sdk(async |config| {
            aws_sdk_ec2::Client::new(&config)
                .start_instances()
                .instance_ids(id)
                .send()
                .await
                .expect("it starts");
        });
    }

    /// Creates a user with one policy; returns an access key and its secret.
    pub fn make_user(&self, name: &str, policy: &Value) -> (String, String) {
        self.with_sdk(async |config| {
            let iam = aws_sdk_iam::Client::new(&config);
            iam.create_user().user_name(name).send().await.expect("a user");
            let put =
                iam.put_user_policy().user_name(name).policy_name("all").policy_document(policy.to_string());
            put.send().await.expect("a policy");
            key_of(&iam, name).await
        })
    }

    /// The same with an existing policy.
    pub fn make_user_of(&self, name: &str, policy: &str) -> (String, String) {
        self.with_sdk(async |config| {
            let iam = aws_sdk_iam::Client::new(&config);
            iam.create_user().user_name(name).send().await.expect("a user");
            iam.attach_user_policy().user_name(name).policy_arn(policy).send().await.expect("it has it");
            key_of(&iam, name).await
        })
    }

    pub fn remove_user_of(&self, name: &str, policy: &str) {
        self.with_sdk(async |config| {
            let iam = aws_sdk_iam::Client::new(&config);
            iam.detach_user_policy().user_name(name).policy_arn(policy).send().await.expect("it goes");
            remove_keys(&iam, name).await;
            iam.delete_user().user_name(name).send().await.expect("it goes");
        });
    }

    pub fn make_policy(&self, name: &str, document: &Value) {
        self.with_sdk(async |config| {
            let iam = aws_sdk_iam::Client::new(&config);
            let made = iam.create_policy().policy_name(name).policy_document(document.to_string());
            made.send().await.expect("a policy");
        });
    }

    pub fn remove_policy(&self, arn: &str) {
        self.with_sdk(async |config| {
            let iam = aws_sdk_iam::Client::new(&config);
            iam.delete_policy().policy_arn(arn).send().await.expect("it goes");
        });
    }

    pub fn remove_user(&self, name: &str) {
        self.with_sdk(async |config| {
            let iam = aws_sdk_iam::Client::new(&config);
            remove_keys(&iam, name).await;
            iam.delete_user_policy().user_name(name).policy_name("all").send().await.expect("it goes");
            iam.delete_user().user_name(name).send().await.expect("it goes");
        });
    }
}

async fn key_of(iam: &aws_sdk_iam::Client, user: &str) -> (String, String) {
    let made = iam.create_access_key().user_name(user).send().await.expect("a key");
    let key = made.access_key.expect("a key");
    (key.access_key_id, key.secret_access_key)
}

async fn remove_keys(iam: &aws_sdk_iam::Client, user: &str) {
    for key in iam.list_access_keys().user_name(user).send().await.expect("keys").access_key_metadata {
        let id = key.access_key_id.expect("its id");
        iam.delete_access_key().user_name(user).access_key_id(id).send().await.expect("it goes");
    }
}

pub fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The folder of the built programs.
fn programs() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_eirs")).parent().expect("a folder").to_owned()
}

/// Returns an unused address.
pub fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").to_string()
}
