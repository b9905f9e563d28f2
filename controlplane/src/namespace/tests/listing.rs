use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::namespace::{Listed, ListingMarker};

const TRICKY: [&str; 18] = [
    "\0",
    "\0\0",
    "\0a",
    "/",
    "//",
    "///a",
    "a",
    "a\0",
    "a\0b",
    "a/",
    "a//",
    "a//b",
    "a/b",
    "a0",
    "\u{7f}",
    "\u{ff}",
    "\u{10ffff}",
    "\u{10ffff}\u{10ffff}",
];

async fn filled() -> (Memory, BucketId, BTreeSet<String>) {
    let (namespace, id) = with_bucket().await;
    let other = namespace.create_bucket(&bucket("two")).await.unwrap();
    let mut keys: BTreeSet<String> = TRICKY.map(str::to_owned).into();
    keys.extend(
        TRICKY
            .iter()
            .flat_map(|a| TRICKY.map(|b| format!("{a}{b}"))),
    );
    for key in &keys {
        put(&namespace, id, key, &object("a")).await;
    }
    put(&namespace, other.id, "b", &object("a")).await;
    (namespace, id, keys)
}

fn texts(page: &quickwater_proto::ScanPage) -> Vec<&str> {
    page.entries.iter().map(|(key, _)| key.as_str()).collect()
}

#[tokio::test]
async fn a_scan_pages_through_every_prefix_in_order() {
    let (namespace, id, keys) = filled().await;
    for prefix in TRICKY.iter().copied().chain(["", "nothing", "a/b/c"]) {
        for limit in [1, 7, 1_000] {
            let wanted: Vec<_> = keys.iter().filter(|key| key.starts_with(prefix)).collect();
            let mut found = Vec::new();
            let mut from = String::new();
            loop {
                let page = namespace.scan(id, prefix, &from, limit).await.unwrap();
                assert!(page.entries.len() <= limit);
                assert!(!page.more || page.entries.len() == limit);
                found.extend(texts(&page).into_iter().map(str::to_owned));
                assert_eq!(page.more, found.len() < wanted.len());
                if !page.more {
                    break;
                }
                from = format!("{}\0", found.last().unwrap());
            }
            assert!(found.iter().eq(wanted), "prefix {prefix:?} limit {limit}");
        }
    }
}

/// Keys as a listing shows them: what is rolled up once, by its first key.
fn folded<'k>(keys: &'k BTreeSet<String>, prefix: &str, from: &str, by: &str) -> Vec<&'k str> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for key in keys.range(from.to_owned()..) {
        let Some(rest) = key.strip_prefix(prefix) else {
            continue;
        };
        let common = rest.find(by).map(|at| &rest[..at]);
        if common.is_none_or(|common| seen.insert(common)) {
            found.push(key.as_str());
        }
    }
    found
}

#[tokio::test]
async fn a_folded_scan_shows_every_common_prefix_once() {
    let (namespace, id, mut keys) = filled().await;
    // More than are read at a time, of few and of many keys each.
    for number in 0..300 {
        let key = format!("big/{:03}/{number}", number / 100);
        put(&namespace, id, &key, &object("a")).await;
        let small = format!("small/{:03}/{number}", number / 3);
        put(&namespace, id, &small, &object("a")).await;
        keys.extend([key, small]);
    }
    for prefix in TRICKY
        .iter()
        .copied()
        .chain(["", "nothing", "big/", "small/"])
    {
        for by in ["/", "//", "a", "\0", "\u{10ffff}"] {
            for from in ["", "a/", "a/b", "big/001/15", "small/01"] {
                let wanted = folded(&keys, prefix, from, by);
                for limit in [0, 1, 2, 7, 1_000] {
                    let page = namespace.scan_folded(id, prefix, from, by, limit);
                    let page = page.await.unwrap();
                    let shown = limit.min(wanted.len());
                    assert_eq!(texts(&page), wanted[..shown], "{prefix:?} {by:?} {from:?}");
                    assert_eq!(
                        page.more,
                        shown < wanted.len(),
                        "{prefix:?} {by:?} {from:?}"
                    );
                }
            }
        }
    }
    let plain = namespace.scan(id, "a", "", 10).await.unwrap();
    assert_eq!(namespace.scan_folded(id, "a", "", "", 10).await, Ok(plain));
}

