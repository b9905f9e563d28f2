//! Errors as gRPC codes; `admin.proto` says what each means to the caller.

use quickwater_proto::{InvalidName, MetadataError, UfsError, UfsErrorKind};
use tonic::{Code, Status};

use crate::namespace::{MountError, PolicyError};

pub(super) fn invalid_name(error: InvalidName) -> Status {
    Status::invalid_argument(error.0)
}

pub(super) fn metadata(error: MetadataError) -> Status {
    let code = match &error {
        MetadataError::NoSuchBucket | MetadataError::NoSuchObject | MetadataError::NoSuchUpload => {
            Code::NotFound
        }
        MetadataError::BucketExists => Code::AlreadyExists,
        MetadataError::LocationOverlaps(_)
        | MetadataError::BucketNotEmpty
        | MetadataError::ConditionFailed => Code::FailedPrecondition,
        MetadataError::InvalidPart => Code::InvalidArgument,
        MetadataError::TooLarge(_) => Code::ResourceExhausted,
        MetadataError::Unavailable(_) => Code::Unavailable,
        MetadataError::Unknown(_) => Code::Aborted,
    };
    Status::new(code, error.to_string())
}

pub(super) fn mount(error: MountError) -> Status {
    match error {
        MountError::Location(error) => Status::invalid_argument(error.to_string()),
        MountError::Owned(_) | MountError::Pending(_) => {
            Status::failed_precondition(error.to_string())
        }
        MountError::Metadata(error) => metadata(error),
    }
}

pub(super) fn policy(error: PolicyError) -> Status {
    match error {
        PolicyError::Document(error) => Status::invalid_argument(error.to_string()),
        PolicyError::Stale { .. } => Status::failed_precondition(error.to_string()),
        PolicyError::NoSuchVersion(_) => Status::not_found(error.to_string()),
        PolicyError::Metadata(error) => metadata(error),
    }
}

pub(super) fn ufs(error: UfsError) -> Status {
    let code = match error.kind {
        UfsErrorKind::NotFound => Code::NotFound,
        UfsErrorKind::AccessDenied => Code::PermissionDenied,
        UfsErrorKind::Unavailable | UfsErrorKind::Throttled => Code::Unavailable,
        UfsErrorKind::Timeout => Code::DeadlineExceeded,
        UfsErrorKind::Invalid | UfsErrorKind::Unsupported => Code::InvalidArgument,
        UfsErrorKind::NoSpace => Code::ResourceExhausted,
        UfsErrorKind::Corrupt | UfsErrorKind::Changed | UfsErrorKind::Other => {
            Code::FailedPrecondition
        }
    };
    Status::new(code, error.message)
}
