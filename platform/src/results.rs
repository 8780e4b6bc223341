//! The results of all versions of a model: `results/{model}/{version}/{id}.json`. Each version has
//! a note, `versions/{model}/{version}.json`, by which the results of earlier versions are found.
//!
//! A stored result that cannot be read, because a power failure left it empty or a newer program
//! wrote it, counts as missing, and the next result replaces it.

use bytes::Bytes;

use crate::{
    blobs::BlobStore,
    error::Result,
    job::{self, JobId, Outcome, Reply},
};

/// The prefix of the notes of versions.
pub const NOTES: &str = "versions/";
/// Maximum number of versions that are searched for a result, latest first.
const VERSIONS_MAX: usize = 100;

/// The content of a result's key.
#[derive(Debug, Clone, PartialEq)]
pub enum Stored {
    /// Nothing.
    Nothing,
    /// A result and its bytes.
    Result(Box<Reply>, Bytes),
    /// Bytes that are not a result of this image, and the reason.
    Broken(Bytes, String),
}

impl Stored {
    /// Returns the result, if there is one.
    pub fn reply(self) -> Option<Reply> {
        match self {
            Self::Result(reply, _) => Some(*reply),
            Self::Nothing | Self::Broken(..) => None,
        }
    }
}

/// Parses the stored result of an image, or returns what is wrong with it.
pub fn read(id: JobId, body: &[u8]) -> std::result::Result<Reply, String> {
    if body.is_empty() {
        return Err("it is empty".to_owned());
    }
    let reply = job::decode::<Reply>(body).map_err(|error| error.to_string())?;
    // A newer message may be readable but have another meaning.
    if reply.v > job::VERSION {
        return Err(format!(
            "it is written in message version {}, this program reads up to {}",
            reply.v,
            job::VERSION
        ));
    }
    if reply.id != id {
        return Err(format!("it belongs to the image {}", reply.id));
    }
    match &reply.outcome {
        Outcome::Classified { top } if top.is_empty() => Err("it has no label".to_owned()),
        _ => Ok(reply),
    }
}

/// Returns the result of an image by this version of a model.
pub async fn get(results: &dyn BlobStore, id: JobId, model: &str, version: &str) -> Result<Stored> {
    let key = id.result_key(model, version);
    Ok(match results.get(&key).await? {
        None => Stored::Nothing,
        Some(body) => match read(id, &body) {
            Ok(reply) => Stored::Result(Box::new(reply), body),
            Err(why) => {
                tracing::warn!(
                    key,
                    "the stored result {key} cannot be read: {why}; it counts as \
                    missing"
                );
                Stored::Broken(body, why)
            }
        },
    })
}

/// Stores a result once: of two workers with the same job, the first one's result counts. Returns
/// the bytes that are stored then. Replaces a broken result, and with `fresh` any result.
pub async fn put(results: &dyn BlobStore, reply: &Reply, fresh: bool) -> Result<Bytes> {
    let key = reply.id.result_key(&reply.model, &reply.version);
    let body = job::encode(reply);
    if fresh {
        // A failed attempt does not replace a result.
        if reply.is_final() {
            put_over(results, &key, &body).await?;
        } else {
            results.put_new(&key, body.clone()).await?;
        }
        return Ok(body);
    }
    loop {
        if results.put_new(&key, body.clone()).await? {
            return Ok(body);
        }
        match get(results, reply.id, &reply.model, &reply.version).await? {
            Stored::Result(before, stored) if before.is_final() => return Ok(stored),
            // Given up before; done now, or given up by a newer job.
            Stored::Result(_, given_up) => {
                if results.replace(&key, &given_up, body.clone()).await? {
                    return Ok(body);
                }
            }
            Stored::Broken(broken, _) => {
                if results.replace(&key, &broken, body.clone()).await? {
                    return Ok(body);
                }
            }
            // Deleted meanwhile.
            Stored::Nothing => {}
        }
    }
}

/// Stores a blob regardless of what is stored, by conditional writes: in a cloud a worker may not
/// overwrite a result otherwise.
async fn put_over(results: &dyn BlobStore, key: &str, body: &Bytes) -> Result<()> {
    while !results.put_new(key, body.clone()).await? {
        let Some(before) = results.get(key).await? else { continue };
        if results.replace(key, &before, body.clone()).await? {
            break;
        }
    }
    Ok(())
}

/// Notes that there are results of this version. Doing it again makes the version the latest.
pub async fn note_version(results: &dyn BlobStore, model: &str, version: &str) -> Result<()> {
    let note = serde_json::json!({ "model": model, "version": version }).to_string();
    results.put(&format!("{NOTES}{model}/{version}.json"), note.into()).await
}

/// Returns the results of an image by all versions of a model, in no particular order.
pub async fn all(results: &dyn BlobStore, id: JobId, model: &str) -> Result<Vec<Reply>> {
    let prefix = format!("{NOTES}{model}/");
    let mut noted = results.list(&prefix, None, 10 * VERSIONS_MAX).await?;
    noted.sort_by_key(|note| std::cmp::Reverse(note.modified));
    noted.truncate(VERSIONS_MAX);
    let version = |key: &str| key.strip_prefix(&prefix)?.strip_suffix(".json").map(str::to_owned);
    let noted = noted.iter().filter_map(|note| version(&note.key));
    let mut found = Vec::new();
    // Results from before versions existed have no note.
    for version in noted.chain([String::new()]) {
        found.extend(get(results, id, model, &version).await?.reply());
    }
    Ok(found)
}

