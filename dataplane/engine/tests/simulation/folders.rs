//! Folders in listings after deletes: those that are gone are not shown, and the UFS is
//! asked no more often than that takes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use quickwater_engine::{FlowError, ListQuery};
use quickwater_proto::{ObjectHeaders, PutCondition};

use crate::scenarios::{Setup, key, listed, put, setup};
use crate::world::Faults;

/// Longer than any of these tests.
const TTL_MS: u64 = 1_000_000_000;

/// One service, as a client that asks any shard uses it.
#[derive(Clone)]
struct Client(Rc<Setup>);

impl Client {
    fn of(seed: u64, files: &[&str]) -> Self {
        let setup = setup(seed, Faults::default(), TTL_MS);
        for name in files {
            setup.ufs.place(name, vec![1], ObjectHeaders::default());
        }
        Self(Rc::new(setup))
    }

    fn shard(&self) -> usize {
        usize::try_from(self.0.sim.below(2)).unwrap()
    }

    async fn try_level(&self, prefix: &str) -> Result<Vec<String>, FlowError> {
        let query = ListQuery {
            prefix: prefix.into(),
            delimiter: "/".into(),
            limit: 1_000,
            ..ListQuery::default()
        };
        listed(&self.0.engines[self.shard()], &self.0.bucket, &query).await
    }

    /// Keys and folders right below a prefix.
    async fn level(&self, prefix: &str) -> Vec<String> {
        self.try_level(prefix).await.unwrap()
    }

    async fn delete(&self, name: &str) {
        let (engine, key) = (&self.0.engines[self.shard()], key(name));
        let deleted = engine.delete(&self.0.bucket, &key, &PutCondition::None);
        deleted.await.unwrap();
    }

    async fn put(&self, name: &str) {
        let engine = &self.0.engines[self.shard()];
        put(engine, &self.0.bucket, name, 1).await.unwrap();
    }

    /// Listings that the UFS was asked for since this was asked last.
    fn lists(&self) -> u64 {
        self.0.ufs.lists.replace(0)
    }

    fn run(self, test: impl AsyncFnOnce(Self) + 'static) {
        let (client, ended) = (self.clone(), Rc::new(Cell::new(false)));
        let at_end = Rc::clone(&ended);
        self.0.sim.spawn(async move {
            test(client).await;
            at_end.set(true);
        });
        self.0.sim.run();
        assert!(ended.get());
    }
}

#[test]
fn a_folder_ends_with_its_last_key() {
    let files = ["t/a/k", "t/b/k", "t/b/l", "t/c/d/k", "t/c/e/k", "u/v/k"];
    Client::of(1, &files).run(async |client| {
        assert_eq!(client.level("").await, ["t/", "u/"]);
        assert_eq!(client.level("t/").await, ["t/a/", "t/b/", "t/c/"]);
        assert_eq!(client.level("t/c/").await, ["t/c/d/", "t/c/e/"]);
        assert_eq!(client.level("u/").await, ["u/v/"]);
        assert_eq!(client.lists(), 4);
        client.delete("t/a/k").await;
        client.delete("t/b/k").await;
        client.delete("t/c/d/k").await;
        for _ in 0..3 {
            assert_eq!(client.level("t/").await, ["t/b/", "t/c/"], "one has a key");
            assert_eq!(client.level("t/c/").await, ["t/c/e/"]);
            assert_eq!(client.level("u/").await, ["u/v/"]);
            assert_eq!(client.level("").await, ["t/", "u/"]);
        }
        assert_eq!(client.lists(), 3, "what was not touched is not asked for");
        client.put("t/a/n").await;
        assert_eq!(client.level("t/").await, ["t/a/", "t/b/", "t/c/"], "again");
        assert_eq!(client.lists(), 0);
        client.delete("t/a/n").await;
        client.delete("t/c/e/k").await;
        assert_eq!(client.level("t/").await, ["t/b/"]);
        client.delete("t/b/l").await;
        assert_eq!(client.level("").await, ["u/"]);
        assert!(client.level("t/").await.is_empty());
    });
}

