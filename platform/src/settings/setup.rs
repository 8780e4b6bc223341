//! `[setup]`: what `eirs setup` makes in an AWS account, beyond what things are called.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::units;

/// `[setup]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Setup {
    /// The instance type of the workers.
    pub worker_type: String,
    /// The instance type of a web host that setup launches.
    pub web_type: String,
    /// What a burstable type (t2, t3, t3a, t4g) does when it has used up its CPU credits.
    pub cpu_credits: CpuCredits,
    /// What the instances run.
    pub os: Os,
    /// The disk of each instance, in GiB; 0 is what the system's image asks for.
    pub disk_gib: u32,
    /// The key of KMS that all disks and images are encrypted with: its ARN. Without one, AWS's own
    /// key for disks.
    pub kms_key: Option<String>,
    /// The permissions boundary of the roles: the ARN of a policy. Without one, the roles are
    /// bounded by their own policies only.
    pub permissions_boundary: Option<String>,
    /// The networks that may upload, such as `203.0.113.0/24`, or `0.0.0.0/0` for the whole world.
    pub uploads_from: Vec<String>,
    /// The networks that may log in over SSH; never the whole world.
    pub ssh_from: Vec<String>,
    /// Whether the machines copy their logs to the bucket of the results.
    pub ship_logs: bool,
    /// Whether the web host that setup launches has an Elastic IP, which it keeps when it is
    /// stopped or replaced.
    pub elastic_ip: bool,
    /// The subnets of the instances; without any, those of the region's default VPC.
    pub subnets: Vec<String>,
    /// Files and folders of this machine that the workers' image holds at the same places, such as
    /// a script and its data.
    pub include: Vec<PathBuf>,
    /// A shell script that is run as root on the machine that the image is baked from, to install
    /// what a script needs.
    pub prepare: Option<PathBuf>,
    /// Whether scripts run as another user than the worker, who cannot read the credentials of the
    /// machine.
    pub isolate_scripts: bool,
    /// Images are deleted after this many days; 0 keeps them.
    pub expire_images_days: u32,
    /// Results are deleted after this many days; 0 keeps them.
    pub expire_results_days: u32,
    /// An image of the workers that is older is baked again by the next update, on the system's
    /// newest image. Zero bakes only what changed.
    #[serde(with = "units::duration")]
    pub rebake_after: Duration,
    /// How many images of the workers are kept beside those that machines are of: the last one is
    /// what a rollback goes to.
    pub keep_images: u32,
    /// `[setup.update]`
    pub update: Update,
}

/// `[setup.update]`: how `eirs update` replaces the machines, and what it asks of the first one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Update {
    /// How many machines are replaced at once.
    pub wave: u32,
    /// Images that the first machine must classify, in folders that are called like their labels.
    pub check_images: Option<PathBuf>,
    /// A sheet with the labels of these images, where their folders do not tell.
    pub check_labels: Option<PathBuf>,
    /// The share of the images with a label that it must get right, from 0 to 1.
    pub right: f64,
    /// The share of the images uploaded lately that it must give the label that they have, from 0
    /// to 1.
    pub agree: f64,
    /// How many times as long as before it may take for an image uploaded lately, by the median.
    pub slower: f64,
}

impl Default for Update {
    fn default() -> Self {
        Self { wave: 4, check_images: None, check_labels: None, right: 0.8, agree: 0.5, slower: 2.0 }
    }
}

impl Update {
    fn complaints(&self) -> Vec<String> {
        let share = |share: f64| (0.0..=1.0).contains(&share);
        let rules = [
            (self.wave > 0, "setup.update.wave: must be at least 1"),
            (share(self.right), "setup.update.right: must be from 0 to 1"),
            (share(self.agree), "setup.update.agree: must be from 0 to 1"),
            (self.slower >= 1.0, "setup.update.slower: must be at least 1"),
            (
                self.check_labels.is_none() || self.check_images.is_some(),
                "setup.update.check_labels: needs setup.update.check_images, whose labels they are",
            ),
        ];
        rules.into_iter().filter(|(holds, _)| !holds).map(|(_, complaint)| complaint.to_owned()).collect()
    }
}

/// How an instance of a burstable type goes on without credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuCredits {
    /// As before, and each vCPU-hour above the baseline is paid for.
    Unlimited,
    /// At its baseline, a tenth to two fifths of what it can do.
    Standard,
}

/// An operating system that setup can bake on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Os {
    /// Ubuntu 24.04 LTS.
    #[serde(rename = "ubuntu-24.04")]
    Ubuntu2404,
    /// Amazon Linux 2023.
    #[serde(rename = "amazon-linux-2023")]
    AmazonLinux2023,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            // Two cores, 2 GiB, and credits that a stop does not take away as with t2.
            worker_type: "t3.small".into(),
            web_type: "t3.small".into(),
            // An answer that takes five times as long costs people more than the credits.
            cpu_credits: CpuCredits::Unlimited,
            os: Os::Ubuntu2404,
            disk_gib: 0,
            kms_key: None,
            permissions_boundary: None,
            uploads_from: Vec::new(),
            ssh_from: Vec::new(),
            ship_logs: false,
            elastic_ip: false,
            subnets: Vec::new(),
            include: Vec::new(),
            prepare: None,
            isolate_scripts: true,
            expire_images_days: 30,
            expire_results_days: 90,
            rebake_after: Duration::from_secs(30 * 24 * 3600),
            keep_images: 2,
            update: Update::default(),
        }
    }
}

