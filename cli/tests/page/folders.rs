//! Uploads of folders: a label for each image in them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::visit::{Entry, Visit, sample_file};
use eirs_harness::{Site, eventually, image, sample};

const LEFT_OUT: &str = "2 files left out: no image type that is read.";

/// A typical folder: images at several levels, other files, and files of operating systems.
fn album(site: &Site) -> PathBuf {
    let album = site.folder.path().join("album");
    for (path, content) in [
        ("10.jpg", sample("heart_0.jpg")),
        ("2.JPG", sample("star_0.jpg")),
        ("trip/day 1/bolt.jpg", sample("bolt_0.jpg")),
        ("trip/film.mp4", b"a film".to_vec()),
        ("notes.txt", b"milk, bread".to_vec()),
        (".DS_Store", b"Bud1".to_vec()),
        ("trip/Thumbs.db", b"thumbs".to_vec()),
        (".thumbnails/heart.jpg", sample("heart_1.jpg")),
    ] {
        write(&album.join(path), &content);
    }
    album
}

fn write(file: &Path, content: &[u8]) {
    fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
    fs::write(file, content).expect("a file");
}

fn named(entries: &[Entry]) -> Vec<(&str, &str)> {
    entries.iter().map(|entry| (entry.name.as_str(), entry.label.as_deref().unwrap_or("none"))).collect()
}

#[test]
fn every_image_in_a_dropped_folder_gets_a_label_and_other_files_are_counted() {
    let site = Site::with_model();
    let (web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::to(&web) else { return };
    visit.drop(&[album(&site), sample_file("arrow_0.jpg")]);
    let entries = visit.settled(4);
    let expected = [
        ("album/2.JPG", "star"),
        ("album/10.jpg", "heart"),
        ("album/trip/day 1/bolt.jpg", "bolt"),
        ("arrow_0.jpg", "arrow"),
    ];
    assert_eq!(named(&entries), expected);
    assert_eq!(visit.text("#folder-said"), LEFT_OUT);
    assert_eq!(visit.text("#summary"), "4 images labelled");
    assert_eq!(visit.complaints(), [""; 0]);

    visit.browser.click("#clear").expect("the list is cleared");
    assert_eq!(visit.text("#folder-said"), "");
}

#[test]
fn a_chosen_folder_works_like_a_dropped_one() {
    let site = Site::with_model();
    let (web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::to(&web) else { return };
    visit.pick_folder(&album(&site));
    let entries = visit.settled(3);
    let expected =
        [("album/2.JPG", "star"), ("album/10.jpg", "heart"), ("album/trip/day 1/bolt.jpg", "bolt")];
    assert_eq!(named(&entries), expected);
    assert_eq!(visit.text("#folder-said"), LEFT_OUT);
    assert_eq!(visit.complaints(), [""; 0]);
}

#[test]
fn a_folder_larger_than_a_batch_of_the_browser_is_uploaded_completely() {
    let site = Site::new();
    let (web, _worker) = (site.web(), site.worker());
    let Some(visit) = Visit::to(&web) else { return };
    let folder = site.folder.path().join("many");
    for number in 0..250 {
        write(&folder.join(format!("{number}.bmp")), &image(number));
    }
    visit.drop(&[folder]);
    eventually("all of them are labelled", || {
        (visit.text("#summary") == "250 images labelled").then_some(())
    });
    let names: Vec<_> = visit.entries().into_iter().map(|entry| entry.name).collect();
    let expected: Vec<_> = (0..names.len()).map(|number| format!("many/{number}.bmp")).collect();
    assert_eq!(names, expected);
    assert_eq!(visit.complaints(), [""; 0]);
}

#[test]
fn a_folder_without_an_image_says_so() {
    let site = Site::new();
    let web = site.web();
    let Some(visit) = Visit::to(&web) else { return };
    let folder = site.folder.path().join("papers");
    write(&folder.join("notes.txt"), b"milk, bread");
    visit.drop(std::slice::from_ref(&folder));
    let said = "No images in this folder. 1 file left out: no image type that is read.";
    eventually("it is said", || (visit.text("#folder-said") == said).then_some(()));
    fs::remove_file(folder.join("notes.txt")).expect("the folder is emptied");
    visit.drop(&[folder]);
    eventually("it is said of an empty one, too", || {
        (visit.text("#folder-said") == "No images in this folder.").then_some(())
    });
    assert!(visit.entries().is_empty());
    assert_eq!(visit.complaints(), [""; 0]);
}