#[test]
fn a_mass_delete_below_one_folder_asks_the_ufs_for_little() {
    let names: Vec<String> = (0..1_000)
        .map(|number| format!("t/a/{number:04}"))
        .collect();
    let files: Vec<&str> = names.iter().map(String::as_str).collect();
    Client::of(2, &files).run(async move |client| {
        assert_eq!(client.level("t/").await, ["t/a/"]);
        assert_eq!(client.level("t/a/").await.len(), 1_000, "known from now on");
        client.lists();
        let (last, others) = names.split_last().unwrap();
        for name in others {
            client.delete(name).await;
            assert_eq!(client.level("t/").await, ["t/a/"]);
        }
        assert_eq!(client.lists(), 0, "rows say that it is there");
        client.delete(last).await;
        for _ in 0..10 {
            assert!(client.level("t/").await.is_empty());
        }
        assert_eq!(client.lists(), 1);
    });
}

#[test]
fn a_folder_that_may_be_gone_is_not_shown_while_the_ufs_is_away() {
    Client::of(3, &["t/a/k", "t/b/k"]).run(async |client| {
        assert_eq!(client.level("t/").await, ["t/a/", "t/b/"]);
        client.delete("t/a/k").await;
        client.0.faults.set(Faults {
            ufs_refuses: 100,
            ..Faults::default()
        });
        let away = client.try_level("t/").await;
        assert!(matches!(away, Err(FlowError::Unavailable(_))), "{away:?}");
        let again = client.try_level("t/").await;
        assert!(matches!(again, Err(FlowError::Unavailable(_))), "{again:?}");
        client.0.faults.set(Faults::default());
        assert_eq!(client.level("t/").await, ["t/b/"]);
    });
}

/// When each folder last changed between there and gone, and whether it is there.
type Known = Rc<RefCell<BTreeMap<String, (Duration, bool)>>>;

/// One client after another has folders of its own; listings go on beside it.
#[test]
fn listings_beside_deletes_show_what_was_acked() {
    for seed in 0..200 {
        let setup = Rc::new(setup(seed, Faults::default(), TTL_MS));
        let known = Known::default();
        let writers = Rc::new(Cell::new(3));
        for writer in 0..3 {
            let client = Client(Rc::clone(&setup));
            let (known, writers) = (Rc::clone(&known), Rc::clone(&writers));
            setup.sim.spawn(async move {
                let folder = format!("t/{writer}/");
                for turn in 0..6 {
                    let name = format!("{folder}{turn}");
                    known.borrow_mut().remove(&folder);
                    client.put(&name).await;
                    let seen = (client.0.sim.now(), true);
                    known.borrow_mut().insert(folder.clone(), seen);
                    client.0.sim.jitter().await;
                    known.borrow_mut().remove(&folder);
                    client.delete(&name).await;
                    let seen = (client.0.sim.now(), false);
                    known.borrow_mut().insert(folder.clone(), seen);
                    client.0.sim.jitter().await;
                }
                writers.set(writers.get() - 1);
            });
        }
        for _ in 0..2 {
            let client = Client(Rc::clone(&setup));
            let (known, writers) = (Rc::clone(&known), Rc::clone(&writers));
            setup.sim.spawn(async move {
                while writers.get() > 0 {
                    client.0.sim.jitter().await;
                    let before = known.borrow().clone();
                    let shown = client.level("t/").await;
                    for (folder, state) in before {
                        if known.borrow().get(&folder) != Some(&state) {
                            // It changed meanwhile.
                            continue;
                        }
                        assert_eq!(shown.contains(&folder), state.1, "{seed} {folder}");
                    }
                }
                client.0.sim.sleep(Duration::from_secs(1)).await;
                assert!(client.level("t/").await.is_empty(), "{seed}");
            });
        }
        setup.sim.run();
    }
}
