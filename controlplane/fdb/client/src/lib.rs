//! The C API of FoundationDB 7.3 as the crate `foundationdb` sees it, with the
//! client library loaded from a path at run time. Stands in for the crate
//! `foundationdb-sys`: nothing is generated or linked when building. No logic.
#![expect(
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    missing_docs,
    clippy::too_many_arguments,
    reason = "names and shapes are those of the C API, which documents them"
)]

mod forward;
mod load;
mod options;
mod types;

pub use forward::*;
pub use load::{LoadError, is_loaded, load};
pub use options::*;
pub use types::*;

/// The version of the API that is asked for.
pub const FDB_API_VERSION: u32 = 730;

/// Chooses code by API version, as the macro of that name in the crate this one
/// stands in for; here the choice is always 7.3's.
#[macro_export]
macro_rules! if_cfg_api_versions {
    (min = 510, max = 600 => { $($then:tt)* } else { $($else:tt)* }) => { { $($else)* } };
    (min = 510, max = 600 => $($code:tt)*) => {};
    (min = $min:literal => { $($then:tt)* } else { $($else:tt)* }) => { { $($then)* } };
    (min = $min:literal => $($code:tt)*) => { $($code)* };
}
