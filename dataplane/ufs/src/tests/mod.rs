//! The behaviour of all under file systems, through the public handle.

mod fake;
mod moto;
mod posix_faults;
mod posix_fence;
mod posix_keys;
mod posix_life;
mod posix_marks;
mod s3_faults;
mod s3_life;
mod support;
