//! The machine that accepts uploads and runs the controller, if setup launches one.

use std::time::Duration;

use anyhow::Context;
use aws_sdk_ec2::types::InstanceStateName as State;
use eirs_platform::aws::tag;
use tokio::time::Instant;

use super::{
    Account, Poll,
    bundle::Bundle,
    iam::Profile,
    image::BUNDLE_TAG,
    instances::{self, Instance},
    launch::{Image, Launch},
    network::Subnet,
    scripts,
};

/// Time limit for the host to serve.
const SERVES_WITHIN: Duration = Duration::from_secs(15 * 60);
/// Time limit for a replaced host to drain; it is stopped for that.
const STOPS_WITHIN: Duration = Duration::from_secs(600);

/// Returns the web hosts that setup has launched.
pub(crate) async fn all(account: &Account) -> anyhow::Result<Vec<Instance>> {
    instances::all(account, Some(tag::WEB)).await
}

/// Returns whether a host was made from this archive.
pub(crate) fn is_current(host: &Instance, bundle: &Bundle) -> bool {
    host.tag(BUNDLE_TAG) == Some(bundle.digest.as_str())
}

/// Launches a web host if there is none. A host that was made from another archive stays unless its
/// replacement is requested, because its address would change. Returns the host that serves.
pub(crate) async fn ensure(
    account: &Account,
    place: Place<'_>,
    replace: bool,
    say: &dyn Fn(&str),
) -> anyhow::Result<Instance> {
    let hosts = all(account).await?;
    let (current, outdated): (Vec<_>, Vec<_>) =
        hosts.into_iter().partition(|host| is_current(host, place.bundle));
    let id = match (current.first(), outdated.first()) {
        (Some(host), _) => host.id.clone(),
        (None, Some(host)) if !replace => return Ok(host.clone()),
        (None, _) => place.launch(account, say).await?,
    };
    say(&format!("waiting for {id} to serve"));
    let host = place.wait_until_it_serves(account, &id).await?;
    if replace && !outdated.is_empty() {
        let ids: Vec<_> = outdated.into_iter().map(|host| host.id).collect();
        say(&format!("the new web host serves; {} drains and is removed", ids.join(", ")));
        instances::stop(account, &ids).await?;
        instances::wait_for(account, &ids, &State::Stopped, STOPS_WITHIN).await?;
        instances::terminate(account, &ids).await?;
    }
    Ok(host)
}

/// The parameters of the launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) bundle: &'a Bundle,
    pub(crate) base: &'a Image,
    pub(crate) subnets: &'a [Subnet],
    pub(crate) group: &'a str,
}

impl Place<'_> {
    fn name(&self) -> String {
        format!("web-{}", &self.bundle.digest[..12])
    }

    async fn launch(&self, account: &Account, say: &dyn Fn(&str)) -> anyhow::Result<String> {
        say("uploading the archive for the web host");
        scripts::upload(account, self.bundle).await?;
        scripts::forget_report(account, &self.name()).await?;
        say("launching the web host");
        let launch = Launch {
            purpose: tag::WEB,
            image: self.base,
            kind: &account.settings.setup.web_type,
            subnet: "",
            group: self.group,
            profile: Some(Profile::Web),
            user_data: Some(scripts::web_host(account, self.bundle, &self.name()).await?),
            tags: &[(BUNDLE_TAG, &self.bundle.digest)],
            count: 1,
        };
        launch.run_in_one_of(account, self.subnets).await?.pop().context("EC2 launched nothing")
    }

    async fn wait_until_it_serves(&self, account: &Account, id: &str) -> anyhow::Result<Instance> {
        let (deadline, mut poll) = (Instant::now() + SERVES_WITHIN, Poll::new());
        loop {
            let host = all(account).await?.into_iter().find(|host| host.id == id);
            let host = host.with_context(|| format!("the web host {id} is gone"))?;
            if let Some(report) = scripts::report(account, &self.name()).await? {
                if report.went_well {
                    return Ok(host);
                }
                // The next run must not wait for this host.
                instances::terminate(account, &[id.to_owned()]).await?;
                anyhow::bail!(
                    "the web host {id} does not serve and was removed; its output:\n{}",
                    report.said
                );
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "the web host {id} does not serve within {}",
                humantime::format_duration(SERVES_WITHIN)
            );
            poll.wait().await;
        }
    }
}
