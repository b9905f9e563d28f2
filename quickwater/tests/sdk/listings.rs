//! `ListObjectsV2`, page by page.

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;

use crate::service::{BUCKET, Service};

/// In the order S3 lists them: by the bytes of UTF-8.
const KEYS: [&str; 9] = [
    "a",
    "dir/1",
    "dir/2",
    "dir/sub/3",
    "e e+e",
    "other/1",
    "other/2",
    "z",
    "é",
];

async fn list(client: &Client, page: i32, delimiter: Option<&str>, prefix: &str) -> Listing {
    let request = client.list_objects_v2().bucket(BUCKET);
    let request = request.set_delimiter(delimiter.map(str::to_owned));
    let mut pages = request
        .max_keys(page)
        .prefix(prefix)
        .into_paginator()
        .send();
    let mut listing = Listing::default();
    while let Some(answer) = pages.next().await {
        let answer = answer.unwrap();
        let objects = answer.contents().iter().filter_map(|o| o.key());
        let prefixes = answer.common_prefixes().iter().filter_map(|p| p.prefix());
        let before = listing.keys.len() + listing.prefixes.len();
        listing.keys.extend(objects.map(str::to_owned));
        listing.prefixes.extend(prefixes.map(str::to_owned));
        let found = i32::try_from(listing.keys.len() + listing.prefixes.len() - before).unwrap();
        assert!(found <= page, "{found} on a page of {page}");
        assert_eq!(answer.key_count, Some(found));
        listing.pages += 1;
    }
    listing
}

#[derive(Debug, Default)]
struct Listing {
    keys: Vec<String>,
    prefixes: Vec<String>,
    pages: usize,
}

#[tokio::test]
async fn pages_hold_every_key_once() {
    let service = Service::start();
    let client = service.client_with_bucket().await;
    for key in KEYS.iter().rev() {
        let put = client.put_object().bucket(BUCKET).key(*key);
        put.body(ByteStream::from_static(b"x"))
            .send()
            .await
            .unwrap();
    }
    for page in [1, 2, 3, 1000] {
        let pages_of = |n: usize| n.div_ceil(usize::try_from(page).unwrap());
        let flat = list(&client, page, None, "").await;
        assert_eq!(flat.keys, KEYS, "{page}");
        assert_eq!(
            (flat.prefixes.len(), flat.pages),
            (0, pages_of(9)),
            "{page}"
        );

        let top = list(&client, page, Some("/"), "").await;
        assert_eq!(top.keys, ["a", "e e+e", "z", "é"], "{page}");
        assert_eq!(top.prefixes, ["dir/", "other/"], "{page}");
        assert_eq!(top.pages, pages_of(6), "{page}");

        let inner = list(&client, page, Some("/"), "dir/").await;
        assert_eq!(inner.keys, ["dir/1", "dir/2"], "{page}");
        assert_eq!(inner.prefixes, ["dir/sub/"], "{page}");
    }
    let none = list(&client, 10, Some("/"), "nothing").await;
    assert_eq!(
        (none.keys.len(), none.prefixes.len(), none.pages),
        (0, 0, 1)
    );
}
