//! Listings read about the rows they show: what is on the page is right, and few
//! rows are read that are not.

use std::collections::BTreeSet;
use std::sync::Arc;

use quickwater_engine::ListQuery;
use quickwater_proto::ObjectHeaders;

use crate::scenarios::setup;
use crate::world::Faults;

/// Listings are fresh this long, so only the first is compared with the UFS.
const TTL_MS: u64 = 1_000_000;
/// More than any of these tests has.
const NAMES_MAX: usize = 100_000;

/// Common prefixes with as many keys as said, and plain keys between them. The
/// delimiter is `-`: by `/` the UFS would tell the prefixes, without rows.
fn names(prefixes: &[usize], plain: usize) -> Vec<String> {
    let mut names = Vec::new();
    for (number, keys) in prefixes.iter().enumerate() {
        names.extend((0..*keys).map(|key| format!("{number:03}-{key:03}")));
        names.extend((0..plain).map(|key| format!("{number:03}a{key:03}")));
    }
    names
}

/// Lists all of `names` in pages and returns the rows and scans it took.
fn list_all(names: &[String], delimiter: &str, limit: usize) -> (usize, usize) {
    let setup = setup(1, Faults::default(), TTL_MS);
    setup.metadata.scan_rows_max.set(10_000);
    for name in names {
        setup.ufs.place(name, vec![1], ObjectHeaders::default());
    }
    let expected: BTreeSet<String> = names
        .iter()
        .map(|name| match name.find(delimiter) {
            Some(at) if !delimiter.is_empty() => name[..=at].to_owned(),
            _ => name.clone(),
        })
        .collect();
    let scanned = std::rc::Rc::clone(&setup.metadata.scanned);
    let (engine, bucket) = (setup.engines[0].clone(), Arc::clone(&setup.bucket));
    let delimiter = delimiter.to_owned();
    setup.sim.spawn(async move {
        let everything = ListQuery {
            limit: NAMES_MAX,
            ..ListQuery::default()
        };
        engine.list(&bucket, &everything).await.unwrap();
        scanned.set((0, 0));
        let mut seen = Vec::new();
        let mut query = ListQuery {
            delimiter,
            limit,
            ..ListQuery::default()
        };
        loop {
            let page = engine.list(&bucket, &query).await.unwrap();
            let objects = page.objects.iter().map(|(key, _)| key.as_str().to_owned());
            let mut entries: Vec<_> = objects.chain(page.prefixes).collect();
            assert!(entries.len() <= limit);
            entries.sort();
            seen.extend(entries);
            match page.truncated {
                true => query.after = page.last.unwrap(),
                false => break,
            }
        }
        assert!(seen.iter().eq(&expected), "{query:?}");
    });
    setup.sim.run();
    setup.metadata.scanned.get()
}

#[test]
fn plain_keys_are_read_once() {
    let names = names(&[0], 100);
    assert_eq!(list_all(&names, "", 100), (100, 1), "all in one page");
    // Nine pages of 11 rows, one to know that more follows, and one of the last 10.
    assert_eq!(list_all(&names, "", 10), (9 * 11 + 10, 10));
}

#[test]
fn big_prefixes_are_not_read_through() {
    let names = names(&[80; 6], 0);
    let (rows, scans) = list_all(&names, "-", 100);
    assert!(rows <= 101 + 5 * 16, "{rows} of {} rows", names.len());
    assert_eq!(scans, 6, "two at first, then one each, one behind the last");
    let (rows, scans) = list_all(&names, "-", 1);
    assert!(rows <= 6 * 4 && scans <= 2 * 6, "{rows} {scans}");
}

#[test]
fn small_prefixes_are_read_through() {
    let names = names(&[3; 20], 0);
    let (rows, scans) = list_all(&names, "-", 100);
    assert!(rows <= 60 + 10 && scans <= 3, "{rows} {scans}");
}

#[test]
fn pages_are_complete_whatever_the_sizes() {
    let sizes = [1, 20, 0, 2, 17, 1];
    for plain in [0, 5] {
        let names = names(&sizes, plain);
        for limit in [1, 2, 7, 100] {
            for delimiter in ["", "-"] {
                list_all(&names, delimiter, limit);
            }
        }
    }
}
