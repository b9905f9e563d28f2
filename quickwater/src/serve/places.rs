//! Whether the directory of a new mount is free where it really lies: links followed, it
//! is neither that of another bucket nor our own. Absent: what the names of locations
//! say, which the namespace compares.

use std::path::{Path, PathBuf};

use quickwater_proto::Bucket;

/// Below our own directory; buckets lie there where no other UFS is set.
const DEFAULT_UFS: &str = "ufs";

/// # Errors
/// What is there already. A directory that cannot be looked at is taken for free: the
/// mount's own check says what is wrong with it.
pub(super) fn check_free(new: &Bucket, others: &[Bucket], own: &Path) -> Result<(), String> {
    let Some(place) = place_of(new) else {
        return Ok(());
    };
    if let Ok(own) = own.canonicalize()
        && overlap(&own, &place)
        && !place.starts_with(own.join(DEFAULT_UFS))
    {
        return Err(format!(
            "{} is, holds or lies in the service's own directory {}: clients would read and \
             change credentials, metadata and cache; use another directory",
            new.ufs,
            own.display()
        ));
    }
    for other in others.iter().filter(|other| other.name != new.name) {
        if place_of(other).is_some_and(|there| overlap(&there, &place)) {
            return Err(format!(
                "{} is {}, which overlaps {} of bucket '{}': two buckets for the same files \
                 would not see each other's changes",
                new.ufs,
                place.display(),
                other.ufs,
                other.name
            ));
        }
    }
    Ok(())
}

/// The directory of a `file://` location, links followed.
fn place_of(bucket: &Bucket) -> Option<PathBuf> {
    let path = bucket.ufs.strip_prefix("file://")?;
    Path::new(path).canonicalize().ok()
}

fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}
