//! The contract of [`BlobStore`](super::BlobStore), checked on any implementation.

use bytes::Bytes;

use super::SharedBlobs;

/// Checks every promise of the contract, on an empty store.
pub async fn suite(blobs: &SharedBlobs) {
    suite_but_for_creating_once(blobs).await;
    exactly_one_of_many_concurrent_writers_wins(blobs).await;
    put_replaces_and_put_new_does_not(blobs).await;
    only_an_unchanged_blob_is_replaced(blobs).await;
}

/// Checks every promise except those of `put_new` and `replace`: some emulators overwrite the blob.
pub async fn suite_but_for_creating_once(blobs: &SharedBlobs) {
    a_stored_blob_can_be_read_until_it_is_deleted(blobs).await;
    a_listing_is_ordered_and_limited_to_its_prefix_and_page(blobs).await;
}

async fn a_stored_blob_can_be_read_until_it_is_deleted(blobs: &SharedBlobs) {
    assert_eq!(blobs.get("got/a").await.expect("get"), None);
    assert!(!blobs.exists("got/a").await.expect("exists"));
    let body = Bytes::from(vec![7; 300_000]);
    blobs.put("got/a", body.clone()).await.expect("put");
    assert_eq!(blobs.get("got/a").await.expect("get"), Some(body));
    assert!(blobs.exists("got/a").await.expect("exists"));
    for _ in 0..2 {
        blobs.delete("got/a").await.expect("delete, also of a missing blob");
    }
    assert_eq!(blobs.get("got/a").await.expect("get"), None);
}

async fn exactly_one_of_many_concurrent_writers_wins(blobs: &SharedBlobs) {
    let writers = (0..16).map(|writer| {
        let blobs = blobs.clone();
        tokio::spawn(async move {
            (writer, blobs.put_new("raced/x", format!("{writer}").into()).await.expect("put_new"))
        })
    });
    let mut winners = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        let (writer, won) = writer.await.expect("no panic");
        winners.extend(won.then_some(writer));
    }
    assert_eq!(winners.len(), 1, "one winner");
    let kept = blobs.get("raced/x").await.expect("get").expect("the winner's");
    assert_eq!(kept, format!("{}", winners[0]));
}

async fn put_replaces_and_put_new_does_not(blobs: &SharedBlobs) {
    blobs.put("replaced/x", "1".into()).await.expect("put");
    blobs.put("replaced/x", "2".into()).await.expect("put");
    assert!(!blobs.put_new("replaced/x", "3".into()).await.expect("put_new"));
    assert_eq!(blobs.get("replaced/x").await.expect("get"), Some("2".into()));
}

async fn only_an_unchanged_blob_is_replaced(blobs: &SharedBlobs) {
    let replace = |seen: &'static str, body: &'static str| async move {
        blobs.replace("seen/x", &seen.into(), body.into()).await.expect("replace")
    };
    assert!(!replace("", "new").await, "there is no blob");
    assert_eq!(blobs.info("seen/x").await.expect("info"), None);
    blobs.put("seen/x", Bytes::new()).await.expect("put");
    assert!(!replace("1", "new").await);
    assert!(replace("", "2").await);
    assert!(!replace("", "3").await);
    assert_eq!(blobs.get("seen/x").await.expect("get"), Some("2".into()));
    let info = blobs.info("seen/x").await.expect("info").expect("the blob exists");
    assert_eq!((info.key.as_str(), info.bytes), ("seen/x", 1));
    let listed = blobs.list("seen/", None, 9).await.expect("list");
    assert_eq!((listed.len(), listed[0].bytes), (1, 1));
    assert_eq!(blobs.info("seen").await.expect("info of a prefix"), None);
}

async fn a_listing_is_ordered_and_limited_to_its_prefix_and_page(blobs: &SharedBlobs) {
    for key in ["listed/b", "listed/a", "listed/deep/c", "listed-not/d"] {
        blobs.put(key, key.to_owned().into()).await.expect("put");
    }
    let all = blobs.list("listed/", None, 10).await.expect("list");
    assert_eq!(
        all.iter().map(|blob| blob.key.as_str()).collect::<Vec<_>>(),
        ["listed/a", "listed/b", "listed/deep/c"]
    );
    assert_eq!(all[0].bytes, "listed/a".len() as u64);
    let mut paged = Vec::new();
    while let Some(blob) =
        blobs.list("listed/", paged.last().map(String::as_str), 1).await.expect("list").pop()
    {
        paged.push(blob.key);
    }
    assert_eq!(paged, ["listed/a", "listed/b", "listed/deep/c"]);
    assert_eq!(
        blobs.list("listed/d", None, 10).await.expect("list").len(),
        1,
        "a prefix may end within a name"
    );
}