#[tokio::test]
async fn a_scan_begins_at_from() {
    let (namespace, id, keys) = filled().await;
    for from in TRICKY {
        let page = namespace.scan(id, "", from, 1_000).await.unwrap();
        let wanted: Vec<_> = keys.iter().filter(|key| key.as_str() >= from).collect();
        assert_eq!(texts(&page), wanted);
    }
    let page = namespace.scan(id, "a", "b", 10).await.unwrap();
    assert_eq!((page.entries.len(), page.more), (0, false));
    let page = namespace.scan(id, "a", "", 0).await.unwrap();
    assert_eq!((page.entries.len(), page.more), (0, true));
}

#[tokio::test]
async fn scanned_records_tell_size_and_etag() {
    let (namespace, id) = with_bucket().await;
    let version = put(&namespace, id, "k", &large_object("a")).await;
    let page = namespace.scan(id, "", "", 10).await.unwrap();
    let (_, record) = &page.entries[0];
    let seen = (record.version, record.size, record.etag.as_str());
    assert_eq!(seen, (version, 7, "a"));
}

/// What a listing must give, from the keys in order.
fn rolled_up(keys: &BTreeSet<String>, prefix: &str, delimiter: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for key in keys.iter().filter(|key| key.starts_with(prefix)) {
        let at = key[prefix.len()..]
            .find(delimiter)
            .filter(|_| !delimiter.is_empty());
        let line = match at {
            Some(at) => format!("+{}", &key[..prefix.len() + at + delimiter.len()]),
            None => key.clone(),
        };
        if lines.last() != Some(&line) {
            lines.push(line);
        }
    }
    lines
}

async fn list_all(
    namespace: &Memory,
    id: BucketId,
    prefix: &str,
    delimiter: &str,
    limit: usize,
) -> Vec<String> {
    let mut lines = Vec::new();
    let mut after: Option<ListingMarker> = None;
    loop {
        let page = namespace
            .list(id, prefix, delimiter, after.as_ref(), limit)
            .await
            .unwrap();
        assert!(page.entries.len() <= limit);
        lines.extend(page.entries.into_iter().map(|line| match line {
            Listed::Object(key, _) => key.as_str().to_owned(),
            Listed::Prefix(prefix) => format!("+{prefix}"),
        }));
        match page.next {
            None => return lines,
            next => after = next,
        }
    }
}

#[tokio::test]
async fn a_listing_rolls_up_common_prefixes() {
    let (namespace, id, keys) = filled().await;
    for prefix in ["", "a", "a/", "/", "\0", "\u{10ffff}"] {
        for delimiter in ["", "/", "//", "\0", "a", "\u{10ffff}"] {
            for limit in [1, 3, 1_000] {
                let lines = list_all(&namespace, id, prefix, delimiter, limit).await;
                assert_eq!(
                    lines,
                    rolled_up(&keys, prefix, delimiter),
                    "prefix {prefix:?} delimiter {delimiter:?} limit {limit}"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_keys_scan_in_s3_order(
        keys in prop::collection::btree_set("[\0/ab\u{ff}\u{10ffff}]{1,6}", 0..40),
        prefix in "[\0/ab]{0,2}",
        from in "[\0/ab\u{10ffff}]{0,3}",
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (namespace, id) = with_bucket().await;
            for key in &keys {
                put(&namespace, id, key, &object("a")).await;
            }
            let page = namespace.scan(id, &prefix, &from, 100).await.unwrap();
            let wanted: Vec<_> =
                keys.iter().filter(|key| key.starts_with(&prefix) && **key >= from).collect();
            assert_eq!(texts(&page), wanted);
        });
    }

    #[test]
    fn any_folders_fold_as_the_naive_way(
        sizes in prop::collection::vec(prop_oneof![4 => 1..4_usize, 1 => 12..40_usize], 1..80),
        from in "[a-c]?",
        limit in 1..120_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (namespace, id) = with_bucket().await;
            let mut keys = BTreeSet::new();
            for (folder, size) in sizes.iter().enumerate() {
                let letter = ["a", "b", "c"][folder % 3];
                keys.extend((0..*size).map(|key| format!("{letter}{folder:02}/{key}")));
                keys.insert(format!("{letter}{folder:02}-file"));
            }
            for key in &keys {
                put(&namespace, id, key, &object("a")).await;
            }
            let page = namespace.scan_folded(id, "", &from, "/", limit).await.unwrap();
            let wanted = folded(&keys, "", &from, "/");
            let shown = limit.min(wanted.len());
            assert_eq!(texts(&page), wanted[..shown]);
            assert_eq!(page.more, shown < wanted.len());
        });
    }
}
