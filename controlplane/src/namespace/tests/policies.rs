//! Versions of path policies: set, compared, rolled back, forgotten.

use super::super::{POLICY_BY_BYTES_MAX, POLICY_VERSIONS_MAX, PolicyChange, PolicyError};
use crate::Namespace;
use crate::keyspace;
use crate::policies::Document;
use crate::store::{EmbeddedStore, Scan, Store, Transaction};

fn document(mode: &str) -> String {
    format!(r#"{{"apiVersion":"v1.0","defaultRule":{{"policyMode":"{mode}"}}}}"#)
}

const CHANGE: PolicyChange<'_> = PolicyChange {
    by: "tester",
    expected: None,
    workers: 1,
};

fn namespace() -> Namespace<EmbeddedStore> {
    Namespace::new(EmbeddedStore::in_memory().unwrap())
}

#[tokio::test]
async fn nobody_has_set_anything() {
    let namespace = namespace();
    assert_eq!(namespace.policy_version().await, Ok(0));
    let stored = namespace.policies(None).await.unwrap();
    assert_eq!((stored.version, &stored.origin), (0, &None));
    assert_eq!(stored.text, Document::default().to_text().unwrap());
    assert_eq!(namespace.policies(Some(0)).await, Ok(stored));
    assert_eq!(
        namespace.policies(Some(1)).await,
        Err(PolicyError::NoSuchVersion(1))
    );
    assert_eq!(namespace.policy_history().await, Ok(Vec::new()));
}

#[tokio::test]
async fn versions_follow_each_other() {
    let namespace = namespace();
    for (version, mode) in [(1, "READ_ONLY"), (2, "NO_CACHE")] {
        let (set, document) = namespace
            .set_policies(&document(mode), CHANGE)
            .await
            .unwrap();
        assert_eq!(set, version);
        assert_eq!(document.default_rule.policy.mode.as_str(), mode);
        assert_eq!(namespace.policy_version().await, Ok(version));
        let stored = namespace.policies(None).await.unwrap();
        assert_eq!(stored.version, version);
        assert_eq!(stored.text, document.to_text().unwrap());
        assert_eq!(stored.origin.unwrap().by, "tester");
    }
    let first = namespace.policies(Some(1)).await.unwrap();
    assert!(first.text.contains("READ_ONLY"));

    let (version, _) = namespace.rollback_policies(1, CHANGE).await.unwrap();
    assert_eq!(version, 3);
    assert_eq!(namespace.policies(None).await.unwrap().text, first.text);
    let history = namespace.policy_history().await.unwrap();
    let origins: Vec<_> = history.iter().map(|(v, o)| (*v, o.rollback_of)).collect();
    assert_eq!(origins, [(3, Some(1)), (2, None), (1, None)]);
    let (version, _) = namespace.rollback_policies(0, CHANGE).await.unwrap();
    assert_eq!(version, 4);
    assert!(
        namespace
            .policies(None)
            .await
            .unwrap()
            .text
            .contains("WRITE_THROUGH")
    );
}

#[tokio::test]
async fn a_change_from_a_stale_version_is_refused() {
    let namespace = namespace();
    let from = |expected| PolicyChange {
        expected: Some(expected),
        ..CHANGE
    };
    let text = document("READ_ONLY");
    assert_eq!(namespace.set_policies(&text, from(0)).await.unwrap().0, 1);
    let stale = PolicyError::Stale {
        expected: 0,
        current: 1,
    };
    assert_eq!(
        namespace.set_policies(&text, from(0)).await.unwrap_err(),
        stale
    );
    assert_eq!(
        namespace.rollback_policies(0, from(0)).await.unwrap_err(),
        stale
    );
    assert_eq!(namespace.policy_version().await, Ok(1));
    assert_eq!(namespace.set_policies(&text, from(1)).await.unwrap().0, 2);
}

#[tokio::test]
async fn of_two_at_once_one_wins() {
    let namespace = namespace();
    let from_zero = PolicyChange {
        expected: Some(0),
        ..CHANGE
    };
    let (one, two) = (document("READ_ONLY"), document("NO_CACHE"));
    let (one, two) = tokio::join!(
        namespace.set_policies(&one, from_zero),
        namespace.set_policies(&two, from_zero)
    );
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    assert_eq!(namespace.policy_version().await, Ok(1));
}

#[tokio::test]
async fn a_bad_document_changes_nothing() {
    let namespace = namespace();
    let error = namespace
        .set_policies(&document("NONE"), CHANGE)
        .await
        .unwrap_err();
    assert!(matches!(error, PolicyError::Document(_)));
    assert!(
        error.to_string().starts_with("$.defaultRule.policyMode: "),
        "{error}"
    );
    assert_eq!(namespace.policy_version().await, Ok(0));
}

#[tokio::test]
async fn history_is_bounded() {
    let namespace = namespace();
    let last = POLICY_VERSIONS_MAX + 5;
    for _ in 0..last {
        namespace
            .set_policies(&document("READ_ONLY"), CHANGE)
            .await
            .unwrap();
    }
    let history = namespace.policy_history().await.unwrap();
    assert_eq!(history.len() as u64, POLICY_VERSIONS_MAX);
    assert_eq!((history[0].0, history.last().unwrap().0), (last, 6));
    assert_eq!(
        namespace.policies(Some(5)).await,
        Err(PolicyError::NoSuchVersion(5))
    );
    assert!(namespace.policies(Some(6)).await.is_ok());
    let mut transaction = namespace.store().begin();
    let texts = transaction
        .scan(Scan::new(keyspace::policy_texts(5), 10))
        .await
        .unwrap();
    assert!(texts.rows.is_empty());
}

#[tokio::test]
async fn large_documents_are_kept_in_pieces() {
    let namespace = namespace();
    let rules: Vec<String> = (0..600)
        .map(|n| {
            let note = format!("é{}", "d".repeat(300));
            format!(r#"{{"path":"/b/{n}/**","policyMode":"READ_ONLY","description":"{note}"}}"#)
        })
        .collect();
    let text = format!(
        r#"{{"apiVersion":"v1.0","pathRules":[{}]}}"#,
        rules.join(",")
    );
    let by = "é".repeat(POLICY_BY_BYTES_MAX);
    let change = PolicyChange { by: &by, ..CHANGE };
    let (_, document) = namespace.set_policies(&text, change).await.unwrap();
    let stored = namespace.policies(None).await.unwrap();
    assert!(stored.text.len() > 3 * crate::records::POLICY_PIECE_BYTES);
    assert_eq!(stored.text, document.to_text().unwrap());
    let origin = stored.origin.unwrap();
    assert_eq!(origin.rules, 600);
    assert_eq!(origin.by.len(), POLICY_BY_BYTES_MAX);
}