impl Setup {
    /// What is wrong, as `key: what is wrong`.
    pub(super) fn complaints(&self) -> Vec<String> {
        let world = |network: &String| network.ends_with("/0");
        let networks = |key: &'static str, networks: &[String]| {
            let wrong = networks.iter().filter(|network| !is_network(network));
            wrong
                .map(|n| {
                    format!(
                        "setup.{key}: `{n}` is not a network; write one like \
                    \"203.0.113.0/24\""
                    )
                })
                .collect::<Vec<_>>()
        };
        let mut complaints = networks("uploads_from", &self.uploads_from);
        complaints.extend(networks("ssh_from", &self.ssh_from));
        if self.ssh_from.iter().any(world) {
            complaints.push("setup.ssh_from: must not be the whole world; name your own network".into());
        }
        if self.kms_key.as_deref().is_some_and(|key| !is_key(key)) {
            complaints.push(
                "setup.kms_key: must be the ARN of a key, such as \
                \"arn:aws:kms:eu-central-1:123456789012:key/...\": a permission cannot name an \
                alias"
                    .into(),
            );
        }
        if self.permissions_boundary.as_deref().is_some_and(|policy| !is_policy(policy)) {
            complaints.push(
                "setup.permissions_boundary: must be the ARN of a policy, such as \
                \"arn:aws:iam::123456789012:policy/eirs-boundary\""
                    .into(),
            );
        }
        complaints.extend(self.update.complaints());
        complaints
    }
}

/// Whether this is the ARN of a key of KMS.
fn is_key(text: &str) -> bool {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    matches!(parts[..], ["arn", partition, "kms", region, account, key]
        if partition.starts_with("aws") && !region.is_empty() && account.len() == 12 && key.starts_with("key/"))
}

/// Whether this is the ARN of a policy of IAM: of an account's own, or of AWS's.
fn is_policy(text: &str) -> bool {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    matches!(parts[..], ["arn", partition, "iam", "", account, policy]
        if partition.starts_with("aws") && (account.len() == 12 || account == "aws") && policy.starts_with("policy/"))
}

/// Whether this is an address and the length of a prefix.
fn is_network(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => 32,
        Ok(std::net::IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_named_by_its_arn() {
        let complaints = |key: &str| Setup { kms_key: Some(key.into()), ..Setup::default() }.complaints();
        for good in [
            "arn:aws:kms:eu-central-1:123456789012:key/1234abcd",
            "arn:aws-cn:kms:cn-north-1:123456789012:key/mrk-1",
        ] {
            assert_eq!(complaints(good), Vec::<String>::new(), "{good}");
        }
        for bad in [
            "",
            "1234abcd",
            "alias/eirs",
            "arn:aws:kms:eu-central-1:123456789012:alias/eirs",
            "arn:aws:s3:::bucket",
        ] {
            assert_eq!(complaints(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_boundary_is_named_by_the_arn_of_its_policy() {
        let complaints =
            |arn: &str| Setup { permissions_boundary: Some(arn.into()), ..Setup::default() }.complaints();
        for good in ["arn:aws:iam::123456789012:policy/a/b", "arn:aws-cn:iam::aws:policy/ReadOnlyAccess"] {
            assert_eq!(complaints(good), Vec::<String>::new(), "{good}");
        }
        for bad in ["", "eirs-boundary", "arn:aws:iam::123456789012:role/eirs", "arn:aws:iam::1:policy/a"] {
            assert_eq!(complaints(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn an_update_asks_for_what_can_be() {
        let wrong = Update { wave: 0, right: 1.5, agree: -0.1, slower: 0.5, ..Update::default() };
        assert_eq!(wrong.complaints().len(), 4);
        let labels = Update { check_labels: Some("labels.csv".into()), ..Update::default() };
        assert_eq!(labels.complaints().len(), 1);
        assert_eq!(Update::default().complaints(), Vec::<String>::new());
    }

    #[test]
    fn networks_are_checked_and_ssh_is_never_opened_to_the_world() {
        let list =
            |networks: &[&str]| networks.iter().map(|network| (*network).to_owned()).collect::<Vec<_>>();
        let setup = |uploads: &[&str], ssh: &[&str]| Setup {
            uploads_from: list(uploads),
            ssh_from: list(ssh),
            ..Setup::default()
        };
        assert!(setup(&["0.0.0.0/0", "::/0", "10.0.0.0/8"], &["203.0.113.7/32"]).complaints().is_empty());
        assert_eq!(setup(&["here", "10.0.0.0", "10.0.0.0/33"], &[]).complaints().len(), 3);
        for world in ["0.0.0.0/0", "::/0"] {
            let complaints = setup(&[], &[world]).complaints();
            assert!(complaints[0].contains("must not be the whole world"), "{complaints:?}");
        }
    }
}
