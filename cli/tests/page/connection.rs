//! A server that goes away and comes back, and one that requires a token.

use serde_json::json;

use crate::visit::{Visit, sample_file};
use eirs_harness::{Site, eventually, request};

#[test]
fn a_page_shows_the_loss_of_its_server_and_reconnects() {
    let site = Site::with_model();
    let (mut web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::to(&web) else { return };
    visit.script("window.isStillTheSame = true");
    web.process.kill();
    eventually("it says that the connection is lost", || {
        (visit.text("#connection") == "no connection, retrying").then_some(())
    });
    let notice = visit.text("#controller");
    assert!(notice.starts_with("No connection to the server since "), "{notice}");
    let _web = site.web_on(&web.address);
    visit.connected();
    visit.pick(&[sample_file("star_0.jpg")]);
    assert_eq!(visit.settled(1)[0].label.as_deref(), Some("star"));
    assert_eq!(visit.script("return window.isStillTheSame"), true, "the page was not loaded again");
    assert_eq!(visit.complaints(), [""; 0]);
}

#[test]
fn the_page_asks_for_a_required_token_until_it_is_valid() {
    let site = Site::with_model().set("EIRS_WEB__TOKENS", "tokens.json");
    let token = token(&site, &["add", "visitor"]);
    let (web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::without_looking(&web) else { return };
    let is_asking = || visit.text("#token-form").contains("needs a token").then_some(());
    eventually("it asks for a token", is_asking);
    eventually("it says why nothing is live", || (visit.text("#connection") == "token needed").then_some(()));
    use_token(&visit, "eirs_0");
    eventually("it asks again, and says why", || {
        visit.text("#token-form").contains("unknown or revoked").then_some(())
    });
    use_token(&visit, &token);
    visit.connected();
    assert_eq!(visit.text("#token-form"), "");
    visit.pick(&[sample_file("star_0.jpg")]);
    assert_eq!(visit.settled(1)[0].label.as_deref(), Some("star"));
    assert_eq!(visit.complaints(), [""; 0]);
}

fn token(site: &Site, arguments: &[&str]) -> String {
    let made = site.command("eirs").arg("token").args(arguments).output().expect("it runs");
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).expect("text").trim().to_owned()
}

fn use_token(visit: &Visit, token: &str) {
    visit.browser.type_into("#token", token).expect("a token");
    visit.browser.click("#token-form button").expect("it is used");
}

#[test]
fn images_wait_for_a_valid_token() {
    let site = Site::with_model().set("EIRS_WEB__TOKENS", "tokens.json");
    let token = token(&site, &["add", "visitor"]);
    let (web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::without_looking(&web) else { return };
    let names = ["heart", "star", "circle", "cross", "bolt", "arrow"];
    visit.pick(&names.map(|name| sample_file(&format!("{name}_0.jpg"))));
    let all_wait = || {
        let states = visit
            .script("return [...document.querySelectorAll('#results .state')].map((at) => at.innerText)");
        (states == json!(vec!["waiting for a token"; names.len()])).then_some(())
    };
    eventually("all of them say what they wait for", all_wait);
    for wrong in ["eirs_0", "eirs_1"] {
        use_token(&visit, wrong);
        eventually("it asks again", || {
            visit.text("#token-form").contains("unknown or revoked").then_some(())
        });
        eventually("all of them still wait", all_wait);
    }
    use_token(&visit, &token);
    let entries = visit.settled(names.len());
    for (entry, name) in entries.iter().zip(names) {
        assert_eq!(entry.label.as_deref(), Some(name), "{entry:?}");
    }
    visit.connected();
    assert_eq!(visit.complaints(), [""; 0]);
}

#[test]
fn an_upload_with_a_revoked_token_continues_with_the_next_token() {
    let site = Site::with_model().set("EIRS_WEB__TOKENS", "tokens.json");
    let [first, second] = ["visitor", "other"].map(|name| token(&site, &["add", name]));
    let (web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::without_looking(&web) else { return };
    eventually("it asks for a token", || visit.text("#token-form").contains("needs a token").then_some(()));
    use_token(&visit, &first);
    visit.connected();
    token(&site, &["revoke", "visitor"]);
    let bearer = format!("Bearer {first}");
    eventually("the revocation counts", || {
        let shown = [("authorization", bearer.as_str())];
        let answer = request(&web.address, "GET", "/results/1", &shown, b"").expect("an answer");
        (answer.status == 401).then_some(())
    });
    visit.pick(&[sample_file("star_0.jpg")]);
    eventually("it asks again", || visit.text("#token-form").contains("unknown or revoked").then_some(()));
    assert_eq!(visit.entries()[0].error, None);
    use_token(&visit, &second);
    assert_eq!(visit.settled(1)[0].label.as_deref(), Some("star"));
    visit.connected();
    assert_eq!(visit.complaints(), [""; 0]);
}
