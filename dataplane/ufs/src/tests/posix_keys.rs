//! Any key in a directory: against a sorted map as the model.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use quickwater_engine::io::Ufs;
use quickwater_proto::UfsErrorKind;

use super::support::{block_on, bucket, client, expected, get, key, list, names, put};
use crate::UfsConfig;

/// Segments that get in each other's way.
fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[ab]{1,2}",
        2 => Just(String::new()),
        1 => Just(".".to_owned()),
        1 => Just("..".to_owned()),
        1 => Just(".quickwater".to_owned()),
        1 => Just("keys".to_owned()),
        1 => Just("a!".to_owned()),
        1 => Just("a@".to_owned()),
        1 => Just("%41+".to_owned()),
        1 => Just("a\0\n\u{7f}".to_owned()),
        1 => Just("ü日🦀".to_owned()),
        1 => (78usize..82).prop_map(|n| "x".repeat(n)),
        1 => (254usize..260).prop_map(|n| "x".repeat(n)),
        1 => "[ -~]{1,6}",
        1 => "\\PC{1,4}",
    ]
}

fn any_key() -> impl Strategy<Value = String> {
    proptest::collection::vec(segment(), 1..5)
        .prop_map(|segments| segments.join("/"))
        .prop_filter("a valid key", |k| !k.is_empty() && k.len() <= 1024)
}

/// Files and directories in the plain tree.
fn plain_entries(root: &Path) -> Vec<String> {
    let mut found: Vec<String> = std::fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n != ".quickwater")
        .collect();
    found.sort();
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_keys_round_trip_in_order(
        keys in proptest::collection::vec(any_key(), 1..14),
        deleted in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        prefixes in proptest::collection::vec((any_key(), 0usize..12), 4),
        afters in proptest::collection::vec((any_key(), any::<bool>()), 4),
    ) {
        let home = tempfile::tempdir().unwrap();
        let ufs = client(UfsConfig::default());
        let bucket = bucket(&format!("file://{}", home.path().display()), &[]);
        let mut model = BTreeMap::new();
        block_on(async {
            for (i, name) in keys.iter().enumerate() {
                let data = format!("{i} {name}").into_bytes();
                put(&ufs, &bucket, name, &data).await.unwrap();
                model.insert(name.clone(), data);
            }
            for index in &deleted {
                let name = index.get(&keys);
                ufs.delete(&bucket, &key(name)).await.unwrap();
                model.remove(name);
            }
            for name in &keys {
                match (get(&ufs, &bucket, name).await, model.get(name)) {
                    (Ok(data), Some(wanted)) => assert_eq!(&data, wanted, "{name:?}"),
                    (Err(error), None) => assert_eq!(error.kind, UfsErrorKind::NotFound, "{name:?}"),
                    (found, _) => panic!("{name:?}: {found:?}"),
                }
            }
            let cut = |text: &str, at: usize| -> String { text.chars().take(at).collect() };
            let mut queries = vec![(String::new(), String::new())];
            for ((prefix, length), (after, known)) in prefixes.iter().zip(&afters) {
                let after = if *known { keys[0].clone() } else { after.clone() };
                queries.push((cut(prefix, *length), after.clone()));
                queries.push((cut(&keys[keys.len() - 1], *length), after));
                queries.push((cut(&keys[0], *length), String::new()));
            }
            for (prefix, after) in queries {
                for recursive in [true, false] {
                    let found = names(&ufs, &bucket, &prefix, &after, recursive).await;
                    let wanted = expected(&model, &prefix, &after, recursive);
                    assert_eq!(found, wanted, "prefix {prefix:?} after {after:?} {recursive}");
                }
            }
            for name in &keys {
                ufs.delete(&bucket, &key(name)).await.unwrap();
                ufs.delete(&bucket, &key(name)).await.unwrap();
            }
            assert_eq!(list(&ufs, &bucket, "", "", true).await.unwrap(), []);
        });
        assert_eq!(plain_entries(home.path()), Vec::<String>::new(), "no directory stays");
    }
}

#[test]
fn plain_keys_lie_at_their_path() {
    let home = tempfile::tempdir().unwrap();
    let ufs = client(UfsConfig::default());
    let bucket = bucket(&format!("file://{}", home.path().display()), &[]);
    block_on(async {
        for name in ["a", "b/c d/é", "x%2F!@+", ".hidden", "b/.quickwater"] {
            put(&ufs, &bucket, name, name.as_bytes()).await.unwrap();
            assert_eq!(
                std::fs::read(home.path().join(name)).unwrap(),
                name.as_bytes()
            );
        }
        std::fs::create_dir(home.path().join("made")).unwrap();
        std::fs::write(home.path().join("made/by hand"), "x").unwrap();
        assert_eq!(get(&ufs, &bucket, "made/by hand").await.unwrap(), b"x");
    });
}

#[test]
fn an_object_makes_way_for_a_directory_and_returns() {
    let home = tempfile::tempdir().unwrap();
    let ufs = client(UfsConfig::default());
    let bucket = bucket(&format!("file://{}", home.path().display()), &[]);
    let side = home.path().join(".quickwater/keys/a!");
    block_on(async {
        let first = put(&ufs, &bucket, "a", b"one").await.unwrap();
        put(&ufs, &bucket, "a/b", b"two").await.unwrap();
        assert!(side.is_file() && home.path().join("a/b").is_file());
        let moved = ufs.head(&bucket, &key("a")).await.unwrap();
        assert_eq!(moved, first, "moving aside is no change");
        assert_eq!(names(&ufs, &bucket, "", "", true).await, ["a", "a/b"]);
        assert_eq!(names(&ufs, &bucket, "", "", false).await, ["a", "a/"]);
        put(&ufs, &bucket, "a", b"three").await.unwrap();
        assert_eq!(get(&ufs, &bucket, "a").await.unwrap(), b"three");
        ufs.delete(&bucket, &key("a/b")).await.unwrap();
        assert!(!home.path().join("a").exists(), "empty directories go");
        assert_eq!(get(&ufs, &bucket, "a").await.unwrap(), b"three");
        put(&ufs, &bucket, "a", b"four").await.unwrap();
        assert!(
            home.path().join("a").is_file() && !side.exists(),
            "back at its path"
        );
        ufs.delete(&bucket, &key("a")).await.unwrap();
        assert_eq!(
            get(&ufs, &bucket, "a").await.unwrap_err().kind,
            UfsErrorKind::NotFound
        );
    });
}

#[test]
fn a_directory_of_more_names_than_are_held_at_once() {
    let home = tempfile::tempdir().unwrap();
    let ufs = client(UfsConfig::default());
    let bucket = bucket(&format!("file://{}", home.path().display()), &[]);
    let mut model = BTreeMap::new();
    for i in 0..1_500 {
        let name = format!("dir/{:04}", (i * 7_919) % 10_000);
        std::fs::create_dir_all(home.path().join("dir")).unwrap();
        std::fs::write(home.path().join(&name), "").unwrap();
        model.insert(name, ());
    }
    std::fs::create_dir(home.path().join("dir/5000x")).unwrap();
    std::fs::write(home.path().join("dir/5000x/y"), "").unwrap();
    std::fs::create_dir(home.path().join("dir/empty")).unwrap();
    model.insert("dir/5000x/y".to_owned(), ());
    block_on(async {
        for after in ["", "dir/3", "dir/5000x/", "dir/5000x/y"] {
            for recursive in [true, false] {
                let found = names(&ufs, &bucket, "dir/", after, recursive).await;
                assert_eq!(found, expected(&model, "dir/", after, recursive), "{after}");
            }
        }
    });
}