/// Returns the newest result of an image by any version of a model.
pub async fn newest(results: &dyn BlobStore, id: JobId, model: &str) -> Result<Option<Reply>> {
    Ok(all(results, id, model).await?.into_iter().max_by_key(|reply| reply.at))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::{DateTime, TimeDelta};

    use super::*;
    use crate::{blobs::memory::MemoryBlobs, clock::SystemClock, job::Guess, testing};

    fn store() -> MemoryBlobs {
        MemoryBlobs::new(Arc::new(SystemClock))
    }

    fn reply(version: &str, at_s: i64, label: &str) -> Reply {
        Reply {
            name: "a.jpg".into(),
            model: "m".into(),
            version: version.into(),
            worker: "w".into(),
            at: DateTime::UNIX_EPOCH + TimeDelta::seconds(at_s),
            ..testing::reply(
                "image",
                Outcome::Classified { top: vec![Guess { label: label.into(), confidence: 1.0 }] },
            )
        }
    }

    fn given_up(version: &str) -> Reply {
        Reply { outcome: Outcome::GaveUp { reason: "tried".into() }, ..reply(version, 0, "") }
    }

    #[tokio::test]
    async fn the_first_result_counts_and_a_fresh_one_replaces_it() {
        let store = store();
        let (first, second) = (reply("1", 1, "cat"), reply("1", 2, "dog"));
        assert_eq!(put(&store, &first, false).await.unwrap(), job::encode(&first));
        assert_eq!(put(&store, &second, false).await.unwrap(), job::encode(&first));
        assert_eq!(put(&store, &second, true).await.unwrap(), job::encode(&second));
        assert_eq!(put(&store, &given_up("1"), true).await.unwrap(), job::encode(&given_up("1")));
        assert_eq!(get(&store, second.id, "m", "1").await.unwrap().reply(), Some(second));
    }

    #[tokio::test]
    async fn an_unreadable_result_is_missing_and_replaced_by_the_next_one() {
        let whole = job::encode(&reply("1", 1, "cat"));
        let newer = String::from_utf8(whole.to_vec()).unwrap().replace("\"v\":1", "\"v\":9");
        let other = job::encode(&Reply { id: JobId::of(b"other"), ..reply("1", 1, "cat") });
        let none = Outcome::Classified { top: Vec::new() };
        let unlabelled = job::encode(&Reply { outcome: none, ..reply("1", 1, "") });
        for broken in [
            Bytes::new(),
            whole.slice(..whole.len() - 1),
            vec![0; 200].into(),
            newer.into(),
            other,
            unlabelled,
        ] {
            let store = store();
            let result = reply("1", 2, "dog");
            store.put(&result.id.result_key("m", "1"), broken.clone()).await.unwrap();
            let found = get(&store, result.id, "m", "1").await.unwrap();
            assert!(matches!(&found, Stored::Broken(body, _) if *body == broken), "{found:?}");
            assert_eq!(put(&store, &result, false).await.unwrap(), job::encode(&result));
            assert_eq!(get(&store, result.id, "m", "1").await.unwrap().reply(), Some(result));
        }
    }

    #[tokio::test]
    async fn a_result_replaces_an_earlier_one_that_was_given_up() {
        let store = store();
        let done = reply("1", 2, "dog");
        put(&store, &given_up("1"), false).await.unwrap();
        put(&store, &done, false).await.unwrap();
        assert_eq!(put(&store, &given_up("1"), false).await.unwrap(), job::encode(&done));
    }

    #[tokio::test]
    async fn the_later_of_two_given_up_jobs_is_stored() {
        let store = store();
        let newer = Reply { sent_at: Some(DateTime::UNIX_EPOCH), ..given_up("1") };
        put(&store, &given_up("1"), false).await.unwrap();
        assert_eq!(put(&store, &newer, false).await.unwrap(), job::encode(&newer));
    }

    #[tokio::test]
    async fn the_newest_result_of_all_versions_is_found_even_one_without_a_version() {
        let store = store();
        let id = JobId::of(b"image");
        assert_eq!(newest(&store, id, "m").await.unwrap(), None);
        put(&store, &reply("", 1, "old"), false).await.unwrap();
        assert_eq!(newest(&store, id, "m").await.unwrap(), Some(reply("", 1, "old")));
        for (version, at_s) in [("b", 3), ("a", 2)] {
            note_version(&store, "m", version).await.unwrap();
            put(&store, &reply(version, at_s, version), false).await.unwrap();
        }
        note_version(&store, "m", "c").await.unwrap();
        assert_eq!(newest(&store, id, "m").await.unwrap(), Some(reply("b", 3, "b")));
        assert_eq!(newest(&store, id, "other").await.unwrap(), None);
    }
}
