//! Launches instances, which differ only in their purpose.

use aws_sdk_ec2::types::{
    BlockDeviceMapping, CreditSpecificationRequest, EbsBlockDevice, IamInstanceProfileSpecification,
    InstanceType, ResourceType, ShutdownBehavior, VolumeType,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use eirs_controller::fleet::ec2;
use eirs_platform::{
    aws::{self, tag},
    error::Error,
    settings::CpuCredits,
};
use tokio::time::Instant;

use super::{
    Account, Poll, cost,
    iam::{PROFILE_VISIBLE_WITHIN, Profile},
    instances, key_pair,
    network::Subnet,
};

/// The parameters of a launch.
#[derive(Debug, Clone)]
pub(crate) struct Launch<'a> {
    /// The purpose: the tag [`tag::ROLE`].
    pub(crate) purpose: &'a str,
    pub(crate) image: &'a Image,
    pub(crate) kind: &'a str,
    pub(crate) subnet: &'a str,
    pub(crate) group: &'a str,
    /// The permissions; a machine from which an image is baked needs none.
    pub(crate) profile: Option<Profile>,
    pub(crate) user_data: Option<String>,
    /// Additional tags.
    pub(crate) tags: &'a [(&'a str, &'a str)],
    pub(crate) count: u32,
}

/// An image to launch from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) id: String,
    /// The device name of the root disk, such as `/dev/sda1`.
    pub(crate) root_device: String,
    /// The size of the root disk in GiB, if the image has it. A disk cannot be smaller.
    pub(crate) root_gib: Option<u32>,
}

impl Launch<'_> {
    /// Launches the instances in the first of these subnets whose zone has capacity.
    pub(crate) async fn run_in_one_of(
        &self,
        account: &Account,
        subnets: &[Subnet],
    ) -> eirs_platform::Result<Vec<String>> {
        let mut refused = Error::broken("launching", "there is no subnet");
        for subnet in subnets {
            match (Launch { subnet: &subnet.id, ..self.clone() }).run(account).await {
                Err(error @ Error::NoCapacity { .. }) => refused = error,
                ended => return ended,
            }
        }
        Err(refused)
    }

    /// Launches the instances and returns their ids. It launches either all or none.
    pub(crate) async fn run(&self, account: &Account) -> eirs_platform::Result<Vec<String>> {
        let (deadline, mut poll) = (Instant::now() + PROFILE_VISIBLE_WITHIN, Poll::new());
        loop {
            match self.call(account).await {
                // Only this error is retried: a new profile is visible after a delay.
                Err(error) if names_the_profile(&error) && Instant::now() < deadline => {
                    poll.wait().await;
                }
                ended => return ended,
            }
        }
    }

    async fn call(&self, account: &Account) -> eirs_platform::Result<Vec<String>> {
        let what = || format!("launching {} of {} for {}", self.count, self.kind, self.purpose);
        let count = i32::try_from(self.count).unwrap_or(i32::MAX);
        let tags = [&[(tag::ROLE, self.purpose)], self.tags].concat();
        let profile = self.profile.as_ref().map(|profile| profile.name(account));
        let profile = profile.map(|name| IamInstanceProfileSpecification::builder().name(name).build());
        let call = account
            .ec2
            .run_instances()
            .image_id(&self.image.id)
            .instance_type(InstanceType::from(self.kind))
            .min_count(count)
            .max_count(count)
            .subnet_id(self.subnet)
            .security_group_ids(self.group)
            .key_name(key_pair::name(account.prefix()))
            .set_iam_instance_profile(profile)
            .metadata_options(ec2::metadata_options())
            // A machine that powers itself off is parked, not lost.
            .instance_initiated_shutdown_behavior(ShutdownBehavior::Stop)
            .block_device_mappings(self.disk(account))
            .set_credit_specification(self.credits(account))
            .set_user_data(self.user_data.as_ref().map(|script| STANDARD.encode(script)))
            .tag_specifications(instances::tags(account, ResourceType::Instance, &tags))
            .tag_specifications(instances::tags(account, ResourceType::Volume, &tags));
        let made = call.send().await.map_err(|error| aws::error(what(), &error))?;
        Ok(made.instances().iter().filter_map(|instance| instance.instance_id.clone()).collect())
    }

    /// Returns the disk, which is deleted with its instance, since it has nothing worth keeping. It
    /// is encrypted whatever the image is. If the settings have no size, it is as large as the
    /// image. An image of an encrypted disk has the same encryption as that disk.
    fn disk(&self, account: &Account) -> BlockDeviceMapping {
        let setup = &account.settings.setup;
        let size = Some(setup.disk_gib).filter(|size| *size > 0).max(self.image.root_gib);
        let disk = EbsBlockDevice::builder()
            .delete_on_termination(true)
            .volume_type(VolumeType::Gp3)
            .set_volume_size(size.and_then(|size| i32::try_from(size).ok()))
            .encrypted(true)
            .set_kms_key_id(setup.kms_key.clone())
            .build();
        BlockDeviceMapping::builder().device_name(&self.image.root_device).ebs(disk).build()
    }

    /// Always explicit, since an account may have another default; EC2 accepts it only for
    /// burstable types.
    fn credits(&self, account: &Account) -> Option<CreditSpecificationRequest> {
        let said = match account.settings.setup.cpu_credits {
            CpuCredits::Unlimited => "unlimited",
            CpuCredits::Standard => "standard",
        };
        let credits = CreditSpecificationRequest::builder().cpu_credits(said).build();
        cost::is_burstable(self.kind).then_some(credits)
    }
}

fn names_the_profile(error: &Error) -> bool {
    error.to_string().contains("Invalid IAM Instance Profile")
}
