//! `[setup]`: what `eirs setup` creates in an AWS account.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::units;

/// `[setup]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Setup {
    /// The instance type of the workers.
    pub worker_type: String,
    /// The instance type of the web host.
    pub web_type: String,
    /// How a burstable type (t2, t3, t3a, t4g) continues without CPU credits.
    pub cpu_credits: CpuCredits,
    /// The operating system of the instances.
    pub os: Os,
    /// Disk size of each instance in GiB; 0 is the default of the system's image.
    pub disk_gib: u32,
    /// The ARN of the KMS key that encrypts all disks and images. Without it, AWS's own key for
    /// disks.
    pub kms_key: Option<String>,
    /// The ARN of the policy that is the permissions boundary of the roles. Without it, roles are
    /// limited by their own policies only.
    pub permissions_boundary: Option<String>,
    /// The networks that may upload, such as `203.0.113.0/24`, or `0.0.0.0/0` for everyone.
    pub uploads_from: Vec<String>,
    /// The networks that may log in over SSH; never everyone.
    pub ssh_from: Vec<String>,
    /// The machines copy their logs to the bucket of results.
    pub ship_logs: bool,
    /// The web host has an Elastic IP, which it keeps when it is stopped or replaced.
    pub elastic_ip: bool,
    /// The subnets of the instances; empty means those of the region's default VPC.
    pub subnets: Vec<String>,
    /// Files and folders of this machine that the workers' image has at the same paths, such as a
    /// script and its data.
    pub include: Vec<PathBuf>,
    /// A shell script that runs as root while the image is baked, to install what a script needs.
    pub prepare: Option<PathBuf>,
    /// Scripts run as another user than the worker, which cannot read the machine's credentials.
    pub isolate_scripts: bool,
    /// Images are deleted after this many days; 0 keeps them.
    pub expire_images_days: u32,
    /// Results are deleted after this many days; 0 keeps them.
    pub expire_results_days: u32,
    /// Age from which an image of the workers is baked again by the next update, on the system's
    /// newest image. Zero bakes only after changes.
    #[serde(with = "units::duration")]
    pub rebake_after: Duration,
    /// Number of workers' images to keep in addition to those in use: the newest is for a rollback.
    pub keep_images: u32,
    /// `[setup.update]`
    pub update: Update,
}

/// `[setup.update]`: how `eirs update` replaces machines, and what the first one must pass.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Update {
    /// Number of machines replaced at once.
    pub wave: u32,
    /// Images that the first machine must classify, in folders named after their labels.
    pub check_images: Option<PathBuf>,
    /// A sheet with the labels of these images, if they are not in such folders.
    pub check_labels: Option<PathBuf>,
    /// Minimum fraction of the labelled images that it must classify correctly, from 0 to 1.
    pub right: f64,
    /// Minimum fraction of recently uploaded images to which it must give the same label, from 0 to
    /// 1.
    pub agree: f64,
    /// Maximum factor by which the median time for recently uploaded images may grow.
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

/// How an instance of a burstable type continues without credits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuCredits {
    /// At full speed; each vCPU-hour above the baseline is billed.
    Unlimited,
    /// At its baseline, a tenth to two fifths of full speed.
    Standard,
}

/// An operating system that setup can bake images on.
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
            // Two cores, 2 GiB, and credits that survive a stop, unlike those of t2.
            worker_type: "t3.small".into(),
            web_type: "t3.small".into(),
            // Results that take five times as long cost more than the credits.
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
    /// Returns errors, as `key: what is wrong`.
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

/// Returns whether a text is the ARN of a KMS key.
fn is_key(text: &str) -> bool {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    matches!(parts[..], ["arn", partition, "kms", region, account, key]
        if partition.starts_with("aws") && !region.is_empty() && account.len() == 12
            && key.starts_with("key/"))
}

/// Returns whether a text is the ARN of an IAM policy, of an account or of AWS.
fn is_policy(text: &str) -> bool {
    let parts: Vec<_> = text.splitn(6, ':').collect();
    matches!(parts[..], ["arn", partition, "iam", "", account, policy]
        if partition.starts_with("aws") && (account.len() == 12 || account == "aws")
            && policy.starts_with("policy/"))
}

/// Returns whether a text is an address and a prefix length.
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
    fn impossible_settings_of_an_update_are_refused() {
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
