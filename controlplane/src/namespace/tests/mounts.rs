use quickwater_proto::MetadataError;

use super::*;
use crate::namespace::{MountError, NewMount};

fn mount(text: &str, uri: &str) -> NewMount {
    NewMount {
        name: name(text),
        uri: uri.into(),
        options: Vec::new(),
        metadata_ttl_ms: 1,
    }
}

async fn add(namespace: &Memory, new: NewMount) -> Result<Bucket, MountError> {
    let bucket = namespace.check_mount(new).await?;
    namespace.add_mount(&bucket).await
}

#[tokio::test]
async fn a_mount_is_a_bucket_that_does_not_own_its_location() {
    let (namespace, _) = with_clock();
    let new = NewMount {
        options: vec![("endpoint".into(), "http://one".into())],
        ..mount("data", "s3://b/prefix")
    };
    let mounted = add(&namespace, new).await.unwrap();
    assert_eq!(
        namespace.bucket(&name("data")).await,
        Ok(Some(mounted.clone()))
    );
    assert!(!mounted.owned);
    let created = (mounted.created_ms, mounted.metadata_ttl_ms);
    assert_eq!(created, (1_790_000_000_000, 1));

    put(&namespace, mounted.id, "k", &object("a")).await;
    namespace.remove_mount(&name("data")).await.unwrap();
    assert_eq!(namespace.buckets().await, Ok(vec![]));
    let gone = namespace.remove_mount(&name("data")).await;
    assert_eq!(gone, Err(MountError::Metadata(MetadataError::NoSuchBucket)));
}

#[tokio::test]
async fn only_supported_locations_are_mounted() {
    let namespace = namespace();
    for uri in ["gs://b", "/data", "file://relative", "s3://", ""] {
        let refused = add(&namespace, mount("data", uri)).await;
        assert!(matches!(refused, Err(MountError::Location(_))), "{uri}");
    }
    let scheme = add(&namespace, mount("data", "hdfs://host/p"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        scheme.contains("file://") && scheme.contains("s3://"),
        "{scheme}"
    );
}

#[tokio::test]
async fn names_and_locations_are_taken_once() {
    let namespace = namespace();
    add(&namespace, mount("data", "file:///a/b")).await.unwrap();
    let taken = add(&namespace, mount("data", "file:///other")).await;
    assert_eq!(
        taken,
        Err(MountError::Metadata(MetadataError::BucketExists))
    );
    for uri in ["file:///a/b/", "file:///a", "file:///a/b/c"] {
        let refused = add(&namespace, mount("more", uri)).await;
        let overlap = MetadataError::LocationOverlaps(String::new());
        let Err(MountError::Metadata(error)) = refused else {
            panic!("{uri}")
        };
        assert_eq!(
            std::mem::discriminant(&error),
            std::mem::discriminant(&overlap)
        );
    }
    // Neither do buckets come to lie inside of a mount, or race into one.
    let unchecked = Bucket {
        ufs: "file:///a/b/c".into(),
        ..bucket("two")
    };
    let error = namespace.create_bucket(&unchecked).await.unwrap_err();
    assert!(matches!(error, MetadataError::LocationOverlaps(_)));
    add(&namespace, mount("more", "file:///a/bc"))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_bucket_that_owns_its_location_is_not_unmounted() {
    let (namespace, _) = with_bucket().await;
    let refused = namespace.remove_mount(&name("one")).await;
    assert_eq!(refused, Err(MountError::Owned(name("one"))));
    assert!(namespace.bucket(&name("one")).await.unwrap().is_some());
}
