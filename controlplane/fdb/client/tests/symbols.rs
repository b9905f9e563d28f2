//! The functions are those that the crate `foundationdb` calls, and loading says
//! what is wrong.

use std::path::Path;

use foundationdb_sys::{LoadError, SYMBOLS, is_loaded, load};

/// What the crate `foundationdb` 0.11 calls without tenants. Compare at each
/// upgrade: a function it calls that is missing here does not compile, one that it
/// no longer calls would be asked of the library in vain.
const CALLED: usize = 49;

#[test]
fn every_function_is_named_once() {
    let mut names = SYMBOLS.to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), CALLED);
    assert!(names.iter().all(|name| name.starts_with("fdb_")));
}

#[test]
fn what_is_no_client_library_is_refused() {
    let missing = load(Path::new("/nonexistent/libfdb_c.so")).unwrap_err();
    assert!(matches!(missing, LoadError::Library { .. }));
    let text = missing.to_string();
    assert!(text.contains("/nonexistent/libfdb_c.so: "), "{text}");
    // A library that every Linux has, and that is another one.
    let other = load(Path::new("libc.so.6")).unwrap_err();
    let text = other.to_string();
    assert!(
        text.ends_with("libc.so.6 lacks fdb_select_api_version_impl"),
        "{text}"
    );
    assert!(!is_loaded());
}
