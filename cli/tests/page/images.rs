//! Uploads of images.

use std::fs;

use crate::visit::{Visit, sample_file};
use eirs_harness::{Site, sample};

#[test]
fn a_chosen_image_gets_its_label_and_is_marked_as_cached_the_second_time() {
    let site = Site::with_model();
    let (web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::to(&web) else { return };
    visit.pick(&[sample_file("star_0.jpg")]);
    let first = visit.settled(1).remove(0);
    assert_eq!((first.label.as_deref(), first.name.as_str()), (Some("star"), "star_0.jpg"), "{first:?}");
    assert!(first.thumbnail && !first.cached, "{first:?}");
    assert_eq!(first.bars.len(), 5, "{first:?}");
    assert!(first.bars.is_sorted_by(|one, next| one >= next), "the most likely comes first: {first:?}");
    assert!(first.bars[0] > 2.0 * first.bars[1], "bars are as wide as the model is sure: {first:?}");

    visit.pick(&[sample_file("star_0.jpg")]);
    let second = visit.settled(2).remove(1);
    assert!(second.cached && second.label.as_deref() == Some("star"), "{second:?}");
    assert_eq!(visit.text("#summary"), "2 images labelled");
    assert_eq!(visit.complaints(), [""; 0]);
    let refused = visit.browser.log("browser").expect("the console");
    assert!(refused.is_empty(), "no error in the console: {refused:?}");
    assert_eq!(visit.asked_elsewhere(), [""; 0]);
}

#[test]
fn several_images_get_labels_in_the_order_in_which_they_were_chosen() {
    let site = Site::with_model();
    let (web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::to(&web) else { return };
    let names = ["heart", "star", "circle", "cross", "bolt", "arrow", "crescent"];
    visit.pick(&names.map(|name| sample_file(&format!("{name}_0.jpg"))));
    let entries = visit.settled(names.len());
    for (entry, name) in entries.iter().zip(names) {
        assert_eq!(entry.name, format!("{name}_0.jpg"));
        assert_eq!(entry.label.as_deref(), Some(name), "{entry:?}");
    }
    assert_eq!(visit.text("#summary"), "7 images labelled");
    visit.browser.click("#clear").expect("the list is cleared");
    assert!(visit.entries().is_empty());
}

#[test]
fn dropped_and_pasted_images_are_uploaded() {
    let site = Site::with_model();
    let (web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::to(&web) else { return };
    visit.bring("drop", "dropped.jpg", "image/jpeg", &sample("heart_0.jpg"));
    visit.bring("paste", "image.png", "image/jpeg", &sample("bolt_0.jpg"));
    let entries = visit.settled(2);
    let found = entries.iter().map(|entry| (entry.name.as_str(), entry.label.as_deref()));
    assert_eq!(
        found.collect::<Vec<_>>(),
        [("dropped.jpg", Some("heart")), ("image.png", Some("bolt"))],
        "{entries:?}"
    );
    assert_eq!(visit.complaints(), [""; 0]);
}

#[test]
fn files_that_are_empty_broken_or_no_image_get_a_clear_error() {
    let site = Site::with_model();
    let (web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::to(&web) else { return };
    let half = sample("star_0.jpg");
    let files: [(&str, &[u8]); 4] = [
        ("notes.txt", b"milk, bread"),
        ("renamed.jpg", b"milk, bread"),
        ("half.jpg", &half[..half.len() / 8]),
        ("empty.png", b""),
    ];
    let paths = files.map(|(name, content)| {
        let path = site.folder.path().join(name);
        fs::write(&path, content).expect("a file");
        path
    });
    visit.pick(&paths);
    let entries = visit.settled(4);
    for (entry, hint) in entries.iter().zip(["not an image", "not an image of a type", "image", "empty"]) {
        let error = entry.error.as_deref().unwrap_or_default();
        let is_plain =
            error.contains(hint) && !error.contains(['{', '<']) && !error.contains("the server answered");
        assert!(is_plain, "{entry:?}");
    }
    assert_eq!(visit.text("#summary"), "0 images labelled, 4 failed");
    // A refused image does not affect later ones.
    visit.pick(&[sample_file("star_0.jpg")]);
    assert_eq!(visit.settled(5)[4].label.as_deref(), Some("star"));
    assert_eq!(visit.complaints(), [""; 0]);
}

#[test]
fn of_many_images_failures_come_first_and_the_list_stays_short() {
    let site = Site::new();
    let (web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::to(&web) else { return };
    let mut paths: Vec<_> = (0..60)
        .map(|number| {
            let path = site.folder.path().join(format!("image-{number}.bmp"));
            fs::write(&path, eirs_harness::image(number)).expect("a file");
            path
        })
        .collect();
    let wrong = site.folder.path().join("=wrong, \"x\".bmp");
    fs::write(&wrong, "milk, bread").expect("a file");
    paths.push(wrong);
    visit.pick(&paths);
    visit.settled(61);
    let number = |script: &str| visit.script(script).as_f64().expect("a number");
    let live = number("return document.getElementById('live').getBoundingClientRect().top");
    let window = number("return window.innerHeight");
    assert!(live < 2.0 * window, "what is below begins at {live} of {window}");
    let first = visit.script(
        "return [...document.querySelectorAll('#results > li')].map((entry) => [entry.getBoundingClientRect(), entry.dataset.state])
           .sort(([one], [other]) => one.top - other.top || one.left - other.left)[0][1]",
    );
    assert_eq!(first, "failed");
    let shown = |which: &str| {
        visit.script(&format!(
            "const which = document.getElementById('which'); which.value = '{which}';
             which.dispatchEvent(new Event('change'));
             return [...document.querySelectorAll('#results > li')].filter((one) => one.checkVisibility()).length"
        ))
    };
    assert_eq!([shown("failed"), shown("done"), shown("open"), shown("all")], [1, 60, 0, 61]);
    let csv = "return import('/assets/save.js').then(({ csv }) => csv([
        { name: '=wrong, \"x\".bmp', error: 'no image' }, { name: 'a.jpg', label: 'star', confidence: 0.5, model: 'm', id: '1' }]))";
    assert_eq!(
        visit.script(csv),
        "name,label,confidence,model,id,error\r\n\"'=wrong, \"\"x\"\".bmp\",,,,,no image\r\n\
         a.jpg,star,0.5,m,1,\r\n"
    );
    assert_eq!(visit.complaints(), [""; 0]);
}
