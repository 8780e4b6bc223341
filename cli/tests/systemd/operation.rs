//! Daily operation: start, upload, edit a policy, reload, inspect.

use serde_json::Value;

use crate::machine::{Plan, project, said};
use eirs_harness::{POLICY, eventually, image, sample};

#[test]
fn the_target_starts_a_service_that_classifies_and_reports_its_state() {
    let Some(machine) = Plan::with_model().boot() else { return };
    let looked = machine.run("sh", &["-c", "eirs check 2>&1; echo ends with $?"]);
    assert!(looked.contains("nothing has run on the state folder /var/lib/eirs yet"), "{looked}");
    assert!(looked.contains("ends with 1"), "{looked}");
    machine.systemctl(&["start", "eirs.target"]);
    // The target is active when both are ready, so this does not wait.
    let answer = machine.upload("", &sample("heart_0.jpg"));
    assert_eq!(answer.json()["label"], "heart", "{answer:?}");
    machine.systemctl(&["start", "eirs-worker"]);
    for (unit, status) in [
        ("eirs-web", ": 0 uploads in flight, 0 jobs not answered"),
        ("eirs-controller", "default: 0 jobs, "),
        ("eirs-worker", "0 jobs in flight, 0 done, rten"),
    ] {
        eventually("the status line", || machine.show(unit, "StatusText").contains(status).then_some(()));
        assert_eq!(machine.show(unit, "ActiveState"), "active");
    }
    let looked = machine.run("sh", &["-c", "eirs check --json || true"]);
    let looked: Value = serde_json::from_str(&looked).expect("JSON");
    for (unit, name) in ["eirs-web", "eirs-controller", "eirs-worker"].into_iter().enumerate() {
        let unit = &looked["units"][unit];
        assert_eq!(
            (&unit["name"], &unit["active"], &unit["restarts"]),
            (&name.into(), &"active".into(), &0.into())
        );
        assert!(unit["pid"].is_u64() && !unit["status"].as_str().unwrap_or_default().is_empty(), "{looked}");
    }
    let mut images = (1..).map(image);
    eventually("a status line is kept up to date", || {
        machine.upload("", &images.next()?);
        let done: u32 = machine.show("eirs-worker", "StatusText").split(' ').nth(4)?.parse().ok()?;
        (done > 0).then_some(())
    });
    // Web reads what the controller writes, and the tool finds everything, as root but not as
    // another user.
    let (status, fleet) = (machine.run("eirs", &["status"]), machine.get("/status").body);
    assert!(status.starts_with("The controller is running as process"), "{status}");
    assert!(fleet.contains("default-1"), "{fleet}");
    machine.run("eirs", &["pause"]);
    eventually("the controller obeys root", || {
        machine.status()["operator"]["all_paused"].is_object().then_some(())
    });
    machine.run("eirs", &["resume"]);
    let stranger = ["--reuid=65534", "--regid=65534", "--clear-groups", "eirs", "status"];
    let refused = said(&machine.try_run("setpriv", &stranger));
    assert!(refused.contains("/var/lib/eirs may be read by its service and by root only"), "{refused}");
    let warnings: Vec<_> = machine
        .journal()
        .into_iter()
        .filter(|entry| {
            entry["UNIT"].as_str().or(entry["_SYSTEMD_UNIT"].as_str()).unwrap_or_default().starts_with("eirs")
        })
        .filter(|entry| entry["PRIORITY"].as_str() <= Some("4"))
        .filter(|entry| !entry["MESSAGE"].to_string().contains("paused by"))
        .collect();
    assert_eq!(warnings, Vec::<Value>::new());
}

#[test]
fn a_reload_returns_when_the_policy_is_in_force_and_refuses_a_broken_one() {
    let Some(machine) = Plan::with_script("echo cat").boot() else { return };
    machine.systemctl(&["start", "eirs.target"]);
    for max in [4, 5, 6] {
        machine.write("/etc/eirs/policies/default.toml", &POLICY.replace("max = 3", &format!("max = {max}")));
        machine.systemctl(&["reload", "eirs-controller"]);
        assert_eq!(machine.status()["pools"][0]["max"], max);
    }
    machine.write("/etc/eirs/policies/default.toml", &POLICY.replace("max = 3", "max = \"many\""));
    let refused = machine.try_run("systemctl", &["reload", "eirs-controller"]);
    assert!(!refused.status.success(), "{refused:?}");
    let line = "/etc/eirs/policies/default.toml:5: pool.max: is \"many\"; must be a whole number";
    machine.says(
        "eirs-controller",
        &format!(
            "wrong policy, the last good version stays in force: \
        {line}"
        ),
    );
    assert!(
        machine.log("eirs-controller").iter().any(|said| said.starts_with(line)),
        "the reload says it, too"
    );
    let status = machine.status();
    assert_eq!(status["pools"][0]["max"], 6);
    assert!(status["policy_errors"][0].as_str().expect("a sentence").starts_with(line), "{status}");
    assert_eq!(machine.show("eirs-controller", "ActiveState"), "active");
    assert_eq!(machine.upload("", &image(1)).json()["label"], "cat");

    machine.write("/etc/eirs/policies/default.toml", POLICY);
    machine.systemctl(&["reload", "eirs-controller"]);
    assert_eq!(machine.status()["pools"][0]["max"], 3);
    // A reload does not pass changed settings to other services, but they are parsed.
    machine.write("/etc/eirs/eirs.toml", "[controller]\nticks = \"1s\"\n");
    assert!(!machine.try_run("systemctl", &["reload", "eirs-controller"]).status.success());
    machine.says(
        "eirs-controller",
        "/etc/eirs/eirs.toml: unknown key `controller.ticks`; did you mean `controller.tick`?",
    );
    assert_eq!(machine.show("eirs-controller", "ActiveState"), "active");
}

