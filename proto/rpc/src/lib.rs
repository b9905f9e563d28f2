//! Generated code of the .proto files: stored records and the admin service.
//!
//! Absent on purpose: conversions, rules, anything written by hand. Data-plane
//! crates do not depend on this one, so they never compile tonic.

/// Rows of the metadata store (`records.proto`).
pub mod records {
    #![expect(missing_docs, reason = "generated")]
    tonic::include_proto!("quickwater.records.v1");
}

/// The admin service (`admin.proto`): messages, client and server.
pub mod admin {
    #![expect(
        missing_docs,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    tonic::include_proto!("quickwater.admin.v1");
}

/// What workers and the control plane say to each other (`cluster.proto`).
pub mod cluster {
    #![expect(
        missing_docs,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        reason = "generated"
    )]
    tonic::include_proto!("quickwater.cluster.v1");
}
