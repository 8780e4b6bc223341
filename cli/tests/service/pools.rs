//! Several pools, and policies that change while the real controller runs.

use std::{fs, process::Command};

use rustix::process::Signal;
use serde_json::Value;

use eirs_harness::{POLICY, Process, Site, eventually, image, sample};

/// Two models: the built-in one, and `quick`, whose label is always `noop`.
fn two_models() -> Site {
    Site::with_model().set("EIRS_MODELS__QUICK__CLASSIFIER", "noop").set("EIRS_CONTROLLER__ON_EXIT", "drain")
}

fn write_policy(site: &Site, pool: &str, policy: &str) {
    let folder = site.folder.path().join("policies");
    fs::create_dir_all(&folder).expect("a folder");
    // Like careful tools: written to another file and renamed.
    let beside = folder.join(format!("{pool}.new"));
    fs::write(&beside, policy).expect("a policy");
    fs::rename(beside, folder.join(format!("{pool}.toml"))).expect("a policy");
}

/// Returns the part of `eirs status --json` about a pool.
fn pool(site: &Site, name: &str) -> Option<Value> {
    let mut status: Command = site.command("eirs");
    let output = status.args(["status", "--json"]).output().expect("eirs runs");
    let status: Value = serde_json::from_slice(&output.stdout).ok()?;
    let pools = status["controller"]["pools"].as_array()?;
    pools.iter().find(|pool| pool["name"] == name).cloned()
}

/// Returns the running instances of a pool.
fn running(site: &Site, name: &str) -> Vec<String> {
    let pool = pool(site, name).unwrap_or_default();
    let instances = pool["instances"].as_array().cloned().unwrap_or_default();
    let running = instances.iter().filter(|instance| instance["state"] != "stopped");
    running.filter_map(|instance| instance["id"].as_str().map(str::to_owned)).collect()
}

/// Stops the controller, which first drains its workers.
fn end(mut controller: Process) {
    controller.signal(Signal::TERM);
    assert!(controller.exit().success(), "{}", controller.log());
}

#[test]
fn each_pool_serves_its_own_model_from_its_own_queue_with_its_own_instances() {
    let site = two_models().set("EIRS_CONTROLLER__TICK", "10m");
    // Running instances stay, so that the end of the test sees which ones were started.
    let lasting = POLICY.replace("idle = \"1s\"", "idle = \"1h\"");
    write_policy(&site, "quick-pool", &lasting.replace("model = \"default\"", "model = \"quick\""));
    let web = site.web();
    let controller = site.controller(&lasting);
    eventually("both pools are known", || pool(&site, "default").and(pool(&site, "quick-pool")));
    assert!(running(&site, "default").is_empty() && running(&site, "quick-pool").is_empty());

    let answer = web.upload("?model=quick", "x", &sample("star_0.jpg")).json();
    assert_eq!((&answer["label"], &answer["model"]), (&"noop".into(), &"quick".into()), "{answer}");
    eventually("its pool has its instance", || {
        (running(&site, "quick-pool") == ["quick-pool-1"]).then_some(())
    });
    assert!(running(&site, "default").is_empty());
    assert!(!controller.log().contains("start default-"), "{}", controller.log());

    // The same image is another job for another model.
    let answer = web.upload("", "x", &sample("star_0.jpg")).json();
    assert_eq!((&answer["label"], &answer["model"]), (&"star".into(), &"default".into()), "{answer}");
    eventually("the other pool has one, too", || (running(&site, "default") == ["default-1"]).then_some(()));
    assert_eq!(running(&site, "quick-pool"), ["quick-pool-1"]);

    // Jobs of one pool do not affect the other.
    for number in 0..40 {
        assert_eq!(web.upload("?model=quick", "x", &image(number)).json()["label"], "noop");
    }
    assert_eq!(running(&site, "default"), ["default-1"]);
    assert!(!controller.log().contains("start default-2"), "{}", controller.log());

    let unknown = web.upload("?model=cats", "x", &image(1));
    assert_eq!(
        (unknown.status, unknown.problem().as_str()),
        (404, "unknown model `cats`; the models are default, quick")
    );
    end(controller);
}

#[test]
fn an_edited_rule_takes_effect_at_once() {
    // The tick is too long to happen, so every pass here is triggered.
    let site = two_models().set("EIRS_CONTROLLER__TICK", "10m");
    let web = site.web();
    let controller = site.controller(POLICY);
    let wish = || pool(&site, "default").map(|pool| pool["wishes"][0].clone());
    let rule = |kind: &str| wish().filter(|wish| wish["rule"] == kind);
    let wish = eventually("the backlog counts", || rule("backlog"));
    assert_eq!((&wish["instances"], &wish["because"]), (&0.into(), &"10 for each instance".into()));

    // First a typo: the file is reported, and nothing changes.
    let edited = POLICY.replace("kind = \"backlog\"\nper_instance = 10", "kind = \"latency\"\np95 = \"2s\"");
    write_policy(&site, "default", &edited.replace("p95", "p59"));
    let complaint = eventually("the slip is seen", || {
        pool(&site, "default")?["policy_error"].as_str().map(str::to_owned)
    });
    assert!(
        complaint.contains("default.toml:8: unknown key `rule[1].p59`; did you mean `rule[1].p95`?"),
        "{complaint}"
    );
    assert!(rule("backlog").is_some());

    write_policy(&site, "default", &edited);
    let wish = eventually("the latency counts", || rule("latency"));
    assert!(wish["because"].as_str().is_some_and(|because| because.contains("arrive each second")), "{wish}");
    assert!(pool(&site, "default").is_some_and(|pool| pool["policy_error"].is_null()));
    assert_eq!(web.upload("", "x", &sample("star_0.jpg")).json()["label"], "star");
    let log = controller.log();
    assert!(log.contains("start default-1") && log.contains(": latency wants "), "{log}");
    end(controller);
}
