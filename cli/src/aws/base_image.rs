//! Finds the image of the operating system through a public SSM parameter of its vendor, which
//! names the current one.

use anyhow::Context;
use aws_sdk_ec2::types::Image as Described;
use eirs_platform::{aws, settings::Os};

use super::{Account, launch::Image};

/// Returns the parameter for a system, for the architecture of this program, since the workers run
/// the program in the same folder.
fn parameter(os: Os) -> anyhow::Result<String> {
    let (ubuntu, amazon) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", "x86_64"),
        "aarch64" => ("arm64", "arm64"),
        other => anyhow::bail!("there is no image for {other}; run setup on an x86_64 or an arm64 machine"),
    };
    Ok(match os {
        Os::Ubuntu2404 => {
            format!("/aws/service/canonical/ubuntu/server/24.04/stable/current/{ubuntu}/hvm/ebs-gp3/ami-id")
        }
        Os::AmazonLinux2023 => {
            format!("/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{amazon}")
        }
    })
}

/// Returns the image that the parameter names now.
pub(crate) async fn current(account: &Account) -> anyhow::Result<Image> {
    let name = parameter(account.settings.setup.os)?;
    let found = account.ssm.get_parameter().name(&name).send().await;
    let found = found.map_err(|error| aws::error(format!("reading the public parameter {name}"), &error))?;
    let id = found.parameter.and_then(|parameter| parameter.value);
    describe(account, &id.with_context(|| format!("the public parameter {name} is empty"))?).await
}

/// Returns an image by its id.
pub(crate) async fn describe(account: &Account, id: &str) -> anyhow::Result<Image> {
    let found = account.ec2.describe_images().image_ids(id).send().await;
    let found = found.map_err(|error| aws::error(format!("looking at the image {id}"), &error))?;
    let image = found
        .images()
        .first()
        .with_context(|| format!("the image {id} does not exist in {}", account.region))?;
    Ok(of(image, id))
}

/// Returns the properties of an image that a launch needs.
pub(crate) fn of(image: &Described, id: &str) -> Image {
    let root_device = image.root_device_name().filter(|name| !name.is_empty()).unwrap_or("/dev/sda1");
    let root = image.block_device_mappings().iter().find(|disk| disk.device_name() == Some(root_device));
    let root_gib = root.and_then(|disk| disk.ebs()?.volume_size()).and_then(|size| u32::try_from(size).ok());
    Image { id: id.to_owned(), root_device: root_device.to_owned(), root_gib }
}
