//! Path policies over gRPC.

use quickwater_rpc::admin::{
    PathConfigCheckRequest, PathConfigGetRequest, PathConfigHistoryRequest,
    PathConfigRollbackRequest, PathConfigSetRequest, PathConfigTestRequest,
};

use super::*;

const READ_ONLY: &str = r#"{"apiVersion":"v1.0","pathRules":[
    {"alluxioPath":"/frozen/**","policyMode":"READ_ONLY","description":"Kept as it is"}]}"#;

fn set(document: &str, expected_version: Option<u64>) -> PathConfigSetRequest {
    PathConfigSetRequest {
        document: document.into(),
        expected_version,
        by: "tester".into(),
    }
}

#[tokio::test]
async fn a_document_is_set_told_and_kept() {
    let served = Served::start().await;
    let mut client = served.client();
    let reply = client
        .path_config_set(set(READ_ONLY, Some(0)))
        .await
        .unwrap();
    let reply = reply.into_inner();
    assert_eq!(reply.version, 1);
    assert_eq!(reply.warnings.len(), 1);
    assert_eq!(reply.warnings[0].field, "$.pathRules[0].path");
    assert_eq!(
        reply.warnings[0].message,
        "there is no bucket \"frozen\" yet"
    );
    {
        let (version, table) = served.world.policies.lock().unwrap().clone();
        assert_eq!(version, 1);
        assert_eq!(table.policy("frozen", "k").mode, PolicyMode::ReadOnly);
        assert_eq!(table.policy("other", "k").mode, PolicyMode::WriteThrough);
    }
    served.bucket("frozen").await;
    let reply = client
        .path_config_set(set(READ_ONLY, Some(1)))
        .await
        .unwrap();
    assert_eq!(reply.into_inner().warnings, []);

    let got = client
        .path_config_get(PathConfigGetRequest { version: None })
        .await;
    let got = got.unwrap().into_inner();
    let origin = got.origin.unwrap();
    assert_eq!((origin.version, origin.rules), (2, 1));
    assert!(
        origin.by.starts_with("tester (from 127.0.0.1:"),
        "{}",
        origin.by
    );
    assert!(got.document.contains("\"path\": \"/frozen/**\""));

    let back = PathConfigRollbackRequest {
        version: 0,
        expected_version: Some(2),
        by: String::new(),
    };
    let reply = client.path_config_rollback(back.clone()).await.unwrap();
    assert_eq!(reply.into_inner().version, 3);
    let mode = served
        .world
        .policies
        .lock()
        .unwrap()
        .1
        .policy("frozen", "k")
        .mode;
    assert_eq!(mode, PolicyMode::WriteThrough);
    let again = client.path_config_rollback(back).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);

    let history = client
        .path_config_history(PathConfigHistoryRequest {})
        .await;
    let versions: Vec<u64> = history
        .unwrap()
        .into_inner()
        .versions
        .iter()
        .map(|origin| origin.version)
        .collect();
    assert_eq!(versions, [3, 2, 1]);
}

#[tokio::test]
async fn refusals_say_which_field_and_change_nothing() {
    let served = Served::start().await;
    let mut client = served.client();
    let bad = READ_ONLY.replace("READ_ONLY", "READONLY");
    let error = client.path_config_set(set(&bad, None)).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(
        error
            .message()
            .starts_with("$.pathRules[0].policyMode: \"READONLY\" is not")
    );
    // One worker cannot hold two copies.
    let two = r#"{"apiVersion":"v1.0","defaultRule":
        {"policyMode":"WRITE_BACK","properties":{"writeReplicas":2}}}"#;
    let checked = client
        .path_config_check(PathConfigCheckRequest {
            document: two.into(),
        })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(checked.problems.len(), 1);
    assert_eq!(
        checked.problems[0].field,
        "$.defaultRule.properties.writeReplicas"
    );
    assert_eq!(checked.document, "");
    let good = PathConfigCheckRequest {
        document: READ_ONLY.into(),
    };
    let checked = client.path_config_check(good).await.unwrap().into_inner();
    assert!(checked.problems.is_empty() && checked.document.contains("/frozen/**"));

    let stale = client
        .path_config_set(set(READ_ONLY, Some(7)))
        .await
        .unwrap_err();
    assert_eq!(stale.code(), Code::FailedPrecondition);
    assert!(
        stale.message().contains("version 0 is in force"),
        "{}",
        stale.message()
    );
    let missing = PathConfigGetRequest { version: Some(9) };
    let missing = client.path_config_get(missing).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    assert_eq!(served.namespace.policy_version().await, Ok(0));
    assert_eq!(served.world.policies.lock().unwrap().0, 0);

    let mut unknown = AdminClient::new(served.channel.clone());
    let refused = unknown
        .path_config_set(set(READ_ONLY, None))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_path_is_tested_by_either_document() {
    let served = Served::start().await;
    let mut client = served.client();
    let test = |path: &str, document: &str| PathConfigTestRequest {
        path: path.into(),
        document: document.into(),
    };
    let reply = client
        .path_config_test(test("/frozen/a/b", ""))
        .await
        .unwrap();
    let reply = reply.into_inner();
    assert_eq!(
        (reply.policy_mode.as_str(), reply.rule),
        ("WRITE_THROUGH", None)
    );
    assert_eq!(reply.version, Some(0));
    let reply = client
        .path_config_test(test("/frozen/a/b", READ_ONLY))
        .await
        .unwrap();
    let reply = reply.into_inner();
    assert_eq!(
        (reply.policy_mode.as_str(), reply.rule),
        ("READ_ONLY", Some(0))
    );
    assert_eq!(reply.rule_path, "/frozen/**");
    assert_eq!(reply.description, "Kept as it is");
    assert_eq!((reply.version, reply.write_replicas), (None, 1));
    // The bucket itself is below its rules.
    let reply = client
        .path_config_test(test("/frozen", READ_ONLY))
        .await
        .unwrap();
    assert_eq!(reply.into_inner().rule, Some(0));
    for bad in ["", "/", "frozen/a", "//a"] {
        let error = client.path_config_test(test(bad, "")).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{bad}");
    }
}
