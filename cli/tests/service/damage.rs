//! Stored data is damaged by a power cut, a cleaner or by hand. Damage never becomes a result for
//! an image, and the next upload repairs it.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use rusqlite::Connection;

use eirs_harness::{Answer, Site, eventually, image, sample};

fn label_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["label"].as_str().expect("a label").to_owned()
}

fn id_of(answer: &Answer) -> String {
    answer.json()["id"].as_str().expect("an id").to_owned()
}

fn database(site: &Site) -> Connection {
    Connection::open(site.state().join("queue.db")).expect("the database")
}

/// Returns the files with images.
fn segments(site: &Site) -> Vec<PathBuf> {
    let folder = fs::read_dir(site.state().join("images")).expect("a folder");
    folder.map(|entry| entry.expect("an entry").path()).collect()
}

/// Returns the segment of the only image, and the offset and length of the image in it.
fn place(site: &Site) -> (PathBuf, u64, u64) {
    let (place, bytes): (i64, i64) = database(site)
        .query_row("SELECT place, bytes FROM images WHERE key LIKE 'images/%'", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .expect("the image's row");
    let [segment] = &segments(site)[..] else { panic!("{:?}", segments(site)) };
    (segment.clone(), (place & 0xFFFF_FFFF).unsigned_abs(), bytes.unsigned_abs())
}

fn cut(site: &Site, keep: impl Fn(u64) -> u64) {
    let (segment, offset, bytes) = place(site);
    let file = File::options().write(true).open(segment).expect("a segment");
    file.set_len(offset + keep(bytes)).expect("it is cut");
}

fn overwrite(site: &Site, value: u8, from: impl Fn(u64) -> u64) {
    let (segment, offset, bytes) = place(site);
    let mut content = fs::read(&segment).expect("a segment");
    let (from, to) = (offset + from(bytes), offset + bytes);
    content[from as usize..to as usize].fill(value);
    fs::write(segment, content).expect("it is overwritten");
}

fn in_the_database(site: &Site, statement: &str) {
    let changed = database(site).execute(statement, []).expect("a statement");
    assert!(changed > 0, "{statement}");
}

type Damage = (&'static str, fn(&Site));

/// Damage to a stored image before its job has run.
const OF_IMAGES: [Damage; 10] = [
    ("its segment is gone", |site| fs::remove_file(place(site).0).expect("deleted")),
    ("its segment's folder is gone", |site| {
        fs::remove_dir_all(site.state().join("images")).expect("deleted");
    }),
    ("its segment is empty", |site| cut(site, |_| 0)),
    ("it is torn", |site| cut(site, |bytes| bytes / 2)),
    ("it lacks its last byte", |site| cut(site, |bytes| bytes - 1)),
    ("it is zeros", |site| overwrite(site, 0, |_| 0)),
    ("its end is zeros", |site| overwrite(site, 0, |bytes| bytes / 2)),
    ("its row is gone", |site| in_the_database(site, "DELETE FROM images")),
    ("its row names a place beyond the segment's end", |site| {
        in_the_database(site, "UPDATE images SET place = place + 4096 * 1000");
    }),
    ("its row has another length", |site| in_the_database(site, "UPDATE images SET bytes = bytes - 7")),
];

#[test]
fn a_damaged_image_gets_no_label_but_its_next_upload_does() {
    let star = sample("star_0.jpg");
    for (what, damage) in OF_IMAGES {
        let site = Site::with_model();
        let id = {
            let web = site.web();
            id_of(&web.upload("?wait=0", "star.jpg", &star))
        };
        damage(&site);
        let (web, _worker) = (site.web(), site.worker());
        let first = web.result(&id);
        assert!(matches!(first.status, 404 | 500), "{what}: {first:?}");
        if first.status == 500 {
            assert!(first.problem().contains("upload it again"), "{what}: {first:?}");
        }
        assert_eq!(label_of(&web.upload("?wait=60s", "star.jpg", &star)), "star", "{what}");
        assert_eq!(label_of(&web.get(&format!("/results/{id}"))), "star", "{what}");
    }
}

#[test]
fn an_upload_replaces_a_damaged_image_while_its_job_waits() {
    let star = sample("star_0.jpg");
    for (what, damage) in OF_IMAGES {
        let site = Site::with_model();
        // This host knows the job.
        let web = site.web();
        let id = id_of(&web.upload("?wait=0", "star.jpg", &star));
        damage(&site);
        let again = web.upload("?wait=0", "star.jpg", &star);
        assert_eq!(again.status, 202, "{what}: {again:?}");
        let _worker = site.worker();
        let first = web.result(&id);
        let right = if first.status == 200 { first } else { web.upload("?wait=60s", "star.jpg", &star) };
        assert_eq!(label_of(&right), "star", "{what}");
    }
}

/// Damage to a stored result.
const OF_RESULTS: [Damage; 7] = [
    ("it is empty", |site| in_the_database(site, "UPDATE results SET body = x''")),
    ("it is torn", |site| {
        in_the_database(site, "UPDATE results SET body = substr(body, 1, length(body) / 2)");
    }),
    ("it is zeros", |site| in_the_database(site, "UPDATE results SET body = zeroblob(length(body))")),
    ("it is no JSON", |site| in_the_database(site, "UPDATE results SET body = CAST('label' AS BLOB)")),
    ("it is of another image", |site| {
        let other = format!("replace(CAST(body AS TEXT), substr(key, -69, 64), '{}')", "ab".repeat(32));
        in_the_database(site, &format!("UPDATE results SET body = CAST({other} AS BLOB)"));
    }),
    ("it is of a newer program", |site| {
        let newer = "replace(CAST(body AS TEXT), '\"v\":1', '\"v\":9')";
        in_the_database(site, &format!("UPDATE results SET body = CAST({newer} AS BLOB)"));
    }),
    ("it is gone", |site| in_the_database(site, "DELETE FROM results")),
];

#[test]
fn an_unreadable_result_is_reported_by_check_and_replaced_by_the_next_upload() {
    let star = sample("star_0.jpg");
    for (what, damage) in OF_RESULTS {
        let site = Site::with_model();
        let id = {
            let (web, _worker) = (site.web(), site.worker());
            assert_eq!(label_of(&web.upload("", "star.jpg", &star)), "star");
            id_of(&web.upload("", "star.jpg", &star))
        };
        damage(&site);
        let check = |site: &Site| {
            let check = site.command("eirs").arg("check").output().expect("eirs runs");
            String::from_utf8_lossy(&check.stdout).into_owned()
        };
        let is_gone = what == "it is gone";
        assert_eq!(check(&site).contains("cannot be read"), !is_gone, "{what}: {}", check(&site));
        let (web, _worker) = (site.web(), site.worker());
        let known = web.get(&format!("/results/{id}"));
        assert_ne!(known.status, 200, "{what}: {known:?}");
        let answers = [(); 2].map(|()| web.upload("?wait=60s", "star.jpg", &star));
        assert!(answers.iter().all(|answer| answer.status == 200), "{what}: {answers:?}");
        assert_eq!(label_of(&web.get(&format!("/results/{id}"))), "star", "{what}");
        assert!(!check(&site).contains("cannot be read"), "{what}: {}", check(&site));
    }
}

#[test]
fn check_reports_unreadable_results_even_if_they_are_old() {
    let site = Site::new();
    let (web, _worker) = (site.web(), site.worker());
    for number in 0..20 {
        assert_eq!(web.upload("", "x", &image(number)).status, 200);
    }
    in_the_database(&site, "UPDATE results SET body = x'' WHERE key LIKE 'results/%' AND id < 12");
    let check = site.command("eirs").args(["check", "--json"]).output().expect("eirs runs");
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(said.contains("of all 20 stored results cannot be read"), "{said}");
    assert_eq!(check.status.code(), Some(1));
}

#[test]
fn a_segment_deleted_during_writes_loses_only_its_images() {
    let site = Site::new();
    let (web, _worker) = (site.web(), site.worker());
    for number in 0..3 {
        assert_eq!(web.upload("", "x", &image(number)).status, 200);
        fs::remove_file(&segments(&site)[0]).expect("deleted");
    }
    let kept = web.upload("?fresh=1", "x", &image(2));
    assert_eq!(label_of(&kept), "noop");
    eventually("it is stored in a segment", || (!segments(&site).is_empty()).then_some(()));
}