/// Returns the documented fields of a decision: the first table.
fn documented_fields() -> Vec<String> {
    let page = std::fs::read_to_string(project().join("docs/LOGS.md")).expect("the page about logs");
    let (_, listed) = page.split_once("Decisions of the controller").expect("the table of their fields");
    let (listed, _) = listed.split_once("All other entries").expect("its end");
    let rows = listed.lines().filter_map(|line| line.strip_prefix("| `EIRS_"));
    rows.map(|row| format!("EIRS_{}", row.split('`').next().unwrap_or_default())).collect()
}

#[test]
fn the_journal_has_every_documented_field_of_a_decision() {
    let Some(machine) = Plan::with_script("echo cat").boot() else { return };
    machine.systemctl(&["start", "eirs.target"]);
    assert_eq!(machine.upload("", &image(1)).json()["label"], "cat");
    let fields = documented_fields();
    assert!(fields.len() > 10, "{fields:?}");
    // Decisions know the service time only after the first jobs.
    let decisions = eventually("a decision that knows everything", || {
        machine.upload("", &image(std::process::id().wrapping_add(machine.stored_results() as u32)));
        let decisions: Vec<Value> =
            machine.journal().into_iter().filter(|entry| entry["EIRS_POOL"] == "default").collect();
        let is_whole = |entry: &Value| fields.iter().all(|field| entry[field].is_string());
        decisions.iter().any(is_whole).then_some(decisions)
    });
    let start = decisions.iter().find(|entry| entry["EIRS_ACTIONS"] == "start default-1").expect("the start");
    for (field, expected) in [
        ("_SYSTEMD_UNIT", "eirs-controller.service"),
        ("SYSLOG_IDENTIFIER", "eirs-controller"),
        ("PRIORITY", "5"),
        ("EIRS_BACKLOG", "1"),
        ("EIRS_DESIRED", "1"),
        ("EIRS_RUNNING", "0"),
        ("EIRS_WISHES", "backlog=1"),
        ("EIRS_PAUSED", "false"),
    ] {
        assert_eq!(start[field], expected, "{field}: {start}");
    }
    assert!(start["MESSAGE"].as_str().expect("a sentence").contains("start default-1 (1 job "), "{start}");
}

#[test]
fn the_journal_can_be_searched_by_image_and_trace_and_has_slow_jobs() {
    let plan = Plan::with_script("sleep 0.2; echo cat")
        .set("EIRS_TELEMETRY__FILTER", "info,eirs_web=debug")
        .set("EIRS_WORKER__SLOW_AFTER", "100ms");
    let Some(machine) = plan.boot() else { return };
    machine.systemctl(&["start", "eirs.target"]);
    let answer = machine.upload("", &image(1));
    let trace = answer.header("x-trace-id").expect("the id of its trace").to_owned();
    let id = answer.json()["id"].as_str().expect("the id of the image").to_owned();
    for question in [format!("EIRS_ID={id}"), format!("EIRS_TRACE_ID={trace}")] {
        let entries: Vec<Value> = eventually("both programs log it", || {
            let found = machine.run("journalctl", &["--output=json", &question]);
            let entries: Vec<Value> =
                found.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            let of = |program: &str| entries.iter().any(|entry| entry["SYSLOG_IDENTIFIER"] == program);
            (of("eirs-web") && of("eirs-worker")).then_some(entries)
        });
        let slow = entries.iter().find(|entry| entry["EIRS_SERVICE_MS"].is_string()).expect("the slow job");
        let taken: f64 =
            slow["EIRS_SERVICE_MS"].as_str().and_then(|text| text.parse().ok()).expect("a number");
        assert!(taken >= 200.0 && slow["PRIORITY"] == "5", "{slow}");
        let printed = (&slow["EIRS_ID"], &slow["EIRS_TRACE_ID"]);
        assert_eq!(printed, (&Value::from(id.as_str()), &Value::from(trace.as_str())), "{slow}");
    }
}
