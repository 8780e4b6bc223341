//! A server that goes and comes back, and one that wants a token.

use crate::{
    harness::{Site, eventually},
    visit::{Visit, sample_file},
};

#[test]
fn a_page_whose_server_is_killed_says_so_and_lives_again_with_the_next_one() {
    let site = Site::with_model();
    let (mut web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::to(&web) else { return };
    visit.script("window.isStillTheSame = true");
    web.process.kill();
    eventually("it says that the connection is lost", || {
        (visit.text("#connection") == "no connection, trying again").then_some(())
    });
    let _web = site.web_on(&web.address);
    visit.connected();
    let notice = visit.text("#controller");
    assert!(notice.starts_with("Nothing has been heard of the server since "), "{notice}");
    visit.pick(&[sample_file("star_0.jpg")]);
    assert_eq!(visit.settled(1)[0].label.as_deref(), Some("star"));
    assert_eq!(visit.script("return window.isStillTheSame"), true, "nobody had to load it again");
    assert_eq!(visit.complaints(), [""; 0]);
}

#[test]
fn where_a_token_is_wanted_the_page_asks_for_it_until_it_is_a_good_one_and_then_works() {
    let site = Site::with_model().set("EIRS_WEB__TOKENS", "tokens.json");
    let made = site.command("eirs").args(["token", "add", "visitor"]).output().expect("it runs");
    assert!(made.status.success(), "{made:?}");
    let token = String::from_utf8(made.stdout).expect("text");
    let (web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::without_looking(&web) else { return };
    let is_asking = || visit.text("#token-form").contains("wants a token").then_some(());
    eventually("it asks for a token", is_asking);
    visit.browser.type_into("#token", "eirs_0").expect("a token that is not known");
    visit.browser.click("#token-form button").expect("it is used");
    eventually("it asks again, and says why", || {
        visit.text("#token-form").contains("not known").then_some(())
    });
    visit.browser.type_into("#token", token.trim()).expect("the token");
    visit.browser.click("#token-form button").expect("it is used");
    visit.connected();
    assert_eq!(visit.text("#token-form"), "");
    visit.pick(&[sample_file("star_0.jpg")]);
    assert_eq!(visit.settled(1)[0].label.as_deref(), Some("star"));
    assert_eq!(visit.complaints(), [""; 0]);
}
