//! Existing files: of an older or newer version, damaged, or without permission.

use std::{fs, os::unix::fs::PermissionsExt};

use rusqlite::{Connection, params};

use super::*;

/// Creates a file of the previous version: two jobs, one of them leased, and a dead letter.
fn create_previous_version(folder: &Path) {
    let file = Connection::open(folder.join("queue.db")).unwrap();
    file.pragma_update(None, "journal_mode", "WAL").unwrap();
    file.execute_batch(crate::database::schema::FIRST).unwrap();
    file.execute_batch("INSERT INTO queues (name, messages) VALUES ('q', 2), ('dead', 1)").unwrap();
    let now = chrono::Utc::now().timestamp_millis();
    let insert =
        "INSERT INTO messages (queue, visible_from, receives, sent_at, body) VALUES (?1, ?2, ?3, ?4, ?5)";
    for (queue, visible_from, receives, body) in
        [(1, now + 5000, 1, "held"), (1, 0, 0, "waits"), (2, 0, 3, "dead")]
    {
        file.execute(insert, params![queue, visible_from, receives, now - 5000, body.as_bytes()]).unwrap();
    }
}

#[tokio::test]
async fn a_file_of_the_previous_version_is_migrated_completely() {
    let folder = tempfile::tempdir().unwrap();
    create_previous_version(folder.path());
    for _ in 0..2 {
        let queue = queue(folder.path(), "q").await;
        assert_eq!(queue.depth().await.unwrap(), Depth { visible: 1, in_flight: 1 });
        assert_eq!(super::queue(folder.path(), "dead").await.depth().await.unwrap().visible, 1);
    }
    let queue = queue(folder.path(), "q").await;
    let mut bodies = Vec::new();
    while bodies.len() < 2 {
        bodies.extend(queue.receive(10, Duration::from_secs(20)).await.unwrap().into_iter().map(|d| d.body));
    }
    bodies.sort_unstable();
    assert_eq!(bodies, ["held", "waits"]);
}

#[tokio::test]
async fn programs_of_the_previous_version_can_send_during_an_upgrade() {
    let folder = tempfile::tempdir().unwrap();
    create_previous_version(folder.path());
    let old = Connection::open(folder.path().join("queue.db")).unwrap();
    let queue = queue(folder.path(), "q").await;
    let insert = "INSERT INTO messages (queue, visible_from, sent_at, body) VALUES (1, 0, 1, X'2A')";
    old.execute_batch(&format!(
        "BEGIN; {insert}; UPDATE queues SET messages = messages + 1 WHERE id = 1; COMMIT"
    ))
    .unwrap();
    assert_eq!(queue.depth().await.unwrap().backlog(), 3, "a message of unknown age is not too old");
    let received = queue.receive(10, Duration::ZERO).await.unwrap();
    assert!(received.iter().any(|delivery| delivery.body == "*"), "{received:?}");
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    drop(queue(folder.path(), "q").await);
    Connection::open(folder.path().join("queue.db"))
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = SqliteQueues::open(folder.path(), false, Arc::new(SystemClock)).unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("queue.db") && text.contains("newer version") && text.contains("99"), "{text}");
    assert!(!text.contains('\n'), "{text}");
}

/// Damages a file and returns the error of using it.
fn damaged(damage: impl Fn(&mut Vec<u8>)) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let queue = queue(folder.path(), "q").await;
        queue.send(vec![vec![7; 3000].into(); 100]).await.unwrap();
    });
    let path = folder.path().join("queue.db");
    let file = Connection::open(&path).unwrap();
    file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(file);
    let mut bytes = fs::read(&path).unwrap();
    damage(&mut bytes);
    fs::write(&path, bytes).unwrap();
    for name in ["queue.db-wal", "queue.db-shm"] {
        let _none = fs::remove_file(folder.path().join(name));
    }
    let used = async {
        let queues = SqliteQueues::open(folder.path(), false, Arc::new(SystemClock))?;
        let queue = queues.queue("q", QueueOptions::default()).await?;
        while !queue.receive(10, Duration::ZERO).await?.is_empty() {}
        Ok(())
    };
    runtime.block_on(used).expect_err("the damage is noticed")
}

#[test]
fn a_damaged_file_is_named_in_one_sentence_with_the_remedy() {
    type Damage = fn(&mut Vec<u8>);
    let cases: [(&str, Damage); 4] = [
        ("its head is gone", |bytes| bytes[..100].fill(0)),
        ("its second half is gone", |bytes| bytes.truncate(bytes.len() / 2)),
        ("its pages are noise", |bytes| {
            let length = bytes.len();
            bytes[4096..length].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 31 % 251) as u8);
        }),
        ("it is cut to one page", |bytes| bytes.truncate(4096)),
    ];
    for (what, damage) in cases {
        let error = damaged(damage);
        assert!(matches!(error, Error::Broken { .. }), "{what}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("queue.db") && text.contains("backup"), "{what}: {text}");
        assert!(!text.contains('\n'), "{what}: {text}");
    }
}

#[test]
fn a_folder_or_file_without_permission_is_named_in_one_sentence() {
    if rustix::process::geteuid().is_root() {
        // Root ignores permissions; the tests of the service run this as another user.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    drop(SqliteQueues::open(folder.path(), false, Arc::new(SystemClock)).unwrap());
    for (path, mode) in [("queue.db", 0o400), ("queue.lock", 0o000)] {
        let path = folder.path().join(path);
        let before = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = SqliteQueues::open(folder.path(), false, Arc::new(SystemClock)).unwrap_err();
        fs::set_permissions(&path, before).unwrap();
        let text = error.to_string();
        assert!(text.contains(&*path.to_string_lossy()) && !text.contains('\n'), "{text}");
    }
}
